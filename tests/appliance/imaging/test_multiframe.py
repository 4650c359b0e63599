"""Enhanced CT: the frames of one object are read as the slices that they would be as images of their own."""

from __future__ import annotations

import random
import subprocess
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from appliance.imaging.decode import decode_slice
from appliance.imaging.header import ImageHeader, read_headers
from appliance.imaging.select import Selection, select
from appliance.imaging.volume import build_volume
from core.errors import InputRefused
from core.extent import Extent
from core.finding import Cancer, Reason
from tests.appliance.dicom_samples import ct_series, ct_slice, encoded, enhanced, part10, uid, write_files

COUNT = 12
CLOSED = b"\xfe\xff\xdd\xe0\0\0\0\0"


def headers_of(folder: Path, *datasets: Dataset, syntax: str = ExplicitVRLittleEndian) -> list[ImageHeader]:
    return [h for path in write_files(folder, datasets, syntax) for h in read_headers(Extent(path))]


def refusal_of(selection: Selection) -> tuple[Reason, str]:
    assert selection.series == ()
    return selection.without[Cancer.LUNG]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_frames_make_the_same_volume_as_slices(tmp_path: Path, syntax: str) -> None:
    slices = ct_series(COUNT, spacing=2.5)
    for number, image in enumerate(slices):  # a rescale of its own for each frame
        image.RescaleIntercept = -1024 + number
    single = build_volume(headers_of(tmp_path / "single", *slices))
    [chosen] = select(headers_of(tmp_path / "multi", enhanced(slices[::-1]), syntax=syntax)).series
    assert [header.frame for header in chosen.headers] == [*range(COUNT, 0, -1)]
    multi = build_volume(chosen.headers)
    assert multi.geometry == single.geometry
    assert (multi.hu == single.hu).all()


def test_a_frame_says_what_a_slice_says(tmp_path: Path) -> None:
    slices = ct_series(COUNT, ConvolutionKernel="B70f", SeriesNumber=4)
    one, frame = headers_of(tmp_path, slices[3], enhanced(slices))[0], headers_of(tmp_path, enhanced(slices))[3]
    for name in ("position", "orientation", "pixel_spacing_mm", "thickness_mm", "kernel", "rows", "columns", "signed",
                 "rescale_slope", "rescale_intercept", "series_uid", "study_uid", "frame_of_reference_uid", "age_years",
                 "sex", "patient_id", "acquisition_number", "series_number", "manufacturer"):  # fmt: skip
        assert getattr(frame, name) == getattr(one, name), name
    assert (frame.frame, frame.frames, one.frame, one.frames) == (4, COUNT, None, 1)


def test_what_a_frame_says_goes_before_what_all_say_and_stays_its_own(tmp_path: Path) -> None:
    image = enhanced(ct_series(COUNT))
    image.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = [Dataset()]
    image.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0].RescaleIntercept = 5
    del image.PerFrameFunctionalGroupsSequence[4].PixelValueTransformationSequence
    intercepts = [header.rescale_intercept for header in headers_of(tmp_path, image)]
    assert intercepts == [5.0 if number == 4 else -1024.0 for number in range(COUNT)]


def test_contrast_stands_in_a_module_and_in_the_frames(tmp_path: Path) -> None:
    image = enhanced(ct_series(COUNT))
    agent, given, kept_back = Dataset(), Dataset(), Dataset()
    agent.CodeMeaning = "Iomeprol"
    given.ContrastBolusAgentAdministered, kept_back.ContrastBolusAgentAdministered = "YES", "NO"
    image.ContrastBolusAgentSequence = [agent]
    for group in image.PerFrameFunctionalGroupsSequence:
        group.ContrastBolusUsageSequence = [given]
    image.PerFrameFunctionalGroupsSequence[0].ContrastBolusUsageSequence = [kept_back]
    headers = headers_of(tmp_path, image)
    assert [header.contrast_agent for header in headers] == ["", *["Iomeprol"] * (COUNT - 1)]


