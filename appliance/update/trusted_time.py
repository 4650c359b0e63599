"""A clock that can be wrong, but never so wrong that expired metadata looks fresh.

Boxes wake with a flat RTC battery and believe in 1970. So the time against which metadata expires is
max(RTC, time of the last successful refresh, build time of this release). The second is kept in a file; it is only
moved on after a refresh whose metadata had not expired at that time, so a clock that runs ahead can poison it by no
more than a timestamp's life (7 days).
"""

from __future__ import annotations

import datetime as dt
import logging
from pathlib import Path

from appliance.ports import Clock
from core import durable

logger = logging.getLogger(__name__)

BUILT_AT = dt.datetime(2026, 11, 23, tzinfo=dt.timezone.utc)
"""Moved on with every release."""
_STEP = dt.timedelta(minutes=10)  # between two writes of the file


class TrustedTime:
    """The floor under the box's clock. path: where it is kept."""

    def __init__(self, path: Path, clock: Clock, built_at: dt.datetime = BUILT_AT) -> None:
        self._path = path
        self._clock = clock
        self._built_at = built_at

    def now(self) -> dt.datetime:
        """Not earlier than any time at which we knew what time it was."""
        return max(self._clock.now(), self._last(), self._built_at)

    def confirm(self) -> None:
        """Metadata that was fresh at `now()` has been verified: time will not go back before it."""
        now = self.now()
        if now - self._last() >= _STEP:
            durable.write_text(self._path, now.isoformat() + "\n")

    def _last(self) -> dt.datetime:
        try:
            last = dt.datetime.fromisoformat(self._path.read_text(encoding="ascii").strip())
            return last if last.tzinfo else last.replace(tzinfo=dt.timezone.utc)
        except FileNotFoundError:
            return self._built_at
        except (OSError, ValueError):
            logger.error("the record of the last known time is unreadable; the build time takes its place")
            return self._built_at
