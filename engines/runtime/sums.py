"""The ring of a pass on the GPU: sums of the slices that tiles still touch, and of those that labels still need.

(K, depth, Y, X) float32, slice z of the region at z % depth. A slice's way:

    tiles add to it ──▶ finish: divided, activated ──▶ taken, or labelled ──▶ zero, for the slice `depth` further on
                        `final` goes beyond it                    `dropped` goes beyond it
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from core.errors import EngineError
from core.volume import Index
from engines.runtime import Activation
from engines.runtime.device import Argument, Device, Stream, address

ACTIVATIONS: dict[Activation, int] = {"none": 0, "softmax": 1, "sigmoid": 2}  # `Activation` of kernels/arithmetic.h
_FLOAT = 4  # bytes
_FETCHED = 64 << 20  # bytes of final rows that leave the device at once


class Sums:
    """shape: (depth, Y, X). weighed: the weights of tiles don't sum to 1: they are summed, too, and divide.

    All work runs on `stream`. final: slices below have all their tiles. dropped: slices below are gone.
    """

    def __init__(self, device: Device, stream: Stream, channels: int, shape: Index, weighed: bool) -> None:
        self.depth, *plane = shape
        self.plane = (plane[0], plane[1])
        self.channels = channels
        self.final = self.dropped = 0
        self._device, self._stream = device, stream
        self._size = plane[0] * plane[1]
        self.memory = device.allocate(_FLOAT * channels * self.depth * self._size)
        self._weights = device.allocate(_FLOAT * self.depth * self._size) if weighed else None
        for memory in (self.memory, self._weights):
            if memory is not None:
                device.fill(memory.address, 0, memory.nbytes, stream)
        self._rows_at_once = max(1, min(self.depth, _FETCHED // (_FLOAT * channels * self._size)))
        row = channels * self._size * self._rows_at_once
        self._rows = device.allocate(_FLOAT * row)
        self._fetched = device.pinned((row,), np.float32)

    @property
    def weights(self) -> Argument:
        """Where the weights' sums lie, for a kernel: null where they are not wanted."""
        return np.uint64(0) if self._weights is None else address(self._weights)

    def finish(self, until: int, activation: Activation = "none") -> None:
        """Slices below `until` have all their tiles."""
        count = until - self.final
        if count > 0 and (self._weights is not None or activation != "none"):
            sizes = (np.int32(self.channels), np.int32(self.depth), np.int64(self._size))
            which = (np.int32(self.final), np.int32(count), np.int32(ACTIVATIONS[activation]))
            arguments = [address(self.memory), self.weights, *sizes, *which]
            self._device.launch("finish_rows", count * self._size, arguments, self._stream)
        self.final = max(self.final, until)

    def fetch(self, until: int) -> npt.NDArray[np.float32]:
        """Final slices z < until that are still there, (K, n, Y, X); they leave the ring."""
        first = self.dropped
        result = np.empty((self.channels, until - first, *self.plane), np.float32)
        while self.dropped < until:
            begin = self.dropped - first
            rows = self._drain(until)
            fetched = self._fetched[: rows * self.channels * self._size]
            self._device.download(fetched, self._rows.address, self._stream)
            self._stream.synchronize()
            result[:, begin : begin + rows] = fetched.reshape(self.channels, rows, *self.plane)
        return result

    def drop(self, until: int) -> None:
        """Forget final slices z < until."""
        if until > self.final:
            raise EngineError(f"rows {self.final} to {until} are not final yet")
        while self.dropped < until:
            self._drain(until)

    def _drain(self, until: int) -> int:
        """The lowest rows out of the ring, as many as a buffer of rows holds; how many."""
        count = min(until - self.dropped, self._rows_at_once)
        sizes = (np.int32(self.channels), np.int32(self.depth), np.int64(self._size))
        which = (np.int32(self.dropped), np.int32(count))
        arguments = [address(self.memory), address(self._rows), *sizes, *which]
        self._device.launch("drain", self.channels * count * self._size, arguments, self._stream)
        self.dropped += count
        return count