@pytest.mark.parametrize(
    ("command", "fragments"),
    [(["dcmcjpeg", "+e1"], ["+ff"]), (["dcmcjpls", "+el"], ["+ff"]), (["dcmcrle"], ["+ff"]),
     (["dcmcjpls", "+el"], ["+fs", "1"]), (["dcmcjpls", "+el", "-ot"], ["+ff"])],
    ids=["JPEG Lossless", "JPEG-LS", "RLE", "fragments of 1 KB", "no offset table"],
)  # fmt: skip
def test_compressed_frames_decode_to_the_same_pixels(tmp_path: Path, command: list[str], fragments: list[str]) -> None:
    slices = ct_series(COUNT)
    rng = np.random.default_rng(5)
    for image in slices:  # noise does not compress: several fragments a frame
        image.PixelData = rng.integers(0, 4096, (64, 64), dtype=np.uint16).tobytes()
    plain = build_volume(headers_of(tmp_path / "plain", *slices))
    [path] = write_files(tmp_path, [enhanced(slices)])
    packed = tmp_path / "packed.dcm"
    subprocess.run([*command, *fragments, str(path), str(packed)], check=True, timeout=30)
    volume = build_volume(read_headers(Extent(packed)))
    assert (volume.hu == plain.hu).all()


def test_a_stretch_of_a_longer_file_is_read_as_the_file_that_it_is(tmp_path: Path) -> None:
    slices = ct_series(COUNT)
    content = part10(enhanced(slices))
    path = tmp_path / "log"
    path.write_bytes(b"before" + content + b"behind")
    volume = build_volume(read_headers(Extent(path, 6, len(content))))
    assert [int(v) for v in volume.hu[:, 0, 0]] == list(range(COUNT))


def test_memory_stays_at_one_volume_and_some_slices(tmp_path: Path) -> None:
    headers = headers_of(tmp_path, enhanced(ct_series(60)))
    build_volume(headers)
    tracemalloc.start()
    build_volume(headers)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (60 + 20) * 64 * 64 * 2


def test_a_frame_without_a_plane_position_is_refused(tmp_path: Path) -> None:
    image = enhanced(ct_series(COUNT))
    del image.PerFrameFunctionalGroupsSequence[5].PlanePositionSequence
    reason, detail = refusal_of(select(headers_of(tmp_path, image)))
    assert (reason, detail) == (Reason.MIXED_GEOMETRY, "an image or frame without position or orientation")


def test_frames_without_groups_of_their_own_are_refused_and_cost_no_other_series(tmp_path: Path) -> None:
    broken, whole = enhanced(ct_series(COUNT, series="broken")), enhanced(ct_series(COUNT, series="whole"))
    del broken.PerFrameFunctionalGroupsSequence[5]
    reason, detail = refusal_of(select(headers_of(tmp_path / "alone", broken)))
    assert reason is Reason.UNREADABLE
    assert "without a functional group for each frame" in detail
    [chosen] = select(headers_of(tmp_path / "both", broken, whole)).series
    assert chosen.headers[0].series_uid == whole.SeriesInstanceUID


def test_two_phases_in_one_object_are_several_frames_at_one_position(tmp_path: Path) -> None:
    twice = [*ct_series(COUNT), *ct_series(COUNT)]
    assert refusal_of(select(headers_of(tmp_path, enhanced(twice))))[0] is Reason.DUPLICATE_POSITIONS


def test_a_maximum_projection_is_no_slice(tmp_path: Path) -> None:
    image = enhanced(ct_series(COUNT))
    frame_type = image.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence[0]
    frame_type.FrameType = ["DERIVED", "PRIMARY", "VOLUME", "MAXIMUM"]
    assert refusal_of(select(headers_of(tmp_path, image)))[0] is Reason.NO_AXIAL_SERIES


