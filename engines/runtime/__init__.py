"""Run a network: image in, logits out. One small Protocol, several libraries behind it.

`openvino` and `onnx` implement it on the CPU, TensorRT on a GPU; `choice` says which of them this device uses and why.
Cascade and tools depend on the Protocol alone.

Every runtime checks what the library returns: a wrong shape, a NaN, a part that was never written or an output
of zeros is a failure, because downstream it would look like "no lesion".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from core.volume import Index

Tensor = npt.NDArray[np.float32]
"""Float32 (1, channels, z, y, x), C order; scores of a network that classifies: (1, channels)."""
Activation = Literal["none", "softmax", "sigmoid"]


class Network(Protocol):
    """One loaded network. Not for several threads at once."""

    def prepare(self, shape: Index) -> None:
        """Do now what the first run on an image of this shape (z, y, x) would do: compile, allocate. EngineError."""

    def run(self, image: Tensor) -> Tensor:
        """Logits (1, C, Z, Y, X), or (1, C), of an image (1, I, Z, Y, X). EngineError if they can't be trusted."""


class Tile(Protocol):
    """A tile of a sliding window, as `engines.cascade.tiles` makes them."""

    @property
    def start(self) -> Index: ...

    @property
    def stop(self) -> Index: ...

    @property
    def weights(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]: ...


@dataclass(frozen=True)
class Window:
    """How tiles are cut and blended.

    size: the networks' input (z, y, x). channels: that they give. fill: what stands beyond the region's edges, one
    value an input channel. centred: a region smaller than the tile lies in its middle instead of its near corner.
    activation: what is applied to the logits before they are blended. runs: over how many networks' and mirrored runs
    of a tile the average goes. keep: output channels that are blended; None: all. floor: 0 where the weights of tiles
    sum to 1 in every voxel; else a weight, the product of three, is at least this, and what it sums up to divides.
    """

    size: Index
    channels: int
    fill: tuple[float, ...]
    centred: bool = False
    activation: Activation = "none"
    runs: int = 1
    keep: tuple[int, ...] | None = None
    floor: float = 0.0


class Pass(Protocol):
    """One sliding window over one region, for the average of several networks. Tiles come with z slowest."""

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds so far by kind: "compile", "network" (pure inference), "blend"; kinds that can't be told lack."""

    def add(self, tile: Tile, flips: Index = (0, 0, 0)) -> None:
        """Run the networks on a tile, mirrored along the axes where `flips` is 1, and blend what they say. EngineError
        if an output can't be trusted, here or in a later call."""

    def take(self, until: int) -> npt.NDArray[np.float32]:
        """Rows z < until that were not taken yet, (K, n, Y, X) float32: no later tile may touch them."""


class Runtime(Protocol):
    """A way to run networks. name: as in results and logs; precision: fp32, bf16, fp16, int8 ..."""

    @property
    def name(self) -> str: ...

    @property
    def precision(self) -> str: ...

    def load(self, onnx: Path) -> Network:
        """Read an ONNX file. EngineError if it is none or this runtime can't run it."""

    def open_pass(self, networks: Sequence[Network], image: npt.NDArray[np.float32], window: Window) -> Pass:
        """A sliding window over `image` (I, Z, Y, X), any strides, with networks that this runtime loaded."""
