"""Results of cases → every figure of `evaluation.json`. Pure but for the time that the caller gives.

Thresholds are the bundle's; or chosen here, on cases that are marked for tuning and on no others, and then none of
those is judged.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version as installed_version

import numpy as np

from core.errors import ConfigError
from core.finding import Cancer, Verdict
from engines.calibration import NotCalibrated, choose_thresholds
from engines.evaluation import statistics as stats
from engines.evaluation.counting import OF_THE_PERSON, analysed, counts, excused, flagged, right
from engines.evaluation.figures import (
    Aim,
    Breakdown,
    CalibrationFigures,
    CancerFigures,
    Cohort,
    CurvePoint,
    Evaluation,
    Figure,
    Goal,
    Group,
    HardCase,
    Healthy,
    Lesions,
    Outcome,
    Proportion,
    Speed,
)
from engines.evaluation.froc import Scan, found_at, froc, mean_sensitivity
from engines.evaluation.grouping import by_attribute, by_lesion
from engines.evaluation.results import CancerResult, CaseResult, Run, Thresholds

MOST_POINTS = 200
MOST_SHOWN = 12
"""Points of a curve, and hard cases, that are kept."""
_PLACES = 5


@dataclass(frozen=True)
class Wanted:
    """What to judge by. prevalence: of a cancer where PPV is for another one than `prevalences` says.

    choose: (sensitivity, specificity) that thresholds are to keep on the tuning cases; None: the bundle's thresholds.
    by: attributes to break down by; None: all that there are.
    """

    sensitivity: float = 0.929
    specificity: float = 0.999
    healthy: float = 0.99
    prevalence: float = 0.005
    prevalences: Mapping[Cancer, float] = field(default_factory=dict)
    choose: tuple[float, float] | None = None
    by: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Results:
    """A folder of results, read."""

    run: Run
    cases: tuple[CaseResult, ...]


def evaluate(results: Sequence[Results], wanted: Wanted, now: dt.datetime) -> Evaluation:
    """Every figure. ConfigError where folders don't belong together, or thresholds can't be chosen."""
    _check_together(results)
    everybody = [case for part in results for case in part.cases]
    bundle = results[0].run.bundle
    thresholds: Mapping[Cancer, Thresholds] = bundle.thresholds
    judging = [case for case in everybody if case.set == "judging"]
    tuning = [case for case in everybody if case.set == "tuning"]
    if not judging:
        raise ConfigError("all cases are for tuning", remedy="Add results of cases that are for judging.")
    if wanted.choose is not None:
        thresholds = chosen_thresholds(tuning, tuple(bundle.thresholds), *wanted.choose)
        judging = [at_thresholds(case, thresholds) for case in judging]
    asked = [c for c in Cancer if c in thresholds and any(c in case.cancers for case in judging)]
    cancers = tuple(_cancer(judging, c, thresholds[c], wanted) for c in asked)
    healthy = _healthy(judging, asked)
    return Evaluation(
        synthetic=any(part.run.synthetic for part in results),
        made_at=now,
        software=f"onescan {installed_version('onescan')}",
        bundle=bundle,
        thresholds_from="bundle" if wanted.choose is None else "tuning cases",
        tuning_cases=len(tuning),
        cohorts=tuple(_cohort(part.run) for part in results),
        cases=len(judging),
        persons=len({(p.run.source, case.person) for p in results for case in p.cases if case.set == "judging"}),
        goals=_goals(cancers, healthy, wanted),
        healthy=healthy,
        cancers=cancers,
        seconds=Speed(**{name: _speed(judging, name) for name in ("load", "analyse", "all")}),
    )


def chosen_thresholds(
    tuning: Sequence[CaseResult], cancers: Sequence[Cancer], sensitivity: float, specificity: float
) -> dict[Cancer, Thresholds]:
    """Thresholds that keep both on the tuning cases. ConfigError where those are too few for it."""
    found = {}
    for cancer in cancers:
        known = [r for case in tuning if (r := case.cancers.get(cancer)) and counts(r) and r.score is not None]
        try:
            low, high = choose_thresholds(
                [r.score or 0.0 for r in known], [r.truth == 1 for r in known], sensitivity, specificity
            )
        except NotCalibrated as error:
            raise ConfigError(
                f"{cancer.value}: {error}", remedy="Run cases with and without it that are marked for tuning."
            ) from error
        found[cancer] = Thresholds(negative_below=low, positive_above=high)
    return found


def at_thresholds(case: CaseResult, thresholds: Mapping[Cancer, Thresholds]) -> CaseResult:
    """The case as other thresholds would have it: by its scores alone."""
    changed = {}
    for cancer, result in case.cancers.items():
        if result.score is None or cancer not in thresholds:
            changed[cancer] = result
            continue
        limits = thresholds[cancer]
        verdict = Verdict.INDETERMINATE
        if result.score >= limits.positive_above:
            verdict = Verdict.POSITIVE
        elif result.score < limits.negative_below:
            verdict = Verdict.NEGATIVE
        changed[cancer] = result.model_copy(update={"verdict": verdict})
    return case.model_copy(update={"cancers": changed})


def _check_together(results: Sequence[Results]) -> None:
    if len({part.run.bundle.digest for part in results}) != 1:
        raise ConfigError(
            "the folders hold answers of different bundles", remedy="Compare bundles with `evaluate compare`."
        )
    keys = Counter((part.run.synthetic, case.case) for part in results for case in part.cases if part.run.synthetic)
    sources = Counter(part.run.source for part in results)
    if any(n > 1 for n in (*keys.values(), *sources.values())):
        raise ConfigError("some cases are in two of the folders", remedy="Name every case once.")


def _cohort(run: Run) -> Cohort:
    return Cohort(cohort=run.cohort, synthetic=run.synthetic, source=run.source, cases=run.cases, runtime=run.runtime)


def _cancer(cases: Sequence[CaseResult], cancer: Cancer, limits: Thresholds, wanted: Wanted) -> CancerFigures:
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
        breakdowns=_breakdowns(judged, cancer, wanted.by),
        misses=_hard(judged, cancer, 1),
        false_alarms=_hard(judged, cancer, 0),
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


def _hard(cases: Sequence[CaseResult], cancer: Cancer, truth: int) -> tuple[HardCase, ...]:
    """Misses: lowest score first. False alarms: highest first."""
    wrong = [case for case in cases if case.cancers[cancer].truth == truth and not right(case.cancers[cancer])]
    sign = 1 if truth else -1
    wrong.sort(key=lambda case: (sign * (_or(case.cancers[cancer].score, -1.0)), case.case))
    return tuple(_hard_case(case, cancer) for case in wrong[:MOST_SHOWN])


def _hard_case(case: CaseResult, cancer: Cancer) -> HardCase:
    result = case.cancers[cancer]
    if result.reason is not None:
        why = result.reason.value
    elif result.truth == 1:
        told = [f"{x.kind or 'lesion'}{f', {x.diameter_mm:.0f} mm' if x.diameter_mm else ''}" for x in result.lesions]
        why = "; ".join(told[:3])
    else:
        on = [mark.on for mark in result.marks[:1] if mark.on]
        why = f"on {on[0]}" if on else "on nothing that the truth names" if result.marked else ""
    return HardCase(case=case.case, score=result.score, verdict=result.verdict, why=why)


def _healthy(cases: Sequence[CaseResult], asked: Sequence[Cancer]) -> Healthy:
    people = [case for case in cases if all(c in case.cancers and case.cancers[c].truth == 0 for c in asked)]
    answered = [case for case in people if any(analysed(case.cancers[c]) for c in asked)]
    complete = [case for case in answered if all(_asked_and_answered(case.cancers[c]) for c in asked)]
    spared = [case for case in answered if not any(flagged(case.cancers[c]) for c in asked)]
    spared_complete = [case for case in complete if not any(flagged(case.cancers[c]) for c in asked)]
    return Healthy(
        unflagged=Proportion.of(stats.rate(len(spared), len(answered))),
        unflagged_complete=Proportion.of(stats.rate(len(spared_complete), len(complete))),
        flagged_for={c: sum(flagged(case.cancers[c]) for case in answered) for c in asked},
    )


def _asked_and_answered(result: CancerResult) -> bool:
    return analysed(result) or result.reason in OF_THE_PERSON


def _goals(cancers: Sequence[CancerFigures], healthy: Healthy, wanted: Wanted) -> tuple[Goal, ...]:
    goals = []
    aims: tuple[Aim, Aim] = ("sensitivity", "specificity")
    for part in cancers:
        name = part.cancer
        limits, reached_here = (wanted.sensitivity, wanted.specificity), (part.sensitivity, part.specificity)
        for what, limit, reached in zip(aims, limits, reached_here, strict=True):
            goals.append(_goal(f"{name.value}_{what}", name, what, limit, reached))
    goals.append(_goal("healthy", None, "healthy", wanted.healthy, healthy.unflagged))
    return tuple(goals)


def _goal(key: str, cancer: Cancer | None, what: Aim, at_least: float, reached: Proportion) -> Goal:
    outcome: Outcome = "missed"
    if reached.value is None:
        outcome = "no cases"
    elif reached.ci95[0] >= at_least:
        outcome = "shown"
    elif reached.value >= at_least:
        outcome = "met"
    return Goal(key=key, cancer=cancer, what=what, at_least=at_least, reached=reached, outcome=outcome)


def _speed(cases: Sequence[CaseResult], name: str) -> tuple[float, float, float]:
    seconds = [case.seconds.get(name, 0.0) for case in cases]
    return (float(np.median(seconds)), float(np.percentile(seconds, 95)), float(max(seconds)))


def _thinned(points: Sequence[CurvePoint]) -> tuple[CurvePoint, ...]:
    if len(points) <= MOST_POINTS:
        return tuple(points)
    keep = np.unique(np.linspace(0, len(points) - 1, MOST_POINTS).round().astype(int))
    return tuple(points[i] for i in keep)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
