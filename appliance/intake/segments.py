"""An append log: objects one behind the other in a file, each durable when `append` returns.

    record   magic, lengths, CRC-32 of `about` | about: what a reader of nothing else must know, JSON | the object

A segment is written by the process that made it and by no other: after a restart there is a new one, and what a crash
cut short is never written over. It may be made of a file of zeros (`reserve`), which end the log as its end does.
Threads that append at the same time share an fdatasync: who finds its bytes behind another's sync is through.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from core import durable

_HEAD = struct.Struct("<8sIIQ")
_MAGIC = b"ONESCAN1"
_LONGEST_ABOUT = 1 << 20
OVERHEAD = _HEAD.size
"""Bytes of a record beside what is written about an object and the object."""
Bytes = bytes | memoryview


class Retired(Exception):
    """Nothing more is taken by this segment: take a new one."""


@dataclass(frozen=True)
class Record:
    """Where an object lies in a segment, and what was written about it."""

    about: bytes
    offset: int
    size: int


class Segment:
    """A new file, or one of zeros. StorageFull or StorageError where it can't be made."""

    def __init__(self, path: Path, zeros: int = 0) -> None:
        """zeros: the file is there, and this is its length; nothing is written behind them."""
        self.path = path
        self._zeros = zeros
        self._writing, self._syncing = threading.Lock(), threading.Lock()
        self._end = self._synced = 0
        self._open, self._fd = True, -1
        try:
            self._fd = os.open(path, os.O_WRONLY | (0 if zeros else os.O_CREAT | os.O_EXCL), 0o640)
            durable.sync_folder(path.parent)
        except OSError as error:
            raise durable.storage_error(path, error) from error

    @property
    def usable(self) -> bool:
        """Whether anything more is taken."""
        return self._open

    def append(self, about: bytes, parts: Sequence[Bytes]) -> Record:
        """Write a record whose object is `parts`; durable on return.

        StorageFull or StorageError: nothing of it is kept. Retired: another thread closed the segment, or it is full.
        """
        size = sum(map(len, parts))
        head = _HEAD.pack(_MAGIC, len(about), zlib.crc32(about), size) + about
        with self._writing:
            if self._open and not os.fstat(self._fd).st_nlink:
                self._open = False  # somebody removed the file: what is written now would be in none
            if not self._open:
                raise Retired
            begin = self._end
            if self._zeros and begin + len(head) + size > self._zeros:
                raise Retired
            try:
                _write_all(self._fd, [head, *parts], begin)
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, begin)
                self._zeros = 0  # from here on the file grows
                raise durable.storage_error(self.path, error) from error
            end = self._end = begin + len(head) + size
        self._sync(end)
        return Record(about, begin + len(head), size)

    def _sync(self, end: int) -> None:
        with self._syncing:
            if self._synced >= end:
                return  # somebody else's took ours along
            if not self._open:
                raise Retired
            covered = self._end
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                self._open = False  # the kernel may have dropped the pages: never trust this file again
                raise durable.storage_error(self.path, error) from error
            self._synced = covered

    def close(self) -> None:
        """Take nothing more, and give back what was not used of the zeros.

        Only here is the descriptor closed: no thread is using it while both locks are held.
        """
        with self._syncing, self._writing:
            self._open = False
            if self._fd >= 0:
                if self._zeros:
                    with contextlib.suppress(OSError):  # room on the disk is all that is lost
                        os.ftruncate(self._fd, self._end)
                os.close(self._fd)
                self._fd = -1


def _write_all(fd: int, parts: Sequence[Bytes], at: int) -> None:
    rest = [memoryview(part).cast("B") for part in parts if len(part)]
    while rest:
        count = os.pwritev(fd, rest, at)
        at += count
        while rest and count >= len(rest[0]):
            count -= len(rest.pop(0))
        if count:
            rest[0] = rest[0][count:]


def records(path: Path, start: int = 0) -> Iterator[Record]:
    """The records of a segment from byte `start` on, to its end or to the first that is cut short or damaged.

    Only the heads are looked at: whether an object is what `about` says of it, its reader has to judge.
    """
    with path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        while start + _HEAD.size <= end:
            file.seek(start)
            magic, length, checksum, size = _HEAD.unpack(file.read(_HEAD.size))
            if magic != _MAGIC or length > _LONGEST_ABOUT:
                return
            about = file.read(length)
            offset = start + _HEAD.size + length
            if zlib.crc32(about) != checksum or offset + size > end:
                return
            yield Record(about, offset, size)
            start = offset + size
