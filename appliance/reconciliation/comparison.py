"""What was performed against what is held. Pure: answers of a source and rows of the ledger in, what is missed out.

A source may tell less than it should: a study without modalities may be CT, one without a count of instances is missed
only where nothing of it is held, and its series decide wherever they are told. Counts of a whole study prove nothing
by themselves (dose reports, other modalities and our own results are in them): they only make us look at its series.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Performed:
    """A study as a source tells of it; None where it does not say."""

    study_uid: str
    study_date: dt.date | None = None
    modalities: tuple[str, ...] | None = None
    instances: int | None = None


@dataclass(frozen=True)
class PerformedSeries:
    """One series of it."""

    series_uid: str
    modality: str | None = None
    instances: int | None = None


@dataclass(frozen=True)
class Held:
    """What the ledger has of a study: instances by series, pruned ones included; whether it is being received now."""

    series: Mapping[str, int] = field(default_factory=dict)
    receiving: bool = False


NOTHING = Held()


def merged(answers: Iterable[Performed]) -> list[Performed]:
    """Every study once, in order, whatever a source repeats; what one answer leaves out another may say."""
    studies: dict[str, Performed] = {}
    for one in answers:
        if not one.study_uid:
            continue
        before = studies.setdefault(one.study_uid, one)
        known = [count for count in (before.instances, one.instances) if count is not None]
        both = tuple(sorted({*(before.modalities or ()), *(one.modalities or ())}))
        studies[one.study_uid] = Performed(
            one.study_uid,
            before.study_date or one.study_date,
            None if before.modalities is None and one.modalities is None else both,
            max(known, default=None),
        )
    return list(studies.values())


def may_be_ct(study: Performed) -> bool:
    """False only where the source names other modalities."""
    return not study.modalities or "CT" in study.modalities


def suspect(study: Performed, held: Held) -> bool:
    """Has this study to be looked at, series by series? Never while it is being received."""
    if held.receiving or not may_be_ct(study):
        return False
    ours = sum(held.series.values())
    return ours == 0 or (study.instances is not None and study.instances > ours)


def wanted_series(study: Performed, series: Sequence[PerformedSeries], held: Held) -> list[PerformedSeries] | None:
    """The CT series that are not here as a whole; None where nothing is missed.

    An empty list: nothing of the study is held and its series are not told, so all of it is wanted.
    """
    if not series:
        return [] if not held.series and may_be_ct(study) else None
    unnamed_is_ct = bool(study.modalities) or all(one.modality is None for one in series)
    ct = [one for one in series if one.modality == "CT" or (one.modality is None and unnamed_is_ct)]
    lacking = [
        one for one in ct if held.series.get(one.series_uid, 0) < (1 if one.instances is None else one.instances)
    ]
    return lacking or None


def still_lacking(wanted: Sequence[PerformedSeries], held: Held) -> str:
    """After a fetch: what is not here yet, in words; "" where all is."""
    if not held.series:
        return "nothing arrived"
    for one in wanted:
        here, expected = held.series.get(one.series_uid, 0), 1 if one.instances is None else one.instances
        if here < expected:
            return f"{here} of {expected} images of a series are here"
    return ""
