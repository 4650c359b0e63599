"""A scan onto a network's grid on the GPU, slab by slab: the sums that NumPy takes, over the weights that NumPy uses.

    host            copy stream                     compute stream
    16 slices ────▶ upload (two buffers) ──event──▶ rows, columns, then add to the slices of the result

Slices lie across the axis that is resampled last. Where a spline's results must stay within the range of what it was
made of, the host looks for that range (whole numbers, once through memory) and a kernel keeps to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import sparse

from core.volume import Index
from engines.runtime import Axes, Resampling
from engines.runtime.device import Argument, Constant, Device, Event, Memory, Stream, address
from engines.runtime.images import DeviceImage

if TYPE_CHECKING:
    from engines.runtime import Weights

_SLAB = 16  # source slices at once
_BUFFERS = 2
_FLOAT, _SHORT = 4, 2  # bytes
_BEYOND = (-np.inf, np.inf)


@dataclass(frozen=True)
class _Within:
    """A rule that only clips."""

    clip: tuple[float, float]
    shift: float = 0.0
    scale: float = 1.0

    def apply(self, image: npt.NDArray[np.float32]) -> None:
        np.clip(image, *self.clip, out=image)


def resample(
    device: Device,
    scan: Resampling,
    axes: Axes,
    extra: npt.NDArray[np.float32] | None = None,
    check: Callable[[], object] = lambda: None,
) -> DeviceImage:
    """See `engines.runtime.Runtime.resample`. EngineError where memory lacks."""
    layout = _layout(scan.first)
    source, weights = scan.source.transpose(layout), scan.weights()
    along, rows, columns = (_Axis.of(weights[axis]) for axis in layout)
    extent = (along.length, rows.length, columns.length)
    compute = device.stream()
    image = DeviceImage(device, 1 if extra is None else 1 + len(extra), extent, compute, axes, layout)
    device.fill(image.memory.address, 0, image.memory.nbytes, compute)
    ranges = _ranges(source, scan.clip) if scan.limits != "none" else None
    planes = _Planes(device, source[along.where], rows, columns, scan.clip, compute)
    if ranges is not None and scan.limits == "slice":
        planes.limit(ranges[along.where])
    slabs = _Slabs(device, along, compute)
    size = rows.length * columns.length
    for begin, slab in slabs:
        check()
        n, made = planes.make(begin)
        target = address(image.memory, _FLOAT * slab.low * size)
        _launch(
            device, "resample_float", made, slabs.at(slab), target, (1, slab.high - slab.low, n, size), True, compute
        )
    compute.synchronize()  # the weights and buffers of this function are in use until then
    if ranges is not None and scan.limits == "scan":
        image.normalise(_Within((float(ranges[:, 0].min()), float(ranges[:, 1].max()))))
    for channel, values in enumerate(() if extra is None else extra):
        image.set_channel(1 + channel, values)
    return image


def _layout(first: int) -> Index:
    a, b = (axis for axis in range(3) if axis != first)
    return (first, a, b)


def _ranges(source: npt.NDArray[np.int16], clip: tuple[float, float] | None) -> npt.NDArray[np.float32]:
    """Smallest and largest value of every slice after clipping, (slices, 2)."""
    found = [(part.min(), part.max()) for part in source]
    ranges: npt.NDArray[np.float32] = np.asarray(found, dtype=np.float32)
    return ranges if clip is None else np.clip(ranges, *clip)


@dataclass(frozen=True, eq=False)
class _Axis:
    """Weights along one axis of memory, for the part `where` of the source that they touch."""

    weights: Weights
    where: slice

    @classmethod
    def of(cls, weights: Weights) -> _Axis:
        first, last = int(weights.indices.min()), int(weights.indices.max()) + 1
        return cls(weights[:, first:last], slice(first, last))

    @property
    def length(self) -> int:
        return int(self.weights.shape[0])


class _Sparse:
    """A matrix of weights on the device."""

    def __init__(self, device: Device, weights: Weights, stream: Stream) -> None:
        arrays = (
            weights.indptr.astype(np.int32),
            weights.indices.astype(np.int32),
            weights.data.astype(np.float32),
        )
        self._parts = [Constant(device, array, stream) for array in arrays]

    def at(self, row: int = 0) -> list[Argument]:
        """The kernel's three arguments, from a row on."""
        starts, taps, values = (part.memory for part in self._parts)
        return [address(starts, 4 * row), address(taps), address(values)]


