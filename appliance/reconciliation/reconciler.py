"""Goes round: asks the sources, writes down what was missed, fetches it, one study at a time.

    ask     1 what was performed   2 what we hold   3 the series of what is suspect   4 all of it into the list, at once
    fetch   1 the attempt is written down   2 C-MOVE to our receiver   3 the ledger, not the source, says if all arrived

A power cut between any two lines costs one attempt. What can't be fetched stays in the list with its reason.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from appliance.ports import Clock
from appliance.reconciliation import schedule
from appliance.reconciliation.comparison import (
    NOTHING,
    Held,
    Performed,
    PerformedSeries,
    may_be_ct,
    merged,
    still_lacking,
    suspect,
    wanted_series,
)
from appliance.reconciliation.reviewer import Archive, Reviewer
from appliance.reconciliation.schedule import Asked, Rules
from appliance.reconciliation.source import Moved
from core.errors import DeliveryError

log = logging.getLogger(__name__)

LOOK_S = 5.0
_ALIVE_EVERY_S = 60.0
_GRACE_S = 10.0
_ARRIVING_S = 30.0


class Source(Archive, Protocol):
    """What answers; `source.DicomSource` is the real one. DeliveryError where there is no answer."""

    def studies(self, first: dt.date, last: dt.date) -> Sequence[Performed]:
        """CT studies of these days."""

    def series(self, study_uid: str) -> Sequence[PerformedSeries]:
        """The series of a study."""

    def fetch(self, study_uid: str, series_uid: str = "") -> Moved:
        """Have it sent to our receiver."""


@dataclass(frozen=True)
class Missed:
    """A study to fetch. whole: nothing of it is here; series: CT series that are lacking, as far as they are told."""

    study_uid: str
    source: str
    study_date: dt.date | None
    whole: bool
    series: tuple[PerformedSeries, ...]
    attempts: int = 0


class MissedList(Protocol):
    """The durable list; every method is one transaction."""

    def alive_at(self) -> dt.datetime | None:
        """When the box was last known to run."""

    def alive(self, at: dt.datetime) -> None:
        """It runs."""

    def asked(self, source: str) -> Asked:
        """What is known of earlier asks."""

    def answered(
        self, source: str, at: dt.datetime, why: str, performed: Sequence[Performed], missed: Sequence[Missed]
    ) -> None:
        """A source answered. Studies in the list are tried again; those that are here by now leave it."""

    def unanswered(self, source: str, at: dt.datetime, why: str, reason: str) -> None:
        """It did not."""

    def next(self, now: dt.datetime) -> Missed | None:
        """What to fetch now."""

    def waiting(self) -> Sequence[Missed]:
        """All that is wanted and not here."""

    def last_fetch(self) -> dt.datetime | None:
        """When the last fetch began."""

    def begin(self, study_uid: str, at: dt.datetime) -> None:
        """An attempt begins: it counts from now on."""

    def fetched(self, study_uid: str, at: dt.datetime, by_us: bool) -> None:
        """All of it is here, fetched or (not by_us) pushed by somebody meanwhile."""

    def postponed(self, study_uid: str, reason: str, until: dt.datetime | None) -> None:
        """It is not; None: not before the next ask."""


class Reconciler:
    """`step` again and again, on a thread of its own. holds: what the ledger has of these studies. arriving: whether
    slices came since a moment. stopping: ends a wait. reviewer: looks for reviews of what a source told of."""

    def __init__(
        self,
        sources: Sequence[Source],
        missed: MissedList,
        rules: Rules,
        clock: Clock,
        holds: Callable[[Collection[str]], Mapping[str, Held]],
        arriving: Callable[[dt.datetime], bool],
        local: Callable[[dt.datetime], dt.datetime] = lambda now: now.astimezone(),
        stopping: threading.Event | None = None,
        reviewer: Reviewer | None = None,
    ) -> None:
        self._sources = {source.name: source for source in sources}
        self._list, self._rules, self._clock = missed, rules, clock
        self._holds, self._arriving, self._local = holds, arriving, local
        self._stopping = stopping or threading.Event()
        self._reviewer = reviewer
        self._started = clock.now()
        before = missed.alive_at()
        self._away = self._started - before if before is not None else None
        self._alive_from = float("-inf")

    def step(self) -> float:
        """Ask who is due, then fetch one study if it is time; returns the seconds until the next look."""
        now = self._clock.now()
        if self._clock.monotonic() >= self._alive_from:
            self._alive_from = self._clock.monotonic() + _ALIVE_EVERY_S
            self._list.alive(now)
        for source in self._sources.values():
            asked = self._list.asked(source.name)
            why = schedule.due(self._local(now), self._rules, asked, self._started, self._away)
            if why is not None:
                self._ask(source, asked, why)
        self._fetch_one()
        if self._reviewer is not None:
            self._reviewer.step(now)
        return LOOK_S

    def _ask(self, source: Source, asked: Asked, why: str) -> None:
        now = self._clock.now()
        first, last = schedule.days_asked(self._local(now), self._rules, asked)
        try:
            performed = [one for one in merged(source.studies(first, last)) if may_be_ct(one)]
            held = self._holds([one.study_uid for one in performed])
            missed = [
                found for one in performed if (found := self._missed(source, one, held.get(one.study_uid, NOTHING)))
            ]
        except DeliveryError as error:
            self._list.unanswered(source.name, now, why, str(error))
            log.warning("a source did not say what was performed: %s; %s", error, error.remedy())
            return
        self._list.answered(source.name, now, why, performed, missed)
        if self._reviewer is not None:
            self._reviewer.begin(source, self._local(now - self._rules.look_back).date())
        log.info(
            "asked a source for what was performed",
            extra={"source": source.name, "why": why, "performed": len(performed), "missed": len(missed)},
        )

    def _missed(self, source: Source, study: Performed, held: Held) -> Missed | None:
        if not suspect(study, held):
            return None
        series = wanted_series(study, source.series(study.study_uid), held)
        if series is None:
            return None
        return Missed(study.study_uid, source.name, study.study_date, not held.series, tuple(series))

    def _fetch_one(self) -> None:
        now = self._clock.now()
        arriving = self._arriving(now - dt.timedelta(seconds=_ARRIVING_S))
        if not schedule.may_fetch(now, self._rules, self._list.last_fetch(), arriving):
            return
        self._strike_out_what_came(now)
        missed = self._list.next(now)
        if missed is None:
            return
        source = self._sources.get(missed.source)
        if source is None:
            self._list.postponed(missed.study_uid, "its source is no longer configured", None)
            return
        self._list.begin(missed.study_uid, now)
        reason = self._fetch(source, missed)
        if not reason:
            self._list.fetched(missed.study_uid, self._clock.now(), by_us=True)
            log.info("a missed study was fetched", extra={"source": source.name})
            return
        tried = missed.attempts + 1
        again = None if tried % self._rules.tries == 0 else self._clock.now() + schedule.retry_after(tried)
        self._list.postponed(missed.study_uid, reason, again)
        log.warning("a missed study was not fetched: %s", reason, extra={"source": source.name, "attempt": tried})

    def _strike_out_what_came(self, now: dt.datetime) -> None:
        waiting = self._list.waiting()
        held = self._holds([one.study_uid for one in waiting]) if waiting else {}
        for one in waiting:
            here = held.get(one.study_uid, NOTHING)
            if one.series and not here.receiving and not still_lacking(one.series, here):
                self._list.fetched(one.study_uid, now, by_us=one.attempts > 0)

    def _fetch(self, source: Source, missed: Missed) -> str:
        """Have it sent; why it is not here, "" where it is."""
        said = ""
        try:
            for series_uid in [""] if missed.whole else [one.series_uid for one in missed.series]:
                said = source.fetch(missed.study_uid, series_uid).words() or said
        except DeliveryError as error:
            said = str(error)
        lacking = self._lacking(missed)
        if not lacking and (missed.series or not said):
            return ""  # what it could not send besides (results of ours, other modalities) is none of our slices
        return "; ".join(filter(None, (said, lacking)))

    def _lacking(self, missed: Missed) -> str:
        """A source may say "done" a moment before its last image is answered here."""
        until = self._clock.monotonic() + _GRACE_S
        while True:
            held = self._holds([missed.study_uid]).get(missed.study_uid, NOTHING)
            lacking = still_lacking(missed.series, held)
            if not lacking or self._clock.monotonic() >= until or self._stopping.wait(0.2):
                return lacking
