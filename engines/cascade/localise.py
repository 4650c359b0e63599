"""Stage 1: where are the organs? The whole volume at a coarse spacing in, one mask per organ out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from core.volume import Index, Vector
from engines import manifest
from engines.cascade.budget import Watch
from engines.cascade.measured import MeasuredNetwork
from engines.cascade.preprocess import Grid, normalise, padded, resample
from engines.runtime import Tensor

Mask = npt.NDArray[np.bool_]
_NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)


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


def localise(
    hu: npt.NDArray[np.int16],
    spacing_mm: Vector,
    organs: tuple[manifest.Organ, ...],
    network: MeasuredNetwork,
    watch: Watch,
) -> Mapping[str, FoundOrgan]:
    """Every organ of the manifest, also those of which nothing was found. hu: canonical order."""
    spec = network.spec
    grid = Grid(_shape(hu), spacing_mm, spec.spacing_mm)
    assert network.tiling.kind == "whole"
    shape = _rounded_up(grid.shape, network.tiling.pad_multiple)
    watch.reserve(network.memory_bytes(shape), "localising organs")
    with watch.timed("preprocess"):
        image = resample(hu, grid, ((0, 0, 0), grid.shape))
        normalise(image, network.intensity)
        tensor = padded(image, shape, network.intensity)
    watch.check()
    logits = network.run(tensor, watch)
    watch.check()
    z, y, x = grid.shape
    labels = _Labels(logits[:, :, :z, :y, :x], spec)
    return {organ.name: _found(labels.mask_of(organ.labels), organ, grid) for organ in organs}


class _Labels:
    """What the logits say: one label a voxel (softmax) or any number (sigmoid)."""

    def __init__(self, logits: Tensor, spec: manifest.Network) -> None:
        self._index = {label: channel for channel, label in enumerate(spec.labels)}
        self._logits = logits[0]
        self._winner = np.argmax(self._logits, axis=0) if spec.activation == "softmax" else None

    def mask_of(self, labels: tuple[str, ...]) -> Mask:
        channels = [self._index[label] for label in labels]
        if self._winner is not None:
            return np.isin(self._winner, channels)
        return np.asarray((self._logits[channels] > 0).any(axis=0))


def _found(mask: Mask, organ: manifest.Organ, grid: Grid) -> FoundOrgan:
    mask = _without_specks(mask, organ.component_share)
    across = grid.spacing_mm[1] * grid.spacing_mm[2]
    cut = across * max(int(np.count_nonzero(mask[0])), int(np.count_nonzero(mask[-1])))
    return FoundOrgan(mask, grid, int(np.count_nonzero(mask)) * grid.voxel_mm3 / 1000, cut)


def _without_specks(mask: Mask, share: float) -> Mask:
    """The mask without parts smaller than `share` of its largest one (26-connected)."""
    parts, count = ndimage.label(mask, structure=_NEIGHBOURS)
    if count < 2:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= share * sizes.max())[parts] & mask)


def _rounded_up(shape: Index, multiple: int) -> Index:
    z, y, x = (-(-n // multiple) * multiple for n in shape)
    return (z, y, x)


def _shape(array: npt.NDArray[np.generic]) -> Index:
    z, y, x = array.shape
    return (z, y, x)
