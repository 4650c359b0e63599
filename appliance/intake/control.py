"""Requests about objects rather than of them: the data sets of N-ACTION, N-CREATE and N-SET (PS3.7 10), bounded.

A data set is walked before pydicom sees it: lengths, nesting and number of elements are then known to be sane. Whatever
of it still can't be read becomes a status of PS3.7 annex C.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from appliance.intake.elements import walk
from appliance.intake.refusal import InstanceRefused
from appliance.intake.uids import IMPLICIT_VR_LITTLE_ENDIAN
from appliance.intake.wire.messages import Message
from core.errors import OneScanError


class Status(IntEnum):
    """PS3.7 annex C.4 and C.5."""

    SUCCESS = 0x0000
    INVALID_ATTRIBUTE = 0x0106
    PROCESSING_FAILURE = 0x0110
    DUPLICATE_INSTANCE = 0x0111
    NO_SUCH_INSTANCE = 0x0112
    NO_SUCH_ARGUMENT = 0x0114
    INVALID_ARGUMENT = 0x0115
    INVALID_INSTANCE = 0x0117
    MISSING_ATTRIBUTE = 0x0120
    NO_SUCH_ACTION = 0x0123
    UNRECOGNISED_OPERATION = 0x0211
    RESOURCE_LIMITATION = 0x0213


class RequestRefused(OneScanError):
    """A request was refused; `status` is what the sender is told. Nothing of it was kept."""

    default_remedy = "Check what the sending device asks for; its images are not touched by this."

    def __init__(self, status: Status, what: str, *, remedy: str | None = None) -> None:
        super().__init__(what, remedy=remedy)
        self.status = status


@dataclass(frozen=True)
class Asker:
    """Who asks: calling AE title, fit for a log line, and address."""

    ae_title: str
    address: str


def decode(message: Message, transfer_syntax: str) -> Dataset:
    """The data set of a request in one of the uncompressed little endian syntaxes. RequestRefused where it is none."""
    implicit = transfer_syntax == IMPLICIT_VR_LITTLE_ENDIAN
    try:
        walk(message.dataset, not implicit, ())
    except InstanceRefused as error:
        raise RequestRefused(Status.PROCESSING_FAILURE, str(error)) from error
    with readable():
        return read_dataset(BytesIO(message.dataset), implicit, True)


def encode(dataset: Dataset, transfer_syntax: str) -> bytes:
    """A data set of ours in one of the uncompressed little endian syntaxes."""
    from pydicom.filebase import DicomBytesIO

    buffer = DicomBytesIO()
    buffer.is_implicit_VR = transfer_syntax == IMPLICIT_VR_LITTLE_ENDIAN
    buffer.is_little_endian = True
    write_dataset(buffer, dataset)
    return buffer.getvalue()


@contextmanager
def readable() -> Iterator[None]:
    """Around what takes values out of a peer's data set: they are decoded as they are looked at."""
    try:
        yield
    except RequestRefused:
        raise
    except Exception as error:  # what broken values make pydicom raise has no common base
        what = f"the data set can't be decoded ({type(error).__name__})"
        raise RequestRefused(Status.PROCESSING_FAILURE, what) from error
