"""Probability map → candidates: connected voxels above a threshold, measured and scored. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from core.volume import Vector
from engines.cascade.orientation import Box
from engines.cascade.preprocess import Float
from engines.manifest import Extraction

Mask = npt.NDArray[np.bool_]
_NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True, eq=False)
class Candidate:
    """One connected part on the detector's grid.

    box: half-open voxel indices in the region. mask: bool over the box. score: 0..1. volume_mm3, diameter_mm: of the
    mask. inside_share: share of its voxels in the organ without its margin. subtype: what a characteriser calls it, and
    with what probability.
    """

    box: Box
    mask: Mask
    score: float
    volume_mm3: float
    diameter_mm: float
    inside_share: float
    subtype: tuple[str, float] | None = None


def extract(probability: Float, organ: Mask, spacing_mm: Vector, rule: Extraction) -> tuple[Candidate, ...]:
    """Candidates that are large enough, highest score first. probability, organ: (z, y, x) over one region."""
    parts, count = ndimage.label(probability >= rule.probability, structure=_NEIGHBOURS)
    if not count:
        return ()
    voxel = spacing_mm[0] * spacing_mm[1] * spacing_mm[2]
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    boxes = ndimage.find_objects(parts)
    found = []
    for number in range(1, count + 1):
        volume = float(sizes[number] * voxel)
        if volume < rule.min_volume_mm3:
            continue
        where = boxes[number - 1]
        mask = parts[where] == number
        diameter = longest_axial_diameter(mask, (spacing_mm[1], spacing_mm[2]))
        if diameter < rule.min_diameter_mm:
            continue
        score = _score(probability, where, mask, rule)
        inside = float(np.count_nonzero(organ[where] & mask) / sizes[number])
        found.append(Candidate(_box(where), mask, score, volume, diameter, inside))
    return tuple(sorted(found, key=lambda c: (-c.score, -c.volume_mm3, c.box)))


def longest_axial_diameter(mask: Mask, spacing_mm: tuple[float, float]) -> float:
    """Longest distance in mm across a mask (z, y, x) within one slice, voxel extent included; spacing (y, x).

    As RECIST 1.1 measures: longest diameter in the axial plane. The farthest two voxels of a slice are both first or
    last in their rows, so only those are compared.
    """
    longest = -1.0
    for plane in mask:
        rows = np.flatnonzero(plane.any(axis=1))
        if not rows.size:
            continue
        first = plane[rows].argmax(axis=1)
        last = plane.shape[1] - 1 - plane[rows, ::-1].argmax(axis=1)
        y = np.concatenate([rows, rows]) * spacing_mm[0]
        x = np.concatenate([first, last]) * spacing_mm[1]
        squared = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
        longest = max(longest, float(np.sqrt(squared.max())))
    return 0.0 if longest < 0 else longest + (spacing_mm[0] + spacing_mm[1]) / 2


def _score(probability: Float, where: tuple[slice, ...], mask: Mask, rule: Extraction) -> float:
    if rule.score == "core":
        value = _core(probability, where)[mask].max()
    else:
        inside = probability[where][mask]
        value = inside.max() if rule.score == "peak" else inside.mean(dtype=np.float64)
    return float(min(1.0, max(0.0, value)))  # blending may overshoot 1 by a rounding error


def _core(probability: Float, where: tuple[slice, ...]) -> Float:
    """Of each voxel of a box, the mean over the 3³ voxels around it; nothing is likely beyond the region."""
    wider = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in where)
    own = tuple(
        slice(s.start - w.start, s.start - w.start + s.stop - s.start) for s, w in zip(where, wider, strict=True)
    )
    return np.asarray(ndimage.uniform_filter(probability[wider], 3, np.float32, mode="constant")[own], np.float32)


def _box(where: tuple[slice, ...]) -> Box:
    z, y, x = where
    return (z.start, y.start, x.start), (z.stop, y.stop, x.stop)
