"""Thresholds know only the tuning cases, evidence only the judging cases, the budget all cancers together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from core.errors import ConfigError
from core.finding import Cancer
from engines.calibration import NotCalibrated
from engines.evaluation.cases import CaseFile
from engines.evaluation.judging import Wishes, flagged, judge
from engines.manifest import CancerModel
from tests.engines.cascade import toy

LUNG, LIVER = toy.draft().cancers
WISHES = Wishes("platt", sensitivity=0.9, specificity=0.9, budget=None, at_least=5)
Row = tuple[str, int, Mapping[str, tuple[Any, float | None]]]


def cases(*rows: tuple[str, Mapping[str, tuple[Any, float | None]]]) -> CaseFile:
    """(set, {cancer: (truth, score)}) of each."""
    return CaseFile.model_validate(
        {
            "cases": [
                {
                    "case": f"{index:05}",
                    "set": name,
                    "cancers": {c: {"truth": truth, "score": score} for c, (truth, score) in outcomes.items()},
                }
                for index, (name, outcomes) in enumerate(rows)
            ]
        }
    )


def drawn(seed: int = 0, n: int = 400, shift: float = 2.5) -> CaseFile:
    """People with lung or liver cancer, with both or none; scores overlap."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(2 * n):
        has = {name: int(rng.random() < 0.3) for name in ("lung", "liver")}
        scores = {name: 1 / (1 + np.exp(-(rng.normal() + shift * truth - shift / 2))) for name, truth in has.items()}
        outcomes = {name: (has[name], float(scores[name])) for name in has}
        rows.append(("tuning" if index < n else "judging", outcomes))
    return cases(*rows)


def verdicts(model: CancerModel, file: CaseFile, name: Any) -> tuple[float, float]:
    """(sensitivity, specificity) of `positive_above`, counted anew."""
    rows = [case.cancers[model.cancer] for case in file.of(name)]
    hits = [flagged(model, row.score) for row in rows if row.truth == 1]
    false = [flagged(model, row.score) for row in rows if row.truth == 0]
    return float(np.mean(hits)), 1 - float(np.mean(false))


@pytest.mark.parametrize("method", ["platt", "isotonic", "none"])
def test_thresholds_reach_what_was_asked_for_on_the_tuning_cases_and_evidence_is_counted_on_the_others(
    method: Any,
) -> None:
    file = drawn()
    judged = judge(file, (LUNG, LIVER), Wishes(method, 0.9, 0.95, None), "synthetic", "drawn")
    for model in judged.models:
        assert (model.calibration.kind if model.calibration else "none") == method
        assert model.negative_below <= model.positive_above
        assert verdicts(model, file, "tuning")[1] >= 0.95
        rule_out, rule_in = model.operating_points
        assert (rule_out.threshold, rule_in.threshold) == (model.negative_below, model.positive_above)
        measured = (rule_in.evidence.sensitivity, rule_in.evidence.specificity)
        assert measured == pytest.approx(verdicts(model, file, "judging"))
        assert measured != pytest.approx(verdicts(model, file, "tuning"))
        assert rule_out.evidence.sensitivity > 0.8
        assert rule_in.evidence.cohort == "drawn"
    assert judged.case_level is None


def test_what_is_only_in_the_judging_cases_changes_no_threshold() -> None:
    file, other = drawn(0), drawn(1)
    mixed = CaseFile(
        cases=(
            *file.of("tuning"),
            *(case.model_copy(update={"case": f"x{case.case}"}) for case in other.of("judging")),
        )
    )
    first, second = (judge(f, (LUNG,), WISHES, "synthetic", "drawn").models[0] for f in (file, mixed))
    assert (first.calibration, first.negative_below, first.positive_above) == (
        second.calibration,
        second.negative_below,
        second.positive_above,
    )
    assert first.operating_points != second.operating_points


def test_calibrated_scores_are_probabilities() -> None:
    file = drawn(2, n=4000)
    model = judge(file, (LUNG,), WISHES, "synthetic", "drawn").models[0]
    from engines.cascade.calibration import calibrated

    rows = [case.cancers[Cancer.LUNG] for case in file.of("judging")]
    likely = np.array([calibrated(row.score or 0, model.calibration) for row in rows])
    truth = np.array([row.truth == 1 for row in rows])
    for low, high in ((0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1)):
        there = (likely >= low) & (likely < high)
        assert truth[there].mean() == pytest.approx(likely[there].mean(), abs=0.06)


def test_a_budget_raises_thresholds_until_all_cancers_together_keep_it() -> None:
    file = drawn(1)
    free = judge(file, (LUNG, LIVER), Wishes("platt", 0.9, 0.9, 0.5), "synthetic", "drawn")
    tight = judge(file, (LUNG, LIVER), Wishes("platt", 0.9, 0.9, 0.15), "synthetic", "drawn")
    assert free.raised_to is None
    assert tight.raised_to is not None
    assert tight.raised_to > 0.9
    for a, b in zip(free.models, tight.models, strict=True):
        assert b.positive_above > a.positive_above
        assert b.negative_below == a.negative_below
    healthy = [c for c in file.of("tuning") if all(o.truth == 0 for o in c.cancers.values())]
    hit = [any(flagged(m, c.cancers[m.cancer].score) for m in tight.models) for c in healthy]
    assert 0 < np.mean(hit) < 0.13  # with room for another sample's luck
    assert tight.case_level is not None
    healthy = [c for c in file.of("judging") if all(o.truth == 0 for o in c.cancers.values())]
    hit = [any(flagged(m, c.cancers[m.cancer].score) for m in tight.models) for c in healthy]
    assert tight.case_level.n_negative == len(healthy)
    assert tight.case_level.specificity == pytest.approx(1 - np.mean(hit))


