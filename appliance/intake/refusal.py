"""Why an instance was not taken, and the DICOM status that says so (PS3.4 table B.2-1)."""

from __future__ import annotations

from core.errors import OneScanError

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
DATA_SET_MISMATCH = 0xA900
STUDY_MISMATCH = 0xA901
CANNOT_UNDERSTAND = 0xC000
"""The C000 range is ours to divide; the low bits tell a field engineer what was wrong."""
TRUNCATED = 0xC001
MISSING_ATTRIBUTE = 0xC002
PIXEL_DATA_LENGTH = 0xC003
PROCESSING_FAILURE = 0xC0FF


class InstanceRefused(OneScanError):
    """An instance was refused; `status` is what the sender is told. Nothing of it was kept."""

    default_remedy = "Push the study again; if it is refused again, check the sending device's export."

    def __init__(self, status: int, what: str, *, remedy: str | None = None) -> None:
        super().__init__(what, remedy=remedy)
        self.status = status
