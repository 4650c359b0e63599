"""Which series is read, and which reason the others get."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from appliance.imaging.header import ImageHeader, read_header
from appliance.imaging.kernels import Sharpness, sharpness
from appliance.imaging.select import select
from appliance.imaging.stack import StackRules, make_stack
from core.errors import InputRefused
from core.extent import Extent
from core.finding import Reason
from tests.appliance.dicom_samples import ct_series, ct_slice, uid, write_files


def headers_of(folder: Path, datasets: Sequence[Dataset]) -> list[ImageHeader]:
    return [read_header(Extent(p)) for p in write_files(folder, datasets)]


def test_a_regular_series_is_chosen_bottom_first(tmp_path: Path) -> None:
    selection = select(headers_of(tmp_path, ct_series(12)[::-1]))
    assert selection.chosen is not None
    assert [h.position[2] for h in selection.chosen if h.position] == [2.0 * i for i in range(12)]
    assert selection.refused == {}
    assert "12 axial slices every 2 mm" in selection.series[0].why
    assert "B30F" in selection.series[0].why


def _tilted() -> list[Dataset]:
    angle = math.radians(12)
    orientation = [1, 0, 0, 0, math.cos(angle), -math.sin(angle)]
    return ct_series(12, ImageOrientationPatient=orientation)


def _moved(index: int, z: float) -> list[Dataset]:
    series = ct_series(14)
    series[index].ImagePositionPatient = [-20.0, -30.0, z]
    return series


def _without(*indices: int) -> list[Dataset]:
    return [ds for i, ds in enumerate(ct_series(16)) if i not in indices]


def _with(index: int, **changes: Any) -> list[Dataset]:
    series = ct_series(12)
    series[index] = ct_slice(index=index, **changes)
    return series


@pytest.mark.parametrize(
    ("datasets", "reason"),
    [
        ([], Reason.NO_CT),
        (ct_series(12, Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4"), Reason.NO_CT),
        (ct_series(12, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), Reason.NO_AXIAL_SERIES),
        (ct_series(12, ImageType=["DERIVED", "SECONDARY", "AXIAL", "MIP"]), Reason.NO_AXIAL_SERIES),
        (ct_series(12, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), Reason.NO_AXIAL_SERIES),
        (ct_series(12, RescaleType="Z_EFF"), Reason.NO_AXIAL_SERIES),
        (_tilted(), Reason.GANTRY_TILT),
        (ct_series(12, GantryDetectorTilt=-8), Reason.GANTRY_TILT),
        (_without(4), Reason.MISSING_SLICES),
        (_without(3, 4, 9), Reason.MISSING_SLICES),
        (ct_series(12, spacing=5.0, SliceThickness=1), Reason.MISSING_SLICES),
        (_moved(5, 10.7), Reason.MIXED_SPACING),
        (_moved(5, 12.0), Reason.DUPLICATE_POSITIONS),
        (_with(3, PixelSpacing=[0.8, 0.8]), Reason.MIXED_GEOMETRY),
        (_with(3, Rows=32, PixelData=bytes(32 * 64 * 2)), Reason.MIXED_GEOMETRY),
        (_with(3, ImageOrientationPatient=[0.995, 0.0998, 0, -0.0998, 0.995, 0]), Reason.MIXED_GEOMETRY),
        (_with(3, ImagePositionPatient=None), Reason.MIXED_GEOMETRY),
        (ct_series(5), Reason.TOO_FEW_SLICES),
        (ct_series(12, spacing=10.0), Reason.TOO_THICK),
        (_with(3, RescaleSlope=None), Reason.UNREADABLE),
        (_with(3, PhotometricInterpretation="MONOCHROME1"), Reason.UNREADABLE),
    ],
)
def test_what_does_not_serve_says_why(tmp_path: Path, datasets: list[Dataset], reason: Reason) -> None:
    selection = select(headers_of(tmp_path, datasets))
    assert selection.chosen is None
    assert selection.reason is reason, selection.detail
    assert all(refusal[0] is reason for refusal in selection.refused.values())


def test_a_localizer_inside_a_series_is_left_out(tmp_path: Path) -> None:
    scout = ct_slice(
        index=50, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], ImageOrientationPatient=[1, 0, 0, 0, 0, -1]
    )
    selection = select(headers_of(tmp_path, [*ct_series(12), scout]))
    assert selection.chosen is not None
    assert len(selection.chosen) == 12


def test_what_comes_with_a_ct_study_does_not_disturb_it(tmp_path: Path) -> None:
    capture = ct_slice(series="capture", SOPClassUID="1.2.840.10008.5.1.4.1.1.7", Modality="OT")
    dose = Dataset()
    for keyword in ("PatientID", "StudyDate", "StudyInstanceUID"):
        setattr(dose, keyword, getattr(capture, keyword))
    dose.SOPClassUID, dose.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.67", uid("dose")
    dose.SeriesInstanceUID, dose.Modality = uid("dose series"), "SR"
    selection = select(headers_of(tmp_path, [dose, capture, *ct_series(12)]))
    assert selection.chosen is not None
    assert {reason for reason, _ in selection.refused.values()} == {Reason.NO_CT}


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"ConvolutionKernel": "B31f"}, {"ConvolutionKernel": "B70f"}),
        ({"ConvolutionKernel": ["Br36d", "3"]}, {"ConvolutionKernel": ["Bl57d", "3"]}),
        ({}, {"ContrastBolusAgent": "Iomeprol"}),
        ({}, {"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "CSA MPR"]}),
        ({"spacing": 2.0}, {"spacing": 5.0}),
        ({"spacing": 2.0}, {"spacing": 0.5}),
    ],
)
def test_the_better_series_is_read(tmp_path: Path, better: dict[str, Any], worse: dict[str, Any]) -> None:
    count = {"better": round(60 / better.get("spacing", 2.0)), "worse": round(60 / worse.get("spacing", 2.0))}
    datasets = [
        *ct_series(count["worse"], series="worse", **worse),
        *ct_series(count["better"], series="better", **better),
    ]
    selection = select(headers_of(tmp_path, datasets))
    assert selection.chosen is not None
    assert selection.chosen[0].series_uid == uid("a", "better")


def test_long_coverage_beats_a_soft_kernel_of_a_short_piece(tmp_path: Path) -> None:
    datasets = [
        *ct_series(40, series="long", ConvolutionKernel="B70f"),
        *ct_series(12, series="short", ConvolutionKernel="B30f"),
    ]
    selection = select(headers_of(tmp_path, datasets))
    assert selection.chosen is not None
    assert selection.chosen[0].series_uid == uid("a", "long")


def test_the_most_telling_reason_stands_for_the_study(tmp_path: Path) -> None:
    datasets = [
        *ct_series(2, series="scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        *ct_series(40, series="coronal", ImageOrientationPatient=[1, 0, 0, 0, 0, -1]),
        *_without(4),
    ]
    selection = select(headers_of(tmp_path, datasets))
    assert selection.reason is Reason.MISSING_SLICES
    assert len(selection.refused) == 3


@pytest.mark.parametrize(
    ("maker", "kernel", "expected"),
    [
        ("SIEMENS", "B30f", Sharpness.SOFT),
        ("SIEMENS", "I31f 3", Sharpness.SOFT),
        ("Siemens Healthineers", "Br40d 3", Sharpness.SOFT),
        ("SIEMENS", "B45f", Sharpness.MEDIUM),
        ("SIEMENS", "B70s", Sharpness.SHARP),
        ("SIEMENS", "Bl57d", Sharpness.SHARP),
        ("GE MEDICAL SYSTEMS", "STANDARD", Sharpness.SOFT),
        ("GE MEDICAL SYSTEMS", "SOFT", Sharpness.SOFT),
        ("GE MEDICAL SYSTEMS", "STD+", Sharpness.SOFT),
        ("GE MEDICAL SYSTEMS", "LUNG", Sharpness.SHARP),
        ("GE MEDICAL SYSTEMS", "BONEPLUS", Sharpness.SHARP),
        ("GE MEDICAL SYSTEMS", "DETAIL", Sharpness.MEDIUM),
        ("Philips", "B", Sharpness.SOFT),
        ("Philips", "C", Sharpness.MEDIUM),
        ("Philips", "YA", Sharpness.SHARP),
        ("Philips", "L", Sharpness.SHARP),
        ("TOSHIBA", "FC03", Sharpness.SOFT),
        ("CANON MEDICAL SYSTEMS", "FC18", Sharpness.SOFT),
        ("TOSHIBA", "FC51", Sharpness.SHARP),
        ("TOSHIBA", "FC30", Sharpness.SHARP),
        ("UIH", "B_SOFT_C", Sharpness.SOFT),
        ("UIH", "B_SHARP_C", Sharpness.SHARP),
        ("", "", Sharpness.UNKNOWN),
        ("SOMEONE", "K7", Sharpness.UNKNOWN),
    ],
)
def test_kernel_names(maker: str, kernel: str, expected: Sharpness) -> None:
    assert sharpness(maker, kernel.upper()) is expected


@pytest.fixture(scope="module")
def regular(tmp_path_factory: pytest.TempPathFactory) -> list[ImageHeader]:
    return headers_of(tmp_path_factory.mktemp("regular"), ct_series(14))


@settings(max_examples=60)
@given(order=st.permutations(range(14)))
def test_the_stack_does_not_depend_on_the_order_of_the_files(regular: list[ImageHeader], order: list[int]) -> None:
    assert make_stack([regular[i] for i in order], StackRules()) == make_stack(regular, StackRules())


@settings(max_examples=60)
@given(gone=st.sets(st.integers(1, 12), min_size=1, max_size=4))
def test_any_inner_slice_missing_is_seen(regular: list[ImageHeader], gone: set[int]) -> None:
    left = [h for i, h in enumerate(regular) if i not in gone]
    with pytest.raises(InputRefused) as refused:
        make_stack(left, StackRules(min_slices=3))
    assert refused.value.reason in (Reason.MISSING_SLICES, Reason.MIXED_SPACING)


@settings(max_examples=60)
@given(spacing=st.floats(0.4, 5.0), shift=st.floats(-1000, 1000), noise=st.integers(0, 2**32 - 1))
def test_printed_positions_with_rounding_noise_still_make_a_grid(
    regular: list[ImageHeader], spacing: float, shift: float, noise: int
) -> None:
    rng = np.random.default_rng(noise)
    moved = [
        dataclasses.replace(
            h, position=(-20.0, -30.0, shift + spacing * i + rng.uniform(-0.005, 0.005)), thickness_mm=5.0
        )
        for i, h in enumerate(regular)
    ]
    assert make_stack(moved, StackRules()).geometry.spacing_mm[0] == pytest.approx(spacing, abs=0.002)
