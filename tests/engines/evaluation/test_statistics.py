"""Statistics against R (4.2, pROC 1.18.0, stats), against the definition, and against drawing the cases anew."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.evaluation.froc import Scan, found_at, froc, mean_sensitivity
from engines.evaluation.statistics import (
    auc,
    exact_interval,
    holm,
    mcnemar,
    paired_auc,
    predictive,
    rate,
    reliability,
    roc_curve,
)

TRUTH = [i % 3 == 0 for i in range(60)]
A = [
    *(0.5, 0.1, 0.3, 0.8, 0.6, 0.3, 0.6, 0.2, 0.5, 0.9, 0.4, 0.1, 0.5, 0.7, 0.4, 0.3, 0.3, 0.1, 0.5, 0.2),
    *(0.2, 0.8, 0.3, 0.2, 0.8, 0.5, 0.1, 0.6, 0.1, 0.3, 0.4, 0.3, 0.3, 0.6, 0.1, 0.2, 0.4, 0.1, 0.4, 0.4),
    *(0.6, 0.5, 0.2, 0.4, 0.1, 0.7, 0.3, 0.1, 0.6, 0.3, 0.5, 0.4, 0.5, 0.1, 0.6, 0.2, 0.7, 0.8, 0.8, 0.5),
]
B = [
    *(0.76, 0.57, 0.29, 0.61, 0.66, 0.33, 0.66, 0.4, 0.52, 0.55, 0.37, 0.45, 0.64, 0.25, 0.58, 0.37, 0.2, 0.19),
    *(0.78, 0.33, 0.24, 0.4, 0.48, 0.22, 0.37, 0.52, 0.2, 0.56, 0.4, 0.32, 0.61, 0.66, 0.31, 0.38, 0.13, 0.36),
    *(0.55, 0.45, 0.32, 0.53, 0.27, 0.31, 0.65, 0.33, 0.42, 0.88, 0.5, 0.16, 0.87, 0.47, 0.24, 0.77, 0.4, 0.29),
    *(0.5, 0.23, 0.41, 0.79, 0.34, 0.48),
]
SCORED = st.lists(st.tuples(st.integers(0, 12).map(lambda n: n / 12), st.booleans()), min_size=2, max_size=40)
BOTH = SCORED.filter(lambda rows: {has for _, has in rows} == {True, False})


def test_auc_and_its_interval_are_those_of_proc() -> None:
    for scores, low, value, high in (
        (A, 0.7094126967, 0.8168750000, 0.9243373033),
        (B, 0.7868998303, 0.8762500000, 0.9656001697),
    ):
        found = auc(scores, TRUTH)
        assert (found.value, found.n_positive, found.n_negative) == (pytest.approx(value), 20, 40)
        assert found.ci95 == pytest.approx((low, high), abs=1e-9)


def test_the_paired_test_is_that_of_proc() -> None:
    found = paired_auc(A, B, TRUTH)  # pROC reports a minus b
    assert found.difference == pytest.approx(0.059375)
    assert found.ci95 == pytest.approx((-0.07998976523, 0.19873976523), abs=1e-9)
    assert found.p == pytest.approx(0.4037044466, abs=1e-9)


def test_exact_intervals_and_tests_are_those_of_r() -> None:
    assert exact_interval(196, 200) == pytest.approx((0.9495863909, 0.9945244341), abs=1e-8)
    first = [True] * 3 + [False] * 12 + [True] * 30
    second = [False] * 3 + [True] * 12 + [True] * 30
    found = mcnemar(first, second)
    assert (found.only_a, found.only_b) == (3, 12)
    assert found.p == pytest.approx(0.03515625)
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(BOTH)
def test_auc_is_the_chance_that_a_case_with_the_cancer_scores_higher(rows: list[tuple[float, bool]]) -> None:
    ill, well = [s for s, has in rows if has], [s for s, has in rows if not has]
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(ill, well)]
    found = auc([s for s, _ in rows], [has for _, has in rows])
    assert found.value == pytest.approx(np.mean(wins))
    assert found.ci95[0] <= np.mean(wins) + 1e-12
    assert found.ci95[1] >= np.mean(wins) - 1e-12


@given(BOTH)
def test_the_curve_rises_from_corner_to_corner_and_holds_the_same_area(rows: list[tuple[float, bool]]) -> None:
    scores, truth = [s for s, _ in rows], [has for _, has in rows]
    curve = roc_curve(scores, truth)
    assert curve[0][:2] == (0, 0)
    assert curve[-1][:2] == (1, 1)
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(curve))
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(curve))
    assert area == pytest.approx(auc(scores, truth).value)
    for fpr, sensitivity, at in curve[1:]:
        assert sensitivity == pytest.approx(np.mean([s >= at for s, has in rows if has]))
        assert fpr == pytest.approx(np.mean([s >= at for s, has in rows if not has]))


def test_delongs_standard_error_is_that_of_cases_drawn_anew() -> None:
    rng = np.random.default_rng(0)
    scores, truth = np.array(A), np.array(TRUTH)
    ill, well = scores[truth], scores[~truth]
    drawn = [
        auc([*rng.choice(ill, len(ill)), *rng.choice(well, len(well))], [True] * len(ill) + [False] * len(well)).value
        for _ in range(4000)
    ]
    low, high = auc(A, TRUTH).ci95
    assert np.std(np.array(drawn, float)) == pytest.approx((high - low) / 2 / 1.96, rel=0.06)


def test_the_difference_of_a_model_from_itself_has_no_p_value() -> None:
    same = paired_auc(A, A, TRUTH)
    assert (same.difference, same.ci95, same.p) == (0, (0, 0), None)


@given(st.integers(0, 60), st.integers(1, 60))
def test_an_exact_interval_excludes_only_what_the_count_makes_unlikely(hits: int, n: int) -> None:
    hits = min(hits, n)
    found = rate(hits, n)
    assert found.value is not None
    assert found.ci95[0] <= found.value <= found.ci95[1]
    rng = np.random.default_rng(hits * 97 + n)
    if found.ci95[1] < 1:  # were the truth at the upper limit, so few would be rare: 2.5 %, within drawing's error
        assert np.mean(rng.binomial(n, found.ci95[1], 4000) <= hits) == pytest.approx(0.025, abs=0.012)


@pytest.mark.parametrize(("hits", "n"), [(3, 2), (-1, 5)])
def test_more_hits_than_cases_are_refused(hits: int, n: int) -> None:
    with pytest.raises(ValueError, match="of"):
        rate(hits, n)


def test_without_cases_nothing_is_claimed() -> None:
    assert rate(0, 0).value is None
    assert rate(0, 0).ci95 == (0, 1)
    assert auc([0.5], [True]).value is None
    assert reliability([], []) is None
    assert predictive(rate(0, 0), rate(5, 5), 0.01)[0].value is None
    with pytest.raises(ValueError, match="both kinds"):
        paired_auc([0.1], [0.2], [True])


def test_predictive_values_are_bayes_and_their_interval_is_open_where_nobody_erred() -> None:
    ppv, npv = predictive(rate(90, 100), rate(990, 1000), 0.01)
    assert ppv.value == pytest.approx(0.9 * 0.01 / (0.9 * 0.01 + 0.01 * 0.99))
    assert npv.value == pytest.approx(0.99 * 0.99 / (0.99 * 0.99 + 0.1 * 0.01))
    assert ppv.ci95[0] < ppv.value < ppv.ci95[1]
    perfect, _ = predictive(rate(20, 20), rate(50, 50), 0.01)
    assert perfect.value == 1
    assert perfect.ci95[0] < 0.2  # fifty healthy people say little about one in a hundred


@given(st.floats(0.001, 0.5), st.integers(0, 30), st.integers(0, 30))
def test_predictive_values_lie_in_their_intervals(prevalence: float, hits: int, spared: int) -> None:
    for estimate in predictive(rate(hits, 30), rate(spared, 30), prevalence):
        assert estimate.value is None or estimate.ci95[0] - 1e-9 <= estimate.value <= estimate.ci95[1] + 1e-9


def test_reliability_is_counted_by_hand() -> None:
    found = reliability([0.1, 0.1, 0.1, 0.9, 0.9], [False, False, True, True, True], bins=2)
    assert found is not None
    assert [(b.predicted, b.observed.hits, b.observed.n) for b in found.bins] == [
        (pytest.approx(0.1), 1, 3),
        (pytest.approx(0.9), 2, 2),
    ]
    assert found.brier == pytest.approx((2 * 0.01 + 0.81 + 2 * 0.01) / 5)
    assert found.ece == pytest.approx((3 * abs(0.1 - 1 / 3) + 2 * 0.1) / 5)


@given(BOTH)
def test_every_case_is_in_one_bin(rows: list[tuple[float, bool]]) -> None:
    found = reliability([s for s, _ in rows], [has for _, has in rows])
    assert found is not None
    assert sum(b.observed.n for b in found.bins) == len(rows)
    assert sum(b.observed.hits for b in found.bins) == sum(has for _, has in rows)
    assert [b.predicted for b in found.bins] == sorted(b.predicted for b in found.bins)
    assert 0 <= found.ece <= 1


def test_froc_by_hand() -> None:
    scans = [Scan((0.9, None), (0.4,)), Scan((), (0.8, 0.2)), Scan((0.3,), ())]
    points = froc(scans)
    assert [(p.threshold, round(p.marks_per_scan * 3), round(p.sensitivity * 3)) for p in points] == [
        (0.9, 0, 1),
        (0.8, 1, 1),
        (0.4, 2, 1),
        (0.3, 2, 2),
        (0.2, 3, 2),
    ]
    assert found_at(scans, 0.35) == ([True, False, False], 2)
    assert mean_sensitivity(points, (0.5, 1.0)) == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert froc([]) == ()
    assert mean_sensitivity(()) is None


@given(
    st.lists(
        st.tuples(st.lists(st.none() | st.integers(0, 9), max_size=3), st.lists(st.integers(0, 9), max_size=4)),
        max_size=12,
    )
)
def test_a_looser_threshold_never_finds_less(rows: list[tuple[list[Any], list[int]]]) -> None:
    scans = [Scan(tuple(lesions), tuple(marks)) for lesions, marks in rows]
    points = froc(scans)
    assert all(
        a.sensitivity <= b.sensitivity and a.marks_per_scan <= b.marks_per_scan for a, b in itertools.pairwise(points)
    )
    for point in points:
        found, marks = found_at(scans, point.threshold)
        assert point.sensitivity == pytest.approx(np.mean(found))
        assert point.marks_per_scan == pytest.approx(marks / len(scans))
