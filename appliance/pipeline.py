"""One study, from its slices to its answers: the page to read first.

    scanner ──▶ intake.receiver     each slice durable and journalled before success                (receiver)
                imaging.early       slices to HU while others arrive: a cache, nothing depends on it    (analyser)
                intake.assembly     complete when its geometry says so ──▶ hand-over
            ──▶ imaging.select      which series serves which cancer, or the reason why none does   (analyser:
                  one chosen series after the other:                                                 this page)
                imaging.volume      its slices as one volume in HU
                engines.cascade     localise, detect: answers for the cancers that it was chosen for
                reporting           SR, SEG, key images, durable on disk
                storage.journal     answers, objects and both outboxes in one transaction
            ──▶ delivery.pacs       each object, until the PACS took it                             (courier)
                delivery.mqtt       the result, until the registry acknowledged it

A power cut between any two lines loses nothing and repeats nothing that a user would see: ids and UIDs derive from
what was analysed, times come from the journal, and a study that was being read is read again from its start.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from appliance.choosing import USUAL, Choice, ChosenSeries, SeriesRules, choose
from appliance.identity.pseudonyms import Pseudonyms
from appliance.imaging.early import EarlySlices
from appliance.imaging.volume import MOST_BYTES, build_volume
from appliance.ports import StoredInstance
from appliance.reporting import (
    Equipment,
    Model,
    ReportContext,
    ReportFailed,
    ResultObject,
    SourceImage,
    SourceSeries,
    keep,
    write_objects,
)
from appliance.result import result_body
from appliance.storage.journal import CommittedObject, StudyRow
from core.durable import make_folder
from core.errors import InputRefused
from core.finding import Answer, Cancer, Mode, Reason, complete
from core.volume import Volume
from core.wire import ResultBody
from engines.cascade import Analysis, Cascade, PatientContext

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Desk:
    """What stays the same from study to study: the site, the model on the shelf, and where objects go.

    cascade: None while no bundle can be used; every study is then answered as not analysed, for the reason `without`.
    modes: who may see which cancer's answers. was_reported: whether an earlier result has a report that can be referred
    to (a result whose answers were all silent has none). early: what was read of the study while it came in.
    most_volume_bytes: of one series in HU; a larger one is not read.
    """

    cascade: Cascade | None
    without: Reason
    model: Model | None
    modes: Mapping[Cancer, Mode]
    pseudonyms: Pseudonyms
    equipment: Equipment
    state: Path
    objects: Path
    was_reported: Callable[[str], bool]
    now: Callable[[], dt.datetime]
    cancelled: Callable[[], bool]
    rules: SeriesRules = USUAL
    early: EarlySlices = field(default_factory=EarlySlices)
    most_volume_bytes: int = MOST_BYTES


@dataclass(frozen=True)
class Part:
    """What was read in one series: seven answers, of which those of `series.answers_for` count.

    shown: what the objects show of it; None where its slices made no volume.
    """

    series: ChosenSeries
    answers: tuple[Answer, ...]
    shown: SourceSeries | None = None
    timings_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """Everything that one transaction commits. read_in: Series Number of each answer, where several were read."""

    body: ResultBody
    answers: tuple[Answer, ...]
    objects: tuple[CommittedObject, ...]
    timings_s: Mapping[str, float]
    read_in: Mapping[Cancer, int] = field(default_factory=dict)


def read_study(desk: Desk, study: StudyRow, instances: Sequence[StoredInstance]) -> Reading:
    """One study through the analyser's stages. `study` was started in the journal; commit what comes back there."""
    choice = choose(instances, desk.rules, desk.early.headers_of)
    parts = read_each(desk, choice)
    answers = for_this_site(merged(choice, parts), desk.modes)
    body = describe(desk, study, choice, parts, answers)
    objects = report(desk, study, parts, body, answers, instances)
    return Reading(body, answers, objects, _timings(parts), _series_numbers(parts))


def read_without_analysis(desk: Desk, study: StudyRow, instances: Sequence[StoredInstance]) -> Reading:
    """The answer of a study that failed too often: not analysed, visibly. If even its report fails, none is made."""
    answers = for_this_site(unanswered(Reason.FAILED).answers, desk.modes)
    body = describe(desk, study, Choice(headers=()), (), answers)
    try:
        objects = report(desk, study, (), body, answers, instances)
    except ReportFailed as error:
        log.error("not even a report that says so can be made", exc_info=error, extra={"study": study.pseudonym})
        objects = ()
    return Reading(body, answers, objects, {})


def read_each(desk: Desk, choice: Choice) -> tuple[Part, ...]:
    """The chosen series one after the other; without a model the first alone, so that the report names it."""
    parts: list[Part] = []
    for series in choice.series if desk.cascade else choice.series[:1]:
        parts.append(read_series(desk, series, spent_s=_timings(parts).get("total", 0.0)))
    return tuple(parts)


