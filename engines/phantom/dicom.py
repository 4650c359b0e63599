"""A phantom as a CT Image Storage series (PS3.3 A.3), as one of four vendors' scanners would send it.

Explicit VR Little Endian. Patients are called PHANTOM-<seed>, so that nobody mistakes them for people, and every image
says in its comments that it is synthetic.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from core import durable
from core.volume import Geometry
from engines.phantom.encoding import as_file, decimal
from engines.phantom.noise import Kernel
from engines.phantom.patient import Patient
from engines.phantom.rendering import Scan, body_size_mm, geometry_of, render_blocks


@dataclass(frozen=True)
class Vendor:
    """What differs between manufacturers and matters to software that reads their images."""

    manufacturer: str
    model: str
    kernels: dict[Kernel, str]
    intercept: int
    image_type: tuple[str, ...]
    position_decimals: int
    head_first_numbering: bool
    says_images_in_acquisition: bool


VENDORS: dict[str, Vendor] = {
    "siemens": Vendor(
        "Siemens Healthineers", "SOMATOM Phantom",
        {Kernel.SOFT: "Br40f", Kernel.SHARP: "Bl57f", Kernel.ITERATIVE: "Br36f"},
        -1024, ("ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"), 6, True, False,
    ),
    "ge": Vendor(
        "GE MEDICAL SYSTEMS", "Revolution Phantom",
        {Kernel.SOFT: "STANDARD", Kernel.SHARP: "LUNG", Kernel.ITERATIVE: "SOFT"},
        -1024, ("ORIGINAL", "PRIMARY", "AXIAL"), 3, True, True,
    ),
    "philips": Vendor(
        "Philips", "Incisive Phantom",
        {Kernel.SOFT: "B", Kernel.SHARP: "YC", Kernel.ITERATIVE: "A"},
        -1024, ("ORIGINAL", "PRIMARY", "AXIAL", "HELIX"), 4, True, False,
    ),
    "canon": Vendor(
        "Canon Medical Systems", "Aquilion Phantom",
        {Kernel.SOFT: "FC08", Kernel.SHARP: "FC52", Kernel.ITERATIVE: "FC18"},
        0, ("ORIGINAL", "PRIMARY", "AXIAL"), 5, False, True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class StudyTags:
    """What identifies one pushed study. All follow from the seed unless given."""

    study_uid: str
    series_uid: str
    frame_uid: str
    accession: str
    scanned_at: dt.datetime


def study_tags(patient: Patient, study_uid: str | None = None, scanned_at: dt.datetime | None = None) -> StudyTags:
    """UIDs and times of a phantom's study: the same seed gives the same study, a given study_uid another one."""
    rng = patient.generator(40, *(study_uid or "").encode())
    numbers = [f"2.25.{int.from_bytes(rng.bytes(15), 'big') + 1}" for _ in range(3)]
    return StudyTags(
        study_uid=study_uid or numbers[0],
        series_uid=numbers[1],
        frame_uid=numbers[2],
        accession=f"PH{int(rng.integers(10**9)):09d}",
        scanned_at=scanned_at or dt.datetime(2026, 1, 5, 8, 0) + dt.timedelta(minutes=patient.seed % 100_000),
    )


def default_spacing_mm(patient: Patient, slice_mm: float = 3.0) -> tuple[float, float, float]:
    """Spacing (z, y, x) at which 512 × 512 pixels hold the whole patient."""
    pixel = round(max(body_size_mm(patient)) / 512 + 0.005, 2)
    return (slice_mm, pixel, pixel)


