"""Scores of cases with a known outcome → calibration, thresholds, evidence. Pure; NumPy and SciPy only.

platt, isotonic        score → probability, fitted on tuning cases
choose_thresholds      on the tuning cases' calibrated scores
evidence_at            how a threshold does on other cases, with exact intervals
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from core.errors import EngineError
from engines.cascade.calibration import logit
from engines.evaluation.statistics import rate_of
from engines.manifest import Evidence, Isotonic, Platt
from engines.manifest.evidence import Kind

Floats = npt.NDArray[np.float64]
_MOST_POINTS = 1000
CONFIDENCE = 0.9
"""Of what cases are said to show of others, where no other confidence is wanted."""


class NotCalibrated(EngineError):
    """Scores that no calibration or threshold can be made of."""

    default_remedy = (
        "Look at the scores: those of people with the cancer must tend to be higher, and there must be some."
    )


def platt(scores: Sequence[float], truth: Sequence[bool]) -> Platt:
    """Maximum likelihood on the logit of the score, with Platt's smoothed targets (Platt 1999, section 2.2).

    Targets are (n + 1) / (n + 2) for the n cases with the cancer, 1 / (m + 2) for the m without, so that separate
    groups don't make the slope infinite. NotCalibrated where higher scores don't go with the cancer.
    """
    x, target = np.array([logit(s) for s in scores]), _smoothed(truth)
    middle, spread = float(x.mean()), float(x.std())
    if spread == 0:
        raise NotCalibrated("all scores are the same")
    z = (x - middle) / spread

    def loss(ab: Floats) -> float:
        # cross-entropy with p = 1 / (1 + exp(a z + b)): convex in (a, b)
        u = ab[0] * z + ab[1]
        return float(np.sum(np.logaddexp(0, u) - (1 - target) * u))

    def gradient(ab: Floats) -> Floats:
        g = target - special.expit(-(ab[0] * z + ab[1]))
        return np.array([np.sum(g * z), np.sum(g)])

    def hessian(ab: Floats) -> Floats:
        p = special.expit(-(ab[0] * z + ab[1]))
        w = p * (1 - p)
        return np.array([[np.sum(w * z * z), np.sum(w * z)], [np.sum(w * z), np.sum(w)]])

    found = optimize.minimize(
        loss, np.zeros(2), jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-9}
    )
    slope = float(found.x[0]) / spread
    if slope >= 0:
        raise NotCalibrated("higher scores don't go with the cancer")
    return Platt(a=slope, b=float(found.x[1]) - slope * middle)


def isotonic(scores: Sequence[float], truth: Sequence[bool]) -> Isotonic:
    """Non-decreasing least squares (Zadrozny and Elkan 2002) through Platt's smoothed targets, so never 0 or 1.

    Each step's two ends become points; between steps it is linear. NotCalibrated where the result is flat.
    """
    values, where = np.unique(np.asarray(scores, float), return_inverse=True)
    if len(values) < 2:
        raise NotCalibrated("all scores are the same")
    weights = np.bincount(where).astype(float)
    means = np.bincount(where, weights=_smoothed(truth)) / weights
    fitted = optimize.isotonic_regression(means, weights=weights)
    if fitted.x[0] >= fitted.x[-1]:
        raise NotCalibrated("higher scores don't go with the cancer")
    ends = np.unique(np.concatenate([fitted.blocks[:-1], fitted.blocks[1:] - 1]))
    if len(ends) > _MOST_POINTS:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, _MOST_POINTS).round().astype(int))]
    levels = np.maximum.accumulate(fitted.x[ends])  # equal but for rounding
    return Isotonic(scores=tuple(map(float, values[ends])), probabilities=tuple(map(float, levels)))


def choose_thresholds(
    scores: Sequence[float],
    truth: Sequence[bool],
    sensitivity: float,
    specificity: float,
    confidence: float | None = None,
) -> tuple[float, float]:
    """(negative below, positive at or above) for a rule-out and a rule-in point on tuning cases.

    The lower is the highest threshold that keeps `sensitivity`, the upper the lowest that reaches `specificity`: here
    or, with a `confidence`, among others too (see `allowed_above`). Where they cross, both become the middle one
    between them: the tuning cases leave no doubtful zone. Both lie between two observed scores, and have no more
    decimals than that needs. NotCalibrated without cases of both kinds.
    """
    values, positive = np.asarray(scores, float), np.asarray(truth, bool)
    if not positive.any() or positive.all():
        raise NotCalibrated("thresholds need cases with and without the cancer")
    cuts = np.unique(np.concatenate([values, (0.0, 1.0)]))
    middles = np.array([_between(a, b) for a, b in itertools.pairwise(cuts)])
    with_it, without = np.sort(values[positive]), np.sort(values[~positive])
    kept = 1 - np.searchsorted(with_it, middles) / len(with_it)
    above = len(without) - np.searchsorted(without, middles)
    low = int(np.flatnonzero(kept >= sensitivity - 1e-12).max(initial=0))
    allowed = allowed_above(len(without), specificity, confidence)
    high = int(np.flatnonzero(above <= allowed).min(initial=len(middles) - 1))
    if low > high:
        low = high = (low + high) // 2
    return float(middles[low]), float(middles[high])


def allowed_above(n: int, specificity: float, confidence: float | None = None) -> int:
    """So many of n people without a cancer may lie above a threshold that is to have this specificity.

    Without a confidence the share among these n may be as large as among all: of other samples half would then exceed
    it. With one, what these n show of others must keep it: the most whose `upper_limit` does. 0 also where n are too
    few to show it.
    """
    if confidence is None:
        return int((1 - specificity) * n + 1e-9)
    return max(int(stats.binom.ppf(1 - confidence, n, 1 - specificity)) - 1, 0)


def upper_limit(successes: int, n: int, confidence: float = CONFIDENCE) -> float:
    """Exact one-sided upper limit of a proportion; 1 where n is 0."""
    return 1.0 if successes >= n else float(stats.beta.ppf(confidence, successes + 1, n - successes))


def evidence_at(
    threshold: float,
    scores: Sequence[float | None],
    truth: Sequence[bool],
    persons: Sequence[int],
    kind: Kind,
    cohort: str,
) -> Evidence:
    """Sensitivity and specificity at `threshold`; a case that was not analysed (None) counts as wrong either way.

    persons: whose each scan is; the intervals are those of people."""
    rows = list(zip(scores, truth, persons, strict=True))
    ill = [(s is not None and s >= threshold, person) for s, has, person in rows if has]
    well = [(s is not None and s < threshold, person) for s, has, person in rows if not has]
    found, spared = (rate_of([hit for hit, _ in part], [person for _, person in part]) for part in (ill, well))
    return Evidence(
        kind=kind,
        cohort=cohort,
        n_positive=found.n,
        n_negative=spared.n,
        sensitivity=found.value or 0.0,
        sensitivity_ci95=found.ci95,
        specificity=spared.value or 0.0,
        specificity_ci95=spared.ci95,
    )


def _smoothed(truth: Sequence[bool]) -> Floats:
    positive = np.asarray(truth, bool)
    n, m = int(positive.sum()), int((~positive).sum())
    if n == 0 or m == 0:
        raise NotCalibrated("calibration needs cases with and without the cancer")
    return np.where(positive, (n + 1) / (n + 2), 1 / (m + 2))


def _between(low: float, high: float) -> float:
    """The middle, rounded to as few decimals as keep it strictly between."""
    middle = (low + high) / 2
    for decimals in range(2, 17):
        rounded = round(float(middle), decimals)
        if low < rounded < high:
            return rounded
    return float(middle)
