"""The real clock: UTC, the kernel's monotonic clock, the boot it counts from, and whether NTP disciplines it."""

from __future__ import annotations

import ctypes
import datetime as dt
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

_TIME_ERROR = 5  # adjtimex(2): "the system clock is not synchronized"


@dataclass(frozen=True)
class Stamp:
    """When something happened, in every way that helps to order it later."""

    ts: dt.datetime
    mono_ns: int
    boot_id: uuid.UUID
    clock_synced: bool


class SystemClock:
    """Implements `ports.Clock` and stamps messages."""

    def __init__(self) -> None:
        self._boot_id = uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        self._libc = ctypes.CDLL(None, use_errno=True)

    def now(self) -> dt.datetime:
        """Wall clock, UTC."""
        return dt.datetime.now(dt.timezone.utc)

    def monotonic(self) -> float:
        """Seconds that never jump."""
        return time.monotonic()

    def synced(self) -> bool:
        """True where the kernel says that the clock is synchronised; False where it says no or can't tell."""
        buffer = ctypes.create_string_buffer(256)  # struct timex, modes = 0: only read
        state = self._libc.adjtimex(buffer)
        return 0 <= int(state) < _TIME_ERROR

    def stamp(self) -> Stamp:
        """This moment."""
        return Stamp(self.now(), time.monotonic_ns(), self._boot_id, self.synced())
