"""The spool: DICOM Part 10 objects, written once, durable before the sender hears success.

    <spool>/<digest of the study UID>-<random>.segment    a study's objects in the order in which they came (`segments`)
    <spool>/<random>.zeros                                a segment to be (`reserve`)

Names are digests: a listing of the spool tells nobody whose study this is, and no UID can leave the folder. A study has
some segments, one behind the other: the next where one of zeros is full, after a restart, and where bytes that were
pruned came again.
Finished studies are removed after a time, earlier only to make room and then oldest first; a study that was not
delivered never is.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
import secrets
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from appliance.intake.ledger import Place, SpooledStudy
from appliance.intake.reserve import Reserve
from appliance.intake.segments import OVERHEAD, Retired, Segment
from core import durable
from core.errors import StorageError
from core.extent import Extent

IMPLEMENTATION_CLASS_UID = "2.25.126092190508437435399566249101767080606"
IMPLEMENTATION_VERSION_NAME = "ONESCAN_0_1"
_PREAMBLE = bytes(128) + b"DICM"
_SUFFIX = ".segment"
_MOST_OPEN = 64
"""Segments that are written to; beyond that the one that was quiet for longest is closed."""


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
    """The folder. Only the receiver writes here; may be called from many threads."""

    def __init__(self, folder: Path, reserve_bytes: int = 0) -> None:
        """Make the folder if need be and remove the temporary files that a crash left.

        reserve_bytes: written ahead by `fill_reserve`.
        """
        self.folder = durable.make_folder(folder)
        self.swept = durable.sweep(folder) + sum(durable.sweep(p) for p in folder.iterdir() if p.is_dir())
        self._prefix = f"{self.folder}/"
        self._reserve = Reserve(folder, reserve_bytes)
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Segment] = OrderedDict()

    def append(self, study_uid: str, about: bytes, parts: Sequence[bytes | memoryview]) -> Place:
        """Write an object, durably. StorageFull or StorageError if that fails; then nothing of it is left."""
        while True:
            segment = self._segment(study_uid, len(about) + sum(map(len, parts)))
            try:
                record = segment.append(about, parts)
                return Place(segment.path.name, record.offset, record.size)
            except Retired:
                self._forget(segment)
            except StorageError:
                if not segment.usable:
                    self._forget(segment)
                raise

    def holds(self, place: Place) -> bool:
        """True where the object's bytes are there."""
        try:
            return os.stat(f"{self._prefix}{place.file}").st_size >= (place.start or 0) + place.size
        except FileNotFoundError:
            return False

    def extent(self, place: Place) -> Extent:
        """The object."""
        path = self.folder / place.file
        return Extent(path) if place.start is None else Extent(path, place.start, place.size)

    def segments(self) -> list[str]:
        """Names of all segments."""
        return sorted(path.name for path in self.folder.glob(f"*{_SUFFIX}"))

    def remove(self, files: Iterable[str]) -> None:
        """Remove files, and their folders where nothing else is in them."""
        for name in files:
            path = self.folder / name
            with self._lock:
                segment = self._open.get(_study_of(name))
            if segment is not None and segment.path == path:
                self._forget(segment)
            path.unlink(missing_ok=True)
            if path.parent != self.folder:  # of an older release
                with contextlib.suppress(OSError):
                    path.parent.rmdir()

    def close(self) -> None:
        """Take nothing more."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def free_bytes(self, at_least: int = 0) -> int:
        """Room on the spool's file system. Where it is less than `at_least`, the reserve is given up for it."""
        free = self._free_bytes()
        return self._free_bytes() if free < at_least and self._reserve.give_back() else free

    def fill_reserve(self, keep_free: int, busy: Callable[[], bool]) -> bool:
        """Write a part of the reserve, if the disk has room to spare beyond `keep_free`; whether there is more to do.

        busy: asked while it writes; then Interrupted. StorageFull or StorageError: the disk took no more.
        """
        return self._reserve.fill(self._free_bytes() - keep_free, busy)

    def _free_bytes(self) -> int:
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def _segment(self, study_uid: str, size: int) -> Segment:
        study = _digest(study_uid)
        with self._lock:
            segment = self._open.get(study)
            if segment is None:
                path = self.folder / f"{study}-{secrets.token_hex(4)}{_SUFFIX}"
                segment = Segment(path, self._reserve.take(path, size + OVERHEAD))
                self._open[study] = segment
            self._open.move_to_end(study)
            idle = self._open.popitem(last=False)[1] if len(self._open) > _MOST_OPEN else None
        if idle is not None:
            idle.close()
        return segment

    def _forget(self, segment: Segment) -> None:
        study = _study_of(segment.path.name)
        with self._lock:
            if self._open.get(study) is segment:
                del self._open[study]
        segment.close()


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


def _study_of(name: str) -> str:
    return name.partition("-")[0]


def _digest(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:32]
