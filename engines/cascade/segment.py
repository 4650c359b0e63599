"""One network over the whole scan: a label for every voxel, in the scan's own grid. Logits never exist at full size.

What nnU-Net, TotalSegmentator and MONAI call segmentation; and what a network of nnU-Net's cascade starts from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from core.errors import EngineError
from core.volume import Index, Vector
from engines.cascade.budget import Watch
from engines.cascade.labelmaps import Decision, Labels, LabelStream, Regions, Softmax, Way
from engines.cascade.loaded import LoadedNetwork
from engines.cascade.orientation import AxisOrder
from engines.cascade.preprocess import linear_weights
from engines.cascade.sampling import Sampler, Scan
from engines.cascade.sliding import input_size, sweep
from engines.cascade.splines import Zoom, lone_axis
from engines.cascade.tiles import Tile
from engines.manifest import Linear, Network, Spline

if TYPE_CHECKING:
    from engines.cascade.detect import Before

Float = npt.NDArray[np.float32]


def segment(
    hu: Scan,
    spacing_mm: Vector,
    network: LoadedNetwork,
    watch: Watch,
    before: Before | None = None,
    out: Labels | None = None,
) -> Labels:
    """The label map, uint8 of the scan's shape; values: channel numbers, or those of `region_order`.

    hu: canonical. out: zeros of that shape, any strides, to write it into.
    """
    spec, axes = network.spec, network.axes
    if spec.classifies or not spec.sees_all:
        raise EngineError(f"network {spec.id} gives no map of the whole scan")
    sampler = Sampler(spec, hu, spacing_mm)
    box, shape = sampler.grid.whole, axes.from_canonical(sampler.grid.shape)
    size = input_size(shape, spec.tiling)
    ring = 4.0 * len(spec.labels) * min(shape[0], size[0]) * shape[1] * shape[2]
    watch.reserve(
        hu.size + sampler.working_bytes(box) + 2 * ring + network.memory_bytes(size), "segmenting the whole scan"
    )
    with watch.timed("preprocess"):
        earlier = None if before is None else sampler.sample_labels(*before(), box)
        sampled = sampler.sample(box, network.runtime, earlier, watch.check)
    result = np.zeros(hu.shape, dtype=np.uint8) if out is None else out
    activation = spec.activation if _activates(spec) else "none"
    labels = LabelStream(_way_back(sampler, axes), _decision(spec), axes.view(result[sampler.where]), activation)

    def wanted(tile: Tile) -> bool:
        return not sampler.is_air(tile.start, tile.stop, box)

    for sliding, until in sweep(network, sampled.image, sampled.air, watch, wanted):
        with watch.timed("labels"):
            sliding.label(until, labels)
    return result


def label_count(spec: Network) -> int:
    """The highest value in a label map of this network."""
    return max(spec.region_order, default=len(spec.labels)) if spec.activation == "sigmoid" else len(spec.labels) - 1


@dataclass(frozen=True)
class _Linear:
    """From a grid to the scan, linear between voxel centres. See `labelmaps.Way`."""

    source: Index
    target: Index
    source_mm: Vector
    target_mm: Vector
    origin_mm: Vector

    def axis(self, axis: int) -> Float:
        weights = linear_weights(
            *(self.source[axis], self.source_mm[axis], self.target_mm[axis], 0, self.target[axis], self.origin_mm[axis])
        )
        return weights.toarray().astype(np.float32)


def _way_back(sampler: Sampler, axes: AxisOrder) -> Way:
    """From the network's grid to the scan, along the network's axes."""
    grid, rule = sampler.grid, sampler.spec.resampling
    z, y, x = (part.stop - part.start for part in sampler.where)
    source, target = axes.from_canonical(grid.shape), axes.from_canonical((z, y, x))
    if isinstance(rule, Spline):
        lone = lone_axis(
            sampler.spec.spacing_mm, axes.from_canonical(sampler.spacing_mm), rule.separate_z, rule.anisotropy
        )
        return Zoom(source, target, rule.logits_order, lone, rule.logits_order_z)
    origin = axes.from_canonical(_vector(-mm for mm in grid.origin_mm))
    mm, scan_mm = axes.from_canonical(grid.spacing_mm), axes.from_canonical(sampler.spacing_mm)
    if any(axes.flipped):  # the grid's far end may reach beyond the scan's: that end is now the near one
        origin = _vector(
            n * s - m * t - o if flipped else o
            for n, s, m, t, o, flipped in zip(source, mm, target, scan_mm, origin, axes.flipped, strict=True)
        )
    return _Linear(source, target, mm, scan_mm, origin)


def _decision(spec: Network) -> Decision:
    if spec.activation == "softmax":
        return Softmax()
    order = spec.region_order or tuple(range(1, len(spec.labels) + 1))
    return Regions(order, 0.0 if spec.blend == "logits" and not _activates(spec) else 0.5)


def _activates(spec: Network) -> bool:
    """True where blended logits become probabilities before they are interpolated."""
    return spec.blend == "logits" and isinstance(spec.resampling, Linear) and spec.resampling.back == "probabilities"


def _vector(values: Iterable[float]) -> Vector:
    z, y, x = values
    return (z, y, x)
