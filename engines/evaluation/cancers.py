"""One cancer's figures from the results of all cases. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from core.finding import Cancer, Verdict
from engines.evaluation import statistics as stats
from engines.evaluation.beside import beside
from engines.evaluation.counting import analysed, counts, excused, flagged, right
from engines.evaluation.figures import (
    Breakdown,
    CalibrationFigures,
    CancerFigures,
    CurvePoint,
    Figure,
    Group,
    Lesions,
    Proportion,
)
from engines.evaluation.froc import Scan, found_at, froc, mean_sensitivity
from engines.evaluation.grouping import by_attribute, by_lesion
from engines.evaluation.hardest import hardest
from engines.evaluation.results import CancerResult, CaseResult, Thresholds
from engines.evaluation.wanted import Wanted

MOST_POINTS = 200
"""Points of a curve that are kept."""
_PLACES = 5


def cancer_figures(cases: Sequence[CaseResult], cancer: Cancer, limits: Thresholds, wanted: Wanted) -> CancerFigures:
    """All that is said of a cancer. limits: the thresholds that the verdicts of these cases were made with."""
    having = [case for case in cases if cancer in case.cancers]
    everything = [case.cancers[cancer] for case in having]
    judged = [case for case in having if counts(case.cancers[cancer])]
    results = [case.cancers[cancer] for case in judged]
    ill, well = ([case for case in judged if case.cancers[cancer].truth == truth] for truth in (1, 0))
    sensitivity, specificity = _share(ill, cancer), _share(well, cancer)
    prevalence = wanted.prevalences.get(cancer, wanted.prevalence)
    ppv, npv = stats.predictive(sensitivity, specificity, prevalence)
    scored = [case for case in judged if case.cancers[cancer].score is not None and analysed(case.cancers[cancer])]
    scores = [case.cancers[cancer].score or 0.0 for case in scored]
    truth = [case.cancers[cancer].truth == 1 for case in scored]
    persons = [case.person for case in scored]
    return CancerFigures(
        cancer=cancer,
        thresholds=limits,
        sensitivity=Proportion.of(sensitivity),
        specificity=Proportion.of(specificity),
        sensitivity_analysed=Proportion.of(_share([case for case in ill if analysed(case.cancers[cancer])], cancer)),
        specificity_analysed=Proportion.of(_share([case for case in well if analysed(case.cancers[cancer])], cancer)),
        not_ruled_out=Proportion.of(_share(ill, cancer, _not_ruled_out)),
        indeterminate=Proportion.of(_share(scored, cancer, lambda r: r.verdict is Verdict.INDETERMINATE)),
        unknown=sum(r.truth == "unknown" for r in everything),
        excused=_reasons(r for r in everything if r.truth != "unknown" and excused(r)),
        failed=_reasons(r for r in results if not analysed(r)),
        elsewhere=_elsewhere([case.cancers[cancer] for case in ill], limits),
        prevalence=prevalence,
        ppv=Figure.of(ppv),
        npv=Figure.of(npv),
        auc=Figure.of(stats.auc(scores, truth, persons)),
        roc=_thinned([CurvePoint(x=x, y=y, threshold=_finite(t)) for x, y, t in stats.roc_curve(scores, truth)]),
        lesions=_lesions(judged, cancer, limits),
        calibration=_calibration(scores, truth, persons),
        baseline=beside(cancer, judged),
        breakdowns=_breakdowns(judged, cancer, wanted.by),
        misses=hardest(judged, cancer, 1),
        false_alarms=hardest(judged, cancer, 0),
    )


def _share(cases: Sequence[CaseResult], cancer: Cancer, hit: Callable[[CancerResult], bool] = right) -> stats.Rate:
    """How many of the cases are hits, with an interval that knows whose scans they are."""
    return stats.rate_of([hit(case.cancers[cancer]) for case in cases], [case.person for case in cases])


def _not_ruled_out(result: CancerResult) -> bool:
    return result.verdict in (Verdict.POSITIVE, Verdict.INDETERMINATE)


def _reasons(results: Iterable[CancerResult]) -> dict[str, int]:
    counted = Counter(r.reason.value for r in results if r.reason is not None)
    return dict(counted.most_common())


def _raw_limit(results: Sequence[CancerResult], limits: Thresholds) -> float:
    """The lowest raw score that reaches the upper threshold: marks have raw scores, thresholds are calibrated."""
    reached = [r.raw for r in results if r.raw is not None and r.score is not None and r.score >= limits.positive_above]
    below = [r.raw for r in results if r.raw is not None and r.score is not None and r.score < limits.positive_above]
    if reached:
        return min(reached)
    return float(np.nextafter(max(below), 2.0)) if below else limits.positive_above


def _elsewhere(ill: Sequence[CancerResult], limits: Thresholds) -> int | None:
    called = [r for r in ill if flagged(r) and r.marked]
    if not called:
        return None
    at = _raw_limit(ill, limits)
    return sum(not any(x.score is not None and x.score >= at for x in r.lesions) for r in called)


def _lesions(cases: Sequence[CaseResult], cancer: Cancer, limits: Thresholds) -> Lesions | None:
    marked = [case for case in cases if case.cancers[cancer].marked and analysed(case.cancers[cancer])]
    results = [case.cancers[cancer] for case in marked]
    scans = [Scan(tuple(x.score for x in r.lesions), tuple(m.score for m in r.marks)) for r in results]
    at = _raw_limit([case.cancers[cancer] for case in cases], limits)
    hits, marks = found_at(scans, at)
    if not hits:
        return None
    persons = [case.person for case in marked for _ in case.cancers[cancer].lesions]
    points = froc(scans)
    on = Counter(mark.on or "" for r in results for mark in r.marks if mark.score >= at)
    curve = [
        CurvePoint(x=round(p.marks_per_scan, _PLACES), y=round(p.sensitivity, _PLACES), threshold=p.threshold)
        for p in points
    ]
    return Lesions(
        found=Proportion.of(stats.rate_of(hits, persons)),
        marks=marks,
        scans=len(scans),
        mean_sensitivity=mean_sensitivity(points),
        froc=_thinned(curve),
        marks_on=dict(on.most_common()),
    )


def _calibration(scores: Sequence[float], truth: Sequence[bool], persons: Sequence[int]) -> CalibrationFigures | None:
    found = stats.reliability(scores, truth, persons)
    return None if found is None else CalibrationFigures.of(found, sum(truth) / len(truth))


def _breakdowns(cases: Sequence[CaseResult], cancer: Cancer, by: tuple[str, ...] | None) -> tuple[Breakdown, ...]:
    ill = [case for case in cases if case.cancers[cancer].truth == 1]
    parts = []
    for what in ("size", "subtype"):
        groups = [
            Group(value=value, sensitivity=Proportion.of(_share(members, cancer)), specificity=_none())
            for value, members in by_lesion(ill, cancer, what)
        ]
        parts.append(Breakdown(by=what, groups=tuple(groups)))
    names = sorted({name for case in cases for name in case.attributes}) if by is None else by
    for name in names:
        groups = [_group(value, members, cancer) for value, members in by_attribute(cases, name)]
        parts.append(Breakdown(by=name, groups=tuple(groups)))
    return tuple(part for part in parts if len(part.groups) > 1)


def _group(value: str, cases: Sequence[CaseResult], cancer: Cancer) -> Group:
    ill, well = ([case for case in cases if case.cancers[cancer].truth == truth] for truth in (1, 0))
    return Group(
        value=value,
        sensitivity=Proportion.of(_share(ill, cancer)),
        specificity=Proportion.of(_share(well, cancer)),
    )


def _none() -> Proportion:
    return Proportion.of(stats.rate(0, 0))


def _thinned(points: Sequence[CurvePoint]) -> tuple[CurvePoint, ...]:
    if len(points) <= MOST_POINTS:
        return tuple(points)
    keep = np.unique(np.linspace(0, len(points) - 1, MOST_POINTS).round().astype(int))
    return tuple(points[i] for i in keep)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
