"""How many cancers an ideal observer would find at a specificity, from their detectability d'.

An observer who knows a lesion's signal but not its place looks at M places that don't overlap, M being the organ's
volume over the lesion's. In each healthy place its response is normal with mean 0 and variance 1, at the lesion normal
with mean d'. So that a healthy person is called ill with probability 1 - specificity over all places (Šidák),

    t = Φ⁻¹(specificity^(1/M)),    sensitivity = Φ(d' - t)

(signal known exactly but for its place: Nolte and Jaarsma, J Acoust Soc Am 41:497, 1967; ICRU Report 54, 1996, §3).
No reader and no network can do better on that lesion by its own signal; secondary signs come on top. Pure.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm


def threshold(places: float, specificity: float) -> float:
    """t: the response, in standard deviations, that a healthy person exceeds with probability 1 - specificity."""
    if not 0 < specificity < 1:
        raise ValueError(f"specificity {specificity} is not between 0 and 1")
    return float(norm.isf(-np.expm1(np.log(specificity) / max(places, 1.0))))


def sensitivity(d_prime: float, places: float, specificity: float) -> float:
    """Chance that an ideal observer finds a lesion of this detectability."""
    return float(norm.sf(threshold(places, specificity) - d_prime))


def places(organ_ml: float, lesion_ml: float) -> float:
    """How many lesions of this volume fit into the organ; at least 1."""
    return max(organ_ml / max(lesion_ml, 1e-3), 1.0)
