"""Overlapping tiles over a region, and weights that sum to 1 in every voxel.

A tile's middle sees more of its surroundings than its edge, so it counts more: weights fall off with sigma = edge / 8
(nnU-Net, Isensee et al. 2021). Tiles stand on a product of three axes and the Gaussian is separable; so is the sum of
all weights in a voxel, and each axis can be normalised by itself. No map of weights is ever held; but where products of
weights have a floor, as MONAI's have, only the map of their sums can normalise them, and
that is the runtime's affair (`engines.runtime.Window`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import numpy.typing as npt

from core.volume import Index

Steps = Literal["even", "last_shifted"]
Peak = Literal["middle", "voxel"]
_SIGMA = 1 / 8


@dataclass(frozen=True)
class Tile:
    """Half-open voxels start..stop (z, y, x) of the region, and its weights along each axis (float32)."""

    start: Index
    stop: Index
    weights: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]

    @property
    def where(self) -> tuple[slice, slice, slice]:
        """The tile as an index into the region."""
        z, y, x = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return (z, y, x)


def starts(n: int, size: int, overlap: float, steps: Steps = "even") -> tuple[int, ...]:
    """Where tiles of `size` begin so that they cover 0..n, neighbours overlapping by at least `overlap`.

    even: spread evenly, as nnU-Net does. last_shifted: steps of size * (1 - overlap), the last one cut short, as
    MONAI's SlidingWindowInferer does.
    """
    if n <= size:
        return (0,)
    if steps == "last_shifted":
        step = max(1, int(size * (1 - overlap)))
        return tuple(min(i * step, n - size) for i in range(-(-(n - size) // step) + 1))
    count = math.ceil((n - size) / max(1.0, size * (1 - overlap))) + 1
    return tuple(round(float(position)) for position in np.linspace(0, n - size, count))


def axis_weights(
    n: int,
    size: int,
    begins: tuple[int, ...],
    gaussian: bool = True,
    sum_to_one: bool = True,
    peak: Peak = "middle",
) -> npt.NDArray[np.float32]:
    """Weights (tiles, min(size, n)) along one axis; their sum in every voxel is 1.

    sum_to_one: False leaves them as they are, the bell's middle being 1. peak: halfway between the tile's ends, or on
    voxel edge // 2, half a voxel beyond it where the edge is even (nnU-Net's `compute_gaussian`).
    """
    edge = min(size, n)
    if not sum_to_one:  # MONAI's bell is that of the whole tile, of which the region may be the middle
        inside = _bell(size, gaussian, peak)[(size - edge) // 2 :][:edge]
        return np.tile(inside.astype(np.float32), (len(begins), 1))
    bell = _bell(edge, gaussian, peak)
    total = np.zeros(n)
    for begin in begins:
        total[begin : begin + edge] += bell
    return np.stack([bell / total[begin : begin + edge] for begin in begins]).astype(np.float32)


def _bell(edge: int, gaussian: bool, peak: Peak) -> npt.NDArray[np.float64]:
    """The weights of a tile's edge before they are normalised."""
    if not gaussian:
        return np.ones(edge)
    centre = (edge - 1) / 2 if peak == "middle" else edge // 2
    bell: npt.NDArray[np.float64] = np.exp(-0.5 * ((np.arange(edge) - centre) / (_SIGMA * edge)) ** 2)
    return bell


def tiles(
    shape: Index,
    size: Index,
    overlap: float,
    gaussian: bool = True,
    steps: Steps = "even",
    sum_to_one: bool = True,
    peak: Peak = "middle",
) -> Iterator[Tile]:
    """All tiles over a region of `shape`, in a fixed order (z slowest)."""
    begins = [starts(n, edge, overlap, steps) for n, edge in zip(shape, size, strict=True)]
    weights = [
        axis_weights(n, edge, b, gaussian, sum_to_one, peak) for n, edge, b in zip(shape, size, begins, strict=True)
    ]
    for i, j, k in product(*(range(len(b)) for b in begins)):
        start = (begins[0][i], begins[1][j], begins[2][k])
        along = (weights[0][i], weights[1][j], weights[2][k])
        stop = (start[0] + len(along[0]), start[1] + len(along[1]), start[2] + len(along[2]))
        yield Tile(start, stop, along)
