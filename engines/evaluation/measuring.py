"""Results of cases → every figure of `evaluation.json`. Pure but for the time that the caller gives.

Thresholds are the bundle's; or chosen here, on cases that are marked for tuning and on no others, and then none of
those is judged.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed_version

import numpy as np

from core.errors import ConfigError
from core.finding import Cancer
from engines.evaluation.cancers import cancer_figures
from engines.evaluation.figures import Cohort, Evaluation, Speed
from engines.evaluation.goals import goals_of, healthy_people
from engines.evaluation.results import CaseResult, Run, Thresholds
from engines.evaluation.thresholds import at_thresholds, chosen_thresholds
from engines.evaluation.wanted import Wanted


@dataclass(frozen=True)
class Results:
    """A folder of results, read."""

    run: Run
    cases: tuple[CaseResult, ...]


def evaluate(results: Sequence[Results], wanted: Wanted, now: dt.datetime) -> Evaluation:
    """Every figure. ConfigError where folders don't belong together, or thresholds can't be chosen."""
    _check_together(results)
    everybody = told_apart(results)
    bundle = results[0].run.bundle
    thresholds: Mapping[Cancer, Thresholds] = bundle.thresholds
    judging = [case for case in everybody if case.set == "judging"]
    tuning = [case for case in everybody if case.set == "tuning"]
    if not judging:
        raise ConfigError("all cases are for tuning", remedy="Add results of cases that are for judging.")
    if wanted.choose is not None:
        thresholds = chosen_thresholds(tuning, tuple(bundle.thresholds), *wanted.choose, wanted.confidence)
        judging = [at_thresholds(case, thresholds) for case in judging]
    asked = [c for c in Cancer if c in thresholds and any(c in case.cancers for case in judging)]
    cancers = tuple(cancer_figures(judging, c, thresholds[c], wanted) for c in asked)
    healthy = healthy_people(judging, asked)
    return Evaluation(
        synthetic=any(part.run.synthetic for part in results),
        made_at=now,
        software=f"onescan {installed_version('onescan')}",
        bundle=bundle,
        thresholds_from="bundle" if wanted.choose is None else "tuning cases",
        tuning_cases=len(tuning),
        cohorts=tuple(_cohort(part.run) for part in results),
        cases=len(judging),
        persons=len({case.person for case in judging}),
        goals=goals_of(cancers, healthy, wanted),
        healthy=healthy,
        cancers=cancers,
        seconds=Speed(**{name: _speed(judging, name) for name in ("load", "analyse", "all")}),
    )


def told_apart(results: Sequence[Results]) -> list[CaseResult]:
    """All cases, with people numbered anew: in each table somebody else is the first. Synthetic people are seeds."""
    numbers: dict[tuple[str, int], int] = {}
    cases = []
    for part in results:
        source = "" if part.run.synthetic else part.run.source
        for case in part.cases:
            number = numbers.setdefault((source, case.person), len(numbers))
            cases.append(case.model_copy(update={"person": number}))
    return cases


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


def _speed(cases: Sequence[CaseResult], name: str) -> tuple[float, float, float]:
    seconds = [case.seconds.get(name, 0.0) for case in cases]
    return (float(np.median(seconds)), float(np.percentile(seconds, 95)), float(max(seconds)))
