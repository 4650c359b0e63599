"""How many studies of each day were performed, received, analysed, delivered, reviewed. Pure: sets in, counts out.

A study counts on the day on which it was performed, where a source told us, otherwise on the day on which it came; so
every figure of a day is of the same studies. Performed is known for a day once every source was asked after it ended.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from core.wire import DayBody


@dataclass(frozen=True)
class Studies:
    """What is known, by study UID. asked: the earliest day of all sources' last answers; None: one never answered."""

    performed: Mapping[str, dt.date]
    received: Mapping[str, dt.date]
    analysed: Collection[str]
    delivered: Collection[str]
    missing: Collection[str]
    reviewed: Collection[str] | None = None
    asked: dt.date | None = None


def count_days(studies: Studies, today: dt.date, days: int) -> list[DayBody]:
    """The last `days` days, newest first."""
    day_of = {**studies.received, **studies.performed}

    def on(day: dt.date, some: Collection[str]) -> int:
        return sum(day_of.get(uid) == day for uid in some)

    return [
        DayBody(
            day=day,
            performed=on(day, studies.performed) if studies.asked is not None and studies.asked > day else None,
            received=on(day, studies.received),
            analysed=on(day, studies.analysed),
            delivered=on(day, studies.delivered),
            reviewed=None if studies.reviewed is None else on(day, studies.reviewed),
            missing=on(day, studies.missing),
        )
        for day in (today - dt.timedelta(days=back) for back in range(days))
    ]