def write_series(
    patient: Patient,
    folder: Path,
    spacing_mm: tuple[float, float, float] | None = None,
    *,
    scan: Scan | None = None,
    study_uid: str | None = None,
    scanned_at: dt.datetime | None = None,
    vendor: str = "siemens",
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Render `patient` and write one file a slice into `folder` (made if missing).

    spacing_mm: (z, y, x); None fits the patient into 512 × 512 at 3 mm. scan: everything else about the scan; its
    spacing is used where spacing_mm is None and a scan is given. Returns the files from feet to head.
    """
    spacing = spacing_mm or (scan.spacing_mm if scan else default_spacing_mm(patient))
    base = scan or Scan()
    scan = Scan(spacing, base.matrix, base.coverage_mm, base.kernel, base.dose, base.with_couch)
    durable.make_folder(folder)
    tags, maker = study_tags(patient, study_uid, scanned_at), VENDORS[vendor]
    geometry = geometry_of(patient, scan)
    count = geometry.shape[0]
    common = _common_dataset(patient, scan, tags, maker, geometry)
    paths: list[Path] = []
    for block, _ in render_blocks(patient, scan):
        for plane in block:
            index = len(paths)
            path = folder / f"CT{index + 1:04d}.dcm"
            durable.write_bytes(path, _encode(common, plane, index, geometry, maker))
            paths.append(path)
            if progress:
                progress(len(paths), count)
    return paths


def _common_dataset(patient: Patient, scan: Scan, tags: StudyTags, vendor: Vendor, geometry: Geometry) -> Dataset:
    """Everything that all slices share."""
    ds = Dataset()
    _patient_and_study(ds, patient, tags)
    _series_and_equipment(ds, patient, scan, tags, vendor)
    ds.ImageType = list(vendor.image_type)
    ds.AcquisitionNumber = 1
    ds.AcquisitionDate = tags.scanned_at.strftime("%Y%m%d")
    ds.AcquisitionTime = tags.scanned_at.strftime("%H%M%S")
    if vendor.says_images_in_acquisition:
        ds.ImagesInAcquisition = geometry.shape[0]
    ds.ImageComments = "Synthetic phantom, not a person"
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing = [decimal(geometry.spacing_mm[1], 6), decimal(geometry.spacing_mm[2], 6)]
    ds.SliceThickness = decimal(geometry.spacing_mm[0], 4)
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = geometry.shape[1:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = (
        16,
        16 if vendor.intercept == 0 else 12,
        15 if vendor.intercept == 0 else 11,
    )
    ds.PixelRepresentation = 1 if vendor.intercept == 0 else 0
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = vendor.intercept, 1, "HU"
    ds.WindowCenter, ds.WindowWidth = 40, 400
    ds.KVP = 120
    ds.ConvolutionKernel = vendor.kernels[scan.kernel or Kernel.SOFT]
    ds.ReconstructionDiameter = decimal(geometry.shape[2] * geometry.spacing_mm[2], 2)
    ds.GantryDetectorTilt = 0
    ds.ExposureTime, ds.XRayTubeCurrent = 500, int(200 * scan.dose)
    ds.ScanOptions = "HELICAL"
    return ds


def _patient_and_study(ds: Dataset, patient: Patient, tags: StudyTags) -> None:
    day, clock = tags.scanned_at.strftime("%Y%m%d"), tags.scanned_at.strftime("%H%M%S")
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName = f"Phantom^{patient.seed}"
    ds.PatientID = f"PHANTOM-{patient.seed}"
    ds.PatientBirthDate = ""
    ds.PatientSex = patient.sex
    ds.PatientAge = f"{patient.age_years:03d}Y"
    ds.StudyInstanceUID = tags.study_uid
    ds.StudyDate, ds.StudyTime = day, clock
    ds.SeriesDate, ds.SeriesTime = day, clock
    ds.ContentDate, ds.ContentTime = day, clock
    ds.AccessionNumber = tags.accession
    ds.StudyID = str(patient.seed)[:16]
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "CT chest abdomen pelvis without contrast"


def _series_and_equipment(ds: Dataset, patient: Patient, scan: Scan, tags: StudyTags, vendor: Vendor) -> None:
    ds.SOPClassUID = CTImageStorage
    ds.Modality = "CT"
    ds.SeriesInstanceUID = tags.series_uid
    ds.SeriesNumber = 2
    ds.SeriesDescription = f"Torso {scan.spacing_mm[0]:g} mm {vendor.kernels[scan.kernel or Kernel.SOFT]}"
    ds.BodyPartExamined = (
        "CHEST" if scan.coverage_mm[0] > 250 else "ABDOMEN" if scan.coverage_mm[1] < 450 else "CHESTABDPELVIS"
    )
    ds.PatientPosition = "HFS"
    ds.ProtocolName = "Phantom torso"
    ds.FrameOfReferenceUID = tags.frame_uid
    ds.PositionReferenceIndicator = ""
    ds.Manufacturer = vendor.manufacturer
    ds.ManufacturerModelName = vendor.model
    ds.InstitutionName = "OneScan phantom"
    ds.StationName = "PHANTOM"
    ds.DeviceSerialNumber = "1"
    ds.SoftwareVersions = "1"


def _encode(common: Dataset, plane: npt.NDArray[np.int16], index: int, geometry: Geometry, vendor: Vendor) -> bytes:
    """One slice (y, x) in HU as a complete DICOM file."""
    ds = Dataset()
    ds.update(common)
    x, y, z = geometry.origin_mm
    z += index * geometry.spacing_mm[0]
    digits = vendor.position_decimals
    number = geometry.shape[0] - index if vendor.head_first_numbering else index + 1
    ds.SOPInstanceUID = f"{common.SeriesInstanceUID}.{number}"  # 2.25. + 15 bytes leave room for the number
    ds.InstanceNumber = number
    ds.ImagePositionPatient = [decimal(x, digits), decimal(y, digits), decimal(z, digits)]
    ds.SliceLocation = decimal(z, digits)
    stored = plane.astype(np.int32) - vendor.intercept
    if vendor.intercept:
        ds.PixelData = np.clip(stored, 0, 4095).astype("<u2").tobytes()
    else:
        ds.PixelData = stored.astype("<i2").tobytes()
    ds["PixelData"].VR = "OW"
    return as_file(ds)
