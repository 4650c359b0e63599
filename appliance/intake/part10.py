"""The File Meta Information of a DICOM file (PS3.10 7.1): what it says, where the data set begins. Pure, bounded."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from appliance.intake.refusal import CANNOT_UNDERSTAND, InstanceRefused

PREFIX_AT = 128
LONGEST_META = 64 * 1024
"""Bytes of preamble and File Meta Information that are looked at; a real one has some hundreds."""
_PREFIX = b"DICM"
_LONG_FORM = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SOP_CLASS, _SOP_INSTANCE, _TRANSFER_SYNTAX = 0x0002, 0x0003, 0x0010
DICOMDIR = "1.2.840.10008.1.3.10"
"""Media Storage Directory Storage: a medium's table of contents, no object."""


class NotDicom(InstanceRefused):
    """A file that is no DICOM file."""

    default_remedy = "Nothing, if it is a viewer or a note; otherwise export the images again as DICOM files."

    def __init__(self) -> None:
        super().__init__(CANNOT_UNDERSTAND, "this is no DICOM file: the prefix DICM is missing")


@dataclass(frozen=True)
class FileMeta:
    """offset: of the data set, in bytes."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    offset: int


def read_meta(head: bytes | memoryview) -> FileMeta:
    """The meta information at the beginning of a file. NotDicom, or InstanceRefused where it is damaged."""
    view = memoryview(head)[:LONGEST_META]
    if bytes(view[PREFIX_AT : PREFIX_AT + 4]) != _PREFIX:
        raise NotDicom
    values: dict[int, str] = {}
    at = PREFIX_AT + 4
    while at + 8 <= len(view):
        group, element, vr, length = struct.unpack_from("<HH2sH", view, at)
        if group != 0x0002:
            break
        at += 8
        if vr in _LONG_FORM:
            if at + 4 > len(view):
                raise _damaged()
            (length,) = struct.unpack_from("<L", view, at)
            at += 4
        if at + length > len(view):
            raise _damaged()
        values[element] = bytes(view[at : at + length]).decode("ascii", "replace").strip("\0 ")
        at += length
    sop_class, sop_instance, syntax = (values.get(e, "") for e in (_SOP_CLASS, _SOP_INSTANCE, _TRANSFER_SYNTAX))
    if not (sop_class and sop_instance and syntax):
        raise _damaged()
    return FileMeta(sop_class, sop_instance, syntax, at)


def _damaged() -> InstanceRefused:
    return InstanceRefused(
        CANNOT_UNDERSTAND,
        "the File Meta Information is damaged, or does not say what object in which transfer syntax this is",
        remedy="Export the images again; if this comes again, have the exporting system looked at.",
    )
