"""MONAI's resampling (`Spacing`, bilinear), to the same values: linear between voxel centres, in slabs.

Along each axis of the network's own order the centres of the first voxels coincide, voxel j of the new grid lies at
j · target / source voxels of the old one, and there are round((n - 1) · source / target + 1) of them, halves to even
(MONAI 1.6.1, `compute_shape_offset` with `scale_extent=False` and `spatial_resample` with `align_corners=False`).
Nothing is averaged where the new grid is coarser, and beyond the last centre the edge goes on (padding `border`).

What runs backwards along a patient axis begins at that axis's far end: so a grid depends on the network's axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from core.volume import Index, Vector
from engines.cascade.orientation import AxisOrder
from engines.cascade.preprocess import Grid, linear_weights


@dataclass(frozen=True)
class Spaced(Grid):
    """A grid whose voxels take the linear interpolant at their centres, there and back. See `Grid`."""

    def axis_weights(self, axis: int, start: int, stop: int) -> sparse.csr_array:
        """Weights (stop - start, source voxels) that resample one axis of the source to voxels start..stop."""
        return linear_weights(
            *(self.source_shape[axis], self.source_mm[axis], self.spacing_mm[axis], start, stop, self.origin_mm[axis])
        )

    def axis_weights_back(self, axis: int, start: int, stop: int) -> sparse.csr_array:
        """Weights (stop - start, voxels of this grid) that resample one of its axes to source voxels start..stop."""
        return linear_weights(
            *(self.shape[axis], self.spacing_mm[axis], self.source_mm[axis], start, stop, -self.origin_mm[axis])
        )


def spaced_length(n: int, source_mm: float, target_mm: float) -> int:
    """Voxels of the new grid along one axis of `n` voxels."""
    return int(np.round((n - 1) * (source_mm / target_mm) + 1.0))


def spaced_grid(source_shape: Index, source_mm: Vector, target_mm: Vector, axes: AxisOrder) -> Spaced:
    """The grid over a scan in canonical order, voxels of `target_mm` (canonical too), for a network with these axes."""
    lengths, corners = [], []
    backwards = axes.to_canonical(axes.flipped)
    for n, s, t, flipped in zip(source_shape, source_mm, target_mm, backwards, strict=True):
        m = spaced_length(n, s, t)
        first_centre = (n - 1) * s - (m - 1) * t if flipped else 0.0  # from the scan's first centre
        lengths.append(m)
        corners.append(first_centre + (s - t) / 2)
    shape, origin = (lengths[0], lengths[1], lengths[2]), (corners[0], corners[1], corners[2])
    return Spaced(source_shape, source_mm, target_mm, origin, shape)
