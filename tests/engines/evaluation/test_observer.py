"""The ideal observer: what d' and the number of places make of sensitivity, against closed forms and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from engines.evaluation.observer import places, sensitivity, threshold


def test_one_place_is_the_textbooks_observer() -> None:
    assert threshold(1, 0.999) == pytest.approx(norm.isf(0.001))
    assert sensitivity(0.0, 1, 0.999) == pytest.approx(0.001)
    assert sensitivity(threshold(1, 0.999), 1, 0.999) == pytest.approx(0.5)


def test_more_places_ask_for_more() -> None:
    asked = [threshold(m, 0.999) for m in (1, 10, 1000, 1e5)]
    assert asked == sorted(asked)
    assert asked[3] == pytest.approx(norm.isf(0.001 / 1e5), rel=1e-3)


def test_simulated_people_are_flagged_as_often_as_stated() -> None:
    rng = np.random.default_rng(5)
    m, people, specificity = 50, 20_000, 0.99
    t = threshold(m, specificity)
    healthy = rng.normal(size=(people, m)).max(axis=1)
    assert (healthy >= t).mean() == pytest.approx(1 - specificity, abs=0.003)
    ill = rng.normal(4.0, 1.0, people)
    assert (ill >= t).mean() == pytest.approx(sensitivity(4.0, m, specificity), abs=0.015)


def test_places_are_the_lesions_that_fit() -> None:
    assert places(1500, 0.5) == 3000
    assert places(1, 5) == 1
    with pytest.raises(ValueError, match="specificity"):
        threshold(10, 1.0)
