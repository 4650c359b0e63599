"""A stretch of a file that holds one DICOM object, or the whole file: how readers get at what the receiver stored."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_BUFFER = 16 * 1024
"""Enough for most headers, little beside the pixels behind them."""


@dataclass(frozen=True)
class Extent:
    """`size` bytes of the file at `path` from `offset` on; size None: to its end. DICOM Part 10 as a rule."""

    path: Path
    offset: int = 0
    size: int | None = None

    def open(self) -> BinaryIO:
        """As a file of its own, for reading. OSError where it can't be opened."""
        return _Bounded(_Window(self.path, self.offset, self.size))

    def read(self) -> bytes:
        """All of it. OSError where it can't be read."""
        with self.open() as file:
            return file.read()


class _Bounded(io.BufferedReader):
    """Makes room for no more than is there, however much is asked for: lengths in a stored file are its sender's word.

    A plain file allocates all that is asked for before it reads a byte.
    """

    def __init__(self, window: _Window) -> None:
        super().__init__(window, _BUFFER)
        self._end = window.size

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _BUFFER:
            size = min(size, max(0, self._end - self.tell()))
        return super().read(size)


class _Window(io.RawIOBase):
    """A part of a file; positions count from its beginning. size: what there is of it."""

    def __init__(self, path: Path, offset: int, size: int | None) -> None:
        super().__init__()
        self.name = str(path)  # pydicom asks every file for it
        self._file = path.open("rb", buffering=0)
        self._offset, self._at = offset, 0
        there = max(0, self._file.seek(0, io.SEEK_END) - offset)
        self.size = there if size is None else min(size, there)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise OSError(f"position {base + offset} is before the beginning")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        room = memoryview(buffer).cast("B")[: max(0, self.size - self._at)]
        if not room:
            return 0
        self._file.seek(self._offset + self._at)
        count = self._file.readinto(room) or 0
        self._at += count
        return count

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