def test_cases_too_few_to_show_a_specificity_are_counted_and_a_confidence_raises_thresholds() -> None:
    file = drawn(1)
    without = {c: [case.cancers[c].truth for case in file.of("tuning")].count(0) for c in (Cancer.LUNG, Cancer.LIVER)}
    plain, sure = (
        judge(file, (LUNG, LIVER), Wishes("platt", 0.9, 0.95, None, confidence=c), "synthetic", "drawn")
        for c in (None, 0.9)
    )
    assert plain.too_few == sure.too_few == {}
    for a, b in zip(plain.models, sure.models, strict=True):
        assert b.positive_above > a.positive_above
        assert b.negative_below == a.negative_below
    wanting = judge(file, (LUNG, LIVER), Wishes("platt", 0.9, 0.9999, None), "synthetic", "drawn")
    assert wanting.too_few == without


def test_two_good_specificities_multiply_to_one_that_is_worse() -> None:
    judged = judge(drawn(), (LUNG, LIVER), Wishes("platt", 0.9, 0.9, 0.5), "synthetic", "drawn")
    assert judged.case_level is not None
    single = [model.operating_points[1].evidence.specificity for model in judged.models]
    assert judged.case_level.specificity < min(single)


def test_a_budget_that_the_judging_cases_do_not_keep_is_said_and_nothing_is_tuned_on_them() -> None:
    file = drawn()
    worse = [
        case.model_copy(
            update={
                "cancers": {
                    c: o.model_copy(update={"score": min(1.0, (o.score or 0) + 0.3)}) for c, o in case.cancers.items()
                }
            }
        )
        for case in file.of("judging")
    ]
    with pytest.raises(ConfigError, match="judging people without cancer") as error:
        judge(
            CaseFile(cases=(*file.of("tuning"), *worse)),
            (LUNG, LIVER),
            Wishes("platt", 0.9, 0.9, 0.12),
            "synthetic",
            "x",
        )
    assert "spoil" in error.value.remedy()


def test_too_few_cases_are_all_named_at_once() -> None:
    file = cases(*[("tuning", {"lung": (index % 2, index / 10)}) for index in range(8)])
    with pytest.raises(ConfigError) as error:
        judge(file, (LUNG, LIVER), WISHES, "synthetic", "x")
    for part in (
        "lung: 4 tuning cases with it",
        "lung: 0 judging cases without it",
        "liver: 0 tuning cases with it",
        "at least 5",
    ):
        assert part in str(error.value)


def test_tuning_cases_without_a_score_do_not_count_but_judging_cases_do() -> None:
    tuning = [("tuning", {"lung": (i % 2, 0.2 + 0.6 * (i % 2))}) for i in range(10)]
    judging = [("judging", {"lung": (i % 2, None)}) for i in range(10)]
    model = judge(cases(*tuning, *judging), (LUNG,), WISHES, "synthetic", "x").models[0]
    assert model.operating_points[0].evidence.sensitivity == 0
    assert model.operating_points[0].evidence.specificity == 0
    unscored = [("tuning", {"lung": (i % 2, None)}) for i in range(10)]
    with pytest.raises(ConfigError, match="0 tuning cases with it"):
        judge(cases(*unscored, *judging), (LUNG,), WISHES, "synthetic", "x")


def test_who_was_not_analysed_for_all_cancers_says_nothing_about_the_case_level() -> None:
    file = drawn()
    first, *rest = (c for c in file.cases if c.set == "judging" and all(o.truth == 0 for o in c.cancers.values()))
    blind = first.model_copy(
        update={
            "cancers": {**first.cancers, Cancer.LIVER: first.cancers[Cancer.LIVER].model_copy(update={"score": None})}
        }
    )
    changed = CaseFile(cases=tuple(blind if c is first else c for c in file.cases))
    judged = judge(changed, (LUNG, LIVER), Wishes("platt", 0.9, 0.9, 0.5), "synthetic", "x")
    assert judged.left_out == 1
    assert judged.case_level is not None
    assert judged.case_level.n_negative == len(rest)


def test_a_budget_needs_people_enough_to_show_it() -> None:
    rows = [(name, {"lung": (i % 2, 0.2 + 0.6 * (i % 2))}) for name in ("tuning", "judging") for i in range(40)]
    with pytest.raises(ConfigError, match="20 tuning people without any cancer, analysed for all, can't show"):
        judge(cases(*rows), (LUNG,), Wishes("platt", 0.9, 0.9, 0.05), "synthetic", "x")
    rows = [
        (name, {"lung": (i % 2, 0.2 + 0.6 * (i % 2)), "liver": (1 - i % 2, 0.8 - 0.6 * (i % 2))})
        for name in ("tuning", "judging")
        for i in range(40)
    ]
    with pytest.raises(ConfigError, match="0 tuning people without any cancer"):
        judge(cases(*rows), (LUNG, LIVER), Wishes("none", 0.9, 0.9, 0.5, at_least=0), "synthetic", "x")


def test_a_healthy_person_with_the_highest_score_breaks_any_budget() -> None:
    file = cases(*[(name, {"lung": (i % 2, 1.0)}) for name in ("tuning", "judging") for i in range(60)])
    with pytest.raises(ConfigError, match="no thresholds keep"):
        judge(file, (LUNG,), Wishes("none", 0.9, 0.9, 0.1), "synthetic", "x")


def test_scores_the_wrong_way_round_name_the_cancer() -> None:
    file = cases(*[(name, {"lung": (i % 2, 0.8 - 0.6 * (i % 2))}) for name in ("tuning", "judging") for i in range(20)])
    with pytest.raises(NotCalibrated, match="lung: higher scores don't go with"):
        judge(file, (LUNG,), WISHES, "synthetic", "x")
