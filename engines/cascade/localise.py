"""Stage 1: where are the organs, and what do they look like? The whole volume at a coarse spacing in, masks out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from core.volume import Vector
from engines import manifest
from engines.cascade.budget import Watch
from engines.cascade.loaded import LoadedNetwork
from engines.cascade.preprocess import Grid, resample
from engines.cascade.sampling import Sampler, Scan
from engines.cascade.sliding import input_size, slide
from engines.runtime.host import activated

Mask = npt.NDArray[np.bool_]
Float = npt.NDArray[np.float32]
_NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class Looks:
    """An organ as it looks in this scan; None where that was not asked for, or nothing was found.

    HU are of its core (the mask without its outermost voxels) on the localiser's grid; confidence: mean probability of
    the labels that won.
    """

    median_hu: float | None = None
    mean_hu: float | None = None
    sd_hu: float | None = None
    confidence: float | None = None


@dataclass(frozen=True, eq=False)
class FoundOrgan:
    """One organ on the localiser's grid.

    mask: bool (z, y, x). volume_ml: of the mask, mL. cut_mm2: its larger cross-section in the volume's first and last
    slice, mm²: more than a little means that the scan cuts the organ off.
    """

    mask: Mask
    grid: Grid
    volume_ml: float
    cut_mm2: float
    looks: Looks = Looks()


def localise(
    hu: Scan,
    spacing_mm: Vector,
    organs: tuple[manifest.Organ, ...],
    network: LoadedNetwork,
    watch: Watch,
    looked_at: Collection[str] = (),
) -> Mapping[str, FoundOrgan]:
    """Every organ of the manifest, also those of which nothing was found. hu: canonical order.

    looked_at: organs of which the rules want to know what they look like.
    """
    sampler, axes = Sampler(network.spec, hu, spacing_mm), network.axes
    box = sampler.grid.whole
    size = input_size(axes.from_canonical(sampler.grid.shape), network.spec.tiling)
    masks = len(organs) * float(np.prod(sampler.grid.shape))
    watch.reserve(masks + sampler.working_bytes(box) + network.memory_bytes(size), "localising organs")
    with watch.timed("preprocess"):
        sampled = sampler.sample(box, network.runtime, check=watch.check)
    watch.check()
    found = _Masks(organs, network, sampler.grid, bool(looked_at))
    for rows in slide(network, sampled.image, sampled.air, watch):
        found.add(rows.start, rows.values)
    del sampled
    image = resample(hu, sampler.grid, box) if looked_at else None
    organs_found = {}
    for organ in organs:
        mask = _without_specks(found.masks[organ.name], organ.component_share)
        looks = Looks()
        if image is not None and found.sure is not None and organ.name in looked_at:
            looks = looks_of(mask, image, found.sure)
        organs_found[organ.name] = _measured(mask, sampler.grid, looks)
    return organs_found


class _Masks:
    """What the localiser says, row by row: one label a voxel (softmax) or any number (sigmoid)."""

    def __init__(self, organs: tuple[manifest.Organ, ...], network: LoadedNetwork, grid: Grid, how_sure: bool) -> None:
        self._network = network
        index = {label: channel for channel, label in enumerate(network.spec.labels)}
        self._channels = {organ.name: [index[label] for label in organ.labels] for organ in organs}
        self.masks = {organ.name: np.zeros(grid.shape, dtype=bool) for organ in organs}
        self.sure = np.zeros(grid.shape, dtype=np.float32) if how_sure else None
        self._along = {name: network.axes.view(mask) for name, mask in self.masks.items()}
        self._sure_along = None if self.sure is None else network.axes.view(self.sure)

    def add(self, start: int, values: Float) -> None:
        """Rows from `start` on, as the network's blend gives them."""
        spec, where = self._network.spec, slice(start, start + values.shape[1])
        winner = np.argmax(values, axis=0) if spec.activation == "softmax" else None
        positive = 0.0 if self._network.blended == "none" else 0.5
        for name, channels in self._channels.items():
            if winner is not None:
                self._along[name][where] = np.isin(winner, channels)
            else:
                self._along[name][where] = (values[channels] > positive).any(axis=0)
        if self._sure_along is not None:
            likely = values if self._network.blended != "none" else activated(values, spec.activation)
            self._sure_along[where] = likely.max(axis=0)


def _measured(mask: Mask, grid: Grid, looks: Looks) -> FoundOrgan:
    across = grid.spacing_mm[1] * grid.spacing_mm[2]
    cut = across * max(int(np.count_nonzero(mask[0])), int(np.count_nonzero(mask[-1])))
    return FoundOrgan(mask, grid, int(np.count_nonzero(mask)) * grid.voxel_mm3 / 1000, cut, looks)


def looks_of(mask: Mask, image: Float, sure: Float) -> Looks:
    """What an organ looks like. image: HU on the mask's grid; sure: probability of the label that won."""
    if not mask.any():
        return Looks()
    core = ndimage.binary_erosion(mask, _NEIGHBOURS, border_value=1)
    hu = image[core if core.any() else mask].astype(np.float64)
    return Looks(float(np.median(hu)), float(hu.mean()), float(hu.std()), float(sure[mask].mean(dtype=np.float64)))


def _without_specks(mask: Mask, share: float) -> Mask:
    """The mask without parts smaller than `share` of its largest one (26-connected)."""
    parts, count = ndimage.label(mask, structure=_NEIGHBOURS)
    if count < 2:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= share * sizes.max())[parts] & mask)
