"""The rules, as a table of what was measured and what must be said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.finding import Cancer, Reason, Verdict
from engines.cascade.rules import PatientContext, decide, unfit, unseen
from engines.manifest import CancerModel, Organ

from . import toy


@dataclass(frozen=True)
class Seen:
    score: float
    inside_share: float = 1.0


def model(**contraindications: Any) -> CancerModel:
    limits = {"max_slice_spacing_mm": 5, "min_age_years": 18, **contraindications}
    return CancerModel.model_validate(
        toy.cancer("lung", "lung", "lung_lesion", "lesion", contraindications=limits, extraction={"inside_share": 0.5})
    )


ORGAN = Organ(name="lung", labels=("lung",), found_from_ml=100, margin_mm=5, cut_from_mm2=400)


@pytest.mark.parametrize(
    ("candidates", "verdict", "score", "detail"),
    [
        ([], Verdict.NEGATIVE, 0.0, ""),
        ([Seen(0.59)], Verdict.NEGATIVE, 0.59, ""),
        ([Seen(0.6)], Verdict.INDETERMINATE, 0.6, "between the two thresholds"),
        ([Seen(0.89), Seen(0.1)], Verdict.INDETERMINATE, 0.89, "between the two thresholds"),
        ([Seen(0.9)], Verdict.POSITIVE, 0.9, ""),
        ([Seen(0.3), Seen(0.95)], Verdict.POSITIVE, 0.95, ""),
        ([Seen(0.95, inside_share=0.4)], Verdict.INDETERMINATE, 0.95, "stages disagree"),
        ([Seen(0.95, inside_share=0.4), Seen(0.92)], Verdict.POSITIVE, 0.95, ""),
        ([Seen(0.95, inside_share=0.4), Seen(0.8)], Verdict.INDETERMINATE, 0.95, "stages disagree"),
    ],
)
def test_scores_and_thresholds_give_the_verdict(
    candidates: list[Seen], verdict: Verdict, score: float, detail: str
) -> None:
    answer = decide(Cancer.LUNG, model(), candidates)
    assert (answer.verdict, answer.score) == (verdict, score)
    assert detail in answer.detail


@given(scores=st.lists(st.floats(0, 1), max_size=6))
def test_a_candidate_more_never_makes_the_answer_less_suspicious(scores: list[float]) -> None:
    order = [Verdict.NEGATIVE, Verdict.INDETERMINATE, Verdict.POSITIVE]
    ranks = [
        order.index(decide(Cancer.LUNG, model(), [Seen(s) for s in scores[:n]]).verdict) for n in range(len(scores))
    ]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize(
    ("age", "limits", "spacing", "reason"),
    [
        (60, {}, 5.0, None),
        (18, {}, 1.0, None),
        (17, {}, 1.0, Reason.AGE),
        (None, {}, 1.0, Reason.AGE),
        (None, {"unknown_age": "analyse"}, 1.0, None),
        (None, {"min_age_years": 0}, 1.0, None),
        (60, {}, 5.0005, None),
        (60, {}, 5.01, Reason.TOO_THICK),
    ],
)
def test_who_and_what_may_not_be_analysed(
    age: int | None, limits: dict[str, Any], spacing: float, reason: Reason | None
) -> None:
    refusal = unfit(model(**limits), PatientContext(age), spacing)
    assert (refusal.reason if refusal else None) is reason


@pytest.mark.parametrize(
    ("coverage", "volume_ml", "cut_mm2", "reason"),
    [
        ("complete", 500, 0, None),
        ("complete", 500, 400, None),
        ("complete", 500, 401, Reason.NOT_COVERED),
        ("complete", 50, 401, Reason.NOT_COVERED),
        ("partial", 500, 5000, None),
        ("complete", 99, 0, Reason.ORGAN_NOT_FOUND),
        ("partial", 0, 0, Reason.ORGAN_NOT_FOUND),
    ],
)
def test_an_organ_that_is_not_whole_or_not_there_is_not_judged(
    coverage: str, volume_ml: float, cut_mm2: float, reason: Reason | None
) -> None:
    refusal = unseen(model(coverage=coverage), ORGAN, volume_ml, cut_mm2)
    assert (refusal.reason if refusal else None) is reason


def test_an_empty_organ_is_never_judged_whatever_the_manifest_says() -> None:
    organ = ORGAN.model_copy(update={"found_from_ml": 0.0})
    refusal = unseen(model(), organ, 0.0, 0.0)
    assert refusal is not None
    assert refusal.reason is Reason.ORGAN_NOT_FOUND
