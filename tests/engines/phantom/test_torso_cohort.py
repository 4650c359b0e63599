"""Cohorts: whole cases or none, resumed where left, the same from any number of workers; studies with their truth."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from core.errors import ConfigError
from core.finding import Cancer
from engines.phantom.torso import Scan, Tissue, build, record_of, render, sample_person
from engines.phantom.torso.cohort import Order, is_complete, make, make_case
from engines.phantom.torso.dicom import VENDORS, write_study

COARSE = Order((8.0, 6.0, 6.0))


def test_a_cohort_is_resumed_and_the_same_from_one_worker_or_two(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    seeds = range(500, 503)
    assert make(tmp_path / "one", range(500, 502), COARSE) == 2
    (tmp_path / "one" / "0000501" / "record.json").unlink()  # as if it had been interrupted there
    assert not is_complete(tmp_path / "one", 501)
    assert make(tmp_path / "one", seeds, COARSE, 1, lambda done, total: steps.append((done, total))) == 2
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert make(tmp_path / "two", seeds, COARSE, 2) == 3
    for seed in seeds:
        a, b = (np.load(tmp_path / name / f"{seed:07d}" / "case.npz") for name in ("one", "two"))
        for key in ("hu", "organs", "lesions", "spacing_mm", "origin_mm"):
            assert np.array_equal(a[key], b[key]), key
        records = [(tmp_path / name / f"{seed:07d}" / "record.json").read_text() for name in ("one", "two")]
        assert records[0] == records[1]


def test_a_folder_of_another_cohort_is_refused(tmp_path: Path) -> None:
    make(tmp_path, range(1), COARSE)
    with pytest.raises(ConfigError, match="other settings: spacing_mm"):
        make(tmp_path, range(2), Order((4.0, 4.0, 4.0)))


def test_a_record_tells_the_case(tmp_path: Path) -> None:
    make_case(tmp_path, 7, Order((4.0, 3.0, 3.0), {"liver": 1}, whole=True))
    record = json.loads((tmp_path / "0000007" / "record.json").read_text())
    assert record["synthetic"] is True
    assert record["law"]["version"] == 2
    cancers = [f for f in record["findings"] if f["cancer"]]
    assert {f["organ"] for f in cancers} == {"liver"}
    with np.load(tmp_path / "0000007" / "case.npz") as case:
        for f in cancers:
            ml = float((case["lesions"] == f["number"]).sum()) * 36 / 1000
            assert f["volume_ml"] == pytest.approx(ml, abs=0.01)
            assert f["cnr"] > 0
        assert record["organs_ml"]["liver"] == pytest.approx(float((case["organs"] == 30).sum()) * 0.036, abs=0.01)


SHORT = Scan((5.0, 3.0, 3.0), (140, 140), (310.0, 345.0))


@pytest.mark.parametrize("vendor", sorted(VENDORS))
def test_a_study_holds_the_rendered_volume_and_its_truth(tmp_path: Path, vendor: str) -> None:
    torso = build(sample_person(7, {Cancer.LIVER: 1}))
    rendered = write_study(torso, SHORT, tmp_path, vendor)
    slices = [pydicom.dcmread(p) for p in sorted((tmp_path / "ct").iterdir())]
    hu = np.stack([s.pixel_array * float(s.RescaleSlope) + float(s.RescaleIntercept) for s in slices])
    inside = np.hypot(*(np.indices((140, 140)) - 69.5)) < 69
    assert np.array_equal(hu[:, inside], rendered.volume.hu[:, inside])
    steps = np.diff([float(s.ImagePositionPatient[2]) for s in slices])
    assert steps == pytest.approx([5.0] * len(steps), abs=1e-3)
    organs = pydicom.dcmread(tmp_path / "organs.dcm")
    assert organs.SegmentationType == "LABELMAP"
    where = [float(f.PlanePositionSequence[0].ImagePositionPatient[2]) for f in organs.PerFrameFunctionalGroupsSequence]
    assert np.array_equal(organs.pixel_array[np.argsort(where)], rendered.organs)
    assert organs.StudyInstanceUID == slices[0].StudyInstanceUID
    names = {int(s.SegmentNumber): s.SegmentLabel for s in organs.SegmentSequence}
    assert names[int(Tissue.LIVER)] == "liver"
    findings = pydicom.dcmread(tmp_path / "findings.dcm")
    volume = float((rendered.lesions > 0).sum())
    assert int(findings.pixel_array.sum()) == volume
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["vendor"] == vendor
    assert record["findings"] == record_of(torso, SHORT, rendered)["findings"]


@pytest.mark.parametrize("vendor", sorted(VENDORS))
def test_each_vendors_images_satisfy_dciodvfy(tmp_path: Path, vendor: str) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (package dicom3tools) is not installed")
    write_study(build(sample_person(100, {})), Scan((5.0, 4.0, 4.0), (100, 100), (330.0, 345.0)), tmp_path, vendor)
    for path in sorted((tmp_path / "ct").iterdir())[:2]:
        report = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
        assert "CTImage" in report.stderr + report.stdout
        assert "Error" not in report.stderr + report.stdout, report.stderr


def test_a_case_is_what_rendering_its_seed_gives(tmp_path: Path) -> None:
    from engines.phantom.torso import sample_scan

    make_case(tmp_path, 31, COARSE)
    person = sample_person(31)
    again = render(build(person), sample_scan(person, COARSE.spacing_mm))
    with np.load(tmp_path / "0000031" / "case.npz") as case:
        assert np.array_equal(case["hu"], again.volume.hu)
