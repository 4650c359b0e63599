"""Resampling on the GPU, slab by slab: HU to a network's image, and blended logits back to another grid.

The NumPy twins are `resample`, `normalise` and `interpolate` of `engines.cascade.preprocess`; weights come from there
as scipy csr arrays, one an axis, and sums are taken in the same order.

    host            copy stream                     compute stream
    16 slices ────▶ upload (two buffers) ──event──▶ rows, columns, then add to the slices of the result
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from core.errors import EngineError
from engines.runtime.device import Argument, Device, Event, Memory, Stream, address
from engines.runtime.ring import DevicePass

Weights = sparse.csr_array
"""float32 (target voxels, source voxels) along one axis."""
_SLAB = 16  # source slices at once, as in the NumPy twin
_BUFFERS = 2
_FLOAT, _SHORT = 4, 2  # bytes


class DeviceImage:
    """A network's image (I, Z, Y, X) float32 on the GPU; channel 0 is the scan. Satisfies `ring.Region`."""

    def __init__(self, device: Device, shape: tuple[int, int, int, int], stream: Stream) -> None:
        self.shape = shape
        self.memory = device.allocate(_FLOAT * int(np.prod(shape)))
        self._device, self._stream = device, stream
        self._kept: list[npt.NDArray[Any]] = []

    def complete(self, until: int, stream: Stream) -> None:
        """Let `stream` wait until the whole image is there."""
        self._device.wait(stream, self._device.record(self._stream))

    def set_channel(self, channel: int, values: npt.NDArray[np.float32]) -> None:
        """Upload one channel (Z, Y, X): what enters besides the scan."""
        if values.shape != self.shape[1:]:
            raise EngineError(f"a channel of shape {values.shape} for an image of {self.shape[1:]}")
        self._kept.append(np.ascontiguousarray(values, dtype=np.float32))
        self._device.upload(self._at(channel), self._kept[-1], self._stream)

    def normalise(self, low: float, high: float, mean: float, std: float) -> None:
        """Clip the scan to low..high HU, subtract the mean, divide by the standard deviation; in place."""
        voxels = int(np.prod(self.shape[1:]))
        numbers = (np.float32(low), np.float32(high), np.float32(mean), np.float32(1 / std))
        self._device.launch("normalise", voxels, [address(self.memory), np.int64(voxels), *numbers], self._stream)

    def scan(self) -> npt.NDArray[np.float32]:
        """The scan (Z, Y, X) as it is now, on the host."""
        result = self._device.pinned(self.shape[1:], np.float32)
        self._device.download(result, self._at(0), self._stream)
        self._stream.synchronize()
        return np.array(result)

    def _at(self, channel: int) -> int:
        return self.memory.address + _FLOAT * channel * int(np.prod(self.shape[1:]))


def resample(
    device: Device, hu: npt.NDArray[np.int16], along: tuple[Weights, Weights, Weights], channels: int = 1
) -> DeviceImage:
    """HU on another grid, by the weights of three axes (z, y, x). hu: canonical order, int16, any strides."""
    (along_z, (first, last)), *in_plane = (_cropped(weights) for weights in along)
    (along_y, rows), (along_x, columns) = in_plane
    source = hu[first:last, slice(*rows), slice(*columns)]
    z, y, x = along_z.shape[0], along_y.shape[0], along_x.shape[0]
    compute = device.stream()
    image = DeviceImage(device, (channels, z, y, x), compute)
    device.fill(image.memory.address, 0, image.memory.nbytes, compute)
    feed = _Feed(device, source, compute)
    depth, height, width = min(_SLAB, source.shape[0]), source.shape[1], source.shape[2]
    by_rows = device.allocate(_FLOAT * depth * y * width)
    by_columns = device.allocate(_FLOAT * depth * y * x)
    row_weights, column_weights = _Axis(device, along_y, compute), _Axis(device, along_x, compute)
    slabs = _Slabs(device, along_z, compute)
    for begin, slab in slabs:
        n, buffer = feed.take(begin)
        _launch(device, "resample_short", buffer, row_weights.at(), by_rows, (n, y, height, width), False, compute)
        feed.give_back()
        _launch(
            device, "resample_float", by_rows, column_weights.at(), by_columns, (n * y, x, width, 1), False, compute
        )
        target = address(image.memory, _FLOAT * slab.low * y * x)
        sizes = (1, slab.high - slab.low, n, y * x)
        _launch(device, "resample_float", by_columns, slabs.at(slab), target, sizes, True, compute)
    compute.synchronize()  # the weights and buffers of this function are in use until then
    return image


def labels(sliding: DevicePass, along: tuple[Weights, Weights, Weights], device: Device) -> npt.NDArray[np.uint8]:
    """The winning channel of each voxel of another grid, uint8.

    along: weights (z, y, x) over the whole region; those of z only for the slices wanted, whose sums must be final and
    still in the ring.
    """
    axes = _axes(sliding, along, device)
    shape = tuple(weights.shape[0] for weights in along)
    sizes = (np.int32(sliding.channels), np.int32(sliding.depth), np.int64(np.prod(sliding.plane)))
    arguments = [address(sliding.sums), *sizes, np.int32(sliding.plane[1])]
    return _fetched(device, "label_slab", arguments, axes, shape, np.uint8, sliding)


