"""From an organ on the localiser's grid to the region in which a detector looks, on the detector's grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from core.volume import Index
from engines.cascade.localise import FoundOrgan, Mask
from engines.cascade.orientation import Box
from engines.cascade.preprocess import Float, Grid, axis_weights, interpolate

_SLAB = 16


@dataclass(frozen=True, eq=False)
class Region:
    """Where to look. box: voxels of `grid`. search: bool over the box, the organ and its margin; organ: without it."""

    grid: Grid
    box: Box
    search: Mask
    organ: Mask


def region_box(organ: FoundOrgan, margin_mm: float, grid: Grid, at_least: Index) -> Box:
    """Voxels of `grid` around a non-empty organ and its margin, widened to `at_least` where there is room."""
    start, stop = [], []
    for axis in range(3):
        across = tuple(a for a in range(3) if a != axis)
        hit = np.flatnonzero(organ.mask.any(axis=across))
        coarse, fine, n = organ.grid.spacing_mm[axis], grid.spacing_mm[axis], grid.shape[axis]
        away = organ.grid.origin_mm[axis] - grid.origin_mm[axis]
        low = max(0, int(np.floor((away + hit[0] * coarse - margin_mm) / fine)))
        high = min(n, int(np.ceil((away + (hit[-1] + 1) * coarse + margin_mm) / fine)))
        low, high = _widened(min(low, n - 1), max(high, 1), n, at_least[axis])
        start.append(low)
        stop.append(high)
    return (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])


def stretched_grid(organ: FoundOrgan, margin_mm: float, size: Index) -> Grid:
    """A grid of `size` (z, y, x) voxels, stretched over a non-empty organ and its margin."""
    source = organ.grid
    millimetre = Grid(source.source_shape, source.source_mm, (1.0, 1.0, 1.0))
    (z0, y0, x0), stop = region_box(organ, margin_mm, millimetre, (1, 1, 1))
    z, y, x = ((high - low) / n for low, high, n in zip((z0, y0, x0), stop, size, strict=True))
    return Grid(source.source_shape, source.source_mm, (z, y, x), (float(z0), float(y0), float(x0)), size)


def region_of(organ: FoundOrgan, margin_mm: float, grid: Grid, box: Box) -> Region:
    """The organ and its margin on `grid`, from its distance map: smooth although the localiser's voxels are coarse."""
    distance = signed_distance(organ, margin_mm)
    coarse, fine = organ.grid.spacing_mm, grid.spacing_mm
    offset = [a - b for a, b in zip(grid.origin_mm, organ.grid.origin_mm, strict=True)]
    weights = [
        axis_weights(organ.mask.shape[axis], coarse[axis], fine[axis], low, high, offset[axis])
        for axis, (low, high) in enumerate(zip(*box, strict=True))
    ]
    z, y, x = (high - low for low, high in zip(*box, strict=True))
    search, inside = np.empty((z, y, x), dtype=bool), np.empty((z, y, x), dtype=bool)
    for begin in range(0, z, _SLAB):
        slab = slice(begin, begin + _SLAB)
        away = interpolate(distance, weights[0][slab], weights[1], weights[2])
        np.less_equal(away, margin_mm, out=search[slab])
        np.less_equal(away, 0, out=inside[slab])
    return Region(grid, box, search, inside)


def signed_distance(organ: FoundOrgan, reach_mm: float) -> Float:
    """Distance to the organ's surface in mm on the localiser's grid, negative inside; somewhat beyond `reach_mm` it is
    only known to be larger. Closed cavities count as inside: a lesion that the localiser left out of its organ is one.
    """
    spacing = organ.grid.spacing_mm
    half = min(spacing) / 2  # the surface lies half a voxel from the nearest centre
    result = np.full(organ.mask.shape, reach_mm + 2 * max(spacing), dtype=np.float32)
    where = _around(organ.mask, [int(np.ceil(reach_mm / s)) + 2 for s in spacing])
    filled = ndimage.binary_fill_holes(organ.mask[where])
    outside = ndimage.distance_transform_edt(~filled, sampling=spacing)
    inside = ndimage.distance_transform_edt(np.pad(filled, 1, mode="edge"), sampling=spacing)[1:-1, 1:-1, 1:-1]
    result[where] = np.where(filled, half - inside, outside - half)
    return result


def _around(mask: Mask, margin: list[int]) -> tuple[slice, ...]:
    """The bounding box of a non-empty mask and so many voxels around it."""
    return tuple(
        slice(max(0, found.start - more), found.stop + more)
        for found, more in zip(ndimage.find_objects(mask.astype(np.uint8))[0], margin, strict=True)
    )


def _widened(low: int, high: int, n: int, at_least: int) -> tuple[int, int]:
    lacking = at_least - (high - low)
    if lacking <= 0:
        return low, high
    low = max(0, low - lacking // 2)
    high = min(n, low + at_least)
    return max(0, high - at_least), high
