"""A score for the organ as a whole: its region, stretched to a fixed size, in; the probability of one label out."""

from __future__ import annotations

import numpy as np

from core.volume import Vector
from engines.cascade.budget import Watch
from engines.cascade.loaded import LoadedNetwork
from engines.cascade.localise import FoundOrgan
from engines.cascade.region import region_of, stretched_grid
from engines.cascade.sampling import Sampler, Scan


def classify(
    hu: Scan,
    spacing_mm: Vector,
    organ: FoundOrgan,
    margin_mm: float,
    label: str,
    network: LoadedNetwork,
    watch: Watch,
) -> float:
    """Probability of `label`, 0..1. hu: canonical."""
    tiling = network.spec.tiling
    assert tiling.kind == "fixed", "the manifest allows nothing else"
    watch.reserve(network.memory_bytes(tiling.size, 1 + network.spec.mask), "looking at an organ")
    with watch.timed("preprocess"):
        grid = stretched_grid(organ, margin_mm, network.axes.to_canonical(tiling.size))
        mask = region_of(organ, margin_mm, grid, grid.whole).organ if network.spec.mask else None
        extra = None if mask is None else mask.astype(np.float32)[None]
        sampler = Sampler(network.spec, hu, spacing_mm, grid)
        image = sampler.sample(grid.whole, network.runtime, extra, watch.check).image.values()
    watch.check()
    scores = network.scores(image, watch)
    return float(scores[network.spec.labels.index(label)])
