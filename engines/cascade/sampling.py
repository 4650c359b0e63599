"""The scan as one network wants it: its spacing, its resampling, its intensities, on a box of its own grid.

    area     means over voxels (`preprocess`); grids begin at the same voxel edge
    linear   MONAI's (`linear`); the centres of the first voxels coincide
    spline   nnU-Net v2's (`splines`): the extent is stretched over a whole number of voxels

Everything here is in canonical order; the image that comes out is along the network's own axes, and lies where the
network's runtime wants it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from core.errors import EngineError
from core.volume import Index, Vector
from engines.cascade.intensity import AIR_HU, Float, normaliser
from engines.cascade.labelmaps import zoom_labels
from engines.cascade.linear import spaced_grid
from engines.cascade.orientation import Box, axis_order
from engines.cascade.preprocess import Grid
from engines.cascade.resampling import Gridded, Zoomed
from engines.cascade.splines import Zoom, lone_axis, zoomed_shape
from engines.manifest import Area, Linear, Network, Spline
from engines.runtime import Image, Resampling, Runtime

Scan = npt.NDArray[np.int16]
Check = Callable[[], object]
_LOOK_AT = (2, 4, 4)
"""Every so many voxels (z, y, x) of the scan are looked at to tell a tile of air."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """image: normalised, along the network's axes. air: what air is in it."""

    image: Image
    air: float


@dataclass(frozen=True, eq=False)
class Sampler:
    """One network's view of one scan. hu: canonical, any strides; spacing_mm: its (z, y, x)."""

    spec: Network
    hu: Scan
    spacing_mm: Vector
    stretched: Grid | None = None
    """The grid to use instead of the network's own: an organ's region, stretched."""

    @cached_property
    def grid(self) -> Grid:
        """The network's voxels over the whole scan (or `stretched`)."""
        if self.stretched is not None:
            return self.stretched
        wanted = axis_order(self.spec.axes).to_canonical(self.spec.spacing_mm)
        if isinstance(self.spec.resampling, Area):
            return Grid(_shape(self.hu), self.spacing_mm, wanted)
        if isinstance(self.spec.resampling, Linear):
            return spaced_grid(_shape(self.hu), self.spacing_mm, wanted, axis_order(self.spec.axes))
        shape = zoomed_shape(_shape(self._cropped), self.spacing_mm, wanted)
        stretched = _vector(n * s / m for n, s, m in zip(self._cropped.shape, self.spacing_mm, shape, strict=True))
        corner = _vector(a * s for a, s in zip(self._crop[0], self.spacing_mm, strict=True))
        return Grid(_shape(self.hu), self.spacing_mm, stretched, corner, shape)

    def sample(self, box: Box, runtime: Runtime, extra: Float | None = None, check: Check = lambda: None) -> Sampled:
        """The normalised image on the grid's voxels in `box`. extra: further channels on them, (n, z, y, x)."""
        axes = axis_order(self.spec.axes)
        if self.spec.normalise_first:
            rule = normaliser(self.spec.intensity, lambda: self._cropped)
            image = runtime.resample(self._resampling(box, rule.clip), axes, extra, check)
            image.normalise(replace(rule, clip=None))  # clipped before: resampling keeps constants
        else:
            image = runtime.resample(self._resampling(box, None), axes, extra, check)
            rule = normaliser(self.spec.intensity, lambda: image.values()[0])
            image.normalise(rule)
        return Sampled(image, rule.value(AIR_HU))

    def sample_labels(self, labels: npt.NDArray[np.uint8], count: int, box: Box) -> Float:
        """A label map of the scan as `count` one-hot channels (of labels 1 to count) on the box, float32.

        Resampled as nnU-Net resamples the segmentation that its cascade starts from (`labelmaps.zoom_labels`).
        """
        if not isinstance(self.spec.resampling, Spline):
            raise EngineError(f"network {self.spec.id}: only with spline resampling can it follow another")
        zoomed = zoom_labels(labels[self.where], self._zoom(logits=True))
        winner = zoomed[tuple(slice(a, b) for a, b in zip(*box, strict=True))]
        return np.stack([(winner == label).astype(np.float32) for label in range(1, count + 1)])

    def working_bytes(self, box: Box) -> float:
        """Bytes that `sample` takes, about: the image and what resampling needs besides."""
        voxels = float(np.prod([b - a for a, b in zip(*box, strict=True)]))
        return 4 * voxels + (self._zoom(logits=False).working_bytes if isinstance(self.spec.resampling, Spline) else 0)

    def _resampling(self, box: Box, clip: tuple[float, float] | None) -> Resampling:
        if not isinstance(self.spec.resampling, Spline):
            return Gridded(self.hu, self.grid, box, clip)
        return Zoomed(self._cropped, self._zoom(logits=False), box, clip)

    def _zoom(self, logits: bool) -> Zoom:
        """The operation from the scan to the grid, for the image or in the order of labels and logits."""
        rule = self.spec.resampling
        assert isinstance(rule, Spline)
        wanted = axis_order(self.spec.axes).to_canonical(self.spec.spacing_mm)
        lone = lone_axis(self.spacing_mm, wanted, rule.separate_z, rule.anisotropy)
        order, along_lone = (rule.logits_order, rule.logits_order_z) if logits else (rule.order, rule.order_z)
        return Zoom(_shape(self._cropped), self.grid.shape, order, lone, along_lone)

    @cached_property
    def _crop(self) -> Box:
        rule = self.spec.resampling
        if isinstance(rule, Spline) and rule.crop_nonzero:
            return nonzero_box(self.hu)
        return (0, 0, 0), _shape(self.hu)

    def is_air(self, start: Index, stop: Index, box: Box) -> bool:
        """True where the scan holds nothing but air in a tile: nobody has a lesion there.

        start, stop: along the network's axes, in the image of `box`.
        """
        if self.spec.tiling.kind != "patch":
            return False
        extent = _shape_of(box)
        low, high = axis_order(self.spec.axes).box_to_canonical((start, stop), extent)
        low, high = self.grid.source_box((_plus(low, box[0]), _plus(high, box[0])))
        voxels = self.hu[tuple(slice(a, b, step) for a, b, step in zip(low, high, _LOOK_AT, strict=True))]
        return bool(voxels.max() <= self.spec.tiling.air_below_hu)

    @property
    def where(self) -> tuple[slice, ...]:
        """The part of the scan that the grid covers, as an index into it."""
        return tuple(slice(a, b) for a, b in zip(*self._crop, strict=True))

    @property
    def _cropped(self) -> Scan:
        return self.hu[self.where]


def nonzero_box(hu: Scan) -> Box:
    """The bounding box of the voxels that are not 0; everything where all are."""
    start, stop = [], []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        hit = np.flatnonzero(hu.any(axis=others))
        start.append(int(hit[0]) if hit.size else 0)
        stop.append(int(hit[-1]) + 1 if hit.size else hu.shape[axis])
    return (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])


def _shape_of(box: Box) -> Index:
    z, y, x = (high - low for low, high in zip(*box, strict=True))
    return (z, y, x)


def _plus(a: Index, b: Index) -> Index:
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2])


def _shape(array: npt.NDArray[np.generic]) -> Index:
    z, y, x = array.shape
    return (z, y, x)


def _vector(values: Iterable[float]) -> Vector:
    z, y, x = values
    return (z, y, x)
