"""The days as both journals and the sources' answers have them: for the box's page and for the registry."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from appliance.ports import Clock
from appliance.reconciliation.days import Studies, count_days
from appliance.storage.database import from_iso
from appliance.storage.intake_reader import IntakeReader
from appliance.storage.reconciliation import ReconciliationList
from core.wire import DayBody

_MARGIN = dt.timedelta(days=8)  # a study may come days after it was performed


class Days:
    """Reads on every call; keeps nothing. sources: names of those that are configured. reviews: whether they are asked
    for reviews."""

    def __init__(
        self,
        found: ReconciliationList,
        intake: IntakeReader,
        clock: Clock,
        sources: Sequence[str],
        reviews: bool = False,
    ) -> None:
        self._list, self._intake, self._clock, self._sources = found, intake, clock, tuple(sources)
        self._reviews = reviews

    def counts(self, days: int = 7) -> list[DayBody]:
        """The last days, newest first: for pages, and for the registry."""
        now = self._clock.now().astimezone()
        since = now - dt.timedelta(days=days) - _MARGIN
        received = {uid: _local_day(at) for uid, at in self._intake.received_since(since).items()}
        rows, asked = self._list.studies_since(since), self._asked()
        received.update({row["study_uid"]: _local_day(from_iso(row["received_at"])) for row in rows})
        studies = Studies(
            performed=self._list.performed_days(since.date()),
            received=received,
            analysed=[row["study_uid"] for row in rows if row["analysed"]],
            delivered=[row["study_uid"] for row in rows if row["delivered"]],
            missing=[row["study_uid"] for row in self.missed(days) if row["state"] == "wanted"],
            reviewed=self._list.reviewed_studies() if self._reviews and asked is not None else None,
            asked=asked,
        )
        return count_days(studies, now.date(), days)

    def missed(self, days: int) -> list[Mapping[str, Any]]:
        """Studies that were missed in the last days or are still wanted."""
        return self._list.missed_since((self._clock.now().astimezone() - dt.timedelta(days=days)).date())

    def asks(self) -> list[Mapping[str, Any]]:
        """The last ask of each source that is configured."""
        return [ask for ask in self._list.last_asks() if ask["source"] in self._sources]

    def _asked(self) -> dt.date | None:
        answers = [self._list.asked(name).last_success for name in self._sources]
        known = [_local_day(at) for at in answers if at is not None]
        return min(known) if known and len(known) == len(answers) else None


def _local_day(at: dt.datetime) -> dt.date:
    return at.astimezone().date()
