"""What a network sees, in a GPU's memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from core.errors import EngineError
from core.volume import Index
from engines.runtime import Axes, Rule
from engines.runtime.device import Argument, Device, Stream, address

_FLOAT = 4  # bytes
_BEYOND = (-np.inf, np.inf)


class DeviceImage:
    """See `engines.runtime.Image`. Lies in memory as (I, a, b, c): its axis m is canonical axis layout[m].

    extent: voxels along a, b and c. stream: where everything that changes it runs, in order.
    """

    def __init__(
        self, device: Device, channels: int, extent: Index, stream: Stream, axes: Axes, layout: Index = (0, 1, 2)
    ) -> None:
        a, b, c = extent
        self.memory = device.allocate(_FLOAT * channels * a * b * c)
        self.channels, self.extent, self.stream = channels, extent, stream
        self._device, self._axes, self._layout = device, axes, layout
        self._along = [layout.index(axis) for axis in axes.order]  # which axis of memory each of the network's is
        self._steps = [step * (-1 if f else 1) for step, f in zip((b * c, c, 1), self._flips(), strict=True)]
        self._sent: list[npt.NDArray[Any]] = []
        self._changed = device.record(stream)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Along the network's axes."""
        z, y, x = (self.extent[m] for m in self._along)
        return (self.channels, z, y, x)

    def strided(self) -> list[Argument]:
        """How a kernel walks through it along the network's axes: where its first voxel lies, and its steps."""
        size = int(np.prod(self.extent))
        backwards = zip(self.extent, self._steps, strict=True)
        first = sum((n - 1) * -step for n, step in backwards if step < 0)
        steps = (size, *(self._steps[m] for m in self._along))
        return [address(self.memory, _FLOAT * first), *(np.int64(step) for step in steps)]

    def complete(self, stream: Stream) -> None:
        """Further work on `stream` finds it as it is now."""
        self._device.wait(stream, self._changed)

    def set_channel(self, channel: int, values: npt.NDArray[np.float32]) -> None:
        """Send one channel (z, y, x), canonical: what enters besides the scan."""
        laid: npt.NDArray[np.float32] = np.ascontiguousarray(values.transpose(self._layout), dtype=np.float32)
        if laid.shape != self.extent:
            raise EngineError(f"a channel of {laid.shape} voxels for an image of {self.extent}")
        self._sent.append(laid)  # it must live until it has arrived
        self._device.upload(self.memory.address + channel * laid.nbytes, laid, self.stream)
        self._changed = self._device.record(self.stream)

    def normalise(self, rule: Rule) -> None:
        """In place, on the device."""
        voxels = int(np.prod(self.extent))
        numbers = (*(rule.clip or _BEYOND), rule.shift, rule.scale)
        arguments = [address(self.memory), np.int64(voxels), *(np.float32(n) for n in numbers)]
        self._device.launch("normalise", voxels, arguments, self.stream)
        self._changed = self._device.record(self.stream)

    def values(self) -> npt.NDArray[np.float32]:
        """Fetched."""
        fetched = self._device.pinned((self.channels, *self.extent), np.float32)
        self._device.download(fetched, self.memory.address, self.stream)
        self.stream.synchronize()
        canonical = np.array(fetched).transpose(0, *(1 + self._layout.index(axis) for axis in range(3)))
        return self._axes.view(canonical)

    def _flips(self) -> list[bool]:
        """Which axes of memory the network sees backwards."""
        return [flipped for _, flipped in sorted(zip(self._along, self._axes.flipped, strict=True))]
