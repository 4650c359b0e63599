"""A torso as a CT Image Storage series (PS3.3 A.3) with one of four vendors' header habits, and its truth as SEG.

    ct/CT0001.dcm ...   the images, feet to head, Explicit VR Little Endian
    organs.dcm          a label map segmentation of all tissues (PS3.3 A.51.5), one value a `Tissue`
    findings.dcm        a binary segmentation, one segment a finding; only slices that one touches
    record.json         `record.record_of`

Patients are called PHANTOM-<seed>, and every image says in its comments that it is synthetic.
"""

from __future__ import annotations

import datetime as dt
import json
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
from engines.phantom.person import Person
from engines.phantom.physics import Kernel
from engines.phantom.record import record_of
from engines.phantom.rendering import Rendered, Scan, geometry_of, render
from engines.phantom.torso import Torso


@dataclass(frozen=True)
class Habits:
    """What differs between manufacturers' headers and matters to software that reads them.

    kernels: values of Convolution Kernel. signed: pixels are signed, else unsigned with 12 bits. padding: stored value
    outside the reconstruction circle, announced or not. decimals: of positions. head_first: instance 1 is the head.
    counts: Images in Acquisition is told. gap: Spacing Between Slices is told. windows: several are offered.
    """

    manufacturer: str
    model: str
    kernels: dict[Kernel, tuple[str, ...]]
    image_type: tuple[str, ...]
    signed: bool
    intercept: int
    padding: int | None
    announced: bool
    decimals: int
    head_first: bool
    counts: bool
    gap: bool
    windows: tuple[tuple[int, int], ...]
    age_given: bool = True


