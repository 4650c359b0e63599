"""One study, from its slices to its answers: the page to read first.

    scanner ──▶ intake.receiver     each slice durable and journalled before success                (receiver)
                intake.assembly     complete when its geometry says so ──▶ hand-over
            ──▶ imaging.select      which series serves which cancer, or the reason why none does   (analyser:
                imaging.volume      its slices as one volume in HU                                   this page)
                engines.cascade     localise, detect: seven answers
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
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from appliance.identity.pseudonyms import Pseudonyms
from appliance.imaging.header import ImageHeader, read_header
from appliance.imaging.select import Selection, select
from appliance.imaging.volume import build_volume
from appliance.ports import CompleteBy, StoredInstance
from appliance.reporting import Equipment, Model, ReportContext, ReportFailed, ResultObject, write_objects
from appliance.storage.journal import CommittedObject, StudyRow
from core.durable import make_folder
from core.errors import InputRefused
from core.finding import Answer, Cancer, Mode, Reason, complete
from core.requirement import DEFAULTS, Requirement
from core.volume import Volume
from core.wire import AnswerBody, BundleRef, LesionBody, ResultBody, Scanner, as_token, result_id
from engines.cascade import Analysis, Cascade, PatientContext

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SeriesRules:
    """Which series to read. asked: what one must be for each cancer. looked_for: the cancers that it is chosen for."""

    asked: Mapping[Cancer, Requirement] = field(default_factory=lambda: DEFAULTS)
    looked_for: Collection[Cancer] = tuple(Cancer)


USUAL = SeriesRules()


@dataclass(frozen=True)
class Desk:
    """What stays the same from study to study: the site, the model on the shelf, and where objects go.

    cascade: None while no bundle can be used; every study is then answered as not analysed, for the reason `without`.
    modes: who may see which cancer's answers. was_reported: whether an earlier result has a report that can be referred
    to (a result whose answers were all silent has none).
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


