"""A runtime that notes which networks ran on what, so that the same can be run again as a plain loop.

It wraps another runtime and, while `noting` is off, costs one call of a Python method a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.volume import Index
from engines.runtime import Axes, Image, Labelling, Network, Pass, Resampling, Runtime, Tensor, Tile, Window

_KEPT_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, eq=False)
class Call:
    """One network on one input. file: of its ONNX. image: what it was given, or as good as that."""

    network: Network
    file: Path
    image: Tensor

    @property
    def shape(self) -> Index:
        """Voxels (z, y, x) of the image."""
        z, y, x = self.image.shape[2:]
        return (z, y, x)


@dataclass(eq=False)
class Watched:
    """A runtime under watch. calls: every run since `noting` was set, in order.

    Inputs are kept up to 256 MiB in all; further tiles repeat the last one of their shape.
    """

    runtime: Runtime
    noting: bool = False
    calls: list[Call] = field(default_factory=list)
    _kept: int = 0
    _last: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The other runtime's."""
        return self.runtime.name

    @property
    def precision(self) -> str:
        """The other runtime's."""
        return self.runtime.precision

    def load(self, onnx: Path) -> Network:
        """Load with the other runtime, and watch."""
        return _WatchedNetwork(self, self.runtime.load(onnx), onnx)

    def resample(
        self,
        scan: Resampling,
        axes: Axes,
        extra: npt.NDArray[np.float32] | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> Image:
        """By the other runtime."""
        return self.runtime.resample(scan, axes, extra, check)

    def open_pass(self, networks: Sequence[Network], image: Image, window: Window) -> Pass:
        """Open with the other runtime, and watch."""
        watched = [network for network in networks if isinstance(network, _WatchedNetwork)]
        opened = self.runtime.open_pass([network.inner for network in watched], image, window)
        return _WatchedPass(self, watched, opened, image.values(), window) if self.noting else opened

    def note(self, network: _WatchedNetwork, image: Tensor) -> None:
        """Add a call. image: copied, or replaced by an earlier one of its shape."""
        if self._kept + image.nbytes <= _KEPT_BYTES or image.shape not in self._last:
            self._last[image.shape] = image.copy()
            self._kept += image.nbytes
        self.calls.append(Call(network.inner, network.file, self._last[image.shape]))


@dataclass(eq=False)
class _WatchedNetwork:
    owner: Watched
    inner: Network
    file: Path

    def prepare(self, shape: Index) -> None:
        self.inner.prepare(shape)

    def run(self, image: Tensor) -> Tensor:
        if self.owner.noting:
            self.owner.note(self, image)
        return self.inner.run(image)


@dataclass(eq=False)
class _WatchedPass:
    owner: Watched
    networks: Sequence[_WatchedNetwork]
    inner: Pass
    image: npt.NDArray[np.float32]
    window: Window

    @property
    def seconds(self) -> Mapping[str, float]:
        return self.inner.seconds

    def add(self, tile: Tile, flips: Index = (0, 0, 0)) -> None:
        self.inner.add(tile, flips)
        for network in self.networks:
            self.owner.note(network, self._input(tile))

    def take(self, until: int) -> npt.NDArray[np.float32]:
        return self.inner.take(until)

    def label(self, until: int, labels: Labelling) -> None:
        self.inner.label(until, labels)

    def _input(self, tile: Tile) -> Tensor:
        """The tile in the near corner of its input; mirrored or not makes no difference to time."""
        given = np.empty((1, self.image.shape[0], *self.window.size), dtype=np.float32)
        given[0] = np.asarray(self.window.fill, dtype=np.float32)[:, None, None, None]
        (z0, y0, x0), (z1, y1, x1) = tile.start, tile.stop
        given[0, :, : z1 - z0, : y1 - y0, : x1 - x0] = self.image[:, z0:z1, y0:y1, x0:x1]
        return given
