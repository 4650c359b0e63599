"""What the code around a network asks of a GPU: memory, streams, events, kernels. `cuda.py` answers with a real one.

Everything above (`gpu`, `ring`, `slabs`) is written against these Protocols alone. Work on a stream runs in its order,
and in no order against other streams unless an event says so; nothing is done before a `synchronize` has returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Argument = Any
"""A kernel's argument: np.int32, np.int64 (`Count`), np.float32, np.uint64 (an address), or a `TILE_AXIS`."""
Shape = tuple[int, ...]

TILE_AXIS = np.dtype([(name, np.int32) for name in ("size", "before", "extent", "start", "flipped")])
"""`TileAxis` of kernels/arithmetic.h."""
POISON = 0xFF
"""A byte: float32, float16 and bfloat16 made of it are NaN. What a library fails to write is then found."""


@dataclass(frozen=True)
class Identity:
    """Which GPU: plans and kernels built for one run on no other.

    name: as the driver says it, e.g. "Orin". capability: SM version (major, minor). multiprocessors: their number.
    memory_mb: MiB of memory, shared with the CPU on a Jetson. driver: highest CUDA version of the driver, e.g. 12060.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    memory_mb: int
    driver: int

    @property
    def architecture(self) -> str:
        """As nvcc names it, e.g. sm_87."""
        return f"sm_{self.capability[0]}{self.capability[1]}"


class Memory(Protocol):
    """Device memory; given back when nobody holds it any more."""

    @property
    def address(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


class Stream(Protocol):
    """Work in order. handle: CUstream as an integer."""

    @property
    def handle(self) -> int: ...

    def synchronize(self) -> None:
        """Wait for all work so far. DeviceLost or EngineError if any of it failed."""


class Event(Protocol):
    """A point in a stream's work."""

    def synchronize(self) -> None:
        """Wait until the stream has come to it. DeviceLost or EngineError if work before it failed."""

    def seconds_since(self, earlier: Event) -> float:
        """Seconds on the GPU from `earlier`, of the same stream, to this one; both have been come to."""


class Device(Protocol):
    """One GPU. Every method raises EngineError, or DeviceLost after an error that stays."""

    @property
    def identity(self) -> Identity: ...

    def free_bytes(self) -> int:
        """Device memory that is free now."""

    def allocate(self, nbytes: int) -> Memory:
        """Device memory of undefined content. EngineError if there is not enough."""

    def pinned(self, shape: Shape, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A host array that copies may read and write while the CPU goes on; undefined content."""

    def stream(self) -> Stream:
        """A new stream that does not wait for the default one."""

    def record(self, stream: Stream) -> Event:
        """The point that `stream`'s work has come to by now."""

    def wait(self, stream: Stream, event: Event) -> None:
        """Further work on `stream` begins only after `event`."""

    def upload(self, target: int, source: npt.NDArray[Any], stream: Stream) -> None:
        """Copy a C-contiguous host array (pinned, or the call may wait) to an address. It must live until then."""

    def download(self, target: npt.NDArray[Any], source: int, stream: Stream) -> None:
        """Copy from an address into a C-contiguous host array."""

    def fill(self, target: int, byte: int, nbytes: int, stream: Stream) -> None:
        """Set every byte from an address on."""

    def load_kernels(self, image: bytes) -> None:
        """Make the kernels of a compiled module (cubin or PTX) ready for `launch`."""

    def launch(self, kernel: str, threads: int, arguments: Sequence[Argument], stream: Stream) -> None:
        """Run a kernel with at least `threads` threads, numbered along x."""


class Execution(Protocol):
    """A network's plan, ready to run on a device."""

    @property
    def input_channels(self) -> int: ...

    def logits_shape(self, shape: Shape) -> Shape:
        """Shape of the logits for an image of `shape` (1, I, Z, Y, X). EngineError if the plan was not built for it."""

    def scratch_bytes(self, shape: Shape) -> int:
        """Device memory that a run on `shape` needs for what lies between image and logits."""

    def enqueue(self, shape: Shape, image: int, logits: int, scratch: Memory, stream: Stream) -> None:
        """Run on `stream`: float32 image at one address, float32 logits to another. EngineError if it was refused."""


def address(memory: Memory, offset: int = 0) -> Argument:
    """A kernel's argument that points into `memory`, `offset` bytes from its begin."""
    return np.uint64(memory.address + offset)


def tile_axis(size: int, before: int, extent: int, start: int, flipped: bool) -> Argument:
    """A kernel's argument: how one axis of a tile lies on a region (see `TileAxis` in kernels/arithmetic.h)."""
    return np.array((size, before, extent, start, flipped), dtype=TILE_AXIS)[()]


class Constant:
    """A small array that stays on the device; the host's copy lives as long, for the upload may come late."""

    def __init__(self, device: Device, values: npt.NDArray[Any], stream: Stream) -> None:
        self._host = np.ascontiguousarray(values)
        self.memory = device.allocate(values.nbytes)
        device.upload(self.memory.address, self._host, stream)