@dataclass(frozen=True)
class Scan:
    """What of a study can be read: the series of `headers` as one volume, or the refusal that says why not.

    headers: of the chosen series in the order of the volume; of all readable images where none was chosen.
    unserved: the cancers that this series does not serve, and why.
    """

    headers: Sequence[ImageHeader]
    volume: Volume | None = None
    refusal: InputRefused | None = None
    unserved: Mapping[Cancer, tuple[Reason, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """Everything that one transaction commits."""

    body: ResultBody
    answers: tuple[Answer, ...]
    objects: tuple[CommittedObject, ...]
    timings_s: Mapping[str, float]


def read_study(desk: Desk, study: StudyRow, instances: Sequence[StoredInstance]) -> Reading:
    """One study through the analyser's stages. `study` was started in the journal; commit what comes back there."""
    scan = open_scan(instances, desk.rules)
    analysis = analyse(desk, scan)
    answers = for_this_site(analysis.answers, desk.modes)
    body = describe(desk, study, scan, answers)
    objects = report(desk, study, scan, body, answers, analysis, instances)
    return Reading(body, answers, objects, analysis.timings_s)


def read_without_analysis(desk: Desk, study: StudyRow, instances: Sequence[StoredInstance]) -> Reading:
    """The answer of a study that failed too often: not analysed, visibly. If even its report fails, none is made."""
    scan = Scan(headers=())
    analysis = unanswered(Reason.FAILED)
    answers = for_this_site(analysis.answers, desk.modes)
    body = describe(desk, study, scan, answers)
    try:
        objects = report(desk, study, scan, body, answers, analysis, instances)
    except ReportFailed as error:
        log.error("not even a report that says so can be made", exc_info=error, extra={"study": study.pseudonym})
        objects = ()
    return Reading(body, answers, objects, {})


def open_scan(instances: Sequence[StoredInstance], rules: SeriesRules = USUAL) -> Scan:
    """Choose the series that serves most cancers and stack it.

    A refusal is part of the scan, not an exception: it becomes an answer.
    """
    headers: Sequence[ImageHeader] = ()
    try:
        headers = [read_header(instance.extent) for instance in instances]
        selection = select(headers, asked=rules.asked, looked_for=rules.looked_for)
        if not selection.series:
            raise InputRefused(selection.reason or Reason.NO_CT, selection.detail)
        chosen = selection.series[0]
        _log_choice(selection)
        return Scan(chosen.headers, build_volume(chosen.headers), unserved=_unserved(selection))
    except InputRefused as refusal:
        return Scan(headers, refusal=refusal)


def _unserved(selection: Selection) -> dict[Cancer, tuple[Reason, str]]:
    """Why the series that is read does not serve a cancer, and whether another one of the study would."""
    elsewhere = {cancer for other in selection.series[1:] for cancer in other.cancers}
    said = selection.series[0].others.items()
    return {c: (why, f"{detail}; another series would do" if c in elsewhere else detail) for c, (why, detail) in said}


def _log_choice(selection: Selection) -> None:
    """For who asks why a series was not read; no UID, no word of the patient."""
    refused = sorted(f"{reason.value}: {detail}" for reason, detail in selection.refused.values())
    without = {cancer.value: reason.value for cancer, (reason, _) in selection.series[0].others.items()}
    log.info("series chosen", extra={"why": selection.series[0].why, "refused": refused, "does_not_serve": without})


def analyse(desk: Desk, scan: Scan) -> Analysis:
    """Seven answers: from the networks, or one refusal for all."""
    if scan.volume is None:
        refusal = scan.refusal or InputRefused(Reason.FAILED, "no volume")
        return unanswered(refusal.reason, refusal.detail)
    if desk.cascade is None:
        return unanswered(desk.without)
    patient = PatientContext(age_years=scan.headers[0].age_years, sex=scan.headers[0].sex)
    return desk.cascade.analyse(scan.volume, patient, scan.unserved, cancelled=desk.cancelled)


def unanswered(reason: Reason, detail: str = "") -> Analysis:
    """The same reason for every cancer."""
    answers = tuple(replace(answer, detail=detail) for answer in complete({}, reason))
    return Analysis(answers=answers, masks={}, organs_ml={}, timings_s={}, runtime="")


def for_this_site(answers: Sequence[Answer], modes: Mapping[Cancer, Mode]) -> tuple[Answer, ...]:
    """The answers with the modes that this site has chosen; silent where it has chosen none."""
    return tuple(replace(answer, mode=modes.get(answer.cancer, Mode.SILENT)) for answer in answers)


def describe(desk: Desk, study: StudyRow, scan: Scan, answers: Sequence[Answer]) -> ResultBody:
    """The result as the registry gets it: pseudonyms, whole years, whole days, no free text."""
    first = scan.headers[0] if scan.headers else None
    series = desk.pseudonyms.series(first.series_uid) if first and scan.volume is not None else "none"
    digest = desk.model.digest if desk.model else "none"
    revision = study.revision or 1
    return ResultBody(
        result_id=result_id(study.pseudonym, series, digest, revision),
        revision=revision,
        supersedes=uuid.UUID(study.supersedes) if study.supersedes else None,
        study=study.pseudonym,
        patient=desk.pseudonyms.patient(first.issuer_of_patient_id, first.patient_id) if first else None,
        age_years=first.age_years if first else None,
        sex=first.sex if first else None,
        study_date=first.study_date if first else None,
        scanner=_scanner(first),
        bundle=bundle_ref(desk.model),
        complete_by=_complete_by(study.complete_by),
        slices=len(scan.headers) if scan.volume is not None else 0,
        answers=tuple(_answer_body(answer) for answer in answers),
        received_at=study.received_at,
        complete_at=study.complete_at,
        answered_at=desk.now(),
    )


def report(
    desk: Desk,
    study: StudyRow,
    scan: Scan,
    body: ResultBody,
    answers: tuple[Answer, ...],
    analysis: Analysis,
    instances: Sequence[StoredInstance],
) -> tuple[CommittedObject, ...]:
    """Write the result objects, durable and byte for byte the same on every repeat."""
    readable = scan.volume is not None
    context = ReportContext(
        result_id=body.result_id,
        revision=body.revision,
        supersedes=body.supersedes if study.supersedes and desk.was_reported(study.supersedes) else None,
        answered_at=_started(study).astimezone(),
        answers=answers,
        model=desk.model,
        equipment=desk.equipment,
        volume=scan.volume,
        masks=analysis.masks,
        source=[header.extent for header in scan.headers] if readable else (),
        evidence=[instance.extent for instance in instances],
    )
    folder = make_folder(desk.objects / str(body.result_id))
    return tuple(_committed(item, desk.state) for item in write_objects(context, folder))


def bundle_ref(model: Model | None) -> BundleRef | None:
    """The bundle as messages name it."""
    if model is None:
        return None
    return BundleRef(name=model.name, version=model.version, digest=model.digest, synthetic=model.synthetic)


def _started(study: StudyRow) -> dt.datetime:
    assert study.started_at is not None, "the journal sets it when the analysis starts"
    return study.started_at


def _complete_by(text: str) -> CompleteBy:
    return {"geometry": "geometry", "count": "count"}.get(text, "quiet")  # type: ignore[return-value]


def _committed(item: ResultObject, state: Path) -> CommittedObject:
    return CommittedObject(item.kind, item.sop_class_uid, item.sop_instance_uid, str(item.path.relative_to(state)))


def _scanner(header: ImageHeader | None) -> Scanner:
    if header is None:
        return Scanner()
    return Scanner(
        manufacturer=as_token(header.manufacturer), model=as_token(header.model), kernel=as_token(header.kernel)
    )


def _answer_body(answer: Answer) -> AnswerBody:
    return AnswerBody(
        cancer=answer.cancer,
        verdict=answer.verdict,
        mode=answer.mode,
        score=answer.score,
        reason=answer.reason,
        lesions=tuple(
            LesionBody(
                score=lesion.score,
                diameter_mm=lesion.diameter_mm,
                volume_mm3=lesion.volume_mm3,
                subtype=lesion.subtype,
                subtype_score=lesion.subtype_score,
            )
            for lesion in answer.lesions
        ),
    )
