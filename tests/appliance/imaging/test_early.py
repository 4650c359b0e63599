"""What is read while a study comes in changes only the time: same volume, bounded memory, never a wrong slice."""

from __future__ import annotations

import hashlib
import io
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from appliance.choosing import Choice, choose
from appliance.imaging.decode import Slice
from appliance.imaging.early import EarlySlices
from appliance.imaging.header import ImageHeader
from appliance.imaging.volume import build_volume
from appliance.ports import StoredInstance
from core.errors import InputRefused
from core.extent import Extent
from core.finding import Reason
from core.volume import Volume
from tests.appliance.dicom_samples import ct_series, ct_slice, enhanced, part10, write_files

PLENTY = 1 << 30
SLICE_BYTES = 64 * 64 * 2


def stored(folder: Path, images: Sequence[Dataset]) -> list[StoredInstance]:
    return [instance(path, image) for path, image in zip(write_files(folder, images), images, strict=True)]


def instance(path: Path, image: Dataset) -> StoredInstance:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return StoredInstance(
        image.SOPInstanceUID, image.SOPClassUID, image.SeriesInstanceUID, digest, Extent(path.absolute())
    )


def filled(instances: Sequence[StoredInstance], most_bytes: int = PLENTY, study: str = "a") -> EarlySlices:
    early = EarlySlices(most_bytes)
    for each in instances:
        early.take(study, each)
    return early


def read(early: EarlySlices, instances: Sequence[StoredInstance], study: str = "a") -> tuple[Choice, Volume]:
    """As the pipeline does."""
    early.keep(study, instances)
    choice = choose(instances, headers_of=early.headers_of)
    headers = choice.series[0].headers
    return choice, build_volume(headers, early.decoder(headers))


def assert_same(ours: tuple[Choice, Volume], instances: Sequence[StoredInstance]) -> None:
    choice = choose(instances)
    volume = build_volume(choice.series[0].headers)
    assert ours[0] == choice
    assert ours[1].geometry == volume.geometry
    assert ours[1].hu.dtype == volume.hu.dtype
    assert ours[1].hu.tobytes() == volume.hu.tobytes()


@pytest.mark.parametrize("here", [0, 1, 13, 24])
def test_choice_and_volume_are_the_same_however_much_was_read_early(tmp_path: Path, here: int) -> None:
    images = ct_series(24, RescaleSlope=0.7, RescaleIntercept=-1000.5, PixelPaddingValue=24)
    instances = stored(tmp_path, images[::2] + images[1::2])
    early = filled(instances[:here])
    assert early.count == here
    assert_same(read(early, instances), instances)
    assert early.count == 0


def test_slices_are_given_up_one_by_one_while_the_volume_is_filled(tmp_path: Path) -> None:
    instances = stored(tmp_path, ct_series(24))
    early = filled(instances)
    headers = choose(instances, headers_of=early.headers_of).series[0].headers
    held: list[int] = []
    build_volume(headers, early.decoder(headers), progress=lambda done, of: held.append(done + early.count))
    assert held == [24] * 24


def test_the_bound_holds_and_what_does_not_fit_is_read_later(tmp_path: Path) -> None:
    instances = stored(tmp_path, ct_series(24))
    bound = 5 * (SLICE_BYTES + 4096) + 4096 + 100  # a sixth header, but not its slice
    early = EarlySlices(bound)
    for each in instances:
        early.take("a", each)
        assert early.held_bytes <= bound
    assert early.count == 5
    assert_same(read(early, instances), instances)


def test_another_study_takes_the_place_of_the_first(tmp_path: Path) -> None:
    first, second = stored(tmp_path / "a", ct_series(12)), stored(tmp_path / "b", ct_series(12, study="b"))
    early = filled(first)
    early.take("b", second[0])
    assert early.count == 1
    assert early.held_bytes == SLICE_BYTES + 4096
    assert_same(read(early, first), first)
    assert early.count == 0


def test_other_series_are_given_up_before_a_volume_is_built(tmp_path: Path) -> None:
    thick, thin = ct_series(12, series="thick", spacing=5.0), ct_series(30, series="thin")
    instances = stored(tmp_path, [*thick, *thin])
    early = filled(instances)
    assert early.count == 42
    headers = choose(instances, headers_of=early.headers_of).series[0].headers
    early.decoder(headers)
    assert early.count == len(headers)


def test_changed_content_under_the_same_uid_and_path_is_read_again(tmp_path: Path) -> None:
    images = ct_series(12)
    instances = stored(tmp_path, images)
    early = filled(instances)
    path = instances[7].extent.path
    images[7].PixelData = bytes(SLICE_BYTES)
    write_files(tmp_path / "new", [images[7]])[0].replace(path)
    changed = [*instances[:7], instance(path, images[7]), *instances[8:]]
    assert changed[7].sop_instance_uid == instances[7].sop_instance_uid
    choice, volume = read(early, changed)
    assert (volume.hu[7] == -1024).all()
    assert_same((choice, volume), changed)


