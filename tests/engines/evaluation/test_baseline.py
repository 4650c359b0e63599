"""The threshold detector finds what is large and plain, not what is faint, and keeps the specificity it was given."""

from __future__ import annotations

import numpy as np
import pytest

from core.errors import ConfigError
from engines.evaluation.baseline import RULES, Detector, Rule, marks_mm, tune

SPACING = (2.0, 2.0, 2.0)


def _organ(contrast: float, radius_mm: float, noise: float = 6.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A ball of 30 mm at 50 HU in fat, with a ball of `contrast` in it."""
    rng = np.random.default_rng(seed)
    r = np.sqrt((np.indices((40, 40, 40)) - 19.5).__pow__(2).sum(axis=0)) * 2
    organ = r < 30
    hu = np.where(organ, 50.0, -100.0)
    hu[r < radius_mm] += contrast
    return (hu + rng.normal(0, noise, hu.shape)).astype(np.int16), organ


def test_a_marks_diameter_is_the_lesions() -> None:
    hu, organ = _organ(-40.0, 10.0, noise=2.0)
    rule = Rule("darker", 20.0, 3.0)
    assert marks_mm(hu, organ, SPACING, (rule,))[0] == pytest.approx(20, abs=2.5)
    assert marks_mm(hu, organ, SPACING, (Rule("brighter", 20.0, 3.0),))[0] == 0


def test_fat_around_the_organ_does_not_leak_in() -> None:
    hu, organ = _organ(0.0, 0.0, noise=0.0)
    relative = tuple(r for r in RULES if not r.absolute)
    assert not marks_mm(hu, organ, SPACING, relative).any()


def test_a_rule_may_count_from_zero() -> None:
    hu, organ = _organ(-40.0, 10.0, noise=2.0)
    rules = (Rule("brighter", 30.0, 3.0, absolute=True), Rule("brighter", 60.0, 3.0, absolute=True))
    whole, none = marks_mm(hu, organ, SPACING, rules)
    assert whole == pytest.approx(58, abs=3)  # a ball of 60 mm but for the lesion
    assert none == 0


def test_an_absent_organ_has_no_marks_and_shapes_must_agree() -> None:
    hu, organ = _organ(-40.0, 10.0)
    assert not marks_mm(hu, np.zeros_like(organ), SPACING).any()
    with pytest.raises(ValueError, match="shape"):
        marks_mm(hu[1:], organ, SPACING)


def test_tuning_keeps_the_specificity_and_finds_plain_but_not_faint_lesions() -> None:
    healthy = [marks_mm(*_organ(0.0, 0.0, seed=i), SPACING) for i in range(30)]
    plain = [marks_mm(*_organ(-30.0, 9.0, seed=100 + i), SPACING) for i in range(10)]
    faint = [marks_mm(*_organ(-1.5, 4.0, seed=200 + i), SPACING) for i in range(10)]
    truth = np.array([False] * 30 + [True] * 10)
    found = tune(np.array(healthy + plain), truth, 1.0)
    assert found.specificity == 1
    assert found.sensitivity == 1
    assert found.detector.rule.polarity == "darker"
    missed = tune(np.array(healthy + faint), truth, 1.0)
    assert missed.specificity == 1
    assert missed.sensitivity < 0.5


def test_some_false_alarms_may_be_allowed() -> None:
    marks = np.zeros((12, len(RULES)))
    marks[:10, 0] = np.arange(1, 11)  # ten healthy people
    marks[10:, 0] = 9.5
    truth = np.array([False] * 10 + [True] * 2)
    assert tune(marks, truth, 1.0).sensitivity == 0
    relaxed = tune(marks, truth, 0.9)
    assert relaxed.sensitivity == 1
    assert relaxed.specificity == 0.9
    assert 9 < relaxed.detector.from_mm <= 9.5


def test_a_detector_flags_by_its_threshold() -> None:
    hu, organ = _organ(-40.0, 10.0, noise=2.0)
    rule = Rule("darker", 20.0, 3.0)
    assert Detector(rule, 15.0).flags(hu, organ, SPACING)
    assert not Detector(rule, 30.0).flags(hu, organ, SPACING)


def test_tuning_needs_both_kinds_of_cases() -> None:
    with pytest.raises(ConfigError, match="with and without"):
        tune(np.zeros((3, len(RULES))), np.ones(3, bool), 0.99)
