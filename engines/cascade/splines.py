"""nnU-Net v2's resampling, to the same values, in slabs: splines over the whole scan without the whole scan in float64.

nnU-Net resizes with scikit-image, and that with `scipy.ndimage.zoom(..., mode="nearest", grid_mode=True)`: a spline
interpolation, linear in the image and separable in its axes (Isensee et al. 2021; nnunetv2 2.8.1,
`preprocessing/resampling/default_resampling.py`). So one matrix an axis *is* the operation; `operator` gets each by
letting SciPy itself zoom the columns of an identity, edge rules included. A cubic spline's weights fall by 0.268 a
voxel, so the matrices are banded; products go block by block of the band, in float32, over a window of some slices.

Where one axis is much coarser than another (`lone_axis`) nnU-Net takes it by itself: slice by slice within the plane,
then nearest or linear between slices. Like scikit-image, results are clipped to the range of what was resized: the
volume's, or each slice's where the slices are resized one by one.

Arrays keep the order in which they come; a network's axes and the patient's are `orientation`'s affair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from core.volume import Index, Vector
from engines.cascade.bands import Band, bands, multiply_plane

Float = npt.NDArray[np.float32]
Box = tuple[Index, Index]
SeparateZ = Literal["auto", "always", "never"]
_Order = Literal[0, 1, 2, 3, 4, 5]

_NEGLIGIBLE = 2e-8
"""Weights below this are left out: together less than float32 resolves."""
_SLAB = 16


@dataclass(frozen=True)
class Zoom:
    """From a grid of `source` voxels to one of `target` voxels over the same extent (voxel edges coincide).

    order: of the spline, 0 to 5. lone: the axis that is resampled by itself, or None; lone_order: its order.
    """

    source: Index
    target: Index
    order: int
    lone: int | None = None
    lone_order: int = 0

    def axis(self, axis: int) -> Float:
        """The operator of one axis, float32 (target, source)."""
        if axis == self.lone:
            return operator(self.source[axis], self.target[axis], self.lone_order, "coordinates")
        return operator(self.source[axis], self.target[axis], self.order, "zoom")

    @property
    def working_bytes(self) -> int:
        """What `zoom_image` takes besides source and result, about: a window of slices, one slab, the operators."""
        first = 0 if self.lone is None else self.lone
        plane = self.target[(first + 1) % 3] * self.target[(first + 2) % 3]
        whole = self.source[(first + 1) % 3] * self.source[(first + 2) % 3]
        ratio = max(1.0, self.source[first] / self.target[first])
        window = int(_SLAB * ratio) + 32 + _SLAB
        operators = sum(a * b for a, b in zip(self.source, self.target, strict=True))
        return 4 * (window * plane + _SLAB * (2 * whole + 2 * plane) + 2 * operators)


def zoomed_shape(shape: Index, spacing_mm: Vector, target_mm: Vector) -> Index:
    """Voxels of the resampled grid: rounded, halves to even, so that the extent is kept as nearly as voxels allow."""
    z, y, x = (round(s / t * n) for n, s, t in zip(shape, spacing_mm, target_mm, strict=True))
    return (z, y, x)


def lone_axis(current_mm: Vector, new_mm: Vector, separate: SeparateZ = "auto", anisotropy: float = 3.0) -> int | None:
    """The axis to resample by itself, or None. In `auto`: the coarsest one of the current grid, else of the new one,
    if it is coarser than the finest by more than `anisotropy`. Two equally coarse axes are never separated."""
    if separate == "never":
        return None
    if separate == "always" or max(current_mm) / min(current_mm) > anisotropy:
        spacing = current_mm
    elif max(new_mm) / min(new_mm) > anisotropy:
        spacing = new_mm
    else:
        return None
    coarsest = [axis for axis, mm in enumerate(spacing) if max(spacing) / mm == 1]
    return coarsest[0] if len(coarsest) == 1 else None


@lru_cache(maxsize=32)
def operator(n: int, m: int, order: int, rule: Literal["zoom", "coordinates"]) -> Float:
    """What SciPy does to one axis of n voxels when it makes m of them: float32 (m, n), read-only.

    zoom: `ndimage.zoom` as scikit-image's `resize(mode="edge")` calls it. coordinates: `ndimage.map_coordinates` with
    mode nearest at voxel centres, as nnU-Net calls it for the lone axis: another rounding of halves at order 0.
    """
    degree = cast(_Order, order)
    if n == m:
        matrix = np.eye(n)
    elif rule == "zoom":
        factor = 1 / (n / m)  # scikit-image's arithmetic, to the last bit
        columns = (ndimage.zoom(unit, factor, order=degree, mode="nearest", grid_mode=True) for unit in np.eye(n))
        matrix = np.stack(list(columns), axis=1)
    else:
        centres = (n / m * (np.arange(m) + 0.5) - 0.5)[None]
        columns = (ndimage.map_coordinates(unit, centres, order=degree, mode="nearest") for unit in np.eye(n))
        matrix = np.stack(list(columns), axis=1)
    if matrix.shape != (m, n):
        raise ValueError(f"SciPy makes {matrix.shape[0]} voxels of {n}, not {m}")
    matrix[np.abs(matrix) < _NEGLIGIBLE] = 0
    result = matrix.astype(np.float32)
    result.flags.writeable = False
    return result


def zoom_image(
    source: npt.NDArray[np.generic],
    zoom: Zoom,
    *,
    clip: tuple[float, float] | None = None,
    box: Box | None = None,
    check: Callable[[], object] = lambda: None,
) -> Float:
    """The image on the target grid, float32: all of it, or its voxels in `box`.

    source: (z, y, x) of any type and strides. clip: what the source's values are clipped to before (an intensity rule
    that clips, scales and shifts may scale and shift afterwards: resampling is linear and keeps constants).
    check: called between slabs; what it raises ends the work.
    """
    if source.shape != zoom.source:
        raise ValueError(f"an array of {source.shape} is not the grid's {zoom.source}")
    first = 0 if zoom.lone is None else zoom.lone
    axes = (first, *(axis for axis in range(3) if axis != first))
    start, stop = box or ((0, 0, 0), zoom.target)
    along, rows, columns = (zoom.axis(axis)[start[axis] : stop[axis]] for axis in axes)
    result = np.empty([b - a for a, b in zip(start, stop, strict=True)], dtype=np.float32)
    planes = _Planes(source.transpose(axes), bands(rows), bands(columns), clip, zoom.lone is not None)
    limits = planes.limits() if zoom.lone is None else None
    target = result.transpose(axes)
    window = _Window(planes)
    for band in bands(along, _SLAB):
        check()
        slab = band.weights @ window.planes(band.low, band.high).reshape(band.high - band.low, -1)
        if limits is not None:
            np.clip(slab, *limits, out=slab)
        target[band.start : band.stop] = slab.reshape(band.stop - band.start, *target.shape[1:])
    return result


class _Planes:
    """The source's slices along its first axis, resampled within their plane."""

    def __init__(
        self,
        source: npt.NDArray[np.generic],
        rows: tuple[Band, ...],
        columns: tuple[Band, ...],
        clip: tuple[float, float] | None,
        each_by_itself: bool,
    ) -> None:
        self._source, self._rows, self._columns = source, rows, columns
        self._clip, self._each = clip, each_by_itself
        self.shape = (rows[-1].stop, columns[-1].stop)
        self._slab = np.empty((_SLAB, *source.shape[1:]), dtype=np.float32)
        self._narrow = np.empty((_SLAB, self.shape[0], source.shape[2]), dtype=np.float32)

    def limits(self) -> tuple[np.float32, np.float32]:
        """Smallest and largest value of the source after its clipping."""
        low, high = np.float32(self._source.min()), np.float32(self._source.max())
        if self._clip is not None:
            low, high = np.clip(low, *self._clip), np.clip(high, *self._clip)
        return np.float32(low), np.float32(high)

    def into(self, out: Float, low: int, high: int) -> None:
        """Slices low..high, _SLAB at most, into `out`."""
        slab, narrow = self._slab[: high - low], self._narrow[: high - low]
        np.copyto(slab, self._source[low:high], casting="unsafe")
        if self._clip is not None:
            np.clip(slab, *self._clip, out=slab)
        multiply_plane(slab, self._rows, self._columns, narrow, out)
        if self._each:
            np.clip(out, slab.min(axis=(1, 2), keepdims=True), slab.max(axis=(1, 2), keepdims=True), out=out)


class _Window:
    """A window over the planes that moves forward: each plane is made once."""

    def __init__(self, planes: _Planes) -> None:
        self._planes = planes
        self._held: Float = np.empty((0, *planes.shape), dtype=np.float32)
        self._low = 0

    def planes(self, low: int, high: int) -> Float:
        """Planes low..high, (high - low, rows, columns)."""
        have = self._low + len(self._held)
        keep = self._held[min(low, have) - self._low :]
        fresh = np.empty((high - low, *self._planes.shape), dtype=np.float32)
        fresh[: len(keep)] = keep[: high - low]
        for begin in range(max(low, have), high, _SLAB):
            end = min(begin + _SLAB, high)
            self._planes.into(fresh[begin - low : end - low], begin, end)
        if high > have:
            self._held, self._low = fresh, low
        return fresh
