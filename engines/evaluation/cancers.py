"""One cancer's figures from the results of all cases. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

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
    ill, well = [r for r in results if r.truth == 1], [r for r in results if r.truth == 0]
    sensitivity, specificity = _share(ill), _share(well)
    prevalence = wanted.prevalences.get(cancer, wanted.prevalence)
    ppv, npv = stats.predictive(sensitivity, specificity, prevalence)
    scored = [r for r in results if r.score is not None and analysed(r)]
    scores, truth = [r.score or 0.0 for r in scored], [r.truth == 1 for r in scored]
    return CancerFigures(
        cancer=cancer,
        thresholds=limits,
        sensitivity=Proportion.of(sensitivity),
        specificity=Proportion.of(specificity),
        sensitivity_analysed=Proportion.of(_share([r for r in ill if analysed(r)])),
        specificity_analysed=Proportion.of(_share([r for r in well if analysed(r)])),
        not_ruled_out=Proportion.of(
            stats.rate(sum(r.verdict in (Verdict.POSITIVE, Verdict.INDETERMINATE) for r in ill), len(ill))
        ),
        indeterminate=Proportion.of(stats.rate(sum(r.verdict is Verdict.INDETERMINATE for r in scored), len(scored))),
        unknown=sum(r.truth == "unknown" for r in everything),
        excused=_reasons(r for r in everything if r.truth != "unknown" and excused(r)),
        failed=_reasons(r for r in results if not analysed(r)),
        elsewhere=_elsewhere(ill, limits),
        prevalence=prevalence,
        ppv=Figure.of(ppv),
        npv=Figure.of(npv),
        auc=Figure.of(stats.auc(scores, truth)),
        roc=_thinned([CurvePoint(x=x, y=y, threshold=_finite(t)) for x, y, t in stats.roc_curve(scores, truth)]),
        lesions=_lesions(judged, cancer, limits),
        calibration=_calibration(scores, truth),
        baseline=beside(cancer, results),
        breakdowns=_breakdowns(judged, cancer, wanted.by),
        misses=hardest(judged, cancer, 1),
        false_alarms=hardest(judged, cancer, 0),
    )


def _share(results: Sequence[CancerResult]) -> stats.Rate:
    return stats.rate(sum(map(right, results)), len(results))


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
    results = [r for case in cases if (r := case.cancers[cancer]).marked and analysed(r)]
    scans = [Scan(tuple(x.score for x in r.lesions), tuple(m.score for m in r.marks)) for r in results]
    at = _raw_limit([case.cancers[cancer] for case in cases], limits)
    hits, lesions, marks = found_at(scans, at)
    if not lesions:
        return None
    points = froc(scans)
    on = Counter(mark.on or "" for r in results for mark in r.marks if mark.score >= at)
    curve = [
        CurvePoint(x=round(p.marks_per_scan, _PLACES), y=round(p.sensitivity, _PLACES), threshold=p.threshold)
        for p in points
    ]
    return Lesions(
        found=Proportion.of(stats.rate(hits, lesions)),
        marks=marks,
        scans=len(scans),
        mean_sensitivity=mean_sensitivity(points),
        froc=_thinned(curve),
        marks_on=dict(on.most_common()),
    )


def _calibration(scores: Sequence[float], truth: Sequence[bool]) -> CalibrationFigures | None:
    found = stats.reliability(scores, truth)
    return None if found is None else CalibrationFigures.of(found, sum(truth) / len(truth))


def _breakdowns(cases: Sequence[CaseResult], cancer: Cancer, by: tuple[str, ...] | None) -> tuple[Breakdown, ...]:
    ill = [r for case in cases if (r := case.cancers[cancer]).truth == 1]
    parts = []
    for what in ("size", "subtype"):
        groups = [
            Group(value=v, sensitivity=Proportion.of(_share(m)), specificity=_none()) for v, m in by_lesion(ill, what)
        ]
        parts.append(Breakdown(by=what, groups=tuple(groups)))
    names = sorted({name for case in cases for name in case.attributes}) if by is None else by
    for name in names:
        groups = [
            _group(value, [case.cancers[cancer] for case in members]) for value, members in by_attribute(cases, name)
        ]
        parts.append(Breakdown(by=name, groups=tuple(groups)))
    return tuple(part for part in parts if len(part.groups) > 1)


def _group(value: str, results: Sequence[CancerResult]) -> Group:
    return Group(
        value=value,
        sensitivity=Proportion.of(_share([r for r in results if r.truth == 1])),
        specificity=Proportion.of(_share([r for r in results if r.truth == 0])),
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
