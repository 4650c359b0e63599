"""Calibration, thresholds and evidence: on small tables whose answers are known by hand, or by another way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from engines.calibration import (
    NotCalibrated,
    allowed_above,
    choose_thresholds,
    evidence_at,
    isotonic,
    platt,
    upper_limit,
)
from engines.cascade.calibration import calibrated, logit
from engines.evaluation.statistics import exact_interval
from engines.manifest import Evidence

SCORED = st.lists(st.tuples(st.integers(0, 1000).map(lambda n: n / 1000), st.booleans()), min_size=4, max_size=60)


def evidence(threshold: float, *rows: tuple[bool, float | None]) -> Evidence:
    return of_people(threshold, range(len(rows)), *rows)


def of_people(threshold: float, persons: Sequence[int], *rows: tuple[bool, float | None]) -> Evidence:
    scores, truth = [score for _, score in rows], [has for has, _ in rows]
    return evidence_at(threshold, scores, truth, persons, "synthetic", "by hand")


def test_the_interval_of_evidence_is_that_of_people() -> None:
    rows = [(True, 0.9), (True, 0.9), (True, 0.1), (True, 0.1), (False, 0.1), (False, 0.1)]
    single, double = evidence(0.5, *rows), of_people(0.5, [1, 1, 2, 2, 3, 3], *rows)
    assert (double.sensitivity, double.n_positive) == (single.sensitivity, single.n_positive) == (0.5, 4)
    assert double.sensitivity_ci95[0] < single.sensitivity_ci95[0]
    assert double.specificity_ci95 == pytest.approx((0.025, 1))


def test_interval_is_clopper_and_pearsons() -> None:
    # Textbook values: 0/10 and 10/10 have the closed form 1 - 0.025 ** (1 / 10).
    assert exact_interval(0, 10) == pytest.approx((0.0, 0.30850), abs=1e-5)
    assert exact_interval(10, 10) == pytest.approx((0.69150, 1.0), abs=1e-5)
    assert exact_interval(5, 10) == pytest.approx((0.18709, 0.81291), abs=1e-5)
    assert exact_interval(0, 0) == (0.0, 1.0)


def test_the_upper_limit_has_the_rule_of_threes_closed_form() -> None:
    assert upper_limit(0, 100, 0.95) == pytest.approx(1 - 0.05 ** (1 / 100))
    assert upper_limit(0, 100, 0.95) == pytest.approx(3 / 100, rel=0.02)
    assert upper_limit(7, 7) == upper_limit(0, 0) == 1


def test_a_doubtful_zone_lies_where_the_groups_overlap() -> None:
    scores = [0.0, 0.0, 0.6, 0.7, 0.65, 0.9, 0.95, 0.99]
    truth = [False, False, False, False, True, True, True, True]
    low, high = choose_thresholds(scores, truth, sensitivity=1.0, specificity=1.0)
    assert 0.6 < low < 0.65
    assert 0.7 < high < 0.9


def test_separate_groups_leave_no_doubtful_zone() -> None:
    low, high = choose_thresholds([0.1, 0.2, 0.8, 0.9], [False, False, True, True], 0.95, 0.95)
    assert low == high
    assert 0.2 < low < 0.8


def test_thresholds_need_both_groups() -> None:
    with pytest.raises(NotCalibrated, match="with and without"):
        choose_thresholds([0.1, 0.2], [True, True], 0.95, 0.95)


@given(SCORED, st.floats(0, 1), st.floats(0, 1))
def test_thresholds_reach_what_was_asked_for_where_any_can(
    rows: list[tuple[float, bool]], sensitivity: float, specificity: float
) -> None:
    rows = [*rows, (0.5, True), (0.5, False)]
    scores, truth = np.array([s for s, _ in rows]), np.array([t for _, t in rows])
    low, high = choose_thresholds(list(scores), list(truth), sensitivity, specificity)
    assert 0 < low <= high < 1
    assert not np.isin(scores, (low, high)).any()
    assert (scores[truth] >= low).mean() >= sensitivity - 1e-9 or (scores[truth] == 0).any()
    assert (scores[~truth] < high).mean() >= specificity - 1e-9 or (scores[~truth] == 1).any()


def test_a_case_that_was_not_analysed_counts_as_wrong_either_way() -> None:
    found = evidence(0.5, (True, 0.9), (True, None), (False, 0.1), (False, None))
    assert (found.sensitivity, found.specificity) == (0.5, 0.5)
    assert (found.n_positive, found.n_negative) == (2, 2)
    assert found.kind == "synthetic"


def test_the_threshold_itself_is_positive() -> None:
    found = evidence(0.5, (True, 0.5), (False, 0.4999))
    assert found.sensitivity == found.specificity == 1.0


@pytest.mark.parametrize(("a", "b"), [(-1.0, 0.0), (-0.4, 1.5), (-3.0, -2.0)])
def test_platt_finds_the_rule_that_the_outcomes_were_drawn_by(a: float, b: float) -> None:
    rng = np.random.default_rng(4)
    scores = rng.uniform(0.02, 0.98, 20_000)
    probability = 1 / (1 + np.exp(a * special.logit(scores) + b))
    rule = platt(list(scores), list(rng.random(len(scores)) < probability))
    assert rule.a == pytest.approx(a, rel=0.08)
    assert rule.b == pytest.approx(b, abs=0.1)


def test_platt_is_where_the_gradient_of_the_smoothed_likelihood_is_zero() -> None:
    scores, truth = [0.1, 0.4, 0.35, 0.8, 0.7, 0.05], [False, False, True, True, True, False]
    rule = platt(scores, truth)
    x = np.array([logit(s) for s in scores])
    target = np.where(truth, 4 / 5, 1 / 5)
    gap = target - np.array([calibrated(s, rule) for s in scores])
    assert gap.sum() == pytest.approx(0, abs=1e-6)
    assert (gap * x).sum() == pytest.approx(0, abs=1e-6)


def test_separate_groups_have_a_finite_slope() -> None:
    rule = platt([0.1, 0.2, 0.8, 0.9], [False, False, True, True])
    assert -10 < rule.a < 0
    assert calibrated(0.9, rule) < 0.9


def test_isotonic_pools_neighbours_in_the_wrong_order() -> None:
    # targets: with 2 of 4 positive 3/4 and 1/4; the middle two violate the order and become their mean
    rule = isotonic([0.1, 0.3, 0.6, 0.9], [False, True, False, True])
    assert rule.scores == (0.1, 0.3, 0.6, 0.9)
    assert rule.probabilities == pytest.approx((0.25, 0.5, 0.5, 0.75))


def test_isotonic_takes_equal_scores_as_one() -> None:
    rule = isotonic([0.2, 0.2, 0.2, 0.7], [False, False, True, True])
    assert rule.scores == (0.2, 0.7)
    assert rule.probabilities == pytest.approx(((0.25 + 0.25 + 0.75) / 3, 0.75))


@given(SCORED)
def test_both_fits_never_decrease_or_say_that_they_can_not(rows: list[tuple[float, bool]]) -> None:
    scores, truth = [s for s, _ in rows], [t for _, t in rows]
    for fit in (platt, isotonic):
        try:
            rule = fit(scores, truth)
        except NotCalibrated:
            continue  # one group only, all alike, or the wrong way round
        likely = [calibrated(s, rule) for s in np.linspace(0, 1, 101)]
        assert all(0 <= p <= 1 for p in likely)
        assert np.all(np.diff(likely) >= -1e-12)


@pytest.mark.parametrize("fit", [platt, isotonic])
def test_scores_that_mean_nothing_are_refused(fit: object) -> None:
    for scores, truth, said in (
        ([0.2, 0.2], [True, False], "the same"),
        ([0.1, 0.9], [True, False], "don't go with"),
        ([0.1, 0.9], [True, True], "with and without"),
    ):
        with pytest.raises(NotCalibrated, match=said):
            fit(scores, truth)  # type: ignore[operator]


def test_a_long_staircase_is_thinned_to_what_a_manifest_holds() -> None:
    scores = np.linspace(0, 1, 4001)
    truth = np.random.default_rng(1).random(4001) < scores
    rule = isotonic(list(scores), list(truth))
    assert 50 < len(rule.scores) <= 1000
    worst = max(abs(calibrated(s, rule) - s) for s in np.linspace(0.05, 0.95, 50))
    assert worst < 0.1


def test_with_a_confidence_fewer_may_lie_above_a_threshold_than_the_share_itself() -> None:
    assert allowed_above(1000, 0.99) == 10
    assert allowed_above(1000, 0.99, 0.9) == 5
    assert upper_limit(5, 1000, 0.9) < 0.01 < upper_limit(6, 1000, 0.9)
    assert allowed_above(100, 1.0, 0.9) == allowed_above(5, 0.9, 0.9) == 0
    assert allowed_above(2302, 0.999, 0.9) == 0
    assert upper_limit(0, 2302, 0.9) < 0.001 < upper_limit(0, 2301, 0.9)


def test_thresholds_with_a_confidence_hold_for_others_nine_times_in_ten() -> None:
    rng, kept = np.random.default_rng(3), {None: 0, 0.9: 0}
    for _ in range(400):
        scores = np.concatenate([rng.random(300), 0.5 + rng.random(40) / 2])
        truth = [False] * 300 + [True] * 40
        for confidence in kept:
            _, high = choose_thresholds(list(scores), truth, 0.95, 0.97, confidence)
            kept[confidence] += 1 - high <= 0.03  # of all others, whose scores are uniform
    assert kept[0.9] / 400 > 0.87
    assert 0.35 < kept[None] / 400 < 0.65
