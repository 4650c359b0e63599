"""Small synthetic CT studies for tests: 64x64 slices of a water disc in air, made with pydicom."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

SIZE = 64
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
CHEST = SHARED / "lungpetctdx_A0001_chest_5mm_B"
TILTED_HEAD = SHARED / "dcm_qa_ct_GE_tilt"


def uid(*parts: object) -> str:
    """A UID that is always the same for the same words."""
    return str(pydicom.uid.generate_uid(prefix="1.2.826.0.1.3680043.8.498.", entropy_srcs=[str(p) for p in parts]))


def stored_values(index: int, size: int = SIZE) -> np.ndarray:
    """Stored values (HU + 1024) of a slice: air, a disc of water, and the slice's own number in the corner."""
    y, x = np.mgrid[:size, :size]
    values = np.where((y - size / 2) ** 2 + (x - size / 2) ** 2 < (size / 3) ** 2, 1024, 24)
    values[0, 0] = 1024 + index
    return values.astype(np.uint16)


def ct_slice(study: str = "a", series: str = "1", index: int = 0, spacing: float = 2.0, **changes: Any) -> Dataset:
    """Slice `index` of an axial series with z = spacing * index. Keywords in `changes` replace attributes."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, uid(study, series, index)
    ds.StudyDate, ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = "20261101", "CT", "SIEMENS", "TEST"
    ds.PatientName, ds.PatientID, ds.PatientSex, ds.PatientAge = "Secret^Name", "PID-4711", "F", "057Y"
    ds.SliceThickness, ds.ConvolutionKernel = spacing, "B30f"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid(study), uid(study, series)
    ds.AcquisitionNumber, ds.InstanceNumber = 1, index + 1
    ds.ImagePositionPatient = [-20.0, -30.0, round(spacing * index, 6)]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.FrameOfReferenceUID = uid(study, "frame")
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns, ds.PixelSpacing = SIZE, SIZE, [6.4, 5.6]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.RescaleIntercept, ds.RescaleSlope = -1024, 1
    ds.PixelData = stored_values(index).tobytes()
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def ct_series(count: int, study: str = "a", series: str = "1", **changes: Any) -> list[Dataset]:
    """`count` slices of one series, bottom first."""
    return [ct_slice(study, series, index, **changes) for index in range(count)]


def enhanced(slices: Sequence[Dataset], instance: object = "enhanced") -> Dataset:
    """The same slices as the frames of one Enhanced CT image: spacing and orientation shared, the rest per frame."""
    first = slices[0]
    ds = Dataset()
    for keyword in (
        *("SpecificCharacterSet", "StudyDate", "Modality", "Manufacturer", "ManufacturerModelName", "PatientName"),
        *("PatientID", "PatientSex", "PatientAge", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
        *("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"),
        *("PixelRepresentation", "SeriesNumber"),
    ):
        if keyword in first:
            setattr(ds, keyword, first[keyword].value)
    ds.SOPClassUID, ds.SOPInstanceUID = EnhancedCTImageStorage, uid(first.SeriesInstanceUID, instance)
    ds.ImageType, ds.InstanceNumber, ds.NumberOfFrames = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], 1, len(slices)
    ds.SharedFunctionalGroupsSequence = [
        _group(
            PixelMeasuresSequence={"PixelSpacing": first.PixelSpacing, "SliceThickness": first.SliceThickness},
            PlaneOrientationSequence={"ImageOrientationPatient": first.ImageOrientationPatient},
            CTImageFrameTypeSequence={"FrameType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]},
            CTReconstructionSequence={
                keyword: first[keyword].value
                for keyword in ("ConvolutionKernel", "ReconstructionDiameter")
                if keyword in first
            },
        )
    ]
    ds.PerFrameFunctionalGroupsSequence = [
        _group(
            PlanePositionSequence={"ImagePositionPatient": image.ImagePositionPatient},
            PixelValueTransformationSequence={
                "RescaleIntercept": image.RescaleIntercept, "RescaleSlope": image.RescaleSlope, "RescaleType": "HU"
            },
            FrameContentSequence={"FrameAcquisitionNumber": 1},
        )
        for image in slices
    ]  # fmt: skip
    ds.PixelData = b"".join(image.PixelData for image in slices)
    return ds


def _group(**macros: Mapping[str, Any]) -> Dataset:
    """A functional group: each macro is a sequence with one item."""
    group = Dataset()
    for macro, values in macros.items():
        item = Dataset()
        for keyword, value in values.items():
            setattr(item, keyword, value)
        setattr(group, macro, [item])
    return group


def encoded(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """The data set as it travels in a C-STORE."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(
        buffer, ds, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True, enforce_file_format=False
    )
    return buffer.getvalue()


def part10(ds: Dataset, dataset: bytes | None = None, syntax: str = ExplicitVRLittleEndian, **meta: str) -> bytes:
    """A file around a data set, or around any bytes that pretend to be one."""
    ds_meta = FileMetaDataset()
    ds_meta.MediaStorageSOPClassUID = meta.get("sop_class", ds.SOPClassUID)
    ds_meta.MediaStorageSOPInstanceUID = meta.get("sop_instance", ds.SOPInstanceUID)
    ds_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    buffer.write(bytes(128) + b"DICM")
    pydicom.filewriter.write_file_meta_info(buffer, ds_meta, enforce_standard=True)
    buffer.write(encoded(ds, syntax) if dataset is None else dataset)
    return buffer.getvalue()


def write_files(folder: Path, datasets: Sequence[Dataset], syntax: str = ExplicitVRLittleEndian) -> list[Path]:
    """Files 0000.dcm, 0001.dcm ... in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, ds in enumerate(datasets):
        paths.append(folder / f"{number:04d}.dcm")
        paths[-1].write_bytes(part10(ds, syntax=syntax))
    return paths
