"""One sliding-window pass whose logits never leave the GPU before they are final.

    host            prepare stream                       compute stream
    add(tile) ────▶ gather, mirror, pad ─────────event─▶ poison, network, inspect, blend into the ring (`sums`)
    take(until) ◀─────────────────────────────────────── rows below `until`, which leave the ring
    label(until) ◀────────────────────────────────────── labels of the scan between those rows (`labelling`)

While the network runs on one tile, the next one is gathered: two slots, each with its own input. The host is never more
than two tiles ahead, so that a deadline or a cancelled study is noticed within two tiles.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from core.errors import EngineError
from core.volume import Index
from engines.runtime import Labelling, Tile, Window
from engines.runtime.device import POISON, Argument, Constant, Device, Event, Execution, Stream, address, tile_axis
from engines.runtime.images import DeviceImage
from engines.runtime.labelling import DeviceLabels
from engines.runtime.sums import ACTIVATIONS, Sums
from engines.runtime.trust import check_found

_SLOTS = 2
_FLOAT = 4  # bytes
_LINGER = 1  # slices below the lowest tile that labels still need: theirs lie between two


class DevicePass:
    """Tiles in, sums of weighted logits or probabilities out, final rows first: an `engines.runtime.Pass`.

    executions: the networks (folds) whose outputs are averaged; all have the same channels. EngineError where memory
    lacks, a run fails or an output can't be trusted; the call that notices raises it, at the latest the next `take`, or
    the last `label`.
    """

    def __init__(self, device: Device, executions: Sequence[Execution], image: DeviceImage, window: Window) -> None:
        channels, z, y, x = image.shape
        self._input_shape = (1, channels, *window.size)
        shape = executions[0].logits_shape(self._input_shape)
        if any(e.input_channels != channels or e.logits_shape(self._input_shape) != shape for e in executions):
            raise EngineError("the networks of an ensemble take or give different channels")
        if shape[1:] != (window.channels, *window.size):
            raise EngineError(f"logits of shape {shape}, not a map of {window.channels} channels")
        if len(window.fill) != channels:
            raise EngineError(f"{channels} channels need as many values beyond the edge, not {len(window.fill)}")
        kept = np.arange(window.channels) if window.keep is None else np.asarray(window.keep)
        self.seconds: dict[str, float] = defaultdict(float)
        self._device, self._executions, self._image, self._window = device, tuple(executions), image, window
        self._prepare, self._compute = device.stream(), device.stream()
        self._logits = device.allocate(_FLOAT * int(np.prod(shape)))
        self._scratch = device.allocate(max(e.scratch_bytes(self._input_shape) for e in executions))
        depth = min(z, window.size[0] + _LINGER)
        self.sums = Sums(device, self._compute, len(kept), (depth, y, x), weighed=window.floor > 0)
        self._fill = Constant(device, np.asarray(window.fill, dtype=np.float32), self._prepare)
        self._kept = Constant(device, kept.astype(np.int32), self._compute)
        self._slots = [_Slot(device, self._input_shape, len(executions)) for _ in range(_SLOTS)]
        self._turn = 0
        self._labels: DeviceLabels | None = None
        image.complete(self._prepare)

    def add(self, tile: Tile, flips: Index = (0, 0, 0)) -> None:
        """Run the networks on a tile, mirrored along the axes where `flips` is 1, and blend what they say."""
        final = self.sums.final
        if tile.start[0] < final or tile.stop[0] - self.sums.dropped > self.sums.depth:
            raise EngineError(f"a tile over slices {tile.start[0]}..{tile.stop[0]} does not fit a ring of "
                              f"{self.sums.depth} whose slices below {final} are final")  # fmt: skip
        self._turn = (self._turn + 1) % _SLOTS
        slot = self._slots[self._turn]
        self._note(slot.settle())
        axes = self._axes(tile, flips)
        self._gather(slot, tile, axes)
        ready = self._device.record(self._prepare)
        self._device.wait(self._compute, ready)
        for run, execution in enumerate(self._executions):
            self._device.fill(self._logits.address, POISON, self._logits.nbytes, self._compute)
            begun = self._device.record(self._compute)
            execution.enqueue(self._input_shape, slot.input.address, self._logits.address, self._scratch, self._compute)
            ran = self._device.record(self._compute)
            self._inspect(slot, run)
            self._blend(slot, tile, axes)
            slot.timed.append((begun, ran, self._device.record(self._compute)))
        slot.finish(self._compute)

    def take(self, until: int) -> npt.NDArray[np.float32]:
        """Rows z < until that were not taken yet: (K, n, Y, X) float32. No later tile may touch them."""
        self._check_final(until)
        self.settle()
        self.sums.finish(until)
        return self.sums.fetch(until)

    def label(self, until: int, labels: Labelling) -> None:
        """The same rows, as labels of the scan; the logits never leave the device."""
        self._check_final(until)
        if self._labels is None:
            self._labels = DeviceLabels(self._device, self._compute, self.sums, labels)
        self.sums.finish(until, labels.activation)
        self._labels.advance(until)
        if until == self._image.shape[1]:
            self.settle()
            self._labels.finish()

    def settle(self) -> None:
        """Wait until all work is done and known to be good."""
        for slot in self._slots:
            self._note(slot.settle())
        self._compute.synchronize()

    def _check_final(self, until: int) -> None:
        first = self.sums.final
        if not 0 < until - first <= min(self._image.shape[1], self._window.size[0]):
            raise EngineError(f"rows {first} to {until} are not in a ring of {self._window.size[0]}")

    def _axes(self, tile: Tile, flips: Index) -> list[Argument]:
        axes = []
        for size, start, stop, flip in zip(self._window.size, tile.start, tile.stop, flips, strict=True):
            before = (size - (stop - start)) // 2 if self._window.centred else 0
            axes.append(tile_axis(size, before, stop - start, start, bool(flip)))
        return axes

    def _gather(self, slot: _Slot, tile: Tile, axes: list[Argument]) -> None:
        slot.send_weights(tile.weights, self._prepare)
        region, *steps = self._image.strided()
        channels = np.int32(self._image.channels)
        arguments = [region, address(self._fill.memory), address(slot.input), channels, *steps, *axes]
        self._device.launch("gather_tile", int(np.prod(self._input_shape)), arguments, self._prepare)

    def _inspect(self, slot: _Slot, run: int) -> None:
        count = self._logits.nbytes // _FLOAT
        flags = address(slot.found, run * slot.flags[run].nbytes)
        self._device.launch("inspect", count, [address(self._logits), np.int64(count), flags], self._compute)

    def _blend(self, slot: _Slot, tile: Tile, axes: list[Argument]) -> None:
        voxels = int(np.prod([b - a for a, b in zip(tile.start, tile.stop, strict=True)]))
        along = [address(slot.weights, offset) for offset in slot.offsets]
        sums, window = self.sums, self._window
        sizes = (np.int32(n) for n in (window.channels, sums.channels, sums.depth, *sums.plane))
        floor = window.floor / window.runs
        how = (np.int32(ACTIVATIONS[window.activation]), np.float32(window.runs), np.float32(floor))
        buffers = [address(self._logits), *along, address(self._kept.memory), address(sums.memory), sums.weights]
        self._device.launch("blend_tile", voxels, [*buffers, *sizes, *axes, *how], self._compute)

    def _note(self, seconds: tuple[float, float]) -> None:
        self.seconds["network"] += seconds[0]
        self.seconds["blend"] += seconds[1]


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
