"""The result objects of a study: valid, complete, repeatable, and silent where they have to be."""

from __future__ import annotations

import dataclasses
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from appliance.reporting import ReportFailed, object_uid, write_objects
from appliance.reporting.codes import REASON_VALUES
from core.finding import Answer, Cancer, Mode, Reason, Verdict, complete
from core.volume import Geometry, Volume
from tests.appliance.reporting import series as given
from tests.appliance.reporting.validators import dciodvfy_errors, dcmtk, pixelmed_sr_errors

REAL_CT = Path(__file__).parents[4] / "shared/data/lungpetctdx_A0001_chest_5mm_B"


@pytest.fixture
def study(tmp_path: Path) -> given.Series:
    (tmp_path / "in").mkdir()
    return given.write_series(tmp_path / "in")


def test_one_report_a_segmentation_per_organ_and_key_images_all_valid(study: given.Series, tmp_path: Path) -> None:
    objects = write_objects(given.context(study), tmp_path / "out")
    assert [o.kind for o in objects] == ["sr", "seg", "seg", "keyimage", "keyimage", "keyimage"]
    for made in objects:
        assert dciodvfy_errors(made.path) == []
        ds = pydicom.dcmread(made.path)
        assert (made.sop_class_uid, made.sop_instance_uid) == (ds.SOPClassUID, ds.SOPInstanceUID)
        assert made.series_uid == ds.SeriesInstanceUID
        dcmtk("dcmdump", str(made.path))
    assert len({o.sop_instance_uid for o in objects}) == len(objects)


def test_report_passes_the_template_validator(study: given.Series, tmp_path: Path) -> None:
    report = write_objects(given.context(study), tmp_path / "out")[0]
    assert pixelmed_sr_errors(report.path) == []


def test_the_same_context_gives_the_same_bytes(study: given.Series, tmp_path: Path) -> None:
    context = given.context(study)
    first = write_objects(context, tmp_path / "one")
    second = write_objects(context, tmp_path / "two")
    assert [o.path.read_bytes() for o in first] == [o.path.read_bytes() for o in second]
    assert [o.path.name for o in first] == [o.path.name for o in second]


def test_another_result_has_other_uids(study: given.Series, tmp_path: Path) -> None:
    first = write_objects(given.context(study), tmp_path / "one")
    second = write_objects(given.context(study, result_id=uuid.uuid4()), tmp_path / "two")
    assert not {o.sop_instance_uid for o in first} & {o.sop_instance_uid for o in second}
    assert not {o.series_uid for o in first} & {o.series_uid for o in second}


def test_patient_and_study_are_those_of_the_source(study: given.Series, tmp_path: Path) -> None:
    source = pydicom.dcmread(study.paths[0])
    for made in write_objects(given.context(study), tmp_path / "out"):
        ds = pydicom.dcmread(made.path)
        for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyInstanceUID",
                     "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "SpecificCharacterSet"):  # fmt: skip
            assert ds[name].value == source[name].value, name


def test_scanner_appliance_and_model_are_named_on_every_object(study: given.Series, tmp_path: Path) -> None:
    for made in write_objects(given.context(study), tmp_path / "out"):
        ds = pydicom.dcmread(made.path)
        scanner, box, model = ds.ContributingEquipmentSequence
        assert scanner.Manufacturer == "Phantom Works"
        assert box.DeviceSerialNumber == "box-1"
        assert (model.ManufacturerModelName, model.SoftwareVersions) == ("reference", ["0.1.0", "ab" * 32])
        assert model.UDISequence[0].UniqueDeviceIdentifier == given.MODEL.udi
        assert model.DeviceUID != box.DeviceUID
        assert [c.PurposeOfReferenceCodeSequence[0].CodeValue for c in (scanner, box, model)] == [
            "109101", "109102", "109102",
        ]  # fmt: skip


def test_a_new_model_is_a_new_device(study: given.Series, tmp_path: Path) -> None:
    newer = dataclasses.replace(given.MODEL, digest="cd" * 32)
    uids = []
    for n, model in enumerate((given.MODEL, newer)):
        report = write_objects(given.context(study, model=model), tmp_path / str(n))[0]
        uids.append(pydicom.dcmread(report.path).ContributingEquipmentSequence[2].DeviceUID)
    assert uids[0] != uids[1]


