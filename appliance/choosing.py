"""Which series of a study are read, and each for which cancers: the box's rules put to `imaging.select`.

Called by `appliance.pipeline`, and by the command that judges a hospital's own cases as the box reads them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from appliance.imaging.header import ImageHeader, read_headers
from appliance.imaging.select import Chosen, Selection, select
from appliance.ports import StoredInstance
from core.errors import InputRefused
from core.finding import Cancer, Reason
from core.requirement import DEFAULTS, Requirement

log = logging.getLogger(__name__)

Refusals = Mapping[Cancer, tuple[Reason, str]]
_ELSEWHERE = (Reason.NOT_COVERED, "another series of the study is read for it")


@dataclass(frozen=True)
class SeriesRules:
    """Which series to read. asked: what one must be for each cancer. looked_for: the cancers that it is chosen for."""

    asked: Mapping[Cancer, Requirement] = field(default_factory=lambda: DEFAULTS)
    looked_for: Collection[Cancer] = tuple(Cancer)


USUAL = SeriesRules()


@dataclass(frozen=True)
class ChosenSeries:
    """A series to read. headers: of its slices, most inferior first.

    cancers: looked for in it, and nowhere else. refused: the others, and why they are not looked for here.
    answers_for: whose answers are taken from its reading: `cancers`, and with the first series those that no series
    serves or nobody looks for.
    """

    headers: tuple[ImageHeader, ...]
    cancers: tuple[Cancer, ...]
    refused: Refusals
    answers_for: tuple[Cancer, ...]


@dataclass(frozen=True)
class Choice:
    """The series to read, in this order; where there is none, `refusal` says why. headers: of all readable images."""

    headers: Sequence[ImageHeader]
    series: tuple[ChosenSeries, ...] = ()
    refusal: InputRefused | None = None


def _from_file(instance: StoredInstance) -> tuple[ImageHeader, ...]:
    return read_headers(instance.extent)


def choose(
    instances: Sequence[StoredInstance],
    rules: SeriesRules = USUAL,
    headers_of: Callable[[StoredInstance], tuple[ImageHeader, ...]] = _from_file,
) -> Choice:
    """Choose for each cancer the series that serves it best; those that serve most cancers go first.

    headers_of: an instance's headers as `read_headers` gives them, or InputRefused as it raises it.
    A refusal is part of the choice, not an exception: it becomes an answer.
    """
    headers: Sequence[ImageHeader] = ()
    try:
        headers = [header for instance in instances for header in headers_of(instance)]
        selection = select(headers, asked=rules.asked, looked_for=rules.looked_for)
        if not selection.series:
            raise InputRefused(selection.reason or Reason.NO_CT, selection.detail)
    except InputRefused as refusal:
        return Choice(headers, refusal=refusal)
    _log(selection)
    return Choice(headers, _in_order(selection, rules.looked_for))


def _in_order(selection: Selection, looked_for: Collection[Cancer]) -> tuple[ChosenSeries, ...]:
    """What is to be read; a series that serves none of the cancers looked for only where it is the only one."""
    first, *others = selection.series
    further = [series for series in others if {*series.cancers} & {*looked_for}]
    elsewhere = {cancer for series in further for cancer in series.cancers}
    rest = tuple(cancer for cancer in Cancer if cancer not in elsewhere)
    return (
        _chosen(first, rest, selection.without, looked_for),
        *(_chosen(series, series.cancers, {}, looked_for) for series in further),
    )


def _chosen(
    series: Chosen, answers_for: tuple[Cancer, ...], without: Refusals, looked_for: Collection[Cancer]
) -> ChosenSeries:
    refused = {c: without.get(c) or series.others.get(c, _ELSEWHERE) for c in Cancer if c not in series.cancers}
    cancers = tuple(cancer for cancer in series.cancers if cancer in looked_for)
    return ChosenSeries(series.headers, cancers, refused, answers_for)


def _log(selection: Selection) -> None:
    """For who asks why a series was not read; no UID, no word of the patient."""
    refused = sorted(f"{reason.value}: {detail}" for reason, detail in selection.refused.values())
    without = {cancer.value: reason.value for cancer, (reason, _) in selection.without.items()}
    for series in selection.series:
        cancers = [cancer.value for cancer in series.cancers]
        log.info("series chosen", extra={"why": series.why, "for": cancers, "refused": refused, "unserved": without})
