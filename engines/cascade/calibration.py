"""Score → probability, as the manifest says. Pure; fitting is `engines.calibration`'s affair."""

from __future__ import annotations

import math
from bisect import bisect_right

from engines.manifest import Calibration, Isotonic, Platt

_SMALLEST = 1e-7
"""Scores of 0 and 1 have no logit: they count as this far from it."""


def calibrated(score: float, calibration: Calibration | None) -> float:
    """A score 0..1 as a probability 0..1; unchanged without a calibration. Never decreasing in the score."""
    if calibration is None:
        return score
    if isinstance(calibration, Platt):
        return _platt(score, calibration)
    return _isotonic(score, calibration)


def logit(score: float) -> float:
    """log(p / (1 - p)), bounded."""
    bounded = min(max(score, _SMALLEST), 1 - _SMALLEST)
    return math.log(bounded / (1 - bounded))


def logistic(logit: float) -> float:
    """1 / (1 + exp(-logit)): the inverse of `logit`."""
    if logit >= 0:  # exp never overflows
        return 1 / (1 + math.exp(-logit))
    small = math.exp(logit)
    return small / (1 + small)


def _platt(score: float, rule: Platt) -> float:
    return logistic(-(rule.a * logit(score) + rule.b))


def _isotonic(score: float, rule: Isotonic) -> float:
    if score <= rule.scores[0]:
        return rule.probabilities[0]
    if score >= rule.scores[-1]:
        return rule.probabilities[-1]
    after = bisect_right(rule.scores, score)
    (x0, x1), (y0, y1) = rule.scores[after - 1 : after + 1], rule.probabilities[after - 1 : after + 1]
    return y0 + (y1 - y0) * (score - x0) / (x1 - x0)
