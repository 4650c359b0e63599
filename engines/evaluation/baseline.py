"""The honest baseline: contrast and size thresholds in the organ's true mask, no learning.

    1  the organ's HU are averaged over a few mm, within the organ alone, so that noise goes and edges don't leak in
    2  voxels that differ by a rule's contrast, brighter or darker, from the organ's median or from 0 HU are marked
    3  a case's score is the diameter of the largest connected mark, in mm
    4  on tuning cases the rule is chosen that finds most cancers with the size threshold that keeps the specificity

It is given what no network gets, the true outline of the organ. Where it does well, cancers are easy. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from core.errors import ConfigError
from core.finding import Cancer
from core.volume import Vector

Polarity = Literal["brighter", "darker"]
Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """What is marked: HU at least `contrast_hu` above or below the organ's median, after averaging over `smooth_mm`.

    absolute: above or below 0 HU instead.
    """

    polarity: Polarity
    contrast_hu: float
    smooth_mm: float
    absolute: bool = False

    def __str__(self) -> str:
        above = "0 HU" if self.absolute else "the organ's median"
        return f"{self.contrast_hu:g} HU {self.polarity} than {above}, averaged over {self.smooth_mm:g} mm"


_BRIGHTER = (4.0, 7.0, 10.0, 14.0, 20.0, 30.0, 50.0, 70.0, 100.0, 130.0, 160.0, 250.0, 400.0, 600.0, 750.0, 830.0)
_DARKER = (4.0, 7.0, 10.0, 14.0, 20.0, 30.0, 50.0, 100.0)
_HU = (5.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0, 45.0, 50.0)
RULES: tuple[Rule, ...] = tuple(
    [Rule("brighter", contrast, smooth) for smooth in (3.0, 6.0) for contrast in _BRIGHTER]
    + [Rule("darker", contrast, smooth) for smooth in (3.0, 6.0) for contrast in _DARKER]
    + [Rule("brighter", hu, smooth, absolute=True) for smooth in (3.0, 6.0) for hu in _HU]
)
"""Every rule that is tried. Contrasts up to 20 HU are those of solid and hollow organs, large ones those of lungs."""
BEST: Mapping[Cancer, Rule] = {
    Cancer.PANCREAS: Rule("brighter", 45.0, 3.0, absolute=True),
    Cancer.OESOPHAGUS: Rule("darker", 14.0, 3.0),
    Cancer.LUNG: Rule("brighter", 5.0, 3.0, absolute=True),
    Cancer.BREAST: Rule("brighter", 45.0, 3.0, absolute=True),
    Cancer.LIVER: Rule("darker", 10.0, 3.0),
    Cancer.STOMACH: Rule("brighter", 40.0, 6.0, absolute=True),
    Cancer.COLORECTUM: Rule("brighter", 35.0, 6.0, absolute=True),
}
"""Those of RULES that find most at 99.9 % specificity (bench/phantom_ease.py, law of difficulty 2, seeds 50,000 and
60,000 onwards; docs/phantoms.md). Whoever is judged beside a bundle had no part in it."""


@dataclass(frozen=True)
class Detector:
    """A rule, and from which diameter on a mark counts as a cancer."""

    rule: Rule
    from_mm: float

    def flags(self, hu: npt.NDArray[np.int16], organ: npt.NDArray[np.bool_], spacing_mm: Vector) -> bool:
        """Whether a case is called positive."""
        return bool(marks_mm(hu, organ, spacing_mm, (self.rule,))[0] >= self.from_mm)


@dataclass(frozen=True)
class Tuned:
    """A detector and what it reached on the cases that it was chosen on."""

    detector: Detector
    sensitivity: float
    specificity: float


def marks_mm(
    hu: npt.NDArray[np.int16],
    organ: npt.NDArray[np.bool_],
    spacing_mm: Vector,
    rules: tuple[Rule, ...] = RULES,
) -> Float:
    """For each rule the diameter (mm, of a ball of equal volume) of the largest mark in `organ` (z, y, x); 0: none."""
    if hu.shape != organ.shape:
        raise ValueError(f"volume {hu.shape} and organ {organ.shape} differ in shape")
    found = np.zeros(len(rules))
    if not organ.any():
        return found
    where = _around(organ, spacing_mm)
    values, mask = hu[where].astype(np.float32), organ[where]
    level = float(np.median(values[mask]))
    smoothed: dict[float, npt.NDArray[np.float32]] = {}
    for i, rule in enumerate(rules):
        if rule.smooth_mm not in smoothed:
            smoothed[rule.smooth_mm] = _mean_within(values, mask, rule.smooth_mm, spacing_mm)
        delta = smoothed[rule.smooth_mm] - (0.0 if rule.absolute else level)
        hit = mask & ((delta if rule.polarity == "brighter" else -delta) >= rule.contrast_hu)
        found[i] = _largest_mm(hit, float(np.prod(spacing_mm)))
    return found


def tune(marks: Float, has_cancer: npt.NDArray[np.bool_], specificity: float, rules: tuple[Rule, ...] = RULES) -> Tuned:
    """The rule and size that find most of the cancers at this specificity. marks: (cases, rules), of `marks_mm`.

    ConfigError where cases with or without the cancer are missing.
    """
    ill, well = marks[has_cancer], marks[~has_cancer]
    if not len(ill) or not len(well):
        raise ConfigError("thresholds need cases with and without the cancer", remedy="Add the missing ones.")
    best: Tuned | None = None
    allowed = int(np.floor((1 - specificity) * len(well) + 1e-9))
    for i, rule in enumerate(rules):
        # The smallest threshold that leaves no more than `allowed` healthy people above it.
        healthy = np.sort(well[:, i])[::-1]
        from_mm = float(np.nextafter(healthy[allowed], np.inf)) if allowed < len(healthy) else 0.0
        sensitivity = float((ill[:, i] >= from_mm).mean())
        if best is None or sensitivity > best.sensitivity:
            best = Tuned(Detector(rule, from_mm), sensitivity, float((well[:, i] < from_mm).mean()))
    assert best is not None
    return best


def _around(organ: npt.NDArray[np.bool_], spacing_mm: Vector) -> tuple[slice, slice, slice]:
    box = ndimage.find_objects(organ.astype(np.uint8))[0]
    margin = [int(np.ceil(8 / s)) for s in spacing_mm]
    z, y, x = (slice(max(b.start - m, 0), b.stop + m) for b, m in zip(box, margin, strict=True))
    return z, y, x


def _mean_within(
    values: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_], smooth_mm: float, spacing_mm: Vector
) -> npt.NDArray[np.float32]:
    """Gaussian mean (full width at half maximum `smooth_mm`) over the organ's own voxels: normalised convolution."""
    sigma = [smooth_mm / 2.355 / s for s in spacing_mm]
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma, truncate=2.5)
    total = ndimage.gaussian_filter(np.where(mask, values, 0).astype(np.float32), sigma, truncate=2.5)
    return np.asarray(total / np.maximum(weight, 1e-3), np.float32)


def _largest_mm(hit: npt.NDArray[np.bool_], voxel_mm3: float) -> float:
    rows = [np.flatnonzero(hit.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not rows[0].size:
        return 0.0
    z, y, x = (slice(int(r[0]), int(r[-1]) + 1) for r in rows)
    labels, _ = ndimage.label(hit[z, y, x])
    largest = int(np.bincount(labels.ravel())[1:].max())
    return float(np.cbrt(6 * largest * voxel_mm3 / np.pi))
