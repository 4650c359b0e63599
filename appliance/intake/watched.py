"""A watched folder: DICOM files that somebody puts there come in like pushed ones. Looked at every few seconds.

    1. parcel   everything in a folder of the first level is one, and so are the files that lie beside those folders
    2. finished nothing of the parcel changed for `settle_s`: name, size, time, file number
    3. store    file by file, as one association; the disk has each before anything happens to the file
    4. after    moved to `done`, removed or left, as configured. A file that is not taken goes to `refused`, with its
                reason beside it. A file that changed meanwhile stays and is looked at again

Where the disk is full or fails, the parcel stays and is tried again: content that is here already is known, so trying
again is harmless, also after a crash at any point.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

from appliance.intake.door import Door, Visit
from appliance.intake.part10 import DICOMDIR, read_meta
from appliance.intake.refusal import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, InstanceRefused
from core import durable
from core.errors import StorageError

log = logging.getLogger(__name__)

SENDER: Final = "WATCHED FOLDER"
DONE, REFUSED = "done", "refused"
LOOK_S: Final = 5.0
_UNFINISHED_SUFFIXES = (".part", ".partial", ".tmp", ".filepart", ".crdownload")
_DEPTH = 16


class AfterImport(Enum):
    """What becomes of a file that is stored."""

    MOVE = "move"
    REMOVE = "remove"
    LEAVE = "leave"


class _Signature(NamedTuple):
    """A file that changes changes this."""

    size: int
    mtime_ns: int
    inode: int


@dataclass
class _Parcel:
    files: Mapping[Path, _Signature]
    since: float
    left: dict[Path, _Signature] = field(default_factory=dict)  # stored or not taken, and still lying here


class WatchedFolder:
    """settle_s: how long nothing may change before a parcel is taken. most_files: of one look."""

    def __init__(
        self,
        folder: Path,
        *,
        door: Door,
        monotonic: Callable[[], float],
        stopping: Callable[[], bool],
        after: AfterImport = AfterImport.MOVE,
        settle_s: float = 10.0,
        most_files: int = 100_000,
        max_file_bytes: int = 2 << 30,
    ) -> None:
        self._folder, self._door, self._monotonic, self._stopping = folder, door, monotonic, stopping
        self._after, self._settle_s, self._most_files = after, settle_s, most_files
        self._max_file_bytes = max_file_bytes
        self._parcels: dict[str, _Parcel] = {}
        self._told = False

    def step(self) -> float:
        """Look once, and take what is finished; returns the seconds until the next look."""
        try:
            found = self._look()
        except OSError as error:
            if not self._told:
                log.error("the watched folder can't be read: %s; check that it is mounted", error.strerror)
            self._told = True
            return LOOK_S
        self._told = False
        now = self._monotonic()
        self._parcels = {name: self._seen(self._parcels.get(name), files, now) for name, files in found.items()}
        for parcel in self._parcels.values():
            if now - parcel.since >= self._settle_s and self._open(parcel) and self._door.has_room():
                self._take(parcel)
        return LOOK_S

    def _look(self) -> dict[str, dict[Path, _Signature]]:
        """Files by parcel, at most `most_files`; the rest has its turn when these are gone."""
        found: dict[str, dict[Path, _Signature]] = {}
        for count, (path, signature) in enumerate(_files(self._folder, self._folder, 0)):
            if count >= self._most_files:
                break
            steps = path.relative_to(self._folder).parts
            found.setdefault(steps[0] if len(steps) > 1 else "", {})[path] = signature
        return found

    def _seen(self, before: _Parcel | None, files: dict[Path, _Signature], now: float) -> _Parcel:
        if before is None:
            return _Parcel(files, now)
        left = {path: signature for path, signature in before.left.items() if files.get(path) == signature}
        unchanged = all(before.files.get(path) == signature for path, signature in files.items())
        return _Parcel(files, before.since if unchanged else now, left)

    def _open(self, parcel: _Parcel) -> list[Path]:
        """What of a parcel is still to be taken."""
        return sorted(path for path in parcel.files if path not in parcel.left)

    def _take(self, parcel: _Parcel) -> None:
        taken = refused = 0
        try:
            with self._door.visit(SENDER, self._folder.name) as visit:
                for path in self._open(parcel):
                    if self._stopping():
                        raise StorageError("the appliance is stopping", remedy="Nothing: it goes on after the start.")
                    try:
                        taken += self._bring(visit, path, parcel)
                    except InstanceRefused as error:
                        if error.status == OUT_OF_RESOURCES:
                            raise StorageError(str(error), remedy=error.remedy()) from error
                        refused += 1
                        self._set_aside(path, error, parcel)
        except StorageError as error:
            log.error("the watched folder's files wait: %s; %s", error, error.remedy())
        log.info("watched folder: files taken", extra={"taken": taken, "refused": refused})

    def _bring(self, visit: Visit, path: Path, parcel: _Parcel) -> bool:
        """True where the file's instance is durable; False where there was nothing to store."""
        signature = parcel.files[path]
        if signature.size > self._max_file_bytes:
            raise InstanceRefused(CANNOT_UNDERSTAND, f"the file has more than {self._max_file_bytes} bytes")
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return False  # somebody took it back
        except OSError as error:
            log.warning("a file of the watched folder can't be read: %s; check its owner and mode", error.strerror)
            parcel.left[path] = signature
            return False
        if len(content) != signature.size:
            return False  # it is being written: the next look sees it changed
        meta = read_meta(content)
        if meta.sop_class_uid != DICOMDIR:
            visit.store(meta, memoryview(content)[meta.offset :])
        self._put_away(path, signature, parcel)
        return meta.sop_class_uid != DICOMDIR

    def _put_away(self, path: Path, signature: _Signature, parcel: _Parcel) -> None:
        if _signature(path) != signature:
            return  # another file lies there now
        try:
            match self._after:
                case AfterImport.MOVE:
                    self._move(path, self._folder / DONE)
                case AfterImport.REMOVE:
                    path.unlink()
                    self._tidy(path.parent)
                case AfterImport.LEAVE:
                    parcel.left[path] = signature
        except OSError as error:
            log.warning("a stored file stays in the watched folder: %s; check who may write there", error.strerror)
            parcel.left[path] = signature

    def _set_aside(self, path: Path, why: InstanceRefused, parcel: _Parcel) -> None:
        signature = parcel.files[path]
        log.warning("a file of the watched folder was not taken: %s; %s", why, why.remedy())
        try:
            durable.make_folder(self._folder / REFUSED, 0o2770)
            moved = self._move(path, self._folder / REFUSED)
            durable.write_text(moved.with_name(moved.name + ".reason.txt"), f"{why}\n{why.remedy()}\n", 0o660)
        except (OSError, StorageError) as error:
            log.warning("it stays in the watched folder, which can't be written: %s", error)
            parcel.left[path] = signature

    def _move(self, path: Path, below: Path) -> Path:
        """Where the file is now: under the same path below another folder, with a number if that is taken."""
        target = below / path.relative_to(self._folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        free, number = target, 1
        while free.exists():
            free, number = target.with_name(f"{target.name}.{number}"), number + 1
        path.rename(free)
        self._tidy(path.parent)
        return free

    def _tidy(self, folder: Path) -> None:
        """Remove folders in which nothing is left."""
        while folder != self._folder:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent


def _files(folder: Path, top: Path, depth: int) -> Iterator[tuple[Path, _Signature]]:
    """Regular files, no links; nothing hidden, unfinished by its name, done or refused."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            if entry.name.startswith(".") or entry.name.lower().endswith(_UNFINISHED_SUFFIXES):
                continue
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                if depth < _DEPTH and not (folder == top and entry.name in (DONE, REFUSED)):
                    try:
                        yield from _files(path, top, depth + 1)
                    except FileNotFoundError:
                        pass  # taken away meanwhile
            elif (signature := _signature(path)) is not None:
                yield path, signature


def _signature(path: Path) -> _Signature | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return _Signature(status.st_size, status.st_mtime_ns, status.st_ino) if stat.S_ISREG(status.st_mode) else None
