"""What the header of an image says, in plain values; read without its pixels."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from appliance.multiframe import AGENTS, MULTI_FRAME, PER_FRAME, SHARED, frames_of, is_whole
from core.errors import InputRefused
from core.extent import Extent
from core.finding import Reason

Vector = tuple[float, float, float]
Orientation = tuple[float, float, float, float, float, float]

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
MOST_SLOPE, MOST_INTERCEPT = 1e3, 1e6
"""Extended CT scales have slopes of 10 and intercepts of some 10,000."""
_DAYS_PER = {"D": 1.0, "W": 7.0, "M": 30.4375, "Y": 365.25}

_KEYWORDS = [
    *("SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyDate", "Modality", "Manufacturer"),
    *("ManufacturerModelName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge"),
    *("ContrastBolusAgent", "SliceThickness", "GantryDetectorTilt", "ConvolutionKernel", "StudyInstanceUID"),
    *("SeriesInstanceUID", "SeriesNumber", "AcquisitionNumber", "InstanceNumber", "ImagePositionPatient"),
    *("ImageOrientationPatient", "FrameOfReferenceUID", "SamplesPerPixel", "PhotometricInterpretation"),
    *("NumberOfFrames", "Rows", "Columns", "PixelSpacing", "BitsAllocated", "BitsStored", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleIntercept", "RescaleSlope", "RescaleType"),
    *("ReconstructionDiameter", "ReconstructionFieldOfView", SHARED, PER_FRAME, AGENTS),
]


@dataclass(frozen=True)
class ImageHeader:
    """One image, or a frame of one. None or "" where an attribute is absent or empty.

    pixels_at: where in the file the element Pixel Data begins. frames: of the stored object. frame: which of them this
    is, from 1; None: the object itself.
    reconstructed_mm: diameter, or narrower side, of what was reconstructed.
    position: of the centre of the first pixel, mm LPS. orientation: row then column direction cosines.
    pixel_spacing_mm: between rows, between columns. image_type, kernel: upper case. patient_*: never in a repr or log.
    """

    extent: Extent
    pixels_at: int
    frame: int | None
    sop_instance_uid: str = field(repr=False)
    sop_class_uid: str
    study_uid: str = field(repr=False)
    series_uid: str = field(repr=False)
    transfer_syntax: str
    modality: str
    image_type: tuple[str, ...]
    position: Vector | None
    orientation: Orientation | None
    frame_of_reference_uid: str = field(repr=False)
    rows: int
    columns: int
    frames: int
    pixel_spacing_mm: tuple[float, float] | None
    reconstructed_mm: float | None
    thickness_mm: float | None
    tilt_degrees: float | None
    series_number: int | None
    acquisition_number: int | None
    instance_number: int | None
    kernel: str
    contrast_agent: str
    manufacturer: str
    model: str
    samples_per_pixel: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    signed: bool
    padding: tuple[int, int] | None  # stored values, first and last
    rescale_slope: float | None
    rescale_intercept: float | None
    rescale_type: str
    age_years: int | None
    sex: str | None  # F, M, O
    study_date: dt.date | None
    patient_id: str = field(default="", repr=False)
    issuer_of_patient_id: str = field(default="", repr=False)

    @property
    def rescale(self) -> tuple[float, float] | None:
        """Slope and intercept that give HU; None where one is absent, or what no scanner writes.

        Within these bounds every 16-bit value has HU that 32 bits hold, as whole numbers or as float.
        """
        slope, intercept = self.rescale_slope, self.rescale_intercept
        if slope is None or intercept is None:
            return None
        return (slope, intercept) if abs(slope) <= MOST_SLOPE and abs(intercept) <= MOST_INTERCEPT else None


def read_headers(extent: Extent) -> tuple[ImageHeader, ...]:
    """The header of a Part 10 file; of a multi-frame image, those of its frames, as if each were an image of its own.

    A multi-frame image that does not tell its frames apart is one header. InputRefused(UNREADABLE) where it is no such
    file or its values are broken.
    """
    try:
        with extent.open() as file:
            ds = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_KEYWORDS)
            at = file.tell()
        if _text(ds, "SOPClassUID") not in MULTI_FRAME or not is_whole(ds):
            return (_header(extent, at, ds, None),)
        return tuple(_header(extent, at, frame, number) for number, frame in enumerate(frames_of(ds), start=1))
    except Exception as error:
        # pydicom raises what its parser happens to hit; all of it means the same to us
        raise InputRefused(Reason.UNREADABLE, f"a header can't be read ({type(error).__name__})") from error


def read_header(extent: Extent) -> ImageHeader:
    """The header of a file that is one image, or of its first frame."""
    return read_headers(extent)[0]


def _header(extent: Extent, pixels_at: int, ds: Dataset, frame: int | None) -> ImageHeader:
    signed = _integer(ds, "PixelRepresentation") == 1
    return ImageHeader(
        extent=extent,
        pixels_at=pixels_at,
        frame=frame,
        sop_instance_uid=_text(ds, "SOPInstanceUID"),
        sop_class_uid=_text(ds, "SOPClassUID"),
        study_uid=_text(ds, "StudyInstanceUID"),
        series_uid=_text(ds, "SeriesInstanceUID"),
        transfer_syntax=str(ds.file_meta.TransferSyntaxUID),
        modality=_text(ds, "Modality"),
        image_type=tuple(str(v).upper() for v in _values(ds, "ImageType")),
        position=_vector(ds),
        orientation=_orientation(ds),
        frame_of_reference_uid=_text(ds, "FrameOfReferenceUID"),
        rows=_integer(ds, "Rows") or 0,
        columns=_integer(ds, "Columns") or 0,
        frames=_integer(ds, "NumberOfFrames") or 1,
        pixel_spacing_mm=_pair(ds),
        reconstructed_mm=_reconstructed(ds),
        thickness_mm=_number(ds, "SliceThickness"),
        tilt_degrees=_number(ds, "GantryDetectorTilt"),
        series_number=_integer(ds, "SeriesNumber"),
        acquisition_number=_integer(ds, "AcquisitionNumber"),
        instance_number=_integer(ds, "InstanceNumber"),
        kernel=" ".join(str(v) for v in _values(ds, "ConvolutionKernel")).upper().strip(),
        contrast_agent=_text(ds, "ContrastBolusAgent"),
        manufacturer=_text(ds, "Manufacturer"),
        model=_text(ds, "ManufacturerModelName"),
        samples_per_pixel=_integer(ds, "SamplesPerPixel") or 1,
        photometric=_text(ds, "PhotometricInterpretation"),
        bits_allocated=_integer(ds, "BitsAllocated") or 0,
        bits_stored=_integer(ds, "BitsStored") or 0,
        signed=signed,
        padding=_padding(ds, signed),
        rescale_slope=_number(ds, "RescaleSlope"),
        rescale_intercept=_number(ds, "RescaleIntercept"),
        rescale_type=_text(ds, "RescaleType").upper(),
        age_years=_age_years(ds),
        sex=_text(ds, "PatientSex") if _text(ds, "PatientSex") in ("F", "M", "O") else None,
        study_date=_date(ds, "StudyDate"),
        patient_id=_text(ds, "PatientID"),
        issuer_of_patient_id=_text(ds, "IssuerOfPatientID"),
    )


def _values(ds: Dataset, keyword: str) -> Sequence[Any]:
    value = ds.get(keyword)
    if value is None or value == "":
        return ()
    return value if isinstance(value, pydicom.multival.MultiValue) else (value,)


def _text(ds: Dataset, keyword: str) -> str:
    return str(next(iter(_values(ds, keyword)), "")).strip()


def _number(ds: Dataset, keyword: str) -> float | None:
    value = next(iter(_values(ds, keyword)), None)
    return None if value is None or not math.isfinite(float(value)) else float(value)


def _integer(ds: Dataset, keyword: str) -> int | None:
    value = next(iter(_values(ds, keyword)), None)
    return None if value is None else int(value)


def _floats(ds: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    values = tuple(float(v) for v in _values(ds, keyword))
    return values if len(values) == count and all(map(math.isfinite, values)) else None


def _vector(ds: Dataset) -> Vector | None:
    n = _floats(ds, "ImagePositionPatient", 3)
    return (n[0], n[1], n[2]) if n else None


def _orientation(ds: Dataset) -> Orientation | None:
    n = _floats(ds, "ImageOrientationPatient", 6)
    return (n[0], n[1], n[2], n[3], n[4], n[5]) if n else None


def _pair(ds: Dataset) -> tuple[float, float] | None:
    n = _floats(ds, "PixelSpacing", 2)
    return (n[0], n[1]) if n and min(n) > 0 else None


def _reconstructed(ds: Dataset) -> float | None:
    """Reconstruction Diameter (0018,1100), or Field of View (0018,9317) where it is no circle; 0 says nothing."""
    keywords = ("ReconstructionDiameter", "ReconstructionFieldOfView")
    sizes = [float(v) for keyword in keywords for v in _values(ds, keyword)]
    return min((size for size in sizes if math.isfinite(size) and size > 0), default=None)


def _padding(ds: Dataset, signed: bool) -> tuple[int, int] | None:
    """Pixel Padding Value and Range Limit (PS3.3 C.7.5.1.1.2), first and last; 16 bits read as the pixels are."""
    value = _integer(ds, "PixelPaddingValue")
    if value is None:
        return None
    limit = _integer(ds, "PixelPaddingRangeLimit")
    both = [value, value if limit is None else limit]
    if signed:  # vendors write -2000 as the US 63536
        both = [v - 0x10000 if v > 0x7FFF else v for v in both]
    return min(both), max(both)


def _age_years(ds: Dataset) -> int | None:
    """Patient's Age (AS, PS3.5 6.2) in whole years; else from the birth date on the study date."""
    text = _text(ds, "PatientAge").upper()
    if len(text) == 4 and text[:3].isdigit() and text[3] in _DAYS_PER:
        return int(text[:3]) if text[3] == "Y" else int(int(text[:3]) * _DAYS_PER[text[3]] / _DAYS_PER["Y"])
    born, studied = _date(ds, "PatientBirthDate"), _date(ds, "StudyDate")
    if born is None or studied is None or studied < born:
        return None
    return studied.year - born.year - ((studied.month, studied.day) < (born.month, born.day))


def _date(ds: Dataset, keyword: str) -> dt.date | None:
    text = _text(ds, keyword).replace(".", "")  # ACR-NEMA wrote dots
    if len(text) != 8 or not text.isdigit():
        return None
    try:
        return dt.date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return None  # a date that no calendar has is as good as none
