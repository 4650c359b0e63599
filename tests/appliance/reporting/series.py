"""A small CT series and a finished study's context, made for these tests."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from appliance.reporting import Equipment, Model, ReportContext, SourceImage, keep
from core.extent import Extent
from core.finding import Answer, Cancer, Lesion, Mode, Reason, Verdict, complete
from core.volume import Geometry, Volume

SHAPE, SPACING, ORIGIN = (12, 48, 64), (5.0, 1.5, 1.25), (-40.0, -36.0, 100.0)
ANSWERED_AT = dt.datetime(2026, 11, 23, 22, 30, 15, 250000, tzinfo=dt.timezone(dt.timedelta(hours=3)))
RESULT = uuid.UUID("6f3a2c1e-0c1b-4f64-9b58-6a2a5a0e7d11")
MODEL = Model("reference", "0.1.0", "ab" * 32, "OneScan reference bundle", synthetic=True, udi="(01)00000000000017")
EQUIPMENT = Equipment(serial="box-1", software_version="0.1.0", institution="Demo Hospital")


@dataclass(frozen=True)
class Series:
    """Files in the order of the volume, and the volume."""

    paths: list[Path]
    volume: Volume


def geometry() -> Geometry:
    return Geometry(SHAPE, SPACING, ORIGIN)


def write_series(folder: Path, **changes: Any) -> Series:
    """A CT series in standard axes; `changes` are put into every header, None removes an attribute."""
    rng = np.random.default_rng(3)
    hu = rng.integers(-60, 90, SHAPE).astype(np.int16)
    paths = []
    for z in range(SHAPE[0]):
        paths.append(folder / f"{z:03}.dcm")
        _write_slice(paths[-1], z, hu[z], changes)
    return Series(paths, Volume(hu, geometry()))


def _write_slice(path: Path, z: int, hu: npt.NDArray[np.int16], changes: dict[str, Any]) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(f"2.25.7000{z + 1}")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = Dataset()
    ds.file_meta = meta
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "2.25.1001", "2.25.1002", "2.25.1003"
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName, ds.PatientID = "Müller^Zoë", "P-77"
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "19601224", "F", "065Y"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20261123", "220000", "S1", "A1"
    ds.ReferringPhysicianName, ds.StudyDescription = "", "Thorax"
    ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = "CT", "Phantom Works", "CT-1"
    ds.SeriesNumber, ds.InstanceNumber, ds.PositionReferenceIndicator = 2, SHAPE[0] - z, ""
    ds.Rows, ds.Columns = SHAPE[1:]
    ds.PixelSpacing, ds.SliceThickness = list(SPACING[1:]), SPACING[0]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [ORIGIN[0], ORIGIN[1], ORIGIN[2] + z * SPACING[0]]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleIntercept, ds.RescaleSlope = 0, 1
    ds.PixelData = hu.tobytes()
    for name, value in changes.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    pydicom.dcmwrite(path, ds, enforce_file_format=True)


def ball(shape: tuple[int, int, int], centre: tuple[int, int, int], radius_mm: float,
         spacing: tuple[float, float, float]) -> npt.NDArray[np.bool_]:  # fmt: skip
    """A sphere as a mask."""
    axes = np.ogrid[: shape[0], : shape[1], : shape[2]]
    squares = [((axis - c) * s) ** 2 for axis, c, s in zip(axes, centre, spacing, strict=True)]
    return np.asarray(squares[0] + squares[1] + squares[2] <= radius_mm**2)


def lesion(mask: npt.NDArray[np.uint8], label: int, score: float, spacing: tuple[float, float, float]) -> Lesion:
    """The lesion that a mask shows."""
    found = np.argwhere(mask == label)
    first, last = found.min(axis=0), found.max(axis=0) + 1
    return Lesion(
        label=label,
        score=score,
        centroid=tuple(float(c) for c in found.mean(axis=0)),  # type: ignore[arg-type]
        box=(tuple(int(i) for i in first), tuple(int(i) for i in last)),  # type: ignore[arg-type]
        diameter_mm=float(np.ptp(found[:, 1]) * spacing[1]),
        volume_mm3=float(len(found) * np.prod(spacing)),
    )


def masks() -> dict[Cancer, npt.NDArray[np.uint8]]:
    """Two lung lesions, one liver lesion; slice 0 and the last ones are empty."""
    lung, liver = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    lung[ball(SHAPE, (6, 14, 20), 9.0, SPACING)] = 4
    lung[ball(SHAPE, (3, 34, 50), 6.0, SPACING)] = 9
    liver[ball(SHAPE, (5, 24, 30), 11.0, SPACING)] = 1
    return {Cancer.LUNG: lung, Cancer.LIVER: liver}


def answers(mode: Mode = Mode.RESEARCH) -> dict[Cancer, Answer]:
    """Lung positive, liver indeterminate, pancreas negative, breast silent."""
    found = masks()
    lung = tuple(lesion(found[Cancer.LUNG], n, s, SPACING) for n, s in ((9, 0.61), (4, 0.93)))
    liver = (lesion(found[Cancer.LIVER], 1, 0.41, SPACING),)
    return {
        Cancer.LUNG: Answer(Cancer.LUNG, Verdict.POSITIVE, mode, 0.93, lesions=lung),
        Cancer.LIVER: Answer(Cancer.LIVER, Verdict.INDETERMINATE, mode, 0.41, lesions=liver),
        Cancer.PANCREAS: Answer(Cancer.PANCREAS, Verdict.NEGATIVE, mode, 0.02),
        Cancer.BREAST: Answer(Cancer.BREAST, Verdict.NEGATIVE, Mode.SILENT, 0.03),
    }


def images(paths: list[Path]) -> list[SourceImage]:
    """Single-frame images."""
    return [SourceImage(Extent(path)) for path in paths]


def context(series: Series, **changes: Any) -> ReportContext:
    """A finished study. volume, masks: of its only series, where other ones are wanted."""
    volume, found = changes.pop("volume", series.volume), changes.pop("masks", masks())
    answered = changes.get("answers", complete(answers(), Reason.NO_MODEL))
    given: dict[str, Any] = {
        "result_id": RESULT,
        "revision": 1,
        "supersedes": None,
        "answered_at": ANSWERED_AT,
        "answers": answered,
        "model": MODEL,
        "equipment": EQUIPMENT,
        "series": [keep(volume, images(series.paths), answered, found)],
    }
    return ReportContext(**(given | changes))


def nothing_analysable(paths: list[Path], **changes: Any) -> ReportContext:
    """A study of which no series could be analysed."""
    refused = {c: Answer.not_analysed(c, Reason.GANTRY_TILT, "tilted by 12.5°") for c in Cancer}
    given: dict[str, Any] = {
        "result_id": RESULT,
        "revision": 1,
        "supersedes": None,
        "answered_at": ANSWERED_AT,
        "answers": complete(refused, Reason.FAILED),
        "model": None,
        "equipment": EQUIPMENT,
        "evidence": [Extent(path) for path in paths],
    }
    return ReportContext(**(given | changes))
