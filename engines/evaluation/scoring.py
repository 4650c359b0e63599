"""One study through the cascade, beside its truth: what was said, which lesions were found, what else was marked.

The cascade answers as it would on a device; it is only asked to show what each answer rests on (`cascade.Look`), so
that candidates below every threshold can be compared with the truth too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from core.finding import Answer, Cancer, complete
from core.volume import Vector, Volume
from engines.cascade import Cascade, Look
from engines.cascade.candidates import Candidate
from engines.cascade.orientation import orientation_of
from engines.cascade.region import Region
from engines.cascade.rules import case_score
from engines.evaluation.baseline import BEST, marks_mm
from engines.evaluation.froc import OVERLAP
from engines.evaluation.pictures import draw
from engines.evaluation.results import CancerResult, CaseResult, FalseMark, TrueLesion
from engines.evaluation.studies import Finding, Study

Amounts = npt.NDArray[np.floating[Any]]
MOST_MARKS = 20
"""False marks kept of one cancer and case, highest score first."""
_DECIMALS = 6


@dataclass(frozen=True, eq=False)
class Scored:
    """A case, and pictures (JPEG) of the cancers of which there is a place to show."""

    result: CaseResult
    pictures: Mapping[Cancer, bytes]


@dataclass(frozen=True)
class Hit:
    """A candidate, and the finding that it lies on; at: its middle, voxel of the volume in canonical order."""

    score: float
    diameter_mm: float
    finding: int | None
    at: Vector


def score(
    study: Study, cascade: Cascade, began: float, pictures: bool = True, clock: Callable[[], float] = time.monotonic
) -> Scored:
    """Judge one study. began: when somebody began to load it, by `clock`."""
    loaded = clock()
    seen = [_judge(study, cascade, [*study.truth], pictures, clock)]
    for view in study.further:
        other = view()
        seen.append(_judge(other, cascade, [c for c in study.truth if c not in other.refused], pictures, clock))
    found = {cancer: result for one in seen for cancer, result in one.cancers.items()}
    drawn = {cancer: one.pictures.get(cancer) for one in seen for cancer in one.cancers}
    done = clock()
    result = CaseResult(
        case=study.case,
        person=study.person,
        set=study.set,
        attributes=study.attributes,
        cancers={cancer: found[cancer] for cancer in Cancer if cancer in found},
        seconds={
            "load": round(loaded - began, 3),
            "analyse": round(sum(one.analyse_s for one in seen), 3),
            "all": round(done - began, 3),
        },
    )
    return Scored(result, {cancer: picture for cancer, picture in drawn.items() if picture is not None})


@dataclass(frozen=True, eq=False)
class _Seen:
    """What one series says of a case."""

    cancers: Mapping[Cancer, CancerResult]
    pictures: Mapping[Cancer, bytes | None]
    analyse_s: float


def _judge(
    study: Study, cascade: Cascade, wanted: Sequence[Cancer], pictures: bool, clock: Callable[[], float]
) -> _Seen:
    began = clock()
    looks: dict[Cancer, Look] = {}
    if isinstance(study.volume, Volume):
        analysis = cascade.analyse(
            study.volume, study.patient, study.refused, observe=lambda look: looks.update({look.model.cancer: look})
        )
        answers = {answer.cancer: answer for answer in analysis.answers}
    else:
        refusal = study.volume
        answers = {a.cancer: replace(a, detail=refusal.detail) for a in complete({}, refusal.reason)}
    analyse_s = clock() - began
    hits = {cancer: _hits(study, look) for cancer, look in looks.items()}
    cancers = {c: _result(study, c, answers[c], looks.get(c), hits.get(c, ())) for c in wanted}
    drawn = {c: _picture(study, c, hits.get(c, ())) for c in cancers if pictures and study.truth[c] != "unknown"}
    return _Seen(cancers, drawn, analyse_s)


def _result(study: Study, cancer: Cancer, answer: Answer, look: Look | None, hits: Sequence[Hit]) -> CancerResult:
    ours = {finding.number for finding in study.findings if finding.cancer is cancer}
    names = {finding.number: finding.kind for finding in study.findings}
    best = {n: max((h.score for h in hits if h.finding == n), default=None) for n in ours}
    false = [h for h in hits if h.finding not in ours]
    raw = None
    if look is not None:
        plain = look.model.model_copy(update={"calibration": None})
        raw = case_score(plain, max((c.score for c in look.candidates), default=0.0), look.organ_score)
    return CancerResult(
        truth=study.truth[cancer],
        whole=None if study.whole is None else study.whole[cancer],
        verdict=answer.verdict,
        reason=answer.reason,
        score=_short(answer.score),
        raw=_short(raw),
        baseline_mm=_baseline(study, cancer),
        marked=study.marks is not None,
        lesions=tuple(_lesion(f, best[f.number]) for f in _seen(study, cancer)),
        marks=tuple(
            FalseMark(score=_short(h.score) or 0.0, diameter_mm=round(h.diameter_mm, 1), on=names.get(h.finding or 0))
            for h in false[:MOST_MARKS]
        ),
    )


def _baseline(study: Study, cancer: Cancer) -> float | None:
    """What the threshold detector says; None where nobody outlined the organ, or the scan shows nothing of it."""
    if study.organ is None or not isinstance(study.volume, Volume):
        return None
    outline = study.organ(cancer)
    if not outline.any():
        return None
    spacing = study.volume.geometry.spacing_mm
    return round(float(marks_mm(study.volume.hu, outline, spacing, (BEST[cancer],))[0]), 2)


def _seen(study: Study, cancer: Cancer) -> list[Finding]:
    """The lesions of a cancer that the scan shows anything of."""
    if study.marks is None:
        return []
    return [f for f in study.findings if f.cancer is cancer and (study.marks == f.number).any()]


def _lesion(finding: Finding, found: float | None) -> TrueLesion:
    return TrueLesion(
        number=finding.number,
        kind=finding.kind,
        diameter_mm=finding.diameter_mm,
        size=finding.size,
        score=_short(found),
    )


def _hits(study: Study, look: Look) -> tuple[Hit, ...]:
    """Every candidate with what it lies on, highest score first."""
    if look.region is None or not isinstance(study.volume, Volume):
        return ()
    orientation = orientation_of(study.volume.geometry)
    marks = None if study.marks is None else orientation.view(study.marks)
    sizes = np.bincount((study.marks if study.marks is not None else np.zeros(1, np.uint8)).ravel(), minlength=256)
    voxel = study.volume.geometry.voxel_mm3
    found = []
    for candidate in look.candidates:
        at = _source_indices(candidate, look.region)
        number = None
        if marks is not None:
            counts = np.bincount(marks[np.ix_(*at)][candidate.mask], minlength=256)
            number = _lies_on(counts * look.region.grid.voxel_mm3, sizes * voxel, candidate.volume_mm3)
        centre = _middle(candidate, at)
        found.append(Hit(candidate.score, candidate.diameter_mm, number, centre))
    return tuple(found)


def _lies_on(inside_mm3: Amounts, sizes_mm3: Amounts, volume_mm3: float) -> int | None:
    """The finding that shares most with a candidate, where that is enough to speak of the same thing."""
    inside = inside_mm3.copy()
    inside[0] = 0
    number = int(inside.argmax())
    enough = OVERLAP * min(volume_mm3, float(sizes_mm3[number]))
    return number if number and inside[number] >= max(enough, 1e-9) else None


def _source_indices(candidate: Candidate, region: Region) -> tuple[npt.NDArray[np.intp], ...]:
    """For each axis, the source voxels (canonical order) in which the middles of a candidate's voxels lie."""
    grid = region.grid
    axes = []
    for axis in range(3):
        first = region.box[0][axis]
        index = np.arange(candidate.box[0][axis], candidate.box[1][axis]) + first
        mm = (index + 0.5) * grid.spacing_mm[axis] + grid.origin_mm[axis]
        last = grid.source_shape[axis] - 1
        axes.append(np.clip(np.floor(mm / grid.source_mm[axis]).astype(np.intp), 0, last))
    return tuple(axes)


