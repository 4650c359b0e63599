"""All cancers together on the healthy, and which goals were met. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from core.finding import Cancer
from engines.evaluation import statistics as stats
from engines.evaluation.counting import OF_THE_PERSON, analysed, flagged
from engines.evaluation.figures import Aim, CancerFigures, Goal, Healthy, Outcome, Proportion
from engines.evaluation.results import CancerResult, CaseResult
from engines.evaluation.wanted import Wanted


def healthy_people(cases: Sequence[CaseResult], asked: Sequence[Cancer]) -> Healthy:
    """Those known to have none of the cancers that were asked for."""
    people = [case for case in cases if all(c in case.cancers and case.cancers[c].truth == 0 for c in asked)]
    answered = [case for case in people if any(analysed(case.cancers[c]) for c in asked)]
    complete = [case for case in answered if all(_asked_and_answered(case.cancers[c]) for c in asked)]
    return Healthy(
        unflagged=Proportion.of(_unflagged(answered, asked)),
        unflagged_complete=Proportion.of(_unflagged(complete, asked)),
        flagged_for={c: sum(flagged(case.cancers[c]) for case in answered) for c in asked},
    )


def _unflagged(cases: Sequence[CaseResult], asked: Sequence[Cancer]) -> stats.Rate:
    spared = [not any(flagged(case.cancers[c]) for c in asked) for case in cases]
    return stats.rate_of(spared, [case.person for case in cases])


def _asked_and_answered(result: CancerResult) -> bool:
    return analysed(result) or result.reason in OF_THE_PERSON


def goals_of(cancers: Sequence[CancerFigures], healthy: Healthy, wanted: Wanted) -> tuple[Goal, ...]:
    """Two for each cancer, then that of the healthy."""
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
