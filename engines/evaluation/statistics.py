"""The statistics of a reader study: proportions, predictive values, ROC, paired comparison, calibration. Pure; SciPy.

rate             a proportion with its exact interval                     Clopper and Pearson 1934
rate_of          the same of scans of which several may be one person's   Korn and Graubard 1998
predictive       PPV and NPV at a stated prevalence, with an interval that holds whatever the two errors do
auc, paired_auc  area under the ROC curve, and the difference of two on the same cases     DeLong et al. 1988
mcnemar          do two models err on different people?                   McNemar 1947, exact
holm             p values of several questions asked at once               Holm 1979
reliability      predicted against observed, Brier score, expected calibration error

Who knows whose scans they are gives `persons`, and the intervals and p values are those of people (`clusters`). Nothing
here draws random numbers. The AUC and its tests agree with R's pROC to all printed digits (see the tests).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from engines.evaluation import clusters

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Interval = tuple[float, float]
_Z95 = float(stats.norm.ppf(0.975))


@dataclass(frozen=True)
class Rate:
    """hits of n; value None where n is 0; ci95: exact. effective_n: independent scans that say as much."""

    hits: int
    n: int
    value: float | None
    ci95: Interval
    effective_n: float


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; value None where it can't be told."""

    value: float | None
    ci95: Interval


@dataclass(frozen=True)
class Auc:
    """Area under the ROC curve. value None without cases of both kinds. ci95 has no width where scores separate all
    cases: DeLong's variance is then 0, which says nothing about other cases."""

    value: float | None
    ci95: Interval
    n_positive: int
    n_negative: int


@dataclass(frozen=True)
class Paired:
    """Two models' AUC on the same cases, and b minus a. p: two-sided, None where the difference has no variance."""

    a: float
    b: float
    difference: float
    ci95: Interval
    p: float | None


@dataclass(frozen=True)
class McNemar:
    """Of the scans on which one of two models is right and the other wrong: how many each way; p exact, two-sided."""

    only_a: int
    only_b: int
    p: float


@dataclass(frozen=True)
class Bin:
    """Cases of similar predicted probability: the mean of it, and how many of them had the cancer."""

    predicted: float
    observed: Rate


@dataclass(frozen=True)
class Reliability:
    """bins: of equally many cases each, lowest first. brier: mean squared error. ece: mean over all cases of how far
    their bin's observed share is from its predicted one."""

    bins: tuple[Bin, ...]
    brier: float
    ece: float


def exact_interval(hits: float, n: float, confidence: float = 0.95) -> Interval:
    """Clopper and Pearson's interval of a proportion (Biometrika 26:404, 1934); all of 0..1 where n is 0.

    By quantiles of the beta distribution, so that n may be an effective number, which is no whole one."""
    tail = (1 - confidence) / 2
    low = float(stats.beta.ppf(tail, hits, n - hits + 1)) if hits > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0
    return (low, high)


def rate(hits: int, n: int) -> Rate:
    """hits of n, with the exact 95 % interval. ValueError unless 0 <= hits <= n."""
    if not 0 <= hits <= n:
        raise ValueError(f"{hits} of {n}")
    return Rate(hits, n, hits / n if n else None, exact_interval(hits, n), float(n))


def rate_of(hits: Sequence[bool], persons: Sequence[int]) -> Rate:
    """The share of scans that are hits, with an interval that knows of which people they are: Clopper and Pearson's
    where everybody has one, Korn and Graubard's otherwise."""
    if len(hits) != len(persons):
        raise ValueError(f"{len(hits)} scans of {len(persons)} people")
    found, effective = rate(sum(hits), len(hits)), clusters.effective_n(hits, persons)
    if effective == found.n:
        return found
    interval = exact_interval(effective * (found.value or 0.0), effective)
    return replace(found, ci95=interval, effective_n=effective)


def predictive(sensitivity: Rate, specificity: Rate, prevalence: float) -> tuple[Estimate, Estimate]:
    """(PPV, NPV) by Bayes' rule at this prevalence.

    The interval is the range over both 97.5 % intervals (Bonferroni), so it holds at 95 % or more, also with no error
    among few cases, where intervals from variances have no width.
    """
    values = (sensitivity.value, specificity.value)
    sens, spec = (
        exact_interval(r.effective_n * r.hits / max(r.n, 1), r.effective_n, 0.975) for r in (sensitivity, specificity)
    )
    ppv = (_ppv(sens[0], spec[0], prevalence) or 0.0, _ppv(sens[1], spec[1], prevalence) or 1.0)
    npv = (_npv(sens[0], spec[0], prevalence) or 0.0, _npv(sens[1], spec[1], prevalence) or 1.0)
    if values[0] is None or values[1] is None:
        return Estimate(None, ppv), Estimate(None, npv)
    here = values[0], values[1], prevalence
    return Estimate(_ppv(*here), ppv), Estimate(_npv(*here), npv)


def auc(scores: Sequence[float], truth: Sequence[bool], persons: Sequence[int] | None = None) -> Auc:
    """The area and DeLong's interval (Biometrics 44:837, 1988), cut at 0 and 1 as pROC does; with `persons`
    Obuchowski's."""
    positive, negative = _split(scores, truth)
    if not len(positive) or not len(negative):
        return Auc(None, (0.0, 1.0), len(positive), len(negative))
    by_positive, by_negative = _placements(positive, negative)
    value = float(by_positive.mean())
    spread = _Z95 * float(
        np.sqrt(clusters.placement_variance(by_positive, by_negative, persons, np.asarray(truth, bool)))
    )
    return Auc(value, (max(0.0, value - spread), min(1.0, value + spread)), len(positive), len(negative))


