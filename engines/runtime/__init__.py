"""Run a network: image in, logits out. One small Protocol, several libraries behind it.

`openvino` and `onnx` implement it on the CPU, TensorRT on a GPU; `choice` says which of them this device uses and why.
Cascade and tools depend on the Protocol alone. What stands around a network is the runtime's affair too, for it knows
where an image lies:

    Runtime.resample    a scan (`Resampling`)                 → what the network sees (`Image`)
    Runtime.open_pass   networks, `Image`, `Window`           → one sliding window (`Pass`)
    Pass.take           final rows of it                      → an array on the host
    Pass.label          final rows of it, a `Labelling`       → labels at the scan's own resolution

The cascade makes the `Resampling` and the `Labelling`. Each knows how NumPy does it, which is what a runtime on the CPU
lets it do (`host`), and tells in numbers what a GPU has to do (`slabs`, `labelling`).

Every runtime checks what the library returns: a wrong shape, a NaN, a part that was never written or an output
of zeros is a failure, because downstream it would look like "no lesion".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from core.volume import Index

if TYPE_CHECKING:
    from scipy import sparse

    Weights = sparse.csr_array
    """float32 (target voxels, source voxels) along one axis."""

Tensor = npt.NDArray[np.float32]
"""Float32 (1, channels, z, y, x), C order; scores of a network that classifies: (1, channels)."""
Activation = Literal["none", "softmax", "sigmoid"]
Limits = Literal["none", "scan", "slice"]
Taps = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]
"""Along one axis each target voxel is (1 - weight) * source[first] + weight * source[second]: first, second, weight."""


class Network(Protocol):
    """One loaded network. Not for several threads at once."""

    def prepare(self, shape: Index) -> None:
        """Do now what the first run on an image of this shape (z, y, x) would do: compile, allocate. EngineError."""

    def run(self, image: Tensor) -> Tensor:
        """Logits (1, C, Z, Y, X), or (1, C), of an image (1, I, Z, Y, X). EngineError if they can't be trusted."""


class Axes(Protocol):
    """A network's axes: its axis i is the scan's canonical axis order[i], reversed where flipped[i]."""

    @property
    def order(self) -> Index: ...

    @property
    def flipped(self) -> tuple[bool, bool, bool]: ...

    def view(self, canonical: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A canonical array (..., z, y, x) along these axes, uncopied."""


class Rule(Protocol):
    """value → (clipped value - shift) * scale. clip: (low, high), or None."""

    @property
    def clip(self) -> tuple[float, float] | None: ...

    @property
    def shift(self) -> float: ...

    @property
    def scale(self) -> float: ...

    def apply(self, image: npt.NDArray[np.float32]) -> None:
        """In place, with NumPy."""


class Resampling(Protocol):
    """A scan on a network's grid, still to be made. It is linear and separable: weights along z, y and x (canonical).

    source: (Z, Y, X), any strides. clip: what its values are clipped to before, or None. first: the axis across which
    it is taken in slabs, and which is resampled last. limits: what results are clipped to: the range of the clipped
    source; that of each slice across `first`, before slices are mixed; or nothing.
    """

    @property
    def source(self) -> npt.NDArray[np.int16]: ...

    @property
    def clip(self) -> tuple[float, float] | None: ...

    @property
    def first(self) -> int: ...

    @property
    def limits(self) -> Limits: ...

    def weights(self) -> tuple[Weights, Weights, Weights]: ...

    def on_host(self, check: Callable[[], object]) -> npt.NDArray[np.float32]:
        """The result (z, y, x), made with NumPy. check: called between slabs; what it raises ends the work."""


class Image(Protocol):
    """What a network sees, float32, wherever its runtime keeps it; channel 0 is the scan."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(I, Z, Y, X) along the network's axes."""

    def values(self) -> npt.NDArray[np.float32]:
        """All of it, as it is now, (I, Z, Y, X) along the network's axes, on the host."""

    def normalise(self, rule: Rule) -> None:
        """Apply a rule to the scan, in place."""


class Labelling(Protocol):
    """A label map of the scan, still to be made from the rows of a pass: interpolated there, then decided.

    out: uint8 (Z, Y, X) along the network's axes, any strides: what is written. activation: what is applied to the
    pass's values before they are interpolated. order: None where the channel with the largest value wins, the first of
    equals; else each channel that is above `threshold` writes its number out of `order`, later ones over earlier ones.
    """

    @property
    def out(self) -> npt.NDArray[np.uint8]: ...

    @property
    def activation(self) -> Activation: ...

    @property
    def order(self) -> tuple[int, ...] | None: ...

    @property
    def threshold(self) -> float: ...

    def taps(self, axis: int) -> Taps:
        """Which rows of the pass, along one axis, a voxel of the scan lies between."""

    def push(self, rows: npt.NDArray[np.float32]) -> None:
        """The next rows (C, n, Y, X), activated: NumPy writes the slices that they complete."""

    def finish(self) -> None:
        """After the last row was pushed: EngineError unless all rows came."""


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

    def label(self, until: int, labels: Labelling) -> None:
        """The same rows, as labels. When `until` is the region's end all of `labels.out` is written. One labelling, and
        no `take`, in a pass."""


class Runtime(Protocol):
    """A way to run networks. name: as in results and logs; precision: fp32, bf16, fp16, int8 ..."""

    @property
    def name(self) -> str: ...

    @property
    def precision(self) -> str: ...

    def load(self, onnx: Path) -> Network:
        """Read an ONNX file. EngineError if it is none or this runtime can't run it."""

    def resample(
        self,
        scan: Resampling,
        axes: Axes,
        extra: npt.NDArray[np.float32] | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> Image:
        """A scan on a network's grid, along its axes. extra: further channels (n, Z, Y, X), canonical, on that grid.
        check: called between slabs; what it raises ends the work."""

    def open_pass(self, networks: Sequence[Network], image: Image, window: Window) -> Pass:
        """A sliding window over an image of this runtime with networks that it loaded."""
