"""Several scans of one person are alike, and say less than as many scans of different people. Pure; SciPy.

effective_n          of how many independent scans a share says as much            Korn and Graubard 1998
placement_variance   of an area under the ROC curve                                Obuchowski 1997
signs                people for whom one of two models is right more often: an exact sign test needs no more

With one scan a person they are n, DeLong's variance and the discordant people: nothing changes. `persons` name, in the
order of the scans, whose each is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]


def effective_n(hits: Sequence[bool], persons: Sequence[int]) -> float:
    """Korn and Graubard's effective number of scans (Survey Methodology 24:193, 1998), never more than there are.

    n over the design effect, times the square of the ratio of Student's t for n - 1 and for people - 1 degrees of
    freedom. Where all are hits, or none is, nothing tells how alike scans are: then people count, not scans.
    """
    n, (_, whose) = len(hits), np.unique(np.asarray(persons), return_inverse=True)
    people = int(whose.max()) + 1 if n else 0
    share = float(np.mean(hits)) if n else 0.0
    if people == n or share in (0.0, 1.0) or people == 1:
        return float(people)
    residuals = np.bincount(whose, np.asarray(hits, float) - share)
    variance = people / (people - 1) * float(residuals @ residuals) / n**2
    independent = share * (1 - share) / (n - 1)
    ratio = float(stats.t.ppf(0.975, n - 1) / stats.t.ppf(0.975, people - 1))
    return float(n) if variance == 0 else min(float(n), n * independent / variance * ratio**2)


def placement_variance(
    by_positive: Floats, by_negative: Floats, persons: Sequence[int] | None, truth: npt.NDArray[np.bool_]
) -> float:
    """The variance of an area, or of a difference of two, from DeLong's components of its cases (Obuchowski,
    Biometrics 53:567, 1997). persons: None: one scan each. truth: (scans), which of them are positive."""
    whose = np.arange(len(truth)) if persons is None else np.unique(np.asarray(persons), return_inverse=True)[1]
    people = int(whose.max()) + 1
    positive = np.bincount(whose[truth], by_positive - by_positive.mean(), people)
    negative = np.bincount(whose[~truth], by_negative - by_negative.mean(), people)
    m, n = len(by_positive), len(by_negative)
    with_positive, with_negative = len(np.unique(whose[truth])), len(np.unique(whose[~truth]))
    own_positive = _corrected(float(positive @ positive), with_positive) / m**2
    own_negative = _corrected(float(negative @ negative), with_negative) / n**2
    together = _corrected(float(positive @ negative), people) / (m * n)
    return max(0.0, own_positive + own_negative + 2 * together)


def signs(a_right: npt.NDArray[np.bool_], b_right: npt.NDArray[np.bool_], persons: Sequence[int]) -> tuple[int, int]:
    """(people for whom a is right more often than b, people for whom b is)."""
    whose = np.unique(np.asarray(persons), return_inverse=True)[1]
    ahead = np.bincount(whose, a_right.astype(float) - b_right) if len(whose) else np.zeros(0)
    return int((ahead > 0).sum()), int((ahead < 0).sum())


def _corrected(total: float, people: int) -> float:
    """A sum over people, freed from the bias of their own mean; a single one has no variance to tell."""
    return total * people / (people - 1) if people > 1 else 0.0