class _Planes:
    """The source's slices, resampled within their plane; each `make` uses the memory of the one before."""

    def __init__(
        self,
        device: Device,
        source: npt.NDArray[np.int16],
        rows: _Axis,
        columns: _Axis,
        clip: tuple[float, float] | None,
        compute: Stream,
    ) -> None:
        source = source[:, rows.where, columns.where]
        depth = min(_SLAB, source.shape[0])
        self._shape = source.shape
        self._height, self._width = rows.length, columns.length
        self._device, self._compute, self._clip = device, compute, clip or _BEYOND
        self._feed = _Feed(device, source, compute)
        self._by_rows = device.allocate(_FLOAT * depth * self._height * source.shape[2])
        self._made = device.allocate(_FLOAT * depth * self._height * self._width)
        self._rows = _Sparse(device, rows.weights, compute)
        self._columns = _Sparse(device, columns.weights, compute)
        self._limits: Constant | None = None

    def limit(self, limits: npt.NDArray[np.float32]) -> None:
        """Keep every slice to its own limits, (slices, 2)."""
        self._limits = Constant(self._device, limits, self._compute)

    def make(self, begin: int) -> tuple[int, Memory]:
        """How many slices there are from `begin` on, and where they lie, (n, rows, columns)."""
        n, sent = self._feed.take(begin)
        _, height, width = self._shape
        sizes = (n, self._height, height, width)
        rows, columns = self._rows.at(), self._columns.at()
        _launch(self._device, "resample_short", sent, rows, self._by_rows, sizes, False, self._compute, self._clip)
        self._feed.give_back()
        sizes = (n * self._height, self._width, width, 1)
        _launch(self._device, "resample_float", self._by_rows, columns, self._made, sizes, False, self._compute)
        if self._limits is not None:
            plane = self._height * self._width
            limits = address(self._limits.memory, 2 * _FLOAT * begin)
            arguments = [address(self._made), limits, np.int64(n), np.int64(plane)]
            self._device.launch("limit_slices", n * plane, arguments, self._compute)
        return n, self._made


@dataclass(frozen=True)
class _Slab:
    """Slices low..high of the result to which one slab of the source adds; `row`: where its weights begin."""

    low: int
    high: int
    row: int


class _Slabs:
    """Weights along the slabs' axis, cut as the slabs are: one upload for all. Slabs that nothing needs lack."""

    def __init__(self, device: Device, along: _Axis, stream: Stream) -> None:
        self._slabs: list[tuple[int, _Slab]] = []
        parts, row = [], 0
        source = along.weights.shape[1]
        for begin in range(0, source, _SLAB):
            weights = along.weights[:, begin : begin + _SLAB]
            touched = np.flatnonzero(np.diff(weights.indptr))
            if not touched.size:
                continue
            low, high = int(touched[0]), int(touched[-1]) + 1
            parts.append(weights[low:high])
            self._slabs.append((begin, _Slab(low, high, row)))
            row += high - low
        for part in parts:
            part.resize((part.shape[0], min(_SLAB, source)))
        self._weights = _Sparse(device, sparse.vstack(parts, format="csr"), stream)

    def __iter__(self) -> Iterator[tuple[int, _Slab]]:
        return iter(self._slabs)

    def at(self, slab: _Slab) -> list[Argument]:
        return self._weights.at(slab.row)


class _Feed:
    """Source slices on their way to the device: while one slab is resampled, the next is uploaded."""

    def __init__(self, device: Device, source: npt.NDArray[np.int16], compute: Stream) -> None:
        depth, height, width = min(_SLAB, source.shape[0]), source.shape[1], source.shape[2]
        self._device, self._source, self._compute = device, source, compute
        self._copy = device.stream()
        self._pinned = [device.pinned((depth, height, width), np.int16) for _ in range(_BUFFERS)]
        self._buffers = [device.allocate(_SHORT * depth * height * width) for _ in range(_BUFFERS)]
        self._sent: list[Event | None] = [None] * _BUFFERS
        self._used: list[Event | None] = [None] * _BUFFERS
        self._turn = 0

    def take(self, begin: int) -> tuple[int, Memory]:
        """How many slices there are from `begin` on, and where `compute` finds them."""
        turn = self._turn = (self._turn + 1) % _BUFFERS
        if (sent := self._sent[turn]) is not None:
            sent.synchronize()
        if (used := self._used[turn]) is not None:
            self._device.wait(self._copy, used)
        slices = self._source[begin : begin + _SLAB]
        np.copyto(self._pinned[turn][: len(slices)], slices)
        self._device.upload(self._buffers[turn].address, self._pinned[turn][: len(slices)], self._copy)
        self._sent[turn] = event = self._device.record(self._copy)
        self._device.wait(self._compute, event)
        return len(slices), self._buffers[turn]

    def give_back(self) -> None:
        """`compute` has no further use for what was taken last."""
        self._used[self._turn] = self._device.record(self._compute)


def _launch(
    device: Device,
    kernel: str,
    source: Memory,
    axis: list[Argument],
    target: Memory | Argument,
    sizes: tuple[int, int, int, int],
    add: bool,
    stream: Stream,
    clip: tuple[float, float] = _BEYOND,
) -> None:
    """sizes: outer, length of the target's axis, length of the source's, inner. clip: of the source's values."""
    into = target if isinstance(target, np.generic) else address(target)
    counts = (np.int64(size) for size in sizes)
    outer, length, _, inner = sizes
    how = (np.int32(add), np.float32(clip[0]), np.float32(clip[1]))
    device.launch(kernel, outer * length * inner, [address(source), *axis, into, *counts, *how], stream)