@pytest.mark.parametrize(
    ("offset", "date", "time"),
    [("", "20261123", "223015.250000"), ("+0000", "20261123", "193015.250000"), ("+0530", "20261124", "010015.250000")],
)
def test_times_are_in_the_time_zone_of_the_images(offset: str, date: str, time: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    series = given.write_series(tmp_path / "in", **({"TimezoneOffsetFromUTC": offset} if offset else {}))
    for made in write_objects(given.context(series), tmp_path / "out"):
        ds = pydicom.dcmread(made.path)
        assert (ds.ContentDate, ds.ContentTime) == (date, time)
        assert (ds.InstanceCreationDate, ds.InstanceCreationTime) == (date, time)
        assert ds.get("TimezoneOffsetFromUTC", "") == offset


def _texts(path: Path) -> list[str]:
    ds = pydicom.dcmread(path)
    return [str(e.value) for e in ds.iterall() if e.keyword == "TextValue"]


def _verdicts(path: Path) -> dict[str, str]:
    """Question → verdict, as coded in the report."""
    ds = pydicom.dcmread(path)
    evaluations = next(i for i in ds.ContentSequence if i.get("ConceptNameCodeSequence")[0].CodeValue == "C0034375")
    return {
        item.ConceptNameCodeSequence[0].CodeMeaning: item.ConceptCodeSequence[0].CodeMeaning
        for item in evaluations.ContentSequence
        if item.ValueType == "CODE"
    }


def test_report_answers_every_cancer_in_order(study: given.Series, tmp_path: Path) -> None:
    report = write_objects(given.context(study), tmp_path / "out")[0]
    assert _verdicts(report.path) == {
        "Pancreatic cancer": "Negative",
        "Oesophageal cancer": "Not analysed",
        "Lung cancer": "Positive",
        "Liver cancer": "Indeterminate",
        "Gastric cancer": "Not analysed",
        "Colorectal cancer": "Not analysed",
    }
    text = "\n".join(_texts(report.path))
    assert "RESEARCH ONLY - synthetic reference model, never for clinical use." in text
    assert "Gastric cancer: NOT ANALYSED - no model in bundle. This is not a negative answer." in text
    assert "This report says nothing about: breast cancer (not in use at this site)." in text
    assert "0.03" not in dcmtk("dsrdump", "+Pl", str(report.path))  # the silent answer


def test_silent_findings_reach_no_object(study: given.Series, tmp_path: Path) -> None:
    silent = {c: dataclasses.replace(a, mode=Mode.SILENT) for c, a in given.answers().items()}
    objects = write_objects(given.context(study, answers=complete(silent, Reason.NO_MODEL)), tmp_path / "out")
    assert [o.kind for o in objects] == ["sr"]
    assert set(_verdicts(objects[0].path).values()) == {"Not analysed"}


def test_nothing_to_show_makes_no_object(study: given.Series, tmp_path: Path) -> None:
    silent = tuple(Answer(c, Verdict.NEGATIVE, Mode.SILENT, 0.1) for c in Cancer)
    assert write_objects(given.context(study, answers=silent), tmp_path / "out") == ()


def test_negative_answers_have_a_report_and_nothing_else(study: given.Series, tmp_path: Path) -> None:
    negative = tuple(Answer(c, Verdict.NEGATIVE, Mode.RESEARCH, 0.1) for c in Cancer)
    objects = write_objects(given.context(study, answers=negative, masks={}), tmp_path / "out")
    assert [o.kind for o in objects] == ["sr"]
    assert dciodvfy_errors(objects[0].path) == []


@pytest.mark.slow
def test_reports_without_lesions_pass_the_template_validator(study: given.Series, tmp_path: Path) -> None:
    negative = tuple(Answer(c, Verdict.NEGATIVE, Mode.RESEARCH, 0.1) for c in Cancer)
    contexts = (given.context(study, answers=negative, masks={}), given.nothing_analysable(study.paths))
    for n, context in enumerate(contexts):
        report = write_objects(context, tmp_path / str(n))[0]
        assert pixelmed_sr_errors(report.path) == []


def test_unanalysable_study_has_a_report_with_the_reason(study: given.Series, tmp_path: Path) -> None:
    objects = write_objects(given.nothing_analysable(study.paths), tmp_path / "out")
    assert [o.kind for o in objects] == ["sr"]
    assert dciodvfy_errors(objects[0].path) == []
    assert set(_verdicts(objects[0].path).values()) == {"Not analysed"}
    texts = _texts(objects[0].path)
    assert "Lung cancer: NOT ANALYSED - gantry tilt (tilted by 12.5°). This is not a negative answer." in texts
    ds = pydicom.dcmread(objects[0].path)
    assert ds.SpecificCharacterSet == "ISO_IR 192"  # the degree sign, and the patient's name stays what it was
    assert ds.PatientName == "Müller^Zoë"


def test_a_revision_names_its_predecessor(study: given.Series, tmp_path: Path) -> None:
    earlier = write_objects(given.context(study), tmp_path / "one")[0]
    newer = given.context(study, result_id=uuid.uuid4(), revision=2, supersedes=given.RESULT)
    report = pydicom.dcmread(write_objects(newer, tmp_path / "two")[0].path)
    predecessor = report.PredecessorDocumentsSequence[0]
    reference = predecessor.ReferencedSeriesSequence[0]
    assert predecessor.StudyInstanceUID == report.StudyInstanceUID
    assert reference.SeriesInstanceUID == earlier.series_uid
    assert reference.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == earlier.sop_instance_uid
    assert object_uid(given.RESULT, "sr") == earlier.sop_instance_uid
    assert "revision 2" in report.SeriesDescription


def test_segments_are_the_lesions_and_lie_on_their_slices(study: given.Series, tmp_path: Path) -> None:
    objects = write_objects(given.context(study), tmp_path / "out")
    seg = pydicom.dcmread(objects[1].path)
    mask = given.masks()[Cancer.LUNG]
    frames = seg.pixel_array
    drawn = np.zeros(given.SHAPE, np.uint8)
    label_of = {1: 4, 2: 9}  # highest score first
    for frame, group in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        z = round((group.PlanePositionSequence[0].ImagePositionPatient[2] - given.ORIGIN[2]) / given.SPACING[0])
        drawn[z][frame > 0] = label_of[group.SegmentIdentificationSequence[0].ReferencedSegmentNumber]
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID == pydicom.dcmread(study.paths[z]).SOPInstanceUID
    assert np.array_equal(drawn, mask)
    assert all(frame.any() for frame in frames)


def test_report_and_segmentation_speak_of_the_same_lesion(study: given.Series, tmp_path: Path) -> None:
    objects = write_objects(given.context(study), tmp_path / "out")
    tracked = {
        segment.TrackingUID
        for made in objects
        if made.kind == "seg"
        for segment in pydicom.dcmread(made.path).SegmentSequence
    }
    report = pydicom.dcmread(objects[0].path)
    assert tracked == {
        str(item.UID)
        for item in report.ContentSequence[-2].ContentSequence
        if item.ValueType == "CONTAINER"
        for item in item.ContentSequence
        if item.get("ConceptNameCodeSequence")[0].CodeValue == "112040"
    }
    listed = {str(e.value) for e in report.CurrentRequestedProcedureEvidenceSequence[0].iterall()}
    assert {o.sop_instance_uid for o in objects if o.kind == "seg"} <= listed
    assert len(listed & {f"2.25.7000{z + 1}" for z in range(given.SHAPE[0])}) == given.SHAPE[0]


def test_lesion_without_a_voxel_is_measured_all_the_same(study: given.Series, tmp_path: Path) -> None:
    found = given.masks()
    found[Cancer.LUNG][found[Cancer.LUNG] == 9] = 0
    objects = write_objects(given.context(study, masks=found), tmp_path / "out")
    assert len(pydicom.dcmread(objects[1].path).SegmentSequence) == 1
    assert len([o for o in objects if o.kind == "keyimage"]) == 3
    assert "Lung lesion 9" in dcmtk("dsrdump", "+Pl", str(objects[0].path))
    assert all(dciodvfy_errors(o.path) == [] for o in objects)


@pytest.mark.parametrize(
    "missing",
    [
        {"PatientBirthDate": None, "AccessionNumber": None, "StudyID": None, "ReferringPhysicianName": None},
        {"PositionReferenceIndicator": None, "FrameOfReferenceUID": None},
        {"PatientSex": "W", "PatientBirthDate": "1960"},
        {"Manufacturer": None, "InstanceNumber": None, "SpecificCharacterSet": None, "PatientName": "Test^A"},
    ],
    ids=["type 2 missing", "no frame of reference", "odd values", "sparse"],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_incomplete_sources_still_get_their_objects(missing: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    series = given.write_series(tmp_path / "in", **missing)
    objects = write_objects(given.context(series), tmp_path / "out")
    assert len(objects) == 6


def test_rows_and_columns_that_run_the_other_way_are_turned_back(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    x_far = given.ORIGIN[0] + (given.SHAPE[2] - 1) * given.SPACING[2]
    y_far = given.ORIGIN[1] + (given.SHAPE[1] - 1) * given.SPACING[1]
    series = given.write_series(tmp_path / "in", ImageOrientationPatient=[-1, 0, 0, 0, -1, 0])
    for z, path in enumerate(series.paths):
        ds = pydicom.dcmread(path)
        ds.ImagePositionPatient = [x_far, y_far, given.ORIGIN[2] + z * given.SPACING[0]]
        ds.save_as(path)
    seg = pydicom.dcmread(write_objects(given.context(series), tmp_path / "out")[1].path)
    group = seg.PerFrameFunctionalGroupsSequence[0]
    z = round((group.PlanePositionSequence[0].ImagePositionPatient[2] - given.ORIGIN[2]) / given.SPACING[0])
    label = {1: 4, 2: 9}[group.SegmentIdentificationSequence[0].ReferencedSegmentNumber]
    expected = (given.masks()[Cancer.LUNG][z] == label)[::-1, ::-1]
    assert np.array_equal(seg.pixel_array[0] > 0, expected)


def test_volume_that_is_not_where_its_source_is_gets_refused(study: given.Series, tmp_path: Path) -> None:
    shifted = Geometry(given.SHAPE, given.SPACING, (given.ORIGIN[0], given.ORIGIN[1], given.ORIGIN[2] + 5.0))
    with pytest.raises(ReportFailed, match="not where its source image is"):
        write_objects(given.context(study, volume=Volume(study.volume.hu, shifted)), tmp_path / "out")


def test_unreadable_source_is_a_failure_and_not_an_empty_report(study: given.Series, tmp_path: Path) -> None:
    study.paths[0].write_bytes(b"not DICOM")
    with pytest.raises(ReportFailed, match="can't be read"):
        write_objects(given.context(study), tmp_path / "out")


def test_broken_instance_does_not_cost_the_others_their_report(study: given.Series, tmp_path: Path) -> None:
    study.paths[0].write_bytes(b"\0" * 128 + b"DICM and nothing")
    (report,) = write_objects(given.nothing_analysable(study.paths), tmp_path / "out")
    listed = pydicom.dcmread(report.path).CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert len(listed.ReferencedSOPSequence) == given.SHAPE[0] - 1
    for path in study.paths:
        path.write_bytes(b"")
    with pytest.raises(ReportFailed, match="none of the 12 instances"):
        write_objects(given.nothing_analysable(study.paths), tmp_path / "none")


def test_every_reason_has_a_code_of_its_own() -> None:
    assert set(REASON_VALUES) == set(Reason)
    assert len(set(REASON_VALUES.values())) == len(Reason)
    assert all(len(value) <= 16 for value in REASON_VALUES.values())


@pytest.mark.skipif(not REAL_CT.is_dir(), reason=f"the real CT {REAL_CT} is not here")
def test_real_ct_gives_valid_objects(tmp_path: Path) -> None:
    slices = sorted(
        (pydicom.dcmread(p) for p in REAL_CT.glob("*.dcm")), key=lambda ds: float(ds.ImagePositionPatient[2])
    )
    hu = np.stack([s.pixel_array * float(s.RescaleSlope) + float(s.RescaleIntercept) for s in slices])
    origin = tuple(float(v) for v in slices[0].ImagePositionPatient)
    spacing = (5.0, *(float(v) for v in slices[0].PixelSpacing))
    volume = Volume(hu.astype(np.int16), Geometry(hu.shape, spacing, origin))  # type: ignore[arg-type]
    mask = np.zeros(hu.shape, np.uint8)
    mask[given.ball(hu.shape, (40, 250, 150), 14.0, spacing)] = 1  # type: ignore[arg-type]
    found = given.lesion(mask, 1, 0.9, spacing)  # type: ignore[arg-type]
    answer = Answer(Cancer.LUNG, Verdict.POSITIVE, Mode.RESEARCH, 0.9, lesions=(found,))
    context = given.context(
        given.Series([Path(str(s.filename)) for s in slices], volume),
        answers=complete({Cancer.LUNG: answer}, Reason.NO_MODEL),
        masks={Cancer.LUNG: mask},
    )
    objects = write_objects(context, tmp_path / "out")
    assert [o.kind for o in objects] == ["sr", "seg", "keyimage"]
    assert [dciodvfy_errors(o.path) for o in objects] == [[], [], []]
    dcmtk("dcm2pnm", "+on", str(objects[2].path), str(tmp_path / "key.png"))
