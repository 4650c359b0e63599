"""What stands around a network, in the computer's own memory: what every runtime on a CPU uses.

Rows of a pass that no later tile touches leave a ring of a tile's depth, so that the logits of a whole scan never exist
at once: (K, depth, Y, X) float32, the first row of it being the first that was not taken yet.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from core.errors import EngineError
from core.volume import Index
from engines.runtime import Activation, Axes, Image, Labelling, Network, Resampling, Rule, Tensor, Tile, Window

Float = npt.NDArray[np.float32]


class HostImage:
    """See `engines.runtime.Image`. channels: (I, Z, Y, X), canonical where `axes` are given."""

    def __init__(self, channels: Float, axes: Axes | None = None) -> None:
        self._channels = channels
        self._turned: Float = channels if axes is None else axes.view(channels)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Along the network's axes."""
        channels, z, y, x = self._turned.shape
        return (channels, z, y, x)

    def values(self) -> Float:
        """The array itself, turned."""
        return self._turned

    def normalise(self, rule: Rule) -> None:
        """In place."""
        rule.apply(self._channels[0])


class OnHost:
    """The part of an `engines.runtime.Runtime` that is the same for all that compute on the CPU."""

    def resample(
        self, scan: Resampling, axes: Axes, extra: Float | None = None, check: Callable[[], object] = lambda: None
    ) -> HostImage:
        """By NumPy."""
        channels = scan.on_host(check)[None]
        return HostImage(channels if extra is None else np.concatenate((channels, extra)), axes)

    def open_pass(self, networks: Sequence[Network], image: Image, window: Window) -> HostPass:
        """A sliding window in the computer's own memory."""
        return HostPass(networks, image.values(), window)


class HostPass:
    """See `engines.runtime.Pass`. Deterministic: tiles are blended in the order in which they come."""

    def __init__(self, networks: Sequence[Network], image: Float, window: Window) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._networks, self._image, self._window = tuple(networks), image, window
        self._taken = 0
        kept = window.channels if window.keep is None else len(window.keep)
        _, z, y, x = image.shape
        depth = min(z, window.size[0])
        self._ring: Float = np.zeros((kept, depth, y, x), dtype=np.float32)
        self._weights: Float | None = np.zeros((depth, y, x), dtype=np.float32) if window.floor else None
        self._input = np.empty((1, image.shape[0], *window.size), dtype=np.float32)

    def add(self, tile: Tile, flips: Index = (0, 0, 0)) -> None:
        """Run and blend."""
        begun = time.perf_counter()
        where = self._fill_input(tile)
        axes = tuple(axis - 3 for axis, flip in enumerate(flips) if flip)
        image = np.ascontiguousarray(np.flip(self._input, axes)) if axes else self._input
        self.seconds["blend"] += time.perf_counter() - begun
        for network in self._networks:
            logits = self._run(network, image)
            begun = time.perf_counter()
            if logits.ndim != 5 or logits.shape[1] != self._window.channels:
                raise EngineError(f"logits of shape {logits.shape}, not a map of {self._window.channels} channels")
            self._blend(np.flip(logits, axes)[0][where], tile)
            self.seconds["blend"] += time.perf_counter() - begun

    def take(self, until: int) -> Float:
        """Rows that are final; they leave the ring."""
        count, ring = until - self._taken, self._ring
        if not 0 < count <= ring.shape[1]:
            raise EngineError(f"rows {self._taken} to {until} are not in the ring")
        rows = _shifted_out(ring, count)
        if self._weights is not None:
            weights = _shifted_out(self._weights[None], count)[0]
            np.divide(rows, weights, out=rows, where=weights > 0)
        self._taken = until
        return rows

    def label(self, until: int, labels: Labelling) -> None:
        """Rows that are final, as labels."""
        labels.push(activated(self.take(until), labels.activation))
        if until == self._image.shape[1]:
            labels.finish()

    def _fill_input(self, tile: Tile) -> tuple[slice, slice, slice, slice]:
        """The tile's voxels into the input, surrounded by what lies beyond; where in the input they are."""
        where = []
        for size, start, stop in zip(self._window.size, tile.start, tile.stop, strict=True):
            before = (size - (stop - start)) // 2 if self._window.centred else 0
            where.append(slice(before, before + stop - start))
        if any(stop - start < size for size, start, stop in zip(self._window.size, tile.start, tile.stop, strict=True)):
            for channel, value in enumerate(self._window.fill):
                self._input[0, channel] = value
        inside = (slice(None), where[0], where[1], where[2])
        z, y, x = (slice(a, b) for a, b in zip(tile.start, tile.stop, strict=True))
        self._input[0][inside] = self._image[:, z, y, x]
        return inside

    def _run(self, network: Network, image: Tensor) -> Tensor:
        begun = time.perf_counter()
        network.prepare(self._window.size)
        ready = time.perf_counter()
        logits = network.run(image)
        self.seconds["compile"] += ready - begun
        self.seconds["network"] += time.perf_counter() - ready
        return logits

    def _blend(self, logits: Float, tile: Tile) -> None:
        part = activated(logits, self._window.activation, self._window.keep)
        first, last = tile.start[0] - self._taken, tile.stop[0] - self._taken
        if first < 0 or last > self._ring.shape[1]:
            raise EngineError(f"a tile over rows {tile.start[0]} to {tile.stop[0]} does not fit the ring")
        along_z, along_y, along_x = tile.weights
        weights = along_z[:, None, None] * (along_y[:, None] * (along_x / np.float32(self._window.runs)))
        where = (slice(first, last), slice(tile.start[1], tile.stop[1]), slice(tile.start[2], tile.stop[2]))
        if self._weights is not None:
            np.maximum(weights, self._window.floor / self._window.runs, out=weights)
            self._weights[where] += weights
        target = self._ring[:, where[0], where[1], where[2]]
        for rows, values in zip(target, part, strict=True):  # channel by channel: no copy of all of them
            rows += values * weights


def _shifted_out(ring: Float, count: int) -> Float:
    """The first `count` rows (K, count, Y, X); those behind move up, zeros follow."""
    rows: Float = ring[:, :count].copy()
    ring[:, : ring.shape[1] - count] = ring[:, count:]
    ring[:, ring.shape[1] - count :] = 0
    return rows


def activated(logits: Float, activation: Activation, keep: Sequence[int] | None = None) -> Float:
    """Logits (C, ...) or probabilities of the channels in `keep` (all by default), (K, ...) float32."""
    channels = tuple(range(len(logits))) if keep is None else tuple(keep)
    if activation == "none":
        return logits if keep is None else logits[list(channels)]
    if activation == "sigmoid":
        return _sigmoid(logits if keep is None else logits[list(channels)])
    if len(logits) == 2:
        return np.stack([_sigmoid(logits[c] - logits[1 - c]) for c in channels])
    shifted: Float = np.subtract(logits, logits.max(axis=0), dtype=np.float32)
    np.exp(shifted, out=shifted)
    total = shifted.sum(axis=0)
    chosen: Float = shifted if keep is None else shifted[list(channels)]
    chosen /= total
    return chosen


def _sigmoid(x: Float) -> Float:
    """0.5 * (1 + tanh(x / 2)), which never overflows; in one buffer: fresh memory costs more than arithmetic."""
    result: Float = np.asarray(np.multiply(x, 0.5, dtype=np.float32))  # of a single score, too, an array
    np.tanh(result, out=result)
    result += 1
    result *= 0.5
    return result