@pytest.mark.parametrize(
    ("fragments", "said"),
    [
        (encapsulate([b"abcd"] * 3, has_bot=False) + CLOSED, "3 fragments for 4 frames"),
        (encapsulate([b"abcd"] * 3) + CLOSED, "offsets of 3 frames where there are 4"),
        (encapsulate([b"abcd"] * 4), "the file ends within the pixel data"),
        (encapsulate([b"abcd"] * 4)[:-3] + b"xyz", "the file ends within the pixel data"),
        (b"\0" * 40, "the list of pixel data fragments is broken"),
    ],
    ids=["too few", "offsets too few", "not closed", "cut", "no items"],
)
def test_fragments_that_cannot_be_told_apart_are_unreadable(tmp_path: Path, fragments: bytes, said: str) -> None:
    image = enhanced(ct_series(4))
    del image.PixelData
    path = tmp_path / "x.dcm"
    path.write_bytes(part10(image, syntax=RLELossless) + b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + fragments)
    headers = read_headers(Extent(path))
    assert len(headers) == 4
    with pytest.raises(InputRefused, match=said) as refused:
        decode_slice(headers[0])
    assert refused.value.reason is Reason.UNREADABLE


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("cut", [1, 100, 64 * 64 * 2 + 5])
def test_a_file_that_ends_within_its_pixels_is_unreadable(tmp_path: Path, syntax: str, cut: int) -> None:
    for number, image in enumerate((ct_slice(), enhanced(ct_series(4)))):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(part10(image, syntax=syntax)[:-cut])
        with pytest.raises(InputRefused) as refused:
            decode_slice(read_headers(Extent(path))[-1])
        assert refused.value.reason is Reason.UNREADABLE


def test_a_series_that_highdicom_converted_makes_the_same_volume(tmp_path: Path) -> None:
    slices = ct_series(COUNT, ConvolutionKernel="B70f", ReconstructionDiameter=350, GantryDetectorTilt=0)
    for image in slices:
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.ContentDate = image.AcquisitionDate = image.StudyDate
        image.StudyTime = image.ContentTime = image.AcquisitionTime = "101112"
        image.PatientBirthDate = image.StudyID = image.AccessionNumber = image.ReferringPhysicianName = ""
        image.PositionReferenceIndicator, image.SeriesNumber = "", 2
    converted = LegacyConvertedEnhancedCTImage(slices, uid("legacy"), 9, uid("legacy", 1), 1)
    converted.save_as(tmp_path / "converted.dcm")
    [chosen] = select(read_headers(Extent(tmp_path / "converted.dcm"))).series
    single = headers_of(tmp_path / "single", *slices)
    for name in ("kernel", "reconstructed_mm", "tilt_degrees", "thickness_mm"):
        assert getattr(chosen.headers[0], name) == getattr(single[0], name), name
    ours, theirs = build_volume(chosen.headers), build_volume(single)
    assert ours.geometry == theirs.geometry
    assert (ours.hu == theirs.hu).all()


def test_implicit_values_under_an_explicit_syntax_are_not_read_two_pixels_off(tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(part10(ct_slice(), encoded(ct_slice(), ImplicitVRLittleEndian), ExplicitVRLittleEndian))
    with pytest.raises(InputRefused) as refused:
        decode_slice(read_headers(Extent(path))[0])
    assert refused.value.reason is Reason.UNREADABLE


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(3))
def test_damage_ends_in_a_refusal_or_in_slices(seed: int, tmp_path: Path) -> None:
    whole = part10(enhanced(ct_series(4)))
    header_bytes = len(whole) - 4 * 64 * 64 * 2
    draw, path, refused = random.Random(seed), tmp_path / "x.dcm", 0
    for n in range(150):
        damaged = bytearray(whole)
        for _ in range(draw.randrange(1, 6)):
            damaged[draw.randrange(132, header_bytes)] = draw.randrange(256)
        path.write_bytes(damaged[: draw.randrange(len(damaged))] if n % 3 == 0 else damaged)
        try:
            for header in read_headers(Extent(path)):
                assert decode_slice(header).shape == (header.rows, header.columns)
        except InputRefused:
            refused += 1
    assert 20 < refused < 150
