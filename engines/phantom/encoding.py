"""What every DICOM object of a phantom has in common on its way into a file."""

from __future__ import annotations

from io import BytesIO

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

IMPLEMENTATION_UID = "2.25.154632897312054672817360152773492817365"


def as_file(ds: Dataset) -> bytes:
    """A dataset as a complete DICOM file, Explicit VR Little Endian."""
    if not hasattr(ds, "file_meta"):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.ImplementationClassUID, meta.ImplementationVersionName = UID(IMPLEMENTATION_UID), "ONESCAN_PHANTOM"
        ds.file_meta = meta
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def decimal(value: float, digits: int) -> str:
    """A decimal string (VR DS, at most 16 characters) without trailing zeros."""
    text = f"{value:.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"
