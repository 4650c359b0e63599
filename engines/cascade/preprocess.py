"""HU volume → another grid, and back again.

Resampling is separable and linear: a target voxel is the mean of the linear interpolant of the source over the target
voxel's extent where that is coarser (area averaging: no aliasing, noise goes down as in a thicker slice), and plain
linear interpolation where it is finer. Constants stay constant and inside the volume a ramp stays the same ramp.
Source and target grids begin at the same voxel *edge*. Work goes slab by slab: besides the result it needs the memory
of some slices.

All arrays here are in canonical order (`orientation`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from core.volume import Index, Vector
from engines.cascade.bands import bands, multiply_plane
from engines.cascade.orientation import Box

Float = npt.NDArray[np.float32]
_SLAB = 4  # slices: what they take stays in the cache
_ROWS = 4  # of a band: area averages have few taps


@dataclass(frozen=True)
class Grid:
    """A regular grid laid over a source grid.

    source_shape, source_mm: voxels and spacing (z, y, x) of the source. spacing_mm: of this grid. origin_mm: how far
    its corner (the edge of its first voxel) lies from the source's. voxels: how many; None: enough to cover the source.
    """

    source_shape: Index
    source_mm: Vector
    spacing_mm: Vector
    origin_mm: Vector = (0.0, 0.0, 0.0)
    voxels: Index | None = None

    @property
    def shape(self) -> Index:
        """Voxels (z, y, x)."""
        if self.voxels is not None:
            return self.voxels
        z, y, x = (
            max(1, int(np.ceil((n * s - o) / t - 1e-6)))
            for n, s, t, o in zip(self.source_shape, self.source_mm, self.spacing_mm, self.origin_mm, strict=True)
        )
        return (z, y, x)

    @property
    def whole(self) -> Box:
        """All of it, as a box."""
        return (0, 0, 0), self.shape

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel in mm³."""
        return float(np.prod(self.spacing_mm))

    def axis_weights(self, axis: int, start: int, stop: int) -> sparse.csr_array:
        """Weights (stop - start, source voxels) that resample one axis of the source to voxels start..stop."""
        return axis_weights(
            *(self.source_shape[axis], self.source_mm[axis], self.spacing_mm[axis], start, stop, self.origin_mm[axis])
        )

    def axis_weights_back(self, axis: int, start: int, stop: int) -> sparse.csr_array:
        """Weights (stop - start, voxels of this grid) that resample one of its axes to source voxels start..stop."""
        return axis_weights(
            *(self.shape[axis], self.spacing_mm[axis], self.source_mm[axis], start, stop, -self.origin_mm[axis])
        )

    def source_box(self, box: Box) -> Box:
        """The source voxels that voxels in `box` touch."""
        start, stop = [], []
        axes = zip(*box, self.source_shape, self.source_mm, self.spacing_mm, self.origin_mm, strict=True)
        for low, high, n, s, t, o in axes:
            start.append(min(n - 1, max(0, int(np.floor((o + low * t) / s + 1e-6)))))
            stop.append(max(start[-1] + 1, min(n, int(np.ceil((o + high * t) / s - 1e-6)))))
        return (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])


def axis_weights(
    n: int, source_mm: float, target_mm: float, start: int, stop: int, origin_mm: float = 0.0
) -> sparse.csr_array:
    """Sparse weights, float32 (stop - start, n); each row sums to 1.

    Target voxel j spans [j, j+1) * target_mm from `origin_mm` on, measured from the source's corner.
    """
    if target_mm <= source_mm * (1 + 1e-6):
        return linear_weights(n, source_mm, target_mm, start, stop, origin_mm)
    low = np.arange(start, stop) * (target_mm / source_mm) - 0.5 + origin_mm / source_mm
    high = np.minimum(low + target_mm / source_mm, n - 0.5)
    low = np.minimum(low, high - 1e-3)
    width = int(np.ceil(target_mm / source_mm)) + 3
    taps = np.floor(low).astype(np.int64)[:, None] + np.arange(width)
    weights = _hat_integral(high[:, None] - taps) - _hat_integral(low[:, None] - taps)
    return _matrix(weights / weights.sum(axis=1, keepdims=True), taps, n)


