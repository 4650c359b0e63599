"""What the box's pages and the registry's pages have in common: look, live refresh, security headers, words for time.

No I/O here: the paths of static files and templates, and pure functions.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

STATIC = Path(__file__).parent / "static"
TEMPLATES = Path(__file__).parent / "templates"

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

_STEPS = ((60.0, 1.0, "s"), (3600.0, 60.0, "min"), (86400.0, 3600.0, "h"))


def ago(at: dt.datetime | None, now: dt.datetime | None = None) -> str:
    """'4 s ago', '3 min ago', '5 h ago', '2 d ago'; 'never' for None. A time ahead of the clock is 'just now'."""
    if at is None:
        return "never"
    seconds = ((now or dt.datetime.now(dt.timezone.utc)) - at).total_seconds()
    if seconds < 1:
        return "just now"
    for limit, unit, name in _STEPS:
        if seconds < limit:
            return f"{int(seconds // unit)} {name} ago"
    return f"{int(seconds // 86400)} d ago"


def moment(at: dt.datetime | None) -> str:
    """'2026-03-04 05:06:07 UTC', or '–'."""
    return at.astimezone(dt.timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC") if at else "–"
