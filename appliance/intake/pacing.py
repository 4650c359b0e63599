"""How a scanner paces what it sends, and the quiet time that follows from it. Sans-IO: seconds in, seconds out.

Learned for each sender (calling AE title and address):

    within     from one instance of a study to the next on the same association
    between    from the last sign of life of a study to the next instance of it, on another association
    late       from the last sign of life to a new slice of a study that had been handed over

The quiet time must outlast what this sender does between the associations of a study. It is, in this order: what the
configuration says; twice the largest of (99 % of the gaps within, 99 % of those between, the second largest late gap
of the last studies that quiet time had completed), from `LEAST_S` to `MOST_S`, once there are `ENOUGH_STUDIES`; the
default.

Late gaps count most, because quiet time that is too short makes them: what came later than the timer ran is no gap
within any study. One alone counts for nothing (a person pushed again), nor does one that no quiet time would outlast.
The quiet time changes only when a study ends, never with a slice.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Protocol

from appliance.ports import CompleteBy

DEFAULT_S = 60.0
LEAST_S = 15.0
MOST_S = 900.0
SAFETY = 2.0
QUANTILE = 0.99
ENOUGH_STUDIES = 20
RECENT_STUDIES = 500
"""Late slices of studies before these count no more."""
MOST_SENDERS = 200
_LATE_KEPT = 20
_GAPS_KEPT = 20_000
_REMEMBERED = 2_000  # studies that were handed over, so that the gap before a late slice is known
_FINEST_S, _COARSEST_S, _GROWTH = 1e-3, 86_400.0, 1.1
_BUCKETS = math.ceil(math.log(_COARSEST_S / _FINEST_S) / math.log(_GROWTH))


class Sender(NamedTuple):
    """Who sends: calling AE title and address."""

    ae_title: str
    address: str


@dataclass(frozen=True)
class Gaps:
    """A histogram of gaps with buckets that grow by a tenth: quantiles to within 10 %, at most 194 counts.

    The idea is DDSketch's (Masson, Rim, Lee; PVLDB 12, 2019). Beyond `_GAPS_KEPT` all counts are halved: old ones fade.
    """

    counts: Mapping[int, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Gaps that count."""
        return sum(self.counts.values())

    def with_gap(self, seconds: float) -> Gaps:
        """One gap more. What is no gap (a clock that ran backwards, NaN) changes nothing."""
        if not seconds >= 0:
            return self
        bucket = 0
        if seconds > _FINEST_S:
            steps = math.log(min(seconds, _COARSEST_S) / _FINEST_S) / math.log(_GROWTH)
            bucket = min(_BUCKETS, math.ceil(steps - 1e-9))
        counts = {**self.counts, bucket: self.counts.get(bucket, 0) + 1}
        if sum(counts.values()) > _GAPS_KEPT:
            counts = {at: half for at, n in counts.items() if (half := n // 2)}
        return Gaps(counts)

    def quantile(self, share: float) -> float | None:
        """The gap, in s, that `share` of all gaps do not exceed, at most a tenth too long; None without gaps."""
        if not self.counts:
            return None
        rank = max(1, math.ceil(share * self.total - 1e-9))
        ordered = sorted(self.counts.items())
        reached = itertools.accumulate(n for _, n in ordered)
        bucket = next(at for (at, _), n in zip(ordered, reached, strict=True) if n >= rank)
        return float(_FINEST_S * _GROWTH**bucket)


@dataclass(frozen=True)
class Pace:
    """What is known of one sender. late: (number of the study, gap in s) after quiet time; late_after: by what the
    reopened study had been called complete."""

    studies: int = 0
    within: Gaps = Gaps()
    between: Gaps = Gaps()
    late: tuple[tuple[int, float], ...] = ()
    complete_by: Mapping[str, int] = field(default_factory=dict)
    late_after: Mapping[str, int] = field(default_factory=dict)

    def recent_late(self) -> list[float]:
        """Late gaps that a longer quiet time would have outlasted, longest first."""
        recent = (gap for number, gap in self.late if number > self.studies - RECENT_STUDIES)
        return sorted((gap for gap in recent if gap <= MOST_S), reverse=True)

    def to_json(self) -> str:
        """For the database."""
        gaps = {name: sorted(getattr(self, name).counts.items()) for name in ("within", "between")}
        counts = {"complete_by": dict(self.complete_by), "late_after": dict(self.late_after)}
        return json.dumps({"studies": self.studies, **gaps, "late": self.late, **counts}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Pace:
        """The pace that `to_json` wrote; what a newer release added is left out."""
        known = json.loads(text)
        return cls(
            studies=known["studies"],
            within=Gaps(dict(known["within"])),
            between=Gaps(dict(known["between"])),
            late=tuple((number, gap) for number, gap in known["late"]),
            complete_by=known["complete_by"],
            late_after=known["late_after"],
        )


@dataclass(frozen=True)
class QuietTime:
    """s without anything after which a study counts as complete; where that comes from, and why in words."""

    seconds: float
    source: Literal["configured", "learned", "default"]
    why: str


def suggestion(pace: Pace) -> QuietTime | None:
    """What this sender's pace asks for; None before enough of its studies were seen."""
    if pace.studies < ENOUGH_STUDIES:
        return None
    asks: list[tuple[float, str]] = [(0.0, "it leaves no gaps")]
    for gaps, words in ((pace.within, "slices"), (pace.between, "associations of a study")):
        if (most := gaps.quantile(QUANTILE)) is not None:
            asks.append((most, f"{100 * QUANTILE:g} % of the gaps between its {words} are at most {most:.3g} s"))
    late = pace.recent_late()
    if len(late) > 1:
        asks.append((late[1], f"slices came late, {late[1]:.3g} s after the last sign of life"))
    longest, why = max(asks)
    seconds = float(math.ceil(min(MOST_S, max(LEAST_S, SAFETY * longest))))
    return QuietTime(seconds, "learned", f"{why}, in {pace.studies} studies")


def quiet_time(configured: float | None, pace: Pace) -> QuietTime:
    """The quiet time of one sender."""
    if configured is not None:
        return QuietTime(configured, "configured", "receiver.quiet_seconds says so")
    learned = suggestion(pace)
    if learned is not None:
        return learned
    return QuietTime(DEFAULT_S, "default", f"{pace.studies} of the {ENOUGH_STUDIES} studies that learning needs")


class PaceBook(Protocol):
    """Where what was learned is kept. StorageError where that fails."""

    def paces(self) -> Mapping[Sender, Pace]:
        """Every sender's pace, the one that was written down last at the end."""

    def keep(self, sender: Sender, pace: Pace) -> None:
        """Write a sender's pace down; durable when it returns."""


@dataclass(frozen=True)
class _Ended:
    senders: tuple[Sender, ...]
    by: CompleteBy
    last_sign: float


class Pacing:
    """All senders' paces. Assembly tells it what happens; the caller keeps what `changed` says."""

    def __init__(self, configured: float | None = None, known: Mapping[Sender, Pace] | None = None) -> None:
        """configured: quiet time in s, None where it is to be learned."""
        self._configured = configured
        self._paces: OrderedDict[Sender, Pace] = OrderedDict(known or {})
        self._quiet = {sender: quiet_time(configured, pace) for sender, pace in self._paces.items()}
        self._ended: OrderedDict[str, _Ended] = OrderedDict()
        self._changed: dict[Sender, None] = {}

    def quiet(self, senders: Sequence[Sender], reliable: bool) -> QuietTime:
        """The quiet time for a study of these senders: the longest of theirs.

        reliable: all that brought it ended well. If not, the sender may be about to try again, which it does too seldom
        to be learned: then it is never less than the default. The same holds where nobody knows who sends.
        """
        default = quiet_time(self._configured, Pace())
        times = [self._quiet.get(sender, default) for sender in senders]
        if not senders:
            times = list(self._quiet.values())
        return max([*times, *([] if reliable and senders else [default])], key=lambda time: time.seconds)

    def gap(self, sender: Sender, seconds: float, same_association: bool) -> None:
        """A study that is being brought got its next instance."""
        pace = self._of(sender)
        if same_association:
            self._put(sender, replace(pace, within=pace.within.with_gap(seconds)))
        else:
            self._put(sender, replace(pace, between=pace.between.with_gap(seconds)))

    def ended(self, study_uid: str, senders: Sequence[Sender], by: CompleteBy, last_sign: float) -> None:
        """A study was handed over; `last_sign`: when anything last happened to it."""
        for sender in senders:
            pace = self._of(sender)
            done = {**pace.complete_by, by: pace.complete_by.get(by, 0) + 1}
            pace = replace(pace, studies=pace.studies + 1, complete_by=done)
            self._put(sender, pace)
            self._quiet[sender] = quiet_time(self._configured, pace)
            self._changed[sender] = None
        self._ended[study_uid] = _Ended(tuple(senders), by, last_sign)
        self._ended.move_to_end(study_uid)
        while len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)

    def reopened(self, study_uid: str, sender: Sender, now: float) -> None:
        """A new slice of a study that was handed over came; nothing where that is not remembered."""
        before = self._ended.pop(study_uid, None)
        if before is None or sender not in before.senders:
            return  # another sender's slice says nothing about this one's pace
        pace, gap = self._of(sender), now - before.last_sign
        late = pace.late
        if before.by == "quiet" and gap >= 0:
            late = (*late, (pace.studies, gap))[-_LATE_KEPT:]
        after = {**pace.late_after, before.by: pace.late_after.get(before.by, 0) + 1}
        self._put(sender, replace(pace, late=late, late_after=after))

    def changed(self) -> list[tuple[Sender, Pace]]:
        """What was learned of senders one of whose studies ended since the last call."""
        news = [(sender, self._paces[sender]) for sender in self._changed if sender in self._paces]
        self._changed.clear()
        return news

    def _of(self, sender: Sender) -> Pace:
        return self._paces.get(sender, Pace())

    def _put(self, sender: Sender, pace: Pace) -> None:
        self._paces[sender] = pace
        self._paces.move_to_end(sender)
        if len(self._paces) > MOST_SENDERS:
            gone, _ = self._paces.popitem(last=False)
            self._quiet.pop(gone, None)
