"""Candidates on the detector's grid → lesions in the source volume: one uint8 mask a cancer, value = Lesion.label.

Only a lesion's own box is ever resampled, slab by slab; a full-size float volume never exists. What is reported of a
lesion (volume, diameter, box, centroid) is measured on its mask in the source, so that numbers and pictures agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from core.finding import Lesion
from core.volume import Geometry, Index
from engines.cascade.budget import Watch
from engines.cascade.candidates import Candidate, longest_axial_diameter
from engines.cascade.orientation import Box, Orientation
from engines.cascade.preprocess import Float, Grid, interpolate
from engines.cascade.region import Region

Labels = npt.NDArray[np.uint8]
MOST_LESIONS = 50
"""Reported of one cancer, highest score first: no reader looks at more, and labels are uint8."""
_SLAB = 16


def to_source(
    candidates: Sequence[Candidate],
    probability: Float,
    threshold: float,
    region: Region,
    geometry: Geometry,
    orientation: Orientation,
    watch: Watch,
) -> tuple[tuple[Lesion, ...], Labels]:
    """Lesions and their mask in the source's own order. Where two lesions meet, the one with the higher score stays."""
    watch.reserve(float(np.prod(geometry.shape)), "the lesion mask")
    mask: Labels = np.zeros(geometry.shape, dtype=np.uint8)
    canonical = orientation.view(mask)
    lesions: list[Lesion] = []
    for candidate in candidates[:MOST_LESIONS]:
        watch.check()
        box = _paint(candidate, probability, threshold, region, canonical, len(lesions) + 1)
        lesion = _measured(len(lesions) + 1, candidate.score, canonical, box, geometry, orientation)
        if lesion is not None:  # None: at the source's resolution it is part of a stronger neighbour
            subtype, likely = candidate.subtype or (None, None)
            lesions.append(replace(lesion, subtype=subtype, subtype_score=likely))
    return tuple(lesions), mask


def _paint(
    candidate: Candidate, probability: Float, threshold: float, region: Region, canonical: Labels, label: int
) -> Box:
    """Write one candidate's label into the canonical view of the mask; the source voxels that it may have touched."""
    grid = region.grid
    (z0, y0, x0), (z1, y1, x1) = candidate.box
    part = np.where(candidate.mask, probability[z0:z1, y0:y1, x0:x1], np.float32(0))
    low = tuple(a + b for a, b in zip(candidate.box[0], region.box[0], strict=True))
    high = tuple(a + b for a, b in zip(candidate.box[1], region.box[0], strict=True))
    start, stop = grid.source_box(((low[0], low[1], low[2]), (high[0], high[1], high[2])))
    weights = [grid.axis_weights_back(axis, start[axis], stop[axis])[:, low[axis] : high[axis]] for axis in range(3)]
    painted = False
    for begin in range(start[0], stop[0], _SLAB):
        end = min(begin + _SLAB, stop[0])
        likely = interpolate(part, weights[0][begin - start[0] : end - start[0]], weights[1], weights[2])
        target = canonical[begin:end, start[1] : stop[1], start[2] : stop[2]]
        ours = (likely >= threshold) & (target == 0)
        target[ours] = label
        painted = painted or bool(ours.any())
    if not painted:
        _paint_peak(part, low, grid, canonical, label)
    return start, stop


def _paint_peak(part: Float, low: tuple[int, ...], grid: Grid, canonical: Labels, label: int) -> None:
    """A lesion thinner than the source's slices may fall below the threshold in all: mark where it is likeliest."""
    peak = np.unravel_index(int(part.argmax()), part.shape)
    z, y, x = (
        min(n - 1, max(0, int((o + (p + a + 0.5) * t) / s)))
        for p, a, t, s, n, o in zip(
            *(peak, low, grid.spacing_mm, grid.source_mm, grid.source_shape, grid.origin_mm), strict=True
        )
    )
    if canonical[z, y, x] == 0:
        canonical[z, y, x] = label


def _measured(
    label: int, score: float, canonical: Labels, box: Box, geometry: Geometry, orientation: Orientation
) -> Lesion | None:
    (z0, y0, x0), (z1, y1, x1) = box
    mask = canonical[z0:z1, y0:y1, x0:x1] == label
    indices = np.nonzero(mask)
    if not indices[0].size:
        return None
    spacing = orientation.spacing(geometry.spacing_mm)
    z, y, x = (float(i.mean()) + a for i, a in zip(indices, box[0], strict=True))
    start: Index = (int(indices[0].min()) + z0, int(indices[1].min()) + y0, int(indices[2].min()) + x0)
    stop: Index = (int(indices[0].max()) + z0 + 1, int(indices[1].max()) + y0 + 1, int(indices[2].max()) + x0 + 1)
    return Lesion(
        label=label,
        score=score,
        centroid=orientation.to_source_point((z, y, x)),
        box=orientation.to_source_box((start, stop)),
        diameter_mm=longest_axial_diameter(mask, (spacing[1], spacing[2])),
        volume_mm3=indices[0].size * geometry.voxel_mm3,
    )
