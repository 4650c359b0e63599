"""Stage 2: how likely is each voxel part of a lesion? Tiles over an organ's region in, probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.errors import EngineError
from core.volume import Index, Vector
from engines.cascade.budget import Watch
from engines.cascade.loaded import LoadedNetwork
from engines.cascade.localise import FoundOrgan
from engines.cascade.orientation import Box
from engines.cascade.region import Region, region_box, region_of, stretched_grid
from engines.cascade.sampling import Sampler, Scan
from engines.cascade.sliding import input_size, probabilities, slide
from engines.cascade.tiles import Tile

Float = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]
Before = Callable[[], tuple[Labels, int]]
"""The label map of the whole scan by the network that this one follows (canonical), and how many labels it has."""
# two masks 2, components and their bookkeeping 4 + 4; image and probabilities are counted by themselves
_BYTES_PER_REGION_VOXEL = 10


@dataclass(frozen=True, eq=False)
class Detection:
    """Probability (z, y, x) over the region's box for each label that was asked for; 0 outside organ and margin."""

    probability: Mapping[str, Float]
    region: Region


def detect(
    hu: Scan,
    spacing_mm: Vector,
    organ: FoundOrgan,
    margin_mm: float,
    labels: Sequence[str],
    network: LoadedNetwork,
    watch: Watch,
    before: Before | None = None,
) -> Detection:
    """Look for `labels` in an organ. hu: canonical. before: what a network that follows another starts from."""
    axes = network.axes
    sampler, box = _field(hu, spacing_mm, organ, margin_mm, network)
    keep = tuple(network.spec.labels.index(label) for label in labels)
    size = input_size(axes.from_canonical(_extent(box)), network.spec.tiling)
    needed = _voxels(box) * (_BYTES_PER_REGION_VOXEL + 4 * len(keep)) + sampler.working_bytes(box)
    watch.reserve(needed + network.memory_bytes(size), "looking for lesions")
    with watch.timed("preprocess"):
        region = region_of(organ, margin_mm, sampler.grid, box)
        earlier = None if before is None else sampler.sample_labels(*before(), box)
        sampled = sampler.sample(box, network.runtime, earlier, watch.check)
    watch.check()
    found = np.zeros((len(keep), *region.search.shape), dtype=np.float32)
    target, search = axes.view(found), axes.view(region.search)

    def wanted(tile: Tile) -> bool:
        return bool(search[tile.where].any()) and not sampler.is_air(tile.start, tile.stop, box)

    for rows in slide(network, sampled.image, sampled.air, watch, wanted, keep):
        part = probabilities(network, rows.values, keep)
        target[:, rows.start : rows.start + part.shape[1]] = part
    found[:, ~region.search] = 0
    return Detection(dict(zip(labels, found, strict=True)), region)


def _field(
    hu: Scan, spacing_mm: Vector, organ: FoundOrgan, margin_mm: float, network: LoadedNetwork
) -> tuple[Sampler, Box]:
    """The network's view of the scan, and the box of its grid in which it looks."""
    spec, tiling = network.spec, network.spec.tiling
    if tiling.kind == "fixed":
        grid = stretched_grid(organ, margin_mm, network.axes.to_canonical(tiling.size))
        return Sampler(spec, hu, spacing_mm, grid), grid.whole
    sampler = Sampler(spec, hu, spacing_mm)
    if spec.region == "volume":
        return sampler, sampler.grid.whole
    at_least = network.axes.to_canonical(tiling.size) if tiling.kind == "patch" else (1, 1, 1)
    return sampler, region_box(organ, margin_mm, sampler.grid, at_least)


def _extent(box: Box) -> Index:
    z, y, x = (high - low for low, high in zip(*box, strict=True))
    if min(z, y, x) < 1:
        raise EngineError(f"an empty region {box}")
    return (z, y, x)


def _voxels(box: Box) -> int:
    z, y, x = _extent(box)
    return z * y * x
