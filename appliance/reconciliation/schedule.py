"""When to ask a source, for which days, and when to fetch. Pure: times come in.

Asked: once a night; once the scanners have had time to push again after this box was away for long; again, later and
later, after a source that did not answer, and at once when this process begins anew. A clock that was set back
makes us ask once more than needed, never less.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

_FIRST_RETRY_S, _LONGEST_RETRY_S = 300.0, 3600.0


@dataclass(frozen=True)
class Rules:
    """night: local time of day. downtime: longer ones are asked about. settle: after a start, before asking."""

    night: dt.time
    downtime: dt.timedelta
    settle: dt.timedelta
    look_back: dt.timedelta
    studies_an_hour: float
    tries: int

    def interval(self) -> dt.timedelta:
        """Between the beginnings of two fetches."""
        return dt.timedelta(hours=1 / self.studies_an_hour)


@dataclass(frozen=True)
class Asked:
    """What is known of earlier asks of a source. failures: in a row; retry_from: not before."""

    last_success: dt.datetime | None = None
    last_try: dt.datetime | None = None
    failures: int = 0


def due(now: dt.datetime, rules: Rules, asked: Asked, started: dt.datetime, away: dt.timedelta | None) -> str | None:
    """Why to ask now, in a word; None if not yet. started: this process; away: how long the box was before that."""
    tried = asked.last_try if asked.failures else None
    if tried is not None and started <= tried <= now < tried + retry_after(asked.failures):
        return None
    if asked.last_success is None or asked.last_success > now:
        return "first"
    was_away = away is not None and away >= rules.downtime
    if was_away and asked.last_success < started and now - started >= rules.settle:
        return "outage"
    return "night" if asked.last_success < latest_night(now, rules.night) else None


def latest_night(now: dt.datetime, night: dt.time) -> dt.datetime:
    """The latest moment, not after `now`, at which the clock on the wall (the zone of `now`) showed `night`."""
    today = now.replace(hour=night.hour, minute=night.minute, second=0, microsecond=0)
    return today if today <= now else today - dt.timedelta(days=1)


def retry_after(failures: int) -> dt.timedelta:
    """How long after a failure in a row the next try comes: 5 min, doubled up to an hour."""
    return dt.timedelta(seconds=min(_LONGEST_RETRY_S, _FIRST_RETRY_S * 2 ** (min(failures, 10) - 1)))


def days_asked(now: dt.datetime, rules: Rules, asked: Asked) -> tuple[dt.date, dt.date]:
    """First and last day to ask for: from the day before the last success on, never beyond the look-back."""
    earliest = (now - rules.look_back).date()
    if asked.last_success is None or asked.last_success > now:
        return earliest, now.date()
    since = asked.last_success.astimezone(now.tzinfo) - dt.timedelta(days=1)
    return max(earliest, min(since.date(), now.date())), now.date()


def may_fetch(now: dt.datetime, rules: Rules, last_fetch: dt.datetime | None, arriving: bool) -> bool:
    """One study at a time, at the configured rate, never while a scanner pushes."""
    if arriving:
        return False
    return last_fetch is None or last_fetch > now or now - last_fetch >= rules.interval()
