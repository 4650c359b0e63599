"""Which series serves which cancer: one may be cut off where another is readable."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pydicom.dataset import Dataset

from appliance.imaging.header import ImageHeader, read_header, read_headers
from appliance.imaging.select import Selection, select
from core.extent import Extent
from core.finding import Cancer, Reason
from core.requirement import DEFAULTS, Requirement, requirements
from tests.appliance.dicom_samples import ct_series, enhanced, uid, write_files

WIDE, NARROW = [6.0, 6.0], [4.6, 4.6]  # mm a pixel: fields of 384 and 294 mm over 64 pixels
REST = [c for c in Cancer if c is not Cancer.BREAST]


def headers_of(folder: Path, datasets: Sequence[Dataset]) -> list[ImageHeader]:
    return [read_header(Extent(p)) for p in write_files(folder, datasets)]


def wide(series: str = "wide", count: int = 20, **changes: Any) -> list[Dataset]:
    return ct_series(count, series=series, PixelSpacing=changes.pop("PixelSpacing", WIDE), **changes)


def test_a_wide_field_serves_all_seven(tmp_path: Path) -> None:
    [only] = select(headers_of(tmp_path, wide())).series
    assert only.cancers == tuple(Cancer)
    assert only.others == {}


def test_lung_is_readable_while_breast_is_cut_off(tmp_path: Path) -> None:
    selection = select(headers_of(tmp_path, wide(PixelSpacing=NARROW)))
    [only] = selection.series
    assert only.cancers == tuple(REST)
    reason, detail = selection.without[Cancer.BREAST]
    assert reason is Reason.NOT_COVERED
    assert "field of 294 mm" in detail
    assert only.others == selection.without


def test_each_cancer_gets_the_series_that_serves_it(tmp_path: Path) -> None:
    contrast = wide("wide", ContrastBolusAgent="Iomeprol")
    selection = select(headers_of(tmp_path, [*contrast, *wide("narrow", PixelSpacing=NARROW)]))
    assert [(c.headers[0].series_uid, c.cancers) for c in selection.series] == [
        (uid("a", "narrow"), tuple(REST)),
        (uid("a", "wide"), (Cancer.BREAST,)),
    ]
    assert selection.without == {}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("spine", {"PixelSpacing": [2.8, 2.8]}),
        ("heart", {"PixelSpacing": [3.9, 3.9]}),
        ("heart", {"ReconstructionDiameter": 250}),  # the matrix is wide, what was reconstructed is not
    ],
)
def test_a_field_that_cuts_the_body_off_loses_to_a_full_one_whatever_else_speaks_for_it(
    tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    full = wide("full", ContrastBolusAgent="Iomeprol", ConvolutionKernel="B50f", ReconstructionDiameter=384)
    [only] = select(headers_of(tmp_path, [*full, *wide(name, **changes)])).series
    assert only.headers[0].series_uid == uid("a", "full")
    assert "field of 384 mm" in only.why


def test_a_longer_one_with_a_narrow_field_loses_to_a_full_one_of_half_its_length(tmp_path: Path) -> None:
    spine = wide("spine", count=40, PixelSpacing=[3.5, 3.5])
    [only] = select(headers_of(tmp_path, [*wide("chest", count=22), *spine])).series
    assert only.headers[0].series_uid == uid("a", "chest")


def test_a_short_full_one_does_not_stand_for_a_whole_scan(tmp_path: Path) -> None:
    short = wide("timing", count=10)
    selection = select(headers_of(tmp_path, [*short, *wide("lungs", count=60, PixelSpacing=[4.2, 4.2])]))
    served = {chosen.headers[0].series_uid: chosen.cancers for chosen in selection.series}
    assert served == {uid("a", "lungs"): tuple(REST), uid("a", "timing"): (Cancer.BREAST,)}


@pytest.mark.parametrize(
    ("field", "served"),
    [
        (150.0, set()),
        (180.0, {Cancer.OESOPHAGUS}),
        (210.0, {Cancer.OESOPHAGUS, Cancer.PANCREAS, Cancer.STOMACH}),
        (230.0, set(REST)),
        (300.0, set(Cancer)),
    ],
)
@pytest.mark.parametrize("told", ["by the matrix", "by the header", "by a frame"])
def test_alone_it_is_refused_for_the_cancers_whose_organ_it_cuts_off(
    tmp_path: Path, field: float, served: set[Cancer], told: str
) -> None:
    zoomed = wide(PixelSpacing=[field / 64] * 2) if told == "by the matrix" else wide(ReconstructionDiameter=field)
    [*paths] = write_files(tmp_path, [enhanced(zoomed)] if told == "by a frame" else zoomed)
    selection = select([header for path in paths for header in read_headers(Extent(path))])
    assert {c for chosen in selection.series for c in chosen.cancers} == served
    assert {reason for reason, _ in selection.without.values()} <= {Reason.NOT_COVERED}
    assert all(f"the field of {field:.0f} mm cuts it off" in detail for _, detail in selection.without.values())


@pytest.mark.parametrize("diameter", [0, None])
def test_a_diameter_of_zero_says_nothing(tmp_path: Path, diameter: int | None) -> None:
    changes = {} if diameter is None else {"ReconstructionDiameter": diameter}
    [only] = select(headers_of(tmp_path, wide(**changes))).series
    assert only.cancers == tuple(Cancer)


def test_the_cancers_that_the_model_knows_decide_which_series_goes_first(tmp_path: Path) -> None:
    contrast = wide("wide", ContrastBolusAgent="Iomeprol")
    headers = headers_of(tmp_path, [*contrast, *wide("narrow", PixelSpacing=NARROW)])
    selection = select(headers, looked_for=[Cancer.BREAST])
    assert selection.series[0].headers[0].series_uid == uid("a", "wide")


def test_sharp_and_soft_of_one_scan_give_the_soft_one_to_all(tmp_path: Path) -> None:
    [only] = select(headers_of(tmp_path, [*wide("sharp", ConvolutionKernel="B70f"), *wide("soft")])).series
    assert only.headers[0].series_uid == uid("a", "soft")


@pytest.mark.parametrize(
    ("asked", "changes", "reason"),
    [
        ({"max_spacing_mm": 1.5}, {}, Reason.TOO_THICK),
        ({"max_thickness_mm": 3.0}, {"SliceThickness": 5}, Reason.TOO_THICK),
        ({"min_diameter_mm": 400.0}, {}, Reason.NOT_COVERED),
        ({"min_extent_mm": 150.0}, {}, Reason.NOT_COVERED),
        ({"kernels": ("soft", "medium")}, {"ConvolutionKernel": "B70f"}, Reason.KERNEL),
        ({"kernels": ("soft",)}, {"ConvolutionKernel": ""}, Reason.KERNEL),
        ({"contrast": "forbidden"}, {"ContrastBolusAgent": "Iomeprol"}, Reason.CONTRAST),
        ({"contrast": "required"}, {}, Reason.CONTRAST),
    ],
)
def test_each_requirement_rules_out_its_cancer_alone(
    tmp_path: Path, asked: dict[str, Any], changes: dict[str, Any], reason: Reason
) -> None:
    tightened = requirements({Cancer.LIVER: Requirement(**asked)})
    selection = select(headers_of(tmp_path, wide(**changes)), asked=tightened)
    assert {cancer: refusal[0] for cancer, refusal in selection.without.items()} == {Cancer.LIVER: reason}
    assert select(headers_of(tmp_path, wide(**changes))).without == {}


def test_a_series_that_serves_nobody_is_refused_with_its_reason(tmp_path: Path) -> None:
    asked = requirements(dict.fromkeys(Cancer, Requirement(kernels=("soft",))))
    selection = select(headers_of(tmp_path, wide(ConvolutionKernel="B70f")), asked=asked)
    assert selection.series == ()
    assert selection.reason is Reason.KERNEL
    assert selection.refused[uid("a", "wide")][0] is Reason.KERNEL


def test_two_phases_in_one_series_are_several_images_at_one_position(tmp_path: Path) -> None:
    venous = wide("one", AcquisitionNumber=2, ContrastBolusAgent="Iomeprol")
    for index, image in enumerate(venous):
        image.SOPInstanceUID = uid("venous", index)
    selection = select(headers_of(tmp_path, [*wide("one"), *venous]))
    assert {refusal[0] for refusal in selection.without.values()} == {Reason.DUPLICATE_POSITIONS}


def test_requirements_only_tighten() -> None:
    loose = requirements({Cancer.BREAST: Requirement(min_diameter_mm=100.0)})
    assert loose == dict(DEFAULTS)
    with pytest.raises(ValueError, match="contradict"):
        requirements({Cancer.LUNG: Requirement(contrast="required")}, {Cancer.LUNG: Requirement(contrast="forbidden")})
    with pytest.raises(ValueError, match="contradict"):
        requirements({Cancer.LUNG: Requirement(kernels=("soft",))}, {Cancer.LUNG: Requirement(kernels=("sharp",))})
    with pytest.raises(ValidationError):
        Requirement.model_validate({"rule": "__import__('os')"})


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[ImageHeader]]:
    made = {
        "wide": wide("wide", 12, ContrastBolusAgent="Iomeprol"),
        "narrow": wide("narrow", 12, PixelSpacing=NARROW),
        "sharp": wide("sharp", 12, ConvolutionKernel="B70f"),
        "tilted": wide("tilted", 12, GantryDetectorTilt=8),
        "coronal": wide("coronal", 12, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]),
        "mip": wide("mip", 12, ImageType=["DERIVED", "SECONDARY", "MIP"]),
        "scout": wide("scout", 2, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        "thick": wide("thick", 12, spacing=10.0),
    }
    return {name: headers_of(tmp_path_factory.mktemp(name), datasets) for name, datasets in made.items()}


SERVING, REFUSED = ("wide", "narrow", "sharp"), ("tilted", "coronal", "mip", "scout", "thick")
parts = st.sets(st.sampled_from(SERVING + REFUSED), min_size=1)


def read(study: dict[str, list[ImageHeader]], names: Sequence[str]) -> Selection:
    return select([h for name in names for h in study[name]])


@settings(max_examples=60)
@given(names=parts, data=st.data())
def test_the_order_of_the_files_does_not_matter(
    study: dict[str, list[ImageHeader]], names: set[str], data: st.DataObject
) -> None:
    headers = [h for name in sorted(names) for h in study[name]]
    assert select(data.draw(st.permutations(headers))) == select(headers)


@settings(max_examples=60)
@given(names=st.sets(st.sampled_from(SERVING), min_size=1), more=st.sets(st.sampled_from(REFUSED), min_size=1))
def test_a_refused_series_never_changes_what_is_read(
    study: dict[str, list[ImageHeader]], names: set[str], more: set[str]
) -> None:
    alone, beside = read(study, sorted(names)), read(study, sorted(names | more))
    assert [(c.headers, c.cancers, c.others) for c in beside.series] == [
        (c.headers, c.cancers, c.others) for c in alone.series
    ]
    assert beside.without == alone.without
    assert set(beside.refused) - set(alone.refused) == {uid("a", name) for name in more}


@settings(max_examples=60)
@given(names=parts)
def test_every_cancer_has_one_series_or_one_reason(study: dict[str, list[ImageHeader]], names: set[str]) -> None:
    selection = read(study, sorted(names))
    answered = [c for chosen in selection.series for c in chosen.cancers] + list(selection.without)
    assert sorted(answered) == sorted(Cancer)
    for chosen in selection.series:
        assert not set(chosen.cancers) & set(chosen.others)


def test_the_real_chest_serves_all_until_a_limit_says_otherwise(real_data: Path) -> None:
    headers = [read_header(Extent(p)) for p in sorted((real_data / "lungpetctdx_A0001_chest_5mm_B").glob("*.dcm"))]
    [only] = select(headers).series
    assert only.cancers == tuple(Cancer)
    asked = requirements(
        {
            Cancer.LIVER: Requirement(max_spacing_mm=2.5),
            Cancer.BREAST: Requirement(min_diameter_mm=450.0),  # 512 pixels of 0.842 mm are 431 mm
            Cancer.COLORECTUM: Requirement(min_extent_mm=350.0),  # 64 slices of 5 mm are 320 mm
        }
    )
    without = select(headers, asked=asked).without
    assert {cancer: reason for cancer, (reason, _) in without.items()} == {
        Cancer.LIVER: Reason.TOO_THICK,
        Cancer.BREAST: Reason.NOT_COVERED,
        Cancer.COLORECTUM: Reason.NOT_COVERED,
    }
