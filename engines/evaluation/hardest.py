"""The cases that a bundle got wrong, worst first, and what they are. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from core.finding import Cancer
from engines.evaluation.counting import right
from engines.evaluation.figures import HardCase
from engines.evaluation.results import CaseResult

MOST_SHOWN = 12
"""Hard cases that are kept."""
SHOWN = 6
"""Of them with a picture on the page: misses, and false alarms, of each cancer."""


def hardest(cases: Sequence[CaseResult], cancer: Cancer, truth: int) -> tuple[HardCase, ...]:
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


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
