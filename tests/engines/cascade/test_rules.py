"""The rules, as a table of what was measured and what must be said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.finding import Cancer, Reason, Verdict
from engines.cascade.rules import PatientContext, decide, looked_at, strange, unfit, unseen
from engines.manifest import CancerModel, Organ

from . import toy


@dataclass(frozen=True)
class Seen:
    score: float
    inside_share: float = 1.0


@dataclass(frozen=True)
class Look:
    median_hu: float | None = None
    mean_hu: float | None = None
    sd_hu: float | None = None
    confidence: float | None = None


@dataclass(frozen=True)
class Found:
    volume_ml: float
    cut_mm2: float = 0.0
    looks: Look = Look()


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
    refusal = unseen(model(coverage=coverage), ORGAN, Found(volume_ml, cut_mm2))
    assert (refusal.reason if refusal else None) is reason


def test_an_empty_organ_is_never_judged_whatever_the_manifest_says() -> None:
    organ = ORGAN.model_copy(update={"found_from_ml": 0.0})
    refusal = unseen(model(), organ, Found(0.0, 0.0))
    assert refusal is not None
    assert refusal.reason is Reason.ORGAN_NOT_FOUND


@pytest.mark.parametrize(
    ("sex", "age", "limits", "reason"),
    [
        ("F", 60, {"sexes": ["F"]}, None),
        ("M", 60, {"sexes": ["F"]}, Reason.SEX),
        ("O", 60, {"sexes": ["F", "M"]}, Reason.SEX),
        (None, 60, {"sexes": ["F"]}, None),
        (None, 60, {"sexes": ["F"], "unknown_sex": "refuse"}, Reason.SEX),
        ("F", 80, {"max_age_years": 80}, None),
        ("F", 81, {"max_age_years": 80}, Reason.AGE),
        ("F", None, {"max_age_years": 80, "min_age_years": 0}, Reason.AGE),
    ],
)
def test_there_is_evidence_only_for_some_people(
    sex: str | None, age: int | None, limits: dict[str, Any], reason: Reason | None
) -> None:
    refusal = unfit(model(**limits), PatientContext(age, sex), 1.0)
    assert (refusal.reason if refusal else None) is reason


NON_CONTRAST = {"organ": "aorta", "low_hu": 20, "high_hu": 80, "phase": "non-contrast"}
KNOWN = [
    {"organ": "lung", "measure": "mean_hu", "low": -900, "high": -600},
    {"organ": "lung", "measure": "confidence", "low": 0.8, "high": 1.1},
    {"organ": "lung", "measure": "volume_ml", "low": 800, "high": 9000},
]


@pytest.mark.parametrize(
    ("aorta", "lung", "reason"),
    [
        (Look(median_hu=42), Found(4000, looks=Look(mean_hu=-780, confidence=0.95)), None),
        (Look(median_hu=250), Found(4000, looks=Look(mean_hu=-780, confidence=0.95)), Reason.CONTRAST),
        (Look(median_hu=None), Found(4000, looks=Look(mean_hu=-780, confidence=0.95)), Reason.CONTRAST),
        (Look(median_hu=42), Found(4000, looks=Look(mean_hu=-300, confidence=0.95)), Reason.OUT_OF_DISTRIBUTION),
        (Look(median_hu=42), Found(4000, looks=Look(mean_hu=-780, confidence=0.5)), Reason.OUT_OF_DISTRIBUTION),
        (Look(median_hu=42), Found(4000, looks=Look()), Reason.OUT_OF_DISTRIBUTION),
        (Look(median_hu=42), Found(400, looks=Look(mean_hu=-780, confidence=0.95)), Reason.OUT_OF_DISTRIBUTION),
    ],
)
def test_a_phase_or_a_look_that_the_model_does_not_know_is_not_judged(
    aorta: Look, lung: Found, reason: Reason | None
) -> None:
    knows = model(contrast=NON_CONTRAST, familiar=KNOWN)
    assert looked_at(knows) == {"aorta", "lung"}
    refusal = strange(knows, {"aorta": Found(100, looks=aorta), "lung": lung})
    assert (refusal.reason if refusal else None) is reason


def two_heads(combine: str, **changes: Any) -> CancerModel:
    fields = toy.cancer("lung", "lung", "lung_lesion", "lesion", extraction={"inside_share": 0.5})
    classifier = {"network": "lung_score", "label": "cancer", "combine": combine}
    return CancerModel.model_validate({**fields, "classifier": classifier, **changes})


@pytest.mark.parametrize(
    ("combine", "lesion", "organ", "verdict", "score"),
    [
        ("max", 0.95, 0.7, Verdict.POSITIVE, 0.95),
        ("max", 0.7, 0.95, Verdict.POSITIVE, 0.95),
        ("mean", 0.95, 0.91, Verdict.POSITIVE, 0.93),
        ("mean", 0.5, 0.95, Verdict.INDETERMINATE, 0.725),
        ("classifier", 0.95, 0.97, Verdict.POSITIVE, 0.97),
        ("classifier", 0.95, 0.1, Verdict.INDETERMINATE, 0.1),  # the map is sure, the classifier sees nothing
        ("max", 0.1, 0.95, Verdict.INDETERMINATE, 0.95),
        ("max", 0.1, 0.2, Verdict.NEGATIVE, 0.2),
    ],
)
def test_a_lesion_map_and_a_classifier_together_give_the_verdict_and_may_disagree(
    combine: str, lesion: float, organ: float, verdict: Verdict, score: float
) -> None:
    answer = decide(Cancer.LUNG, two_heads(combine), [Seen(lesion)], organ)
    assert answer.verdict is verdict
    assert answer.score == pytest.approx(score)
    if verdict is Verdict.INDETERMINATE and score in (0.1, 0.95):
        assert "stages disagree" in answer.detail


def test_a_classifier_alone_is_enough() -> None:
    alone = two_heads("classifier", network=None, label=None, extraction=None)
    assert decide(Cancer.LUNG, alone, (), 0.95).verdict is Verdict.POSITIVE
    assert decide(Cancer.LUNG, alone, (), 0.1).verdict is Verdict.NEGATIVE


def test_thresholds_are_on_the_calibrated_score() -> None:
    steep = {"kind": "isotonic", "scores": [0.0, 0.5, 1.0], "probabilities": [0.0, 0.1, 1.0]}
    fields = toy.cancer("lung", "lung", "lung_lesion", "lesion", calibration=steep)
    answer = decide(Cancer.LUNG, CancerModel.model_validate(fields), [Seen(0.7)])
    assert answer.verdict is Verdict.NEGATIVE
    assert answer.score == pytest.approx(0.46)
