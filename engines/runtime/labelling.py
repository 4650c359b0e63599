"""Final rows in a GPU's ring → labels at the scan's own resolution: one byte a voxel leaves the device.

The twin of `engines.cascade.labelmaps.LabelStream`: the same taps, the same order of sums, and where a cell's corners
agree nothing is interpolated. Two buffers: while one is on its way to the host, the other is labelled.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from core.errors import EngineError
from engines.runtime import Labelling
from engines.runtime.device import Argument, Constant, Device, Event, Memory, Stream, address
from engines.runtime.sums import Sums

_BUFFERS = 2
_LABELLED = 16 << 20  # bytes of labels that leave the device at once


class DeviceLabels:
    """Writes `labels.out` while the rows of `sums` become final. All work runs on `stream`."""

    def __init__(self, device: Device, stream: Stream, sums: Sums, labels: Labelling) -> None:
        self._device, self._stream, self._sums, self._labels = device, stream, sums, labels
        depth, height, width = labels.out.shape
        self._first, self._second, _ = labels.taps(0)
        self._written = self._judged = 0
        order = labels.order
        if order is not None and len(order) != sums.channels:
            raise EngineError(f"{len(order)} regions for {sums.channels} channels")
        self._taps = [_Taps(device, labels, axis, stream) for axis in range(3)]
        self._order = None if order is None else Constant(device, np.asarray(order, np.int32), stream)
        self._winners = device.allocate(sums.depth * sums.plane[0] * sums.plane[1]) if order is None else None
        at_once = max(1, min(depth, _LABELLED // (height * width)))
        self._buffers = [_Buffer(device, (at_once, height, width)) for _ in range(_BUFFERS)]
        self._turn = 0

    def advance(self, until: int) -> None:
        """Rows z < until of the sums are final: label what lies between them, then let go of what nothing needs."""
        if self._winners is not None and until > self._judged:
            self._find_winners(self._winners, until)
        self._judged = until
        while (count := self._ready(until)) > 0:
            self._label(count)
        left = self._first[self._written :]
        self._sums.drop(min(until, int(left[0])) if left.size else until)

    def finish(self) -> None:
        """All rows came: the labels are in `out`. EngineError if some lack."""
        for buffer in self._buffers:
            buffer.empty(self._labels.out)
        if self._written != len(self._labels.out):
            raise EngineError(f"{self._written} of {len(self._labels.out)} slices could be labelled")

    def _ready(self, until: int) -> int:
        """How many slices can be labelled now, a buffer's at most."""
        most = self._second[self._written : self._written + self._buffers[0].slices]
        return int((most < until).cumprod().sum())

    def _find_winners(self, winners: Memory, until: int) -> None:
        sums, count = self._sums, until - self._judged
        plane = sums.plane[0] * sums.plane[1]
        sizes = (
            np.int32(sums.channels),
            np.int32(sums.depth),
            np.int64(plane),
            np.int32(self._judged),
            np.int32(count),
        )
        arguments = [address(sums.memory), address(winners), *sizes]
        self._device.launch("find_winners", count * plane, arguments, self._stream)

    def _label(self, count: int) -> None:
        self._turn = (self._turn + 1) % _BUFFERS
        buffer = self._buffers[self._turn]
        buffer.empty(self._labels.out)
        sums, (_, height, width) = self._sums, self._labels.out.shape
        sizes = (np.int32(sums.channels), np.int32(sums.depth), np.int64(np.prod(sums.plane)), np.int32(sums.plane[1]))
        taps = [*self._taps[0].at(self._written), *self._taps[1].at(), *self._taps[2].at()]
        counts = [np.int64(n) for n in (count, height, width)]
        rest: list[Argument] = [*sizes, *taps, address(buffer.memory), *counts]
        if self._winners is not None:
            arguments = [address(sums.memory), address(self._winners), *rest]
            self._device.launch("label_slab", count * height * width, arguments, self._stream)
        elif self._order is not None:
            arguments = [address(sums.memory), address(self._order.memory), *rest, np.float32(self._labels.threshold)]
            self._device.launch("region_slab", count * height * width, arguments, self._stream)
        buffer.fetch(self._written, count, self._stream)
        self._written += count


class _Buffer:
    """Labels of some slices, on the device and on their way to the host."""

    def __init__(self, device: Device, shape: tuple[int, int, int]) -> None:
        self.slices = shape[0]
        self.memory = device.allocate(int(np.prod(shape)))
        self._host: npt.NDArray[np.uint8] = device.pinned(shape, np.uint8)
        self._device = device
        self._sent: tuple[Event, int, int] | None = None

    def fetch(self, begin: int, count: int, stream: Stream) -> None:
        """The first `count` slices belong at `begin`."""
        self._device.download(self._host[:count], self.memory.address, stream)
        self._sent = (self._device.record(stream), begin, count)

    def empty(self, out: npt.NDArray[np.uint8]) -> None:
        """Wait for what was fetched, and put it where it belongs."""
        if self._sent is not None:
            arrived, begin, count = self._sent
            arrived.synchronize()
            out[begin : begin + count] = self._host[:count]
            self._sent = None


class _Taps:
    """The taps of one axis on the device."""

    def __init__(self, device: Device, labels: Labelling, axis: int, stream: Stream) -> None:
        first, second, weight = labels.taps(axis)
        parts = (first.astype(np.int32), second.astype(np.int32), weight.astype(np.float32))
        self._parts = [Constant(device, part, stream) for part in parts]

    def at(self, begin: int = 0) -> list[Argument]:
        """The kernel's three arguments, from a voxel on."""
        return [address(part.memory, 4 * begin) for part in self._parts]