def _middle(candidate: Candidate, at: tuple[npt.NDArray[np.intp], ...]) -> Vector:
    where = np.nonzero(candidate.mask)
    z, y, x = (float(axis[index].mean()) for axis, index in zip(at, where, strict=True))
    return (z, y, x)


def _picture(study: Study, cancer: Cancer, hits: Sequence[Hit]) -> bytes | None:
    """The largest true lesion where the case has one, else the strongest mark; None where there is neither."""
    if not isinstance(study.volume, Volume):
        return None
    orientation = orientation_of(study.volume.geometry)
    truth = None
    if study.marks is not None and (ours := [f.number for f in study.findings if f.cancer is cancer]):
        truth = np.isin(orientation.view(study.marks), ours)
    if truth is not None and truth.any():
        plane = int(truth.sum(axis=(1, 2)).argmax())
        at = (plane, *(round(float(index.mean())) for index in np.nonzero(truth[plane])))
    elif hits:
        truth, at = None, tuple(round(v) for v in hits[0].at)
    else:
        return None
    hu, spacing = orientation.view(study.volume.hu), orientation.spacing(study.volume.geometry.spacing_mm)
    return draw(hu, spacing, (at[0], at[1], at[2]), cancer, truth, [hit.at for hit in hits[:3]])


def _short(value: float | None) -> float | None:
    return None if value is None else round(float(value), _DECIMALS)
