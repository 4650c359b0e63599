"""Phantom series: valid CT images whose pixels are the phantom's HU, as each vendor would send them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from engines.phantom import Kernel, Scan, render, sample_patient
from engines.phantom.dicom import VENDORS, default_spacing_mm, write_series

SHORT = Scan((5.0, 3.0, 3.0), (128, 128), (330, 355))


@pytest.mark.parametrize("vendor", sorted(VENDORS))
def test_each_vendors_series_satisfies_dciodvfy(tmp_path: Path, vendor: str) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (package dicom3tools) is not installed")
    paths = write_series(sample_patient(3), tmp_path, scan=SHORT, vendor=vendor)
    for path in (paths[0], paths[-1]):
        report = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
        assert "CTImage" in report.stderr + report.stdout
        assert "Error" not in report.stderr + report.stdout, report.stderr


@pytest.mark.parametrize("vendor", sorted(VENDORS))
def test_pixels_and_positions_are_the_rendered_volume(tmp_path: Path, vendor: str) -> None:
    patient = sample_patient(4)
    volume, _ = render(patient, SHORT)
    paths = write_series(patient, tmp_path, scan=SHORT, vendor=vendor)
    slices = [pydicom.dcmread(p) for p in paths]
    hu = np.stack([s.pixel_array * float(s.RescaleSlope) + float(s.RescaleIntercept) for s in slices])
    assert np.array_equal(hu, volume.hu)
    positions = np.array([s.ImagePositionPatient for s in slices], dtype=float)
    expected = volume.geometry.to_patient([(i, 0, 0) for i in range(len(slices))])
    assert np.allclose(positions, expected, atol=1e-3)
    assert [float(v) for v in slices[0].PixelSpacing] == [3.0, 3.0]


def test_series_is_one_study_of_a_named_phantom(tmp_path: Path) -> None:
    patient = sample_patient(9)
    seen: list[tuple[int, int]] = []
    paths = write_series(patient, tmp_path, scan=SHORT, vendor="ge", progress=lambda done, of: seen.append((done, of)))
    slices = [pydicom.dcmread(p, stop_before_pixels=True) for p in paths]
    assert len({s.SOPInstanceUID for s in slices}) == len(slices)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert len({getattr(s, keyword) for s in slices}) == 1
    first = slices[0]
    assert first.PatientID == "PHANTOM-9"
    assert first.PatientAge == f"{patient.age_years:03d}Y"
    assert first.ImagesInAcquisition == len(slices)
    assert first.ImageType[:3] == ["ORIGINAL", "PRIMARY", "AXIAL"]
    assert seen[-1] == (len(slices), len(slices))


def test_same_seed_gives_the_same_uids_and_a_given_study_uid_another_series(tmp_path: Path) -> None:
    patient = sample_patient(9)
    first, again = (pydicom.dcmread(write_series(patient, tmp_path / n, scan=SHORT)[0]) for n in "ab")
    other = pydicom.dcmread(write_series(patient, tmp_path / "c", scan=SHORT, study_uid="2.25.77")[0])
    assert first.SOPInstanceUID == again.SOPInstanceUID
    assert other.StudyInstanceUID == "2.25.77"
    assert other.SeriesInstanceUID != first.SeriesInstanceUID


def test_default_spacing_holds_the_whole_patient() -> None:
    for seed in range(20):
        patient = sample_patient(seed, lung=0, liver=0)
        spacing = default_spacing_mm(patient)
        volume, labels = render(patient, Scan((40.0, spacing[1] * 8, spacing[2] * 8), (64, 64), kernel=None))
        edge = np.concatenate([labels[:, 0].ravel(), labels[:, :, 0].ravel(), labels[:, :, -1].ravel()])
        assert not edge.any(), f"seed {seed} touches the edge of the field of view"
        assert volume.hu.max() > 100


def test_sharp_kernel_is_named_in_the_series(tmp_path: Path) -> None:
    scan = Scan(SHORT.spacing_mm, SHORT.matrix, SHORT.coverage_mm, Kernel.SHARP)
    image = pydicom.dcmread(write_series(sample_patient(1), tmp_path, scan=scan, vendor="philips")[0])
    assert image.ConvolutionKernel == "YC"
