"""Makes `corpus/`: small, valid messages and data sets, all synthetic, from which the mutations start.

python -m tests.appliance.fuzz.make_corpus

.pdus      a connection from its A-ASSOCIATE-RQ on
.dataset   a data set as it travels; the name begins with its encoding
.dcm       a whole Part 10 file
"""

from __future__ import annotations

import struct
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from appliance.intake.wire.pdus import PduType, abort, encode
from tests.appliance.dicom_samples import ct_slice, encoded, enhanced, part10
from tests.appliance.intake.test_hostile import store_command
from tests.appliance.intake.wire.test_acceptor import request

CORPUS = Path(__file__).parent / "corpus"
INSTANCE = "1.2.3.45"


def small(**changes: object) -> Dataset:
    """A slice of 4 x 4 pixels; the instance is that of `store_command`."""
    return ct_slice(Rows=4, Columns=4, PixelData=bytes(32), **{"SOPInstanceUID": INSTANCE, **changes})


def _data(control: int, value: bytes) -> bytes:
    """A P-DATA-TF with one fragment."""
    return encode(PduType.P_DATA_TF, struct.pack(">LBB", len(value) + 2, 1, control) + value)


def _connections() -> dict[str, bytes]:
    asked = encode(PduType.ASSOCIATE_RQ, request())
    dataset = encoded(small(), ImplicitVRLittleEndian)
    half = len(dataset) // 2
    store = _data(3, store_command(b"\1\0")) + _data(0, dataset[:half]) + _data(2, dataset[half:])
    echo = _data(3, store_command(b"\1\1"))
    return {
        "released.pdus": asked + store + store + encode(PduType.RELEASE_RQ, bytes(4)),
        "aborted.pdus": asked + echo + _data(3, store_command(b"\1\0")) + _data(0, dataset[:half]) + abort(0),
    }


def _deep(levels: int) -> Dataset:
    """Sequences in sequences, of undefined and of defined length by turns."""
    inner = Dataset()
    inner.CodeMeaning = "the end"
    for level in range(levels):
        outer = Dataset()
        outer.RequestAttributesSequence = [inner]
        outer["RequestAttributesSequence"].is_undefined_length = bool(level % 2)
        inner = outer
    return inner


def _datasets() -> dict[str, bytes]:
    deep = small()
    deep.update(_deep(10))
    packed = small()
    packed.PixelData = encapsulate([bytes(12), bytes(8)])
    packed["PixelData"].is_undefined_length = True
    packed.NumberOfFrames = 2
    return {
        "explicit.dataset": encoded(small(NumberOfFrames=1)),
        "implicit.dataset": encoded(small(), ImplicitVRLittleEndian),
        "explicit-deep.dataset": encoded(deep),
        "implicit-deep.dataset": encoded(deep, ImplicitVRLittleEndian),
        "explicit-encapsulated.dataset": encoded(packed, RLELossless),
    }


def _files() -> dict[str, bytes]:
    slices = [small(ImagePositionPatient=[0, 0, z]) for z in range(3)]
    return {
        "explicit.dcm": part10(small(), syntax=ExplicitVRLittleEndian),
        "implicit.dcm": part10(small(), syntax=ImplicitVRLittleEndian),
        "enhanced.dcm": part10(enhanced(slices)),
    }


def main() -> None:
    """Write the corpus anew."""
    assert small().SOPClassUID == CTImageStorage
    CORPUS.mkdir(exist_ok=True)
    for name, content in {**_connections(), **_datasets(), **_files()}.items():
        (CORPUS / name).write_bytes(content)


if __name__ == "__main__":
    main()
