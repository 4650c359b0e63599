"""Space that was written before it is needed: files of zeros, each of which becomes a segment of the spool.

What is appended to a file changes its length and its blocks, so its fdatasync waits for the file system's journal, and
with that for the disk's other writers. Written over space that has been written before it waits for its own bytes only
(figures: ADR 0037). Zeros cost the disk as much as what will lie there, so they are written while nobody sends, and no
more of them than a part of what is free.

    <spool>/<random>.zeros    whole and durable; anything else is the temporary file of one that is being written
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path

from core import durable

SPARE_BYTES = 64 << 20
"""Of one file: about 120 slices."""
_SUFFIX = ".zeros"
_PIECE = bytes(1 << 20)
_PIECES_A_SYNC = 4
_PART_OF_FREE = 8


class Interrupted(Exception):
    """Somebody sends: what was written of a spare is given up."""


class Reserve:
    """As many spares as make `total` bytes. May be called from many threads; `fill` from one."""

    def __init__(self, folder: Path, total: int, spare_bytes: int = SPARE_BYTES) -> None:
        """Take up the spares of an earlier process; those of another size, or too many, are removed."""
        self._folder, self._bytes, self._count = folder, spare_bytes, total // spare_bytes
        self._lock = threading.Lock()
        found = sorted(folder.glob(f"[!.]*{_SUFFIX}"))
        self._spares = [path for path in found if path.stat().st_size == spare_bytes][: self._count]
        for path in set(found) - set(self._spares):
            path.unlink()

    @property
    def held_bytes(self) -> int:
        """Of the spares that are ready."""
        return len(self._spares) * self._bytes

    def take(self, path: Path, size: int) -> int:
        """Make a spare the file `path`; the bytes that may be written over, 0 where none is ready or fits `size`.

        The caller makes the name durable. A spare that is not there any more is passed over.
        """
        if size > self._bytes:
            return 0
        with self._lock:
            while self._spares:
                try:
                    self._spares.pop().rename(path)
                    return self._bytes
                except OSError:
                    continue
        return 0

    def fill(self, spare_room: int, busy: Callable[[], bool]) -> bool:
        """Write one more spare; whether there may be another to write.

        spare_room: bytes of the disk that nobody will miss. busy: looked at between pieces; if so, Interrupted.
        StorageFull, StorageError: the disk did not take it.
        """
        with self._lock:
            wanted = len(self._spares) < self._count
        if not wanted or self.held_bytes + self._bytes > (self.held_bytes + spare_room) // _PART_OF_FREE:
            return False
        path = self._folder / f"{secrets.token_hex(8)}{_SUFFIX}"
        with durable.writing(path) as file:
            for number in range(0, self._bytes, len(_PIECE)):
                if busy():
                    raise Interrupted
                file.write(memoryview(_PIECE)[: self._bytes - number])
                if number // len(_PIECE) % _PIECES_A_SYNC == 0:  # never much at once: somebody may begin to send
                    file.flush()
                    os.fdatasync(file.fileno())
        with self._lock:
            self._spares.append(path)
        return True

    def give_back(self) -> int:
        """Remove all spares, for the disk is short of room; how many bytes that gave."""
        with self._lock:
            spares, self._spares = self._spares, []
        for path in spares:
            path.unlink(missing_ok=True)
        return len(spares) * self._bytes
