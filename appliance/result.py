"""A study's answers as the registry gets them: pseudonyms, whole years, whole days, no free text."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence

from appliance.identity.pseudonyms import Pseudonyms
from appliance.imaging.header import ImageHeader
from appliance.ports import CompleteBy
from appliance.reporting import Model
from appliance.storage.journal import StudyRow
from core.finding import Answer, Cancer
from core.wire import AnswerBody, BundleRef, LesionBody, ResultBody, Scanner, as_token, result_id


def result_body(
    study: StudyRow,
    read: Mapping[str, Sequence[Cancer]],
    slices: int,
    first: ImageHeader | None,
    answers: Sequence[Answer],
    model: Model | None,
    pseudonyms: Pseudonyms,
    now: dt.datetime,
) -> ResultBody:
    """The result of a study. first: an image of it, where one could be read.

    read: UIDs of the series that were read, in order, and the cancers that each was read for; slices: of all of them.
    """
    names = {uid: pseudonyms.series(uid) for uid in read}
    origin = {cancer: names[uid] for uid, cancers in read.items() for cancer in cancers} if len(read) > 1 else {}
    revision = study.revision or 1
    digest = model.digest if model else "none"
    return ResultBody(
        result_id=result_id(study.pseudonym, "+".join(names.values()) or "none", digest, revision),
        revision=revision,
        supersedes=uuid.UUID(study.supersedes) if study.supersedes else None,
        study=study.pseudonym,
        patient=pseudonyms.patient(first.issuer_of_patient_id, first.patient_id) if first else None,
        age_years=first.age_years if first else None,
        sex=first.sex if first else None,
        study_date=first.study_date if first else None,
        scanner=_scanner(first),
        bundle=bundle_ref(model),
        complete_by=_complete_by(study.complete_by),
        slices=slices,
        answers=tuple(_answer_body(answer, origin.get(answer.cancer)) for answer in answers),
        received_at=study.received_at,
        complete_at=study.complete_at,
        answered_at=now,
    )


def bundle_ref(model: Model | None) -> BundleRef | None:
    """The bundle as messages name it."""
    if model is None:
        return None
    return BundleRef(name=model.name, version=model.version, digest=model.digest, synthetic=model.synthetic)


def _complete_by(text: str) -> CompleteBy:
    return {"geometry": "geometry", "count": "count"}.get(text, "quiet")  # type: ignore[return-value]


def _scanner(header: ImageHeader | None) -> Scanner:
    if header is None:
        return Scanner()
    return Scanner(
        manufacturer=as_token(header.manufacturer), model=as_token(header.model), kernel=as_token(header.kernel)
    )


def _answer_body(answer: Answer, series: str | None) -> AnswerBody:
    return AnswerBody(
        cancer=answer.cancer,
        verdict=answer.verdict,
        mode=answer.mode,
        score=answer.score,
        reason=answer.reason,
        series=series,
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