@pytest.mark.parametrize(
    "changes",
    [
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},  # secondary capture
        {"ImageOrientationPatient": None},
        {"Modality": "PT"},
        {"RescaleSlope": None},
        {"NumberOfFrames": 2},
        {"Rows": 4097, "Columns": 4096, "PixelData": bytes(2 * 4097 * 4096)},
    ],
)
def test_what_can_be_no_slice_or_is_too_large_is_not_decoded_early(tmp_path: Path, changes: dict[str, object]) -> None:
    assert filled(stored(tmp_path, [ct_slice(**changes)])).count == 0


def test_multi_frame_images_are_left_for_later(tmp_path: Path) -> None:
    instances = stored(tmp_path, [enhanced(ct_series(12))])
    early = filled(instances)
    assert early.held_bytes == 0
    assert_same(read(early, instances), instances)


def compressed(folder: Path, how: str) -> list[StoredInstance]:
    """Twelve slices by a command of dcmtk, or as JPEG 2000."""
    images, packed = ct_series(12, RescaleSlope=0.7, RescaleIntercept=-1000.5, PixelPaddingValue=24), []
    for path, image in zip(write_files(folder, images), images, strict=True):
        out = path.with_suffix(".packed")
        if how == "jpeg 2000":
            buffer = io.BytesIO()
            pixels = np.frombuffer(image.PixelData, "<u2").reshape(64, 64)
            Image.fromarray(pixels).save(buffer, "JPEG2000", irreversible=False, no_jp2=True)
            image.PixelData = encapsulate([buffer.getvalue()])
            image["PixelData"].is_undefined_length = True
            out.write_bytes(part10(image, syntax=JPEG2000Lossless))
        else:
            subprocess.run([*how.split(), str(path), str(out)], check=True, timeout=30)
        packed.append(instance(out, image))
    return packed


COMPRESSIONS = ("dcmcrle", "dcmcjpeg +el", "dcmcjpeg +e1", "dcmcjpls +el", "dcmcjpls +en", "jpeg 2000")


@pytest.mark.parametrize("how", COMPRESSIONS)
def test_compressed_slices_are_read_early_to_the_same_volume(tmp_path: Path, how: str) -> None:
    packed = compressed(tmp_path, how)
    early = filled(packed)
    assert early.count == 12
    assert early.held_bytes == 12 * (SLICE_BYTES + 4096)
    assert_same(read(early, packed), packed)
    assert early.held_bytes == 12 * 4096


@pytest.mark.parametrize("how", COMPRESSIONS)
def test_a_damaged_compressed_slice_is_left_and_refused_at_its_time(tmp_path: Path, how: str) -> None:
    packed = compressed(tmp_path, how)
    ds = pydicom.dcmread(packed[7].extent.path)
    ds.Rows, ds.Columns = 16, 16  # less than the stream has: a decoder would write past its room
    ds.save_as(packed[7].extent.path)
    early = filled(packed)
    assert early.count == 11
    headers = [header for each in packed for header in early.headers_of(each)]
    with pytest.raises(InputRefused) as refused:
        list(map(early.decoder(headers), headers))
    assert refused.value.reason is Reason.UNREADABLE


def test_what_is_held_is_told_without_counting_it_through(tmp_path: Path) -> None:
    instances = stored(tmp_path, [*ct_series(12, series="thin", spacing=2.5), *ct_series(12, series="thick")])
    early = EarlySlices(PLENTY)

    def counted() -> int:
        return len(early._headers) * 4096 + sum(hu.nbytes for hu in early._slices.values())

    for each in (*instances, *instances[:3]):  # some of them twice
        early.take("a", each)
        assert early.held_bytes == counted()
    early.keep("a", instances[5:])
    assert early.held_bytes == counted() == 19 * (SLICE_BYTES + 4096)
    headers = [header for each in instances[5:12] for header in early.headers_of(each)]
    decode = early.decoder(headers)
    assert early.held_bytes == counted() == 19 * 4096 + 7 * SLICE_BYTES
    for header in headers:
        decode(header)
        assert early.held_bytes == counted()
    early.forget()
    assert early.held_bytes == counted() == 0


def test_a_damaged_slice_is_left_and_refused_at_its_time(tmp_path: Path) -> None:
    images = ct_series(12)
    images[4].PixelData = bytes(100)
    instances = stored(tmp_path, images)
    instances[9].extent.path.write_bytes(b"no DICOM")
    early = filled(instances)
    assert early.count == 10
    assert choose(instances, headers_of=early.headers_of).refusal is not None
    headers = [h for each in [*instances[:9], *instances[10:]] for h in early.headers_of(each)]
    with pytest.raises(InputRefused) as refused:
        list(map(early.decoder(headers), headers))
    assert refused.value.reason is Reason.UNREADABLE


def test_without_anything_early_a_series_is_decoded_as_ever(tmp_path: Path) -> None:
    instances = stored(tmp_path, ct_series(12))
    seen: list[Slice] = []
    headers: list[ImageHeader] = [h for each in instances for h in EarlySlices().headers_of(each)]
    seen.extend(map(EarlySlices().decoder(headers), headers))
    assert [int(hu[0, 0]) for hu in seen] == list(range(12))