def read_series(desk: Desk, series: ChosenSeries, spent_s: float = 0.0) -> Part:
    """Stack a series, look in it for its cancers, and keep what is to be shown: its volume is gone when this returns.

    spent_s: what the study's other series have taken of its time.
    """
    try:
        decode = desk.early.decoder(series.headers)
        volume = build_volume(series.headers, decode, most_bytes=desk.most_volume_bytes)
    except InputRefused as refusal:
        log.warning("a series is not read: %s; %s", refusal, refusal.remedy())
        return Part(series, unanswered(refusal.reason, refusal.detail).answers)
    analysis = analyse(desk, series, volume, spent_s)
    images = [SourceImage(header.extent, header.frame) for header in series.headers]
    shown = keep(volume, images, analysis.answers, analysis.masks, series.cancers)
    return Part(series, analysis.answers, shown, analysis.timings_s)


def analyse(desk: Desk, series: ChosenSeries, volume: Volume, spent_s: float = 0.0) -> Analysis:
    """Seven answers: from the networks, or one refusal for all."""
    if desk.cascade is None:
        return unanswered(desk.without)
    patient = PatientContext(age_years=series.headers[0].age_years, sex=series.headers[0].sex)
    return desk.cascade.analyse(volume, patient, series.refused, cancelled=desk.cancelled, spent_s=spent_s)


def unanswered(reason: Reason, detail: str = "") -> Analysis:
    """The same reason for every cancer."""
    answers = tuple(replace(answer, detail=detail) for answer in complete({}, reason))
    return Analysis(answers=answers, masks={}, organs_ml={}, timings_s={}, runtime="")


def merged(choice: Choice, parts: Sequence[Part]) -> tuple[Answer, ...]:
    """Each cancer's answer from the series that was read for it."""
    if not parts:
        refusal = choice.refusal or InputRefused(Reason.FAILED, "no series was read")
        return unanswered(refusal.reason, refusal.detail).answers
    counting = {a.cancer: a for part in parts for a in part.answers if a.cancer in part.series.answers_for}
    return tuple(counting.get(answer.cancer, answer) for answer in parts[0].answers)


def for_this_site(answers: Sequence[Answer], modes: Mapping[Cancer, Mode]) -> tuple[Answer, ...]:
    """The answers with the modes that this site has chosen; silent where it has chosen none."""
    return tuple(replace(answer, mode=modes.get(answer.cancer, Mode.SILENT)) for answer in answers)


def describe(
    desk: Desk, study: StudyRow, choice: Choice, parts: Sequence[Part], answers: Sequence[Answer]
) -> ResultBody:
    """The result as the registry gets it."""
    read = [part.series for part in parts if part.shown is not None]
    headers = read[0].headers if read else choice.headers
    return result_body(
        study,
        {series.headers[0].series_uid: series.cancers for series in read},
        sum(len(series.headers) for series in read),
        headers[0] if headers else None,
        answers,
        desk.model,
        desk.pseudonyms,
        desk.now(),
    )


def report(
    desk: Desk,
    study: StudyRow,
    parts: Sequence[Part],
    body: ResultBody,
    answers: tuple[Answer, ...],
    instances: Sequence[StoredInstance],
) -> tuple[CommittedObject, ...]:
    """Write the result objects, durable and byte for byte the same on every repeat."""
    assert study.started_at is not None, "the journal sets it when the analysis starts"
    context = ReportContext(
        result_id=body.result_id,
        revision=body.revision,
        supersedes=body.supersedes if study.supersedes and desk.was_reported(study.supersedes) else None,
        answered_at=study.started_at.astimezone(),
        answers=answers,
        model=desk.model,
        equipment=desk.equipment,
        series=[part.shown for part in parts if part.shown is not None],
        evidence=[instance.extent for instance in instances],
    )
    folder = make_folder(desk.objects / str(body.result_id))
    return tuple(_committed(item, desk.state) for item in write_objects(context, folder))


def _committed(item: ResultObject, state: Path) -> CommittedObject:
    return CommittedObject(item.kind, item.sop_class_uid, item.sop_instance_uid, str(item.path.relative_to(state)))


def _series_numbers(parts: Sequence[Part]) -> dict[Cancer, int]:
    """For a person at the scanner; empty where one series was read for all."""
    read = [part.series for part in parts if part.shown is not None]
    numbers = {cancer: series.headers[0].series_number for series in read for cancer in series.cancers}
    return {cancer: number for cancer, number in numbers.items() if number is not None and len(read) > 1}


def _timings(parts: Sequence[Part]) -> dict[str, float]:
    """Seconds by stage, of all series together."""
    seconds: dict[str, float] = defaultdict(float)
    for part in parts:
        for stage, taken in part.timings_s.items():
            seconds[stage] += taken
    return dict(seconds)
