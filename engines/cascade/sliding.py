"""One network over one image: tiles, mirrored runs and folds, averaged; final rows come out while later tiles run.

Everything here is along the network's own axes. Tiles that hold nothing of interest are left out: in the voxels that
only they cover the result is 0, which no label map reads as a label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.errors import EngineError
from core.volume import Index
from engines import manifest
from engines.cascade.budget import Watch
from engines.cascade.loaded import LoadedNetwork
from engines.cascade.tiles import Tile, tiles
from engines.runtime import Image, Pass
from engines.runtime.host import activated

Float = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Rows:
    """Final values (K, n, Y, X) of rows start..start + n: probabilities or logits, as the network's blend says."""

    start: int
    values: Float


def input_size(shape: Index, tiling: manifest.Tiling) -> Index:
    """The network's input (z, y, x) for a region of `shape`."""
    if tiling.kind == "whole":
        z, y, x = (-(-n // tiling.pad_multiple) * tiling.pad_multiple for n in shape)
        return (z, y, x)
    return tiling.size


def slide(
    network: LoadedNetwork,
    image: Image,
    air: float,
    watch: Watch,
    wanted: Callable[[Tile], bool] = lambda tile: True,
    keep: tuple[int, ...] | None = None,
) -> Iterator[Rows]:
    """Rows of the result in order, each once, all of them. The arguments are those of `sweep`."""
    done = 0
    for ring, until in sweep(network, image, air, watch, wanted, keep):
        yield Rows(done, ring.take(until))
        done = until


def sweep(
    network: LoadedNetwork,
    image: Image,
    air: float,
    watch: Watch,
    wanted: Callable[[Tile], bool] = lambda tile: True,
    keep: tuple[int, ...] | None = None,
) -> Iterator[tuple[Pass, int]]:
    """A pass, again and again, and until where its rows are final by then: to be taken, or labelled, at once.

    air: what air looks like to the network. wanted: whether a tile has to be run. keep: channels that are wanted; where
    logits are blended all come all the same.
    """
    channels, z, y, x = image.shape
    tiling = network.spec.tiling
    size = input_size((z, y, x), tiling)
    outside = 0.0 if tiling.kind == "patch" and tiling.pad == "zero_centred" else air
    window = network.window(size, (outside, *(0.0,) * (channels - 1)), keep)
    ring = network.runtime.open_pass(network.folds, image, window)
    mirrorings = tuple(network.mirrorings())
    done = 0
    for tile in _tiles((z, y, x), size, tiling):
        if tile.start[0] > done:
            done = tile.start[0]
            yield ring, done
        if not wanted(tile):
            continue
        for flips in mirrorings:
            watch.check()
            ring.add(tile, flips)
    yield ring, z
    _note_seconds(ring, watch)


def probabilities(network: LoadedNetwork, values: Float, keep: tuple[int, ...]) -> Float:
    """Probability of each channel in `keep`, (K, ...), from rows that `slide` gave for that `keep`."""
    if network.blended != "none":
        return values
    return activated(values, network.spec.activation, keep)


def _tiles(shape: Index, size: Index, tiling: manifest.Tiling) -> Iterator[Tile]:
    if tiling.kind == "patch":
        return tiles(
            shape, size, tiling.overlap, tiling.gaussian, tiling.steps, sum_to_one=not tiling.floor, peak=tiling.peak
        )
    if any(n > edge for n, edge in zip(shape, size, strict=True)):
        raise EngineError(f"a region of {shape} for a network that sees {size} at once")
    return tiles(shape, size, 0.0, gaussian=False)


def _note_seconds(ring: Pass, watch: Watch) -> None:
    for kind, seconds in ring.seconds.items():
        watch.seconds[kind] += seconds
