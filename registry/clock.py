"""The registry's clock, in one place."""

from __future__ import annotations

import datetime as dt


def utc_now() -> dt.datetime:
    """The time, UTC."""
    return dt.datetime.now(dt.timezone.utc)