VENDORS: dict[str, Habits] = {
    "siemens": Habits(
        "Siemens Healthineers", "SOMATOM Phantom",
        {Kernel.SOFT: ("Br40f", "3"), Kernel.SHARP: ("Bl57f", "3"), Kernel.ITERATIVE: ("Br36f", "4")},
        ("ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"), False, -1024, None, False, 6, True, False, False,
        ((40, 400), (-600, 1500)),
    ),
    "ge": Habits(
        "GE MEDICAL SYSTEMS", "Revolution Phantom",
        {Kernel.SOFT: ("STANDARD",), Kernel.SHARP: ("LUNG",), Kernel.ITERATIVE: ("SOFT",)},
        ("ORIGINAL", "PRIMARY", "AXIAL"), True, -1024, -2000, True, 3, True, True, False, ((40, 400),),
    ),
    "philips": Habits(
        "Philips", "Incisive Phantom",
        {Kernel.SOFT: ("B",), Kernel.SHARP: ("YC",), Kernel.ITERATIVE: ("A",)},
        ("ORIGINAL", "PRIMARY", "AXIAL", "HELIX"), False, -1024, 0, False, 4, True, False, True, ((60, 350), (60, 350)),
        age_given=False,
    ),
    "canon": Habits(
        "Canon Medical Systems", "Aquilion Phantom",
        {Kernel.SOFT: ("FC08",), Kernel.SHARP: ("FC52",), Kernel.ITERATIVE: ("FC18",)},
        ("ORIGINAL", "PRIMARY", "AXIAL"), True, 0, -2048, True, 5, False, True, True, ((40, 400),),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Uids:
    """All follow from the seed."""

    study: str
    series: str
    frame: str
    truth: str

    @classmethod
    def of(cls, person: Person) -> Uids:
        """The UIDs of `person`'s study (2.25 and a number, PS3.5 B.2)."""
        rng = person.rng(95)
        made = [f"2.25.{int.from_bytes(rng.bytes(15), 'big') + 1}" for _ in range(4)]
        return cls(*made)


def write_study(
    torso: Torso, scan: Scan, folder: Path, vendor: str = "siemens", progress: Callable[[int, int], None] | None = None
) -> Rendered:
    """Scan `torso` and write images, truth and record into `folder` (made if missing); what was rendered comes back."""
    from engines.phantom.truth import findings_seg, organs_seg

    rendered = render(torso, scan, progress)
    durable.make_folder(folder / "ct")
    images = write_images(torso.person, scan, rendered, folder / "ct", vendor)
    uids = Uids.of(torso.person)
    durable.write_bytes(folder / "organs.dcm", as_file(organs_seg(rendered, images, uids.truth)))
    if (lesions := findings_seg(torso, rendered, images, uids.truth)) is not None:
        durable.write_bytes(folder / "findings.dcm", as_file(lesions))
    record = {**record_of(torso, scan, rendered), "vendor": vendor}
    durable.write_text(folder / "record.json", json.dumps(record, indent=1))
    return rendered


def write_series(
    torso: Torso, scan: Scan, folder: Path, vendor: str = "siemens", progress: Callable[[int, int], None] | None = None
) -> list[Path]:
    """Scan `torso` and write the images alone, straight into `folder` (made if missing); the files, feet to head."""
    rendered = render(torso, scan, progress)
    durable.make_folder(folder)
    count = len(write_images(torso.person, scan, rendered, folder, vendor))
    return [folder / _file_name(index) for index in range(count)]


def _file_name(index: int) -> str:
    return f"CT{index + 1:04d}.dcm"


def write_images(person: Person, scan: Scan, rendered: Rendered, folder: Path, vendor: str) -> list[Dataset]:
    """One file a slice; the headers come back, without pixels, from feet to head."""
    habits, geometry = VENDORS[vendor], rendered.volume.geometry
    common = _common(person, scan, habits, geometry)
    outside = _outside_circle(geometry) if habits.padding is not None else None
    headers = []
    for index, plane in enumerate(rendered.volume.hu):
        ds = _slice(common, index, geometry, habits)
        headers.append(ds)
        image = Dataset()
        image.update(ds)
        image.PixelData = _stored(plane, habits, outside).tobytes()
        image["PixelData"].VR = "OW"
        durable.write_bytes(folder / _file_name(index), as_file(image))
    return headers


def _stored(
    plane: npt.NDArray[np.int16], habits: Habits, outside: npt.NDArray[np.bool_] | None
) -> npt.NDArray[np.generic]:
    stored = plane.astype(np.int32) - habits.intercept
    if not habits.signed:
        stored = np.clip(stored, 0, 4095)
    if outside is not None and habits.padding is not None:
        stored[outside] = habits.padding
    return stored.astype("<i2" if habits.signed else "<u2")


def _outside_circle(geometry: Geometry) -> npt.NDArray[np.bool_]:
    ny, nx = geometry.shape[1:]
    y, x = np.ogrid[:ny, :nx]
    return np.asarray((y - (ny - 1) / 2) ** 2 + (x - (nx - 1) / 2) ** 2 > (min(ny, nx) / 2) ** 2)


def _common(person: Person, scan: Scan, habits: Habits, geometry: Geometry) -> Dataset:
    """Everything that all slices share."""
    ds, uids = Dataset(), Uids.of(person)
    when = dt.datetime(2026, 1, 5, 8, 0) + dt.timedelta(minutes=person.seed % 100_000)
    day, clock = when.strftime("%Y%m%d"), when.strftime("%H%M%S")
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.Modality, ds.ImageType = CTImageStorage, "CT", list(habits.image_type)
    for name in ("Study", "Series", "Content", "Acquisition"):
        setattr(ds, f"{name}Date", day)
        setattr(ds, f"{name}Time", clock)
    ds.AccessionNumber, ds.StudyID = f"PH{person.seed % 10**9:09d}", str(person.seed)[:16]
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = f"Phantom^{person.seed}", f"PHANTOM-{person.seed}", ""
    ds.PatientSex = person.sex
    if habits.age_given:
        ds.PatientAge = f"{person.age_years:03d}Y"
    ds.ReferringPhysicianName, ds.StudyDescription = "", "CT chest abdomen pelvis without contrast"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = uids.study, uids.series, uids.frame
    ds.PositionReferenceIndicator = ""
    ds.SeriesNumber, ds.AcquisitionNumber, ds.PatientPosition = 2, 1, "HFS"
    kernel = list(habits.kernels[scan.kernel or Kernel.SOFT])
    ds.SeriesDescription = f"Torso {scan.spacing_mm[0]:g} mm {kernel[0]}"
    low, high = scan.coverage_mm
    ds.BodyPartExamined = "CHEST" if low > 250 else "ABDOMEN" if high < 450 else "CHESTABDPELVIS"
    ds.Manufacturer, ds.ManufacturerModelName = habits.manufacturer, habits.model
    ds.InstitutionName, ds.StationName, ds.DeviceSerialNumber, ds.SoftwareVersions = (
        "OneScan phantom",
        "PHANTOM",
        "1",
        "1",
    )
    ds.ProtocolName, ds.ImageComments = "Phantom torso", "Synthetic phantom, not a person"
    ds.KVP, ds.ExposureTime, ds.XRayTubeCurrent = 120, 500, int(200 * scan.dose)
    ds.ScanOptions, ds.GantryDetectorTilt = "HELICAL", 0
    ds.ConvolutionKernel = kernel if len(kernel) > 1 else kernel[0]
    ds.ReconstructionDiameter = decimal(geometry.shape[2] * geometry.spacing_mm[2], 2)
    ds.SliceThickness = decimal(geometry.spacing_mm[0], 4)
    if habits.gap:
        ds.SpacingBetweenSlices = decimal(geometry.spacing_mm[0], 4)
    if habits.counts:
        ds.ImagesInAcquisition = geometry.shape[0]
    _pixels(ds, habits, geometry)
    return ds


def _pixels(ds: Dataset, habits: Habits, geometry: Geometry) -> None:
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing = [decimal(geometry.spacing_mm[1], 6), decimal(geometry.spacing_mm[2], 6)]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = geometry.shape[1:]
    ds.BitsAllocated, ds.PixelRepresentation = 16, int(habits.signed)
    ds.BitsStored, ds.HighBit = (16, 15) if habits.signed else (12, 11)
    if habits.announced and habits.padding is not None:
        ds.add_new(0x00280120, "SS" if habits.signed else "US", habits.padding)
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = habits.intercept, 1, "HU"
    centres, widths = zip(*habits.windows, strict=True)
    many = len(centres) > 1
    ds.WindowCenter, ds.WindowWidth = (list(centres), list(widths)) if many else (centres[0], widths[0])


def _slice(common: Dataset, index: int, geometry: Geometry, habits: Habits) -> Dataset:
    ds = Dataset()
    ds.update(common)
    x, y, z = geometry.origin_mm
    z += index * geometry.spacing_mm[0]
    number = geometry.shape[0] - index if habits.head_first else index + 1
    ds.SOPInstanceUID = f"{common.SeriesInstanceUID}.{number}"  # 2.25. + 15 bytes leave room for the number
    ds.InstanceNumber = number
    ds.ImagePositionPatient = [decimal(v, habits.decimals) for v in (x, y, z)]
    ds.SliceLocation = decimal(z, habits.decimals)
    return ds


def default_scan(torso: Torso, slice_mm: float = 3.0, kernel: Kernel = Kernel.SOFT) -> Scan:
    """The whole torso in 512 × 512 pixels that hold the whole body."""
    size = geometry_of(torso, Scan((10.0, 1.0, 1.0), None)).shape
    pixel = round(max(size[1:]) / 512 + 0.005, 2)
    return Scan((slice_mm, pixel, pixel), (512, 512), kernel=kernel)
