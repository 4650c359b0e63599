"""Calibration is monotone, stays a probability, and undoes what it was made of."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.cascade.calibration import calibrated
from engines.manifest import Calibration, Isotonic, Platt

scores = st.floats(0, 1)
steps = st.lists(st.floats(0, 1), min_size=2, max_size=8, unique=True).map(sorted)


@st.composite
def calibrations(draw: st.DrawFn) -> Calibration:
    if draw(st.booleans()):
        return Platt(a=-draw(st.floats(0.01, 20)), b=draw(st.floats(-30, 30)))
    at = draw(steps)
    levels = sorted(draw(st.lists(st.floats(0, 1), min_size=len(at), max_size=len(at))))
    return Isotonic(scores=tuple(at), probabilities=tuple(levels))


@given(rule=calibrations(), a=scores, b=scores)
def test_a_higher_score_is_never_a_lower_probability(rule: Calibration, a: float, b: float) -> None:
    low, high = calibrated(min(a, b), rule), calibrated(max(a, b), rule)
    assert 0 <= low <= high + 1e-12 <= 1 + 1e-9


@given(score=scores)
def test_no_calibration_changes_nothing(score: float) -> None:
    assert calibrated(score, None) == score


@given(score=st.floats(0.001, 0.999))
def test_platt_s_identity_is_slope_minus_one(score: float) -> None:
    assert calibrated(score, Platt(a=-1, b=0)) == pytest.approx(score, rel=1e-6)


def test_platt_is_the_logistic_of_the_logit() -> None:
    assert calibrated(0.8, Platt(a=-2, b=1)) == pytest.approx(1 / (1 + math.exp(-2 * math.log(4) + 1)))


def test_isotonic_goes_through_its_points_and_is_flat_beyond_them() -> None:
    rule = Isotonic(scores=(0.2, 0.6), probabilities=(0.1, 0.9))
    assert [calibrated(s, rule) for s in (0.0, 0.2, 0.4, 0.6, 1.0)] == pytest.approx([0.1, 0.1, 0.5, 0.9, 0.9])