def paired_auc(
    a: Sequence[float], b: Sequence[float], truth: Sequence[bool], persons: Sequence[int] | None = None
) -> Paired:
    """Two models on the same cases. ValueError without cases of both kinds."""
    placed = [_placements(*_split(scores, truth)) for scores in (a, b)]
    areas = [float(components.mean()) for components, _ in placed]
    by_positive, by_negative = (second - first for first, second in zip(*placed, strict=True))
    variance = clusters.placement_variance(by_positive, by_negative, persons, np.asarray(truth, bool))
    difference, spread = areas[1] - areas[0], float(np.sqrt(variance))
    p = 2 * float(stats.norm.sf(abs(difference) / spread)) if spread > 0 else None
    interval = (max(-1.0, difference - _Z95 * spread), min(1.0, difference + _Z95 * spread))
    return Paired(areas[0], areas[1], difference, interval, p)


def mcnemar(a_right: Sequence[bool], b_right: Sequence[bool], persons: Sequence[int] | None = None) -> McNemar:
    """Exact test on the discordant scans (Psychometrika 12:153, 1947; binomial, two-sided); with `persons` a sign test
    on the people for whom one model is right more often than the other."""
    first, second = np.asarray(a_right, bool), np.asarray(b_right, bool)
    only_a, only_b = int((first & ~second).sum()), int((second & ~first).sum())
    for_a, for_b = (only_a, only_b) if persons is None else clusters.signs(first, second, persons)
    p = float(stats.binomtest(for_a, for_a + for_b).pvalue) if for_a + for_b else 1.0
    return McNemar(only_a, only_b, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """The same p values, adjusted for all being asked at once (Scand J Stat 6:65, 1979); in the given order."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.zeros(len(p_values))
    highest = 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return [float(p) for p in adjusted]


def roc_curve(scores: Sequence[float], truth: Sequence[bool]) -> list[tuple[float, float, float]]:
    """(false positive rate, sensitivity, threshold) from (0, 0) to (1, 1), one point where the curve turns.

    A case counts as positive at or above the threshold. Empty without cases of both kinds.
    """
    positive, negative = _split(scores, truth)
    if not len(positive) or not len(negative):
        return []
    cuts = np.unique(np.concatenate([positive, negative]))[::-1]
    sens = 1 - np.searchsorted(np.sort(positive), cuts) / len(positive)
    fpr = 1 - np.searchsorted(np.sort(negative), cuts) / len(negative)
    x, y, at = np.append(0.0, fpr), np.append(0.0, sens), np.append(np.inf, cuts)
    keep = np.ones(len(x), bool)
    # A point on the straight line between its neighbours says nothing.
    keep[1:-1] = (np.diff(x)[:-1] * np.diff(y)[1:] - np.diff(x)[1:] * np.diff(y)[:-1]) != 0
    return [(float(a), float(b), float(c)) for a, b, c in zip(x[keep], y[keep], at[keep], strict=True)]


def reliability(
    probabilities: Sequence[float], truth: Sequence[bool], persons: Sequence[int] | None = None, bins: int = 10
) -> Reliability | None:
    """Calibration in bins of equally many cases; cases of equal probability share a bin. None without cases."""
    p, has = np.asarray(probabilities, float), np.asarray(truth, bool)
    whose = np.arange(len(p)) if persons is None else np.asarray(persons)
    if not len(p):
        return None
    cuts = np.unique(np.quantile(p, np.linspace(0, 1, bins + 1)[1:-1], method="lower"))
    which = np.searchsorted(cuts, p)
    found = tuple(
        Bin(float(p[which == i].mean()), rate_of(has[which == i].tolist(), whose[which == i].tolist()))
        for i in np.unique(which)
    )
    off = sum(abs(b.predicted - (b.observed.value or 0.0)) * b.observed.n for b in found)
    return Reliability(found, float(np.mean((p - has) ** 2)), off / len(p))


def _split(scores: Sequence[float], truth: Sequence[bool]) -> tuple[Floats, Floats]:
    values, positive = np.asarray(scores, float), np.asarray(truth, bool)
    if values.shape != positive.shape:
        raise ValueError(f"{values.shape[0]} scores of {positive.shape[0]} cases")
    return values[positive], values[~positive]


def _placements(positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
    """DeLong's components: for each case the share of the other kind that it is ranked right against (ties half).

    From mid-ranks (Sun and Xu, IEEE Signal Process Lett 21:1389, 2014): n log n, not n².
    """
    m, n = len(positive), len(negative)
    if not m or not n:
        raise ValueError("an AUC needs cases of both kinds")
    ranks = stats.rankdata(np.concatenate([positive, negative]))
    by_positive = (ranks[:m] - stats.rankdata(positive)) / n
    by_negative = 1 - (ranks[m:] - stats.rankdata(negative)) / m
    return by_positive, by_negative


def _ppv(sensitivity: float, specificity: float, prevalence: float) -> float | None:
    flagged = sensitivity * prevalence + (1 - specificity) * (1 - prevalence)
    return sensitivity * prevalence / flagged if flagged > 0 else None


def _npv(sensitivity: float, specificity: float, prevalence: float) -> float | None:
    spared = specificity * (1 - prevalence) + (1 - sensitivity) * prevalence
    return specificity * (1 - prevalence) / spared if spared > 0 else None