def linear_weights(
    n: int, source_mm: float, target_mm: float, start: int, stop: int, origin_mm: float = 0.0
) -> sparse.csr_array:
    """The same, but linear between the two nearest source voxels, however coarse the target is."""
    centre = (np.arange(start, stop) + 0.5) * (target_mm / source_mm) - 0.5 + origin_mm / source_mm
    first = np.floor(centre).astype(np.int64)
    weights = np.stack([1 - (centre - first), centre - first], axis=1)
    return _matrix(weights, first[:, None] + np.arange(2), n)


def _matrix(weights: npt.NDArray[np.float64], taps: npt.NDArray[np.int64], n: int) -> sparse.csr_array:
    """Weights (rows, taps) at source voxels `taps` as a sparse matrix (rows, n)."""
    rows = np.repeat(np.arange(len(taps)), taps.shape[1])
    columns = np.clip(taps, 0, n - 1).ravel()  # beyond the edge the outermost voxel goes on
    matrix = sparse.coo_array((weights.ravel().astype(np.float32), (rows, columns)), shape=(len(taps), n)).tocsr()
    matrix.eliminate_zeros()
    return matrix


def resample(source: npt.NDArray[np.generic], grid: Grid, box: Box, clip: tuple[float, float] | None = None) -> Float:
    """The source on the grid's voxels in `box`, float32. source: canonical order, any type and strides; clip: what its
    values are clipped to before."""
    (z0, y0, x0), (z1, y1, x1) = box
    along_z, (first, last) = _cropped(grid.axis_weights(0, z0, z1))
    along_y, rows = _cropped(grid.axis_weights(1, y0, y1))
    along_x, columns = _cropped(grid.axis_weights(2, x0, x1))
    result = np.zeros((z1 - z0, y1 - y0, x1 - x0), dtype=np.float32)
    flat, plane, weights = result.reshape(z1 - z0, -1), _Plane(along_y, along_x, clip), along_z.toarray()
    for begin in range(first, last, _SLAB):
        end = min(begin + _SLAB, last)
        shares = weights[:, begin - first : end - first]
        touched = np.flatnonzero(shares.any(axis=1))
        if not touched.size:  # linear: to a coarse grid most slices say nothing
            continue
        slab = plane.resampled(source[begin:end, slice(*rows), slice(*columns)])
        low, high = int(touched[0]), int(touched[-1]) + 1
        flat[low:high] += shares[low:high] @ slab.reshape(end - begin, -1)
    return result


def interpolate(array: Float, along_z: sparse.csr_array, along_y: sparse.csr_array, along_x: sparse.csr_array) -> Float:
    """`array` resampled by the weights of three axes, at once: for small arrays and slabs."""
    stretched = (along_z @ array.reshape(array.shape[0], -1)).reshape(-1, *array.shape[1:])
    return _Plane(along_y, along_x).resampled(stretched)


class _Plane:
    """Resampling within slices."""

    def __init__(
        self, along_y: sparse.csr_array, along_x: sparse.csr_array, clip: tuple[float, float] | None = None
    ) -> None:
        self._rows, self._columns = (bands(weights.toarray(), _ROWS) for weights in (along_y, along_x))
        self._shape, self._width, self._clip = (along_y.shape[0], along_x.shape[0]), along_x.shape[1], clip

    def resampled(self, slices: npt.NDArray[np.generic]) -> Float:
        """Slices (n, y, x) of any type and strides as (n, rows, columns)."""
        slab = np.array(slices, dtype=np.float32, order="C")
        if self._clip is not None:
            np.clip(slab, *self._clip, out=slab)
        narrow = np.empty((len(slab), self._shape[0], self._width), dtype=np.float32)
        result = np.empty((len(slab), *self._shape), dtype=np.float32)
        multiply_plane(slab, self._rows, self._columns, narrow, result)
        return result


def _cropped(weights: sparse.csr_array) -> tuple[sparse.csr_array, tuple[int, int]]:
    first, last = int(weights.indices.min()), int(weights.indices.max()) + 1
    return weights[:, first:last], (first, last)


def _hat_integral(u: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Integral from -∞ to u of the hat function max(0, 1 - |t|)."""
    u = np.clip(u, -1, 1)
    return np.where(u < 0, (u + 1) ** 2 / 2, 1 - (1 - u) ** 2 / 2)
