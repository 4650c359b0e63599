"""Several scans of one person: intervals and tests are then those of people, and as before where everybody has one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.evaluation.clusters import effective_n, signs
from engines.evaluation.statistics import auc, exact_interval, mcnemar, paired_auc, rate, rate_of, reliability
from tests.engines.evaluation.test_statistics import TRUTH, A, B

OWNED = st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=1, max_size=40)
SINGLE = list(range(100, 160))
TWICE = [person for person in SINGLE for _ in range(2)]


def twice(values: list[float] | list[bool]) -> list[float]:
    return [value for value in values for _ in range(2)]


def test_with_one_scan_each_nothing_changes() -> None:
    right = [score > 0.35 for score in A]
    assert rate_of(right, SINGLE) == rate(sum(right), len(right))
    assert auc(A, TRUTH, SINGLE) == auc(A, TRUTH)
    assert paired_auc(A, B, TRUTH, SINGLE) == paired_auc(A, B, TRUTH)
    assert mcnemar(right, TRUTH, SINGLE) == mcnemar(right, TRUTH)
    assert reliability(A, TRUTH, SINGLE) == reliability(A, TRUTH)


def test_the_same_scan_twice_says_no_more_than_once() -> None:
    right = [score > 0.35 for score in A]
    once, doubled = rate(sum(right), 60), rate_of([bool(hit) for hit in twice(right)], TWICE)
    assert (doubled.hits, doubled.n, doubled.value) == (2 * once.hits, 120, once.value)
    assert 57 < doubled.effective_n <= 60
    assert doubled.ci95[0] <= once.ci95[0] <= once.ci95[1] <= doubled.ci95[1]
    truth = [bool(has) for has in twice(TRUTH)]
    assert auc(twice(A), truth, TWICE).ci95 == pytest.approx(auc(A, TRUTH).ci95)
    assert auc(twice(A), truth).ci95[0] > auc(A, TRUTH).ci95[0]  # who doesn't know is too sure
    found, first = paired_auc(twice(A), twice(B), truth, TWICE), paired_auc(A, B, TRUTH)
    assert found.ci95 == pytest.approx(first.ci95)
    assert found.p == pytest.approx(first.p)
    same = mcnemar([bool(hit) for hit in twice(right)], truth, TWICE)
    assert same.p == mcnemar(right, TRUTH).p


def test_where_nobody_erred_people_count_and_not_scans() -> None:
    assert effective_n([True] * 12, [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]) == 3
    assert rate_of([True] * 12, [1] * 6 + [2] * 6).ci95 == exact_interval(2, 2)
    assert rate_of([True, False, True], [1, 1, 1]).effective_n == 1


@given(OWNED)
def test_an_interval_holds_its_share_and_is_never_narrower_than_that_of_as_many_people(
    rows: list[tuple[bool, int]],
) -> None:
    found = rate_of([hit for hit, _ in rows], [person for _, person in rows])
    assert found.value is not None
    assert found.ci95[0] - 1e-12 <= found.value <= found.ci95[1] + 1e-12
    assert found.effective_n <= found.n
    plain = rate(found.hits, found.n)
    assert found.ci95[1] - found.ci95[0] >= plain.ci95[1] - plain.ci95[0] - 1e-9


def drawn(rng: np.random.Generator, people: int, scans: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int_]]:
    """Scans of people who differ in how easily they are judged right: 0.85 on average, correlation within one 0.5."""
    ease = rng.beta(0.85, 0.15, people)
    return (rng.random((people, scans)) < ease[:, None]).ravel(), np.repeat(np.arange(people), scans)


def test_the_interval_holds_what_it_claims_where_that_of_scans_does_not() -> None:
    rng = np.random.default_rng(1)
    knows, ignores = [], []
    for _ in range(2000):
        hits, persons = drawn(rng, 60, 4)
        for held, low_high in (
            (knows, rate_of(hits.tolist(), persons.tolist()).ci95),
            (ignores, rate(int(hits.sum()), len(hits)).ci95),
        ):
            held.append(low_high[0] <= 0.85 <= low_high[1])
    assert np.mean(knows) >= 0.95 - 0.015
    assert np.mean(ignores) < 0.85


def test_the_error_of_an_area_is_that_of_people_drawn_anew() -> None:
    rng = np.random.default_rng(2)
    people, scans = 90, 3
    persons = np.repeat(np.arange(people), scans)
    truth = rng.random(people * scans) < 0.4  # a person may have scans before and after the cancer was there
    scores = truth + np.repeat(rng.normal(0, 0.8, people), scans) + rng.normal(0, 0.5, people * scans)
    of_person = [np.flatnonzero(persons == person) for person in range(people)]
    again = []
    for _ in range(1500):
        chosen = np.concatenate([of_person[i] for i in rng.integers(0, people, people)])
        again.append(auc(scores[chosen].tolist(), truth[chosen].tolist()).value)
    low, high = auc(scores.tolist(), truth.tolist(), persons.tolist()).ci95
    assert np.std(np.array(again, float)) == pytest.approx((high - low) / 2 / 1.96, rel=0.08)


def test_people_decide_which_of_two_models_is_right_more_often() -> None:
    a, b = np.array([1, 1, 0, 1, 0, 0], bool), np.array([0, 0, 1, 0, 1, 0], bool)
    persons = [1, 1, 1, 2, 3, 4]
    assert signs(a, b, persons) == (2, 1)
    found = mcnemar(a.tolist(), b.tolist(), persons)
    assert (found.only_a, found.only_b, found.p) == (3, 2, pytest.approx(1.0))


def test_whose_scans_they_are_has_to_be_said_of_all() -> None:
    with pytest.raises(ValueError, match="2 scans of 1 people"):
        rate_of([True, False], [1])
