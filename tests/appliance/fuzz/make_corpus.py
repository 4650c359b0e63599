"""Makes `corpus/`: small, valid messages and data sets, all synthetic, from which the mutations start.

python -m tests.appliance.fuzz.make_corpus

.pdus      a connection from its A-ASSOCIATE-RQ on
.dataset   a data set as it travels; the name begins with its encoding
.dcm       a whole Part 10 file
.stream    the compressed image of 16 x 16 pixels, 12 bits stored in 16; the name is its transfer syntax (needs dcmtk)
"""

from __future__ import annotations

import io
import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    JPEG2000,
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from appliance.intake.wire.pdus import PduType, abort, encode
from tests.appliance.dicom_samples import ct_slice, encoded, enhanced, part10
from tests.appliance.intake.test_hostile import store_command
from tests.appliance.intake.wire.test_acceptor import request

CORPUS = Path(__file__).parent / "corpus"
INSTANCE = "1.2.3.45"
SIDE = 16


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


def picture() -> np.ndarray:
    """The image of all streams: a disc with noise."""
    y, x = np.mgrid[:SIDE, :SIDE]
    disc = np.where((y - 8) ** 2 + (x - 8) ** 2 < 30, 1064, 24)
    return (disc + np.random.default_rng(1).integers(0, 20, disc.shape)).astype(np.uint16)


def _streams() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = Path(folder) / "plain.dcm", Path(folder) / "packed.dcm"
        plain.write_bytes(part10(ct_slice(Rows=SIDE, Columns=SIDE, PixelData=picture().tobytes())))
        streams = {}
        for command in (["dcmcjpeg", "+ee"], ["dcmcjpeg", "+el"], ["dcmcjpeg", "+e1"], ["dcmcjpls", "+el"],
                        ["dcmcjpls", "+en"], ["dcmcrle"]):  # fmt: skip
            subprocess.run([*command, str(plain), str(packed)], check=True, timeout=30)
            ds = pydicom.dcmread(packed)
            streams[ds.file_meta.TransferSyntaxUID] = next(generate_frames(ds.PixelData, number_of_frames=1))
    for syntax, lossy in ((JPEG2000Lossless, False), (JPEG2000, True)):
        buffer = io.BytesIO()
        Image.fromarray(picture()).save(buffer, "JPEG2000", irreversible=lossy, no_jp2=True)
        streams[syntax] = buffer.getvalue()
    return {f"{syntax}.stream": content for syntax, content in streams.items()}


def main() -> None:
    """Write the corpus anew."""
    assert small().SOPClassUID == CTImageStorage
    CORPUS.mkdir(exist_ok=True)
    for name, content in {**_connections(), **_datasets(), **_files(), **_streams()}.items():
        (CORPUS / name).write_bytes(content)


if __name__ == "__main__":
    main()
