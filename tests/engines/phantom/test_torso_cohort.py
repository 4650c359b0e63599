"""Cohorts: whole cases or none, resumed where left, the same from any number of workers; studies with their truth."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from core.errors import ConfigError
from core.finding import Cancer
from engines.phantom import Scan, Tissue, build, record_of, render, sample_person
from engines.phantom.cohort import Order, is_complete, make, make_case
from engines.phantom.dicom import VENDORS, write_study

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


def test_the_truth_satisfies_dciodvfy(tmp_path: Path) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (package dicom3tools) is not installed")
    write_study(build(sample_person(7, {Cancer.LIVER: 1})), SHORT, tmp_path, "ge")
    assert _said(tmp_path / "findings.dcm") == ["Segmentation"]
    # dicom3tools of 2022 does not know label maps (supplement 243, 2024); a fractional segmentation has all modules and
    # functional groups in common with one.
    organs = pydicom.dcmread(tmp_path / "organs.dcm")
    organs.SOPClassUID = organs.file_meta.MediaStorageSOPClassUID = SegmentationStorage
    organs.SegmentationType, organs.SegmentationFractionalType = "FRACTIONAL", "OCCUPANCY"
    organs.MaximumFractionalValue = 255
    organs.SegmentSequence = [s for s in organs.SegmentSequence if s.SegmentNumber]
    for number, segment in enumerate(organs.SegmentSequence, 1):
        segment.SegmentNumber = number
    which = Dataset()
    which.ReferencedSegmentNumber = 1
    organs.SharedFunctionalGroupsSequence[0].SegmentIdentificationSequence = [which]
    organs.save_as(tmp_path / "as_fractional.dcm")
    assert _said(tmp_path / "as_fractional.dcm") == ["Segmentation"]
    del organs.SegmentSequence
    organs.save_as(tmp_path / "broken.dcm")
    assert any("Error" in line for line in _said(tmp_path / "broken.dcm")), "it would have seen an error"


def _said(path: Path) -> list[str]:
    report = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
    return [line for line in (report.stderr + report.stdout).splitlines() if line.strip()]


@pytest.mark.slow
def test_a_cohort_killed_again_and_again_ends_whole_and_as_if_it_never_had_been(tmp_path: Path) -> None:
    """`onescan-engines phantom --count` in a process of its own, killed (SIGKILL) twice while both workers are busy."""
    count = 40
    program = [sys.executable, "-m", "engines.cli", "phantom", "800", str(tmp_path / "killed"), "--count", str(count),
               "--jobs", "2", "--slice-mm", "10", "--pixel-mm", "6"]  # fmt: skip
    for until in (5, 15):
        _kill_when_there_are(until, tmp_path / "killed", program)
    there = {p.parent.name: p.stat().st_mtime_ns for p in (tmp_path / "killed").glob("*/record.json")}
    assert 15 <= len(there) < count
    subprocess.run(program, check=True, stdout=subprocess.DEVNULL)
    cases = sorted(p for p in (tmp_path / "killed").iterdir() if p.is_dir())
    assert [p.name for p in cases] == [f"{800 + i:07d}" for i in range(count)]
    for case in cases:
        assert sorted(p.name for p in case.iterdir()) == ["case.npz", "record.json"], "nothing half-written is left"
        if case.name in there:
            assert (case / "record.json").stat().st_mtime_ns == there[case.name], "made once"
    order = Order((10.0, 6.0, 6.0))
    for seed in (800, 807, 839):
        make_case(tmp_path / "quiet", seed, order)
        name = f"{seed:07d}/case.npz"
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "quiet" / name).read_bytes()


def _kill_when_there_are(cases: int, cohort: Path, program: list[str]) -> None:
    run = subprocess.Popen(program, stdout=subprocess.DEVNULL, start_new_session=True)
    _wait_for(lambda: len(list(cohort.glob("*/record.json"))) >= cases or run.poll() is not None)
    assert run.poll() is None, "it ended before it could be killed"
    run.kill()
    run.wait()
    _wait_for(lambda: not _group_lives(run.pid))  # its workers must not stay behind


def _wait_for(what: Callable[[], bool]) -> None:
    for _ in range(6000):
        if what():
            return
        time.sleep(0.1)
    raise AssertionError("waited ten minutes in vain")


def _group_lives(group: int) -> bool:
    """Whether a process of this group is alive: zombies, which only wait for their parent's parent, are not."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return True
    return False


def test_a_case_is_what_rendering_its_seed_gives(tmp_path: Path) -> None:
    from engines.phantom import sample_scan

    make_case(tmp_path, 31, COARSE)
    person = sample_person(31)
    again = render(build(person), sample_scan(person, COARSE.spacing_mm))
    with np.load(tmp_path / "0000031" / "case.npz") as case:
        assert np.array_equal(case["hu"], again.volume.hu)
