"""Thresholds and evidence: counted on small tables whose answers are known by hand."""

from __future__ import annotations

import pytest

from engines.reference.evaluate import Scored, choose_thresholds, clopper_pearson, evidence_at


def row(truth: bool, score: float | None) -> Scored:
    return Scored(1, "lung", truth, score, "", (), (), {})


def test_interval_is_clopper_and_pearsons() -> None:
    # Textbook values: 0/10 and 10/10 have the closed form 1 - 0.025 ** (1 / 10).
    assert clopper_pearson(0, 10) == pytest.approx((0.0, 0.30850), abs=1e-5)
    assert clopper_pearson(10, 10) == pytest.approx((0.69150, 1.0), abs=1e-5)
    assert clopper_pearson(5, 10) == pytest.approx((0.18709, 0.81291), abs=1e-5)
    assert clopper_pearson(0, 0) == (0.0, 1.0)


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
    with pytest.raises(ValueError, match="with and without"):
        choose_thresholds([0.1, 0.2], [True, True], 0.95, 0.95)


def test_a_case_that_was_not_analysed_counts_as_wrong_either_way() -> None:
    rows = [row(True, 0.9), row(True, None), row(False, 0.1), row(False, None)]
    evidence = evidence_at(0.5, rows, "by hand")
    assert (evidence.sensitivity, evidence.specificity) == (0.5, 0.5)
    assert (evidence.n_positive, evidence.n_negative) == (2, 2)
    assert evidence.kind == "synthetic"


def test_the_threshold_itself_is_positive() -> None:
    evidence = evidence_at(0.5, [row(True, 0.5), row(False, 0.4999)], "by hand")
    assert evidence.sensitivity == evidence.specificity == 1.0
