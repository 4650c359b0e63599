"""The spool: one DICOM Part 10 file per instance, written once, durable before the sender hears success.

    <spool>/<digest of the study UID>/<digest of the SOP Instance UID>.dcm
                                      <digest>-<digest of the content>.dcm   another content of the same UID (evidence)

Names are digests: a listing of the spool tells nobody whose study this is, and no UID can leave the folder.
Finished studies are removed after a time, earlier only to make room and then oldest first; a study that was not
delivered never is.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from appliance.intake.ledger import SpooledStudy
from core import durable

IMPLEMENTATION_CLASS_UID = "2.25.126092190508437435399566249101767080606"
IMPLEMENTATION_VERSION_NAME = "ONESCAN_0_1"
_PREAMBLE = bytes(128) + b"DICM"


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax: str, source_ae_title: str) -> bytes:
    """Preamble, prefix and File Meta Information (PS3.10 7.1), explicit VR little endian."""
    elements = b"".join(
        (
            struct.pack("<HH2sHL", 0x0002, 0x0001, b"OB", 0, 2) + b"\0\1",
            _element(0x0002, b"UI", sop_class_uid),
            _element(0x0003, b"UI", sop_instance_uid),
            _element(0x0010, b"UI", transfer_syntax),
            _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
            _element(0x0016, b"AE", source_ae_title),
        )
    )
    return _PREAMBLE + struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(elements)) + elements


def _element(number: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii", "replace")
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", 0x0002, number, vr, len(value)) + value


class Spool:
    """The folder. Only the receiver writes here."""

    def __init__(self, folder: Path) -> None:
        """Make the folder if need be and remove the temporary files that a crash left."""
        self.folder = durable.make_folder(folder)
        self.swept = durable.sweep(folder) + sum(durable.sweep(p) for p in folder.iterdir() if p.is_dir())

    def name(self, study_uid: str, sop_instance_uid: str, evidence_sha256: str = "") -> str:
        """The file's place below the spool."""
        suffix = f"-{evidence_sha256[:16]}" if evidence_sha256 else ""
        return str(PurePosixPath(_digest(study_uid), f"{_digest(sop_instance_uid)}{suffix}.dcm"))

    def holds(self, name: str) -> bool:
        """True where the file is there."""
        return (self.folder / name).is_file()

    def write(self, name: str, meta: bytes, dataset: bytes | memoryview) -> int:
        """Write a file, durably; returns its size. StorageFull or StorageError if that fails; then nothing is left."""
        path = self.folder / name
        durable.make_folder(path.parent)
        with durable.writing(path) as file:
            file.write(meta)
            file.write(dataset)
        return len(meta) + len(dataset)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, and their folders where nothing else is in them."""
        folders = set()
        for name in names:
            path = self.folder / name
            path.unlink(missing_ok=True)
            folders.add(path.parent)
        for folder in folders:
            try:
                folder.rmdir()
            except OSError:
                pass  # an instance that arrives at this moment is in it: it stays

    def free_bytes(self) -> int:
        """Room on the spool's file system."""
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize


def prunable(
    studies: Sequence[SpooledStudy], finished: Iterable[str], older_than: dt.datetime, bytes_wanted: int
) -> list[SpooledStudy]:
    """Which studies to remove: finished ones that are older, and oldest first as many more as gain `bytes_wanted`.

    Finished: complete (nothing came after its last hand-over), handed over at least once, and every one of its
    hand-overs is in `finished` (delivered or superseded). If that does not gain enough, it is all that may go.
    """
    done = frozenset(finished)
    chosen: list[SpooledStudy] = []
    for study in sorted(studies, key=lambda s: (s.last_at, s.study_uid)):
        if bytes_wanted <= 0 and study.last_at >= older_than:
            break
        if study.complete and study.handovers and study.handovers <= done:
            chosen.append(study)
            bytes_wanted -= study.bytes
    return chosen


def _digest(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:32]