def peaks(
    sliding: DevicePass, channels: Sequence[int], along: tuple[Weights, Weights, Weights], device: Device
) -> npt.NDArray[np.float32]:
    """The largest value among `channels` in each voxel of another grid, float32. along: as for `labels`."""
    axes = _axes(sliding, along, device)
    shape = tuple(weights.shape[0] for weights in along)
    if not channels or not all(0 <= channel < sliding.channels for channel in channels):
        raise EngineError(f"no channels {list(channels)} in a pass over {sliding.channels}")
    wanted = np.asarray(channels, dtype=np.int32)
    on_device = device.allocate(wanted.nbytes)
    device.upload(on_device.address, wanted, sliding.compute)
    sizes = (np.int32(sliding.depth), np.int64(np.prod(sliding.plane)), np.int32(sliding.plane[1]))
    arguments = [address(sliding.sums), address(on_device), np.int32(len(wanted)), *sizes]
    return _fetched(device, "peak_slab", arguments, axes, shape, np.float32, sliding)


class _Axis:
    """The weights of one axis on the device."""

    def __init__(self, device: Device, weights: Weights, stream: Stream) -> None:
        self._host = [
            weights.indptr.astype(np.int32),
            weights.indices.astype(np.int32),
            weights.data.astype(np.float32),
        ]
        self._parts = [_sent(device, array, stream) for array in self._host]

    def at(self, row: int = 0) -> list[Argument]:
        """The kernel's three arguments, from a row on."""
        starts, taps, values = self._parts
        return [address(starts, 4 * row), address(taps), address(values)]


@dataclass(frozen=True)
class _Slab:
    """Slices low..high of the result to which one slab of the source adds; `row`: where its weights begin."""

    low: int
    high: int
    row: int


class _Slabs:
    """Weights along z, cut into slabs of the source: one upload for all."""

    def __init__(self, device: Device, along_z: Weights, stream: Stream) -> None:
        self._slabs: list[tuple[int, _Slab]] = []
        parts, row = [], 0
        for begin in range(0, along_z.shape[1], _SLAB):
            weights = along_z[:, begin : begin + _SLAB]
            touched = np.flatnonzero(np.diff(weights.indptr))
            low, high = int(touched[0]), int(touched[-1]) + 1
            parts.append(weights[low:high])
            self._slabs.append((begin, _Slab(low, high, row)))
            row += high - low
        width = min(_SLAB, along_z.shape[1])
        for part in parts:
            part.resize((part.shape[0], width))
        self._axis = _Axis(device, sparse.vstack(parts, format="csr"), stream)

    def __iter__(self) -> Iterator[tuple[int, _Slab]]:
        return iter(self._slabs)

    def at(self, slab: _Slab) -> list[Argument]:
        return self._axis.at(slab.row)


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
) -> None:
    """sizes: outer, length of the target's axis, length of the source's, inner."""
    into = target if isinstance(target, np.generic) else address(target)
    counts = (np.int64(size) for size in sizes)
    outer, length, _, inner = sizes
    device.launch(kernel, outer * length * inner, [address(source), *axis, into, *counts, np.int32(add)], stream)


def _axes(sliding: DevicePass, along: tuple[Weights, Weights, Weights], device: Device) -> list[_Axis]:
    taps = along[0].indices
    if taps.size == 0 or taps.min() < sliding.dropped or taps.max() >= sliding.dropped + sliding.depth:
        raise EngineError(f"slices of the region that are not in the ring, which begins at {sliding.dropped}")
    if any(weights.shape[1] != n for weights, n in zip(along[1:], sliding.plane, strict=True)):
        raise EngineError(f"weights for another plane than {sliding.plane}")
    return [_Axis(device, weights, sliding.compute) for weights in along]


def _fetched(
    device: Device,
    kernel: str,
    arguments: list[Argument],
    axes: list[_Axis],
    shape: tuple[int, ...],
    dtype: type[np.generic],
    sliding: DevicePass,
) -> npt.NDArray[Any]:
    count = int(np.prod(shape))
    result = device.allocate(count * np.dtype(dtype).itemsize)
    every = [argument for axis in axes for argument in axis.at()]
    device.launch(kernel, count, [*arguments, *every, address(result), *(np.int64(n) for n in shape)], sliding.compute)
    fetched = device.pinned(shape, dtype)
    device.download(fetched, result.address, sliding.compute)
    sliding.settle()
    return np.array(fetched)


def _cropped(weights: Weights) -> tuple[Weights, tuple[int, int]]:
    first, last = int(weights.indices.min()), int(weights.indices.max()) + 1
    return weights[:, first:last], (first, last)


def _sent(device: Device, array: npt.NDArray[Any], stream: Stream) -> Memory:
    memory = device.allocate(array.nbytes)
    device.upload(memory.address, array, stream)
    return memory
