"""One sliding-window pass whose logits never leave the GPU before they are final.

    host            prepare stream                       compute stream
    add(tile) ────▶ upload slabs that it needs ───┐
                    gather, mirror, pad ──────────┴─event─▶ poison, network, inspect, blend into the ring
    take(until) ◀─────────────────────────────────────────── rows below `until`, which leave the ring

While the network runs on one tile, the next one is uploaded and gathered: two slots, each with its own input. The host
is never more than two tiles ahead, so that a deadline or a cancelled study is noticed within two tiles.

The ring holds the slices that tiles still touch, for all channels: (C, depth, Y, X) float32, slice z at z % depth.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from core.errors import EngineError
from core.volume import Index
from engines.runtime import Activation, Labelling, Tile, Window
from engines.runtime.device import POISON, Argument, Device, Event, Execution, Memory, Stream, address, tile_axis
from engines.runtime.host import activated
from engines.runtime.trust import check_found

_ACTIVATIONS: dict[Activation, int] = {"none": 0, "softmax": 1, "sigmoid": 2}  # `Activation` of kernels/arithmetic.h
_SLOTS = 2
_SLAB = 16  # slices that are uploaded at once
_FLOAT = 4  # bytes
_FETCHED = 64 << 20  # bytes of final rows that leave the device at once


class Region(Protocol):
    """An image (I, Z, Y, X) float32 in device memory, complete slice by slice."""

    @property
    def shape(self) -> tuple[int, int, int, int]: ...

    @property
    def memory(self) -> Memory: ...

    def complete(self, until: int, stream: Stream) -> None:
        """Further work on `stream` finds slices z < until of all channels."""


class UploadedRegion:
    """A host image (I, Z, Y, X), any strides, on its way to the GPU: slabs go when a tile first needs them.

    For one stream, which orders uploads and what reads them.
    """

    def __init__(self, device: Device, image: npt.NDArray[np.float32]) -> None:
        channels, z, y, x = image.shape
        self.shape = (channels, z, y, x)
        self.memory = device.allocate(image.nbytes)
        self._device = device
        self._image = image
        self._uploaded = 0
        self._staging = [device.pinned((min(_SLAB, z), y, x), np.float32) for _ in range(_SLOTS)]
        self._sent: list[Event | None] = [None] * _SLOTS
        self._turn = 0

    def complete(self, until: int, stream: Stream) -> None:
        """Send the slabs that lack."""
        while self._uploaded < until:
            end = min(self._uploaded + _SLAB, self.shape[1])
            for channel in range(self.shape[0]):
                self._send(channel, self._uploaded, end, stream)
            self._uploaded = end

    def _send(self, channel: int, begin: int, end: int, stream: Stream) -> None:
        turn = self._turn = (self._turn + 1) % _SLOTS
        if (sent := self._sent[turn]) is not None:
            sent.synchronize()
        staged = self._staging[turn][: end - begin]
        np.copyto(staged, self._image[channel, begin:end])
        _, z, y, x = self.shape
        self._device.upload(self.memory.address + (channel * z + begin) * y * x * _FLOAT, staged, stream)
        self._sent[turn] = self._device.record(stream)


class DevicePass:
    """Tiles in, sums of weighted logits or probabilities out, final rows first: an `engines.runtime.Pass`.

    executions: the networks (folds) whose outputs are averaged; all have the same channels. linger: slices below the
    lowest tile that may stay in the ring until `drop` (for resampling across a slab's border). EngineError where memory
    lacks, a run fails or an output can't be trusted; the call that notices raises it, at the latest the next `take`.
    """

    def __init__(
        self, device: Device, executions: Sequence[Execution], region: Region, window: Window, linger: int = 0
    ) -> None:
        channels, z, y, x = region.shape
        shape = executions[0].logits_shape((1, channels, *window.size))
        if any(
            e.input_channels != channels or e.logits_shape((1, channels, *window.size)) != shape for e in executions
        ):
            raise EngineError("the networks of an ensemble take or give different channels")
        if shape[1:] != (window.channels, *window.size):
            raise EngineError(f"logits of shape {shape}, not a map of {window.channels} channels")
        kept = np.arange(window.channels) if window.keep is None else np.asarray(window.keep)
        self.seconds: dict[str, float] = defaultdict(float)
        self.channels = len(kept)
        self.plane = (y, x)
        self.depth = min(z, window.size[0] + linger)
        self.dropped = 0  # slices below are gone
        self._device, self._executions, self._region, self._window = device, tuple(executions), region, window
        self._input_shape = (1, channels, *window.size)
        self._prepare, self.compute = device.stream(), device.stream()
        self._logits = device.allocate(_FLOAT * int(np.prod(shape)))
        self._scratch = device.allocate(max(e.scratch_bytes(self._input_shape) for e in executions))
        self.sums = device.allocate(_FLOAT * self.channels * self.depth * y * x)
        device.fill(self.sums.address, 0, self.sums.nbytes, self.compute)
        row = self.channels * y * x
        self._rows_at_once = max(1, min(self.depth, _FETCHED // (_FLOAT * row)))
        self._rows = device.allocate(_FLOAT * row * self._rows_at_once)
        self._fetched = device.pinned((row * self._rows_at_once,), np.float32)
        if window.floor:
            raise EngineError("the kernels do not blend weights that have a floor")
        if len(window.fill) != channels:
            raise EngineError(f"{channels} channels need as many values beyond the edge, not {len(window.fill)}")
        self._fill = _Constant(device, np.asarray(window.fill, dtype=np.float32), self._prepare)
        self._kept = _Constant(device, kept.astype(np.int32), self.compute)
        self._slots = [_Slot(device, self._input_shape, len(executions)) for _ in range(_SLOTS)]
        self._turn = 0

    def add(self, tile: Tile, flips: Index = (0, 0, 0)) -> None:
        """Run the networks on a tile, mirrored along the axes where `flips` is 1, and blend what they say."""
        if tile.start[0] < self.dropped or tile.stop[0] - self.dropped > self.depth:
            raise EngineError(f"a tile over slices {tile.start[0]}..{tile.stop[0]} does not fit a ring that holds "
                              f"{self.depth} from {self.dropped} on")  # fmt: skip
        self._turn = (self._turn + 1) % _SLOTS
        slot = self._slots[self._turn]
        self._note(slot.settle())
        axes = self._axes(tile, flips)
        self._gather(slot, tile, axes)
        ready = self._device.record(self._prepare)
        self._device.wait(self.compute, ready)
        for run, execution in enumerate(self._executions):
            self._device.fill(self._logits.address, POISON, self._logits.nbytes, self.compute)
            begun = self._device.record(self.compute)
            execution.enqueue(self._input_shape, slot.input.address, self._logits.address, self._scratch, self.compute)
            ran = self._device.record(self.compute)
            self._inspect(slot, run)
            self._blend(slot, tile, axes)
            slot.timed.append((begun, ran, self._device.record(self.compute)))
        slot.finish(self.compute)

    def take(self, until: int) -> npt.NDArray[np.float32]:
        """Rows z < until that were not taken yet: (K, n, Y, X) float32. No later tile may touch them."""
        first, count = self.dropped, until - self.dropped
        if not 0 < count <= self.depth:
            raise EngineError(f"rows {first} to {until} are not in a ring of {self.depth}")
        result = np.empty((self.channels, count, *self.plane), np.float32)
        while self.dropped < until:
            begin = self.dropped
            rows = self._drain(until)
            fetched = self._fetched[: rows * self.channels * int(np.prod(self.plane))]
            self._device.download(fetched, self._rows.address, self.compute)
            self.compute.synchronize()
            part = fetched.reshape(self.channels, rows, *self.plane)
            result[:, begin - first : begin - first + rows] = part
        self.settle()
        return result

    def label(self, until: int, labels: Labelling) -> None:
        """The same rows, as labels."""
        labels.push(activated(self.take(until), labels.activation))
        if until == self._region.shape[1]:
            labels.finish()

    def drop(self, until: int) -> None:
        """Forget rows z < until, unread: after they were resampled on the device."""
        if until - self.dropped > self.depth:
            raise EngineError(f"rows {self.dropped} to {until} are not in a ring of {self.depth}")
        while self.dropped < until:
            self._drain(until)

    def settle(self) -> None:
        """Wait until all work is done and known to be good."""
        for slot in self._slots:
            self._note(slot.settle())
        self.compute.synchronize()

    def _axes(self, tile: Tile, flips: Index) -> list[Argument]:
        axes = []
        for size, start, stop, flip in zip(self._window.size, tile.start, tile.stop, flips, strict=True):
            before = (size - (stop - start)) // 2 if self._window.centred else 0
            axes.append(tile_axis(size, before, stop - start, start, bool(flip)))
        return axes

    def _gather(self, slot: _Slot, tile: Tile, axes: list[Argument]) -> None:
        channels, z, y, x = self._region.shape
        self._region.complete(tile.stop[0], self._prepare)
        slot.send_weights(tile.weights, self._prepare)
        sizes = (np.int32(n) for n in (channels, z, y, x))
        arguments = [address(self._region.memory), address(self._fill.memory), address(slot.input), *sizes, *axes]
        self._device.launch("gather_tile", int(np.prod(self._input_shape)), arguments, self._prepare)

    def _inspect(self, slot: _Slot, run: int) -> None:
        count = self._logits.nbytes // _FLOAT
        flags = address(slot.found, run * slot.flags[run].nbytes)
        self._device.launch("inspect", count, [address(self._logits), np.int64(count), flags], self.compute)

    def _blend(self, slot: _Slot, tile: Tile, axes: list[Argument]) -> None:
        voxels = int(np.prod([b - a for a, b in zip(tile.start, tile.stop, strict=True)]))
        along = [address(slot.weights, offset) for offset in slot.offsets]
        sizes = (np.int32(n) for n in (self._window.channels, self.channels, self.depth, *self.plane))
        how = (np.int32(_ACTIVATIONS[self._window.activation]), np.float32(self._window.runs))
        buffers = [address(self._logits), *along, address(self._kept.memory), address(self.sums)]
        self._device.launch("blend_tile", voxels, [*buffers, *sizes, *axes, *how], self.compute)

    def _note(self, seconds: tuple[float, float]) -> None:
        self.seconds["network"] += seconds[0]
        self.seconds["blend"] += seconds[1]

    def _drain(self, until: int) -> int:
        """The lowest rows out of the ring, as many as a buffer of rows holds; how many."""
        plane = self.plane[0] * self.plane[1]
        count = min(until - self.dropped, self._rows_at_once)
        sizes = (
            np.int32(self.channels),
            np.int32(self.depth),
            np.int64(plane),
            np.int32(self.dropped),
            np.int32(count),
        )
        arguments = [address(self.sums), address(self._rows), *sizes]
        self._device.launch("drain", self.channels * count * plane, arguments, self.compute)
        self.dropped += count
        return count


class _Slot:
    """What one tile on its way needs: the network's input, its weights, and what was found in the outputs."""

    def __init__(self, device: Device, input_shape: tuple[int, ...], runs: int) -> None:
        edges = input_shape[2:]
        self.input = device.allocate(_FLOAT * int(np.prod(input_shape)))
        self.weights = device.allocate(_FLOAT * sum(edges))
        self.offsets = [_FLOAT * sum(edges[:axis]) for axis in range(3)]
        self.found = device.allocate(8 * runs)
        self.flags = device.pinned((runs, 2), np.int32)
        self._host_weights = device.pinned((sum(edges),), np.float32)
        self._device = device
        self._done: Event | None = None
        self.timed: list[tuple[Event, Event, Event]] = []

    def send_weights(self, weights: Sequence[npt.NDArray[np.float32]], stream: Stream) -> None:
        for offset, along in zip(self.offsets, weights, strict=True):
            self._host_weights[offset // _FLOAT : offset // _FLOAT + len(along)] = along
        self._device.upload(self.weights.address, self._host_weights, stream)
        self._device.fill(self.found.address, 0, self.found.nbytes, stream)

    def finish(self, stream: Stream) -> None:
        """The last of the tile's work: fetch what was found."""
        self._device.download(self.flags, self.found.address, stream)
        self._done = self._device.record(stream)

    def settle(self) -> tuple[float, float]:
        """Wait for the slot's tile; seconds that the GPU spent in networks and in blending since the last time.

        EngineError if an output can't be trusted.
        """
        if self._done is None:
            return 0.0, 0.0
        self._done.synchronize()
        self._done = None
        network = sum(ran.seconds_since(begun) for begun, ran, _ in self.timed)
        blend = sum(blended.seconds_since(ran) for _, ran, blended in self.timed)
        self.timed.clear()
        for not_finite, not_zero in self.flags:
            check_found(bool(not_finite), bool(not_zero))
        return network, blend


class _Constant:
    """A small array that stays on the device; the host's copy lives as long, for the upload may come late."""

    def __init__(self, device: Device, values: npt.NDArray[Any], stream: Stream) -> None:
        self._host = values
        self.memory = device.allocate(values.nbytes)
        device.upload(self.memory.address, self._host, stream)
