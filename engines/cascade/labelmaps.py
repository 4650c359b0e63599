"""Logits on a network's grid → labels on the source grid, row by row, without class logits at full size.

nnU-Net interpolates every class's logits linearly to the full grid and takes the argmax there (regions: each logit's
sign), which costs most of its time and memory. The labels here are the same ones, by two observations:

- A voxel's logits are a mean, weights ≥ 0, of those at the 8 corners of its cell. Where one class wins at all corners
  it wins inside, so only voxels in cells whose corners disagree are interpolated: the surfaces of things.
- A row of the source grid needs two rows of the network's: the pass over the tiles may hand them over as they become
  final (`LabelStream.push`), and drop them.

`zoom_labels` is the way in: the previous stage's label map on the next network's grid (nnU-Net's cascade).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from core.errors import EngineError
from core.volume import Index
from engines.cascade.splines import Float, Zoom, operator
from engines.runtime import Activation, Taps

Labels = npt.NDArray[np.uint8]
_Ints = npt.NDArray[np.int64]
_Mask = npt.NDArray[np.bool_]
_POINTS = 4096
"""Voxels that are interpolated at once: what they gather stays in the cache."""


class Way(Protocol):
    """From a network's grid of `source` voxels to a scan's of `target` voxels; `splines.Zoom` is one."""

    @property
    def source(self) -> Index: ...

    @property
    def target(self) -> Index: ...

    def axis(self, axis: int) -> Float:
        """Interpolation along one axis, float32 (target, source), at most two weights a row."""


class Decision(Protocol):
    """How logits become a label. order, threshold: as `engines.runtime.Labelling` says it."""

    @property
    def order(self) -> tuple[int, ...] | None: ...

    @property
    def threshold(self) -> float: ...

    def reduced(self, row: Float) -> Float:
        """The channels that matter, (channels, y, x) → (fewer or as many, y, x)."""

    def labels(self, logits: Float) -> Labels:
        """Label of each point; logits (points, reduced channels)."""

    def patterns(self, row: Float) -> npt.NDArray[np.integer]:
        """(parts, y, x) of reduced logits: where two points agree in all parts, all points between have their label."""


class Softmax:
    """The largest logit wins, the first of equals. Labels are channel numbers."""

    order = None
    threshold = 0.0

    def reduced(self, row: Float) -> Float:
        """Of two classes the difference is enough."""
        return row[1:] - row[:1] if len(row) == 2 else row

    def labels(self, logits: Float) -> Labels:
        if logits.shape[1] == 1:
            return np.asarray(logits[:, 0] > 0, dtype=np.uint8)
        return np.asarray(logits.argmax(axis=1), dtype=np.uint8)

    def patterns(self, row: Float) -> npt.NDArray[np.integer]:
        winner = np.zeros(row.shape[1:], dtype=np.uint8)
        if len(row) == 1:
            np.greater(row[0], 0, out=winner, casting="unsafe")
            return winner[None]
        best = row[0].copy()
        for channel in range(1, len(row)):
            better = row[channel] > best
            winner[better] = channel
            np.maximum(best, row[channel], out=best)
        return winner[None]


@dataclass(frozen=True)
class Regions:
    """Each channel by itself: where it is above the threshold it writes its value, later channels over earlier ones
    (nnU-Net's `regions_class_order`). threshold: 0 for logits, one half for probabilities."""

    order: tuple[int, ...]
    threshold: float = 0.0

    def reduced(self, row: Float) -> Float:
        return row

    def labels(self, logits: Float) -> Labels:
        result = np.zeros(len(logits), dtype=np.uint8)
        for channel, value in enumerate(self.order):
            result[logits[:, channel] > self.threshold] = value
        return result

    def patterns(self, row: Float) -> npt.NDArray[np.integer]:
        return np.asarray(row > self.threshold, dtype=np.uint8)


@dataclass(frozen=True, eq=False)
class _Taps:
    """Along one axis each target voxel is (1 - weight) * source[first] + weight * source[second]."""

    first: _Ints
    second: _Ints
    weight: Float

    @classmethod
    def of(cls, matrix: Float) -> _Taps:
        """Of an operator of order 0 or 1."""
        taps = matrix > 0
        if not np.all((taps.sum(axis=1) >= 1) & (taps.sum(axis=1) <= 2)):
            raise ValueError("an operator of order 0 or 1 has one or two taps")
        first, second = taps.argmax(axis=1), matrix.shape[1] - 1 - taps[:, ::-1].argmax(axis=1)
        weight = np.where(first == second, 0, matrix[np.arange(len(matrix)), second])
        return cls(first, second, weight.astype(np.float32))


class _Plane:
    """The two axes within a row: corners and weights of its target pixels. width: source pixels of a line."""

    def __init__(self, rows: _Taps, columns: _Taps, width: int) -> None:
        self._rows, self._columns, self._width = rows, columns, width
        self.untouched = not (rows.weight.any() or columns.weight.any())

    def spread(self, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Each target pixel's first corner, of an array (y, x)."""
        return array[self._rows.first][:, self._columns.first]

    def corners(self, y: _Ints, x: _Ints) -> tuple[tuple[_Ints, _Ints, _Ints, _Ints], Float]:
        """Flat source indices of the 4 corners of target pixels, and their weights (4, pixels)."""
        rows, columns = self._rows, self._columns
        top, bottom = rows.first[y] * self._width, rows.second[y] * self._width
        left, right = columns.first[x], columns.second[x]
        v, u = rows.weight[y], columns.weight[x]
        weights = np.stack(((1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u))
        return (top + left, top + right, bottom + left, bottom + right), weights


def _interpolated(flat: Float, corners: tuple[_Ints, ...], weights: Float) -> Float:
    """(points, channels): sum over the corners of flat (y * x, channels) at each, times its weight."""
    result = flat.take(corners[0], axis=0)
    result *= weights[0][:, None]
    for corner, share in zip(corners[1:], weights[1:], strict=True):
        part = flat.take(corner, axis=0)
        part *= share[:, None]
        result += part
    return result


class LabelStream:
    """Writes `out`, uint8 of the zoom's target shape (any strides), while rows of logits arrive in order.

    zoom: from the network's grid to the source's, order 0 or 1, along the axes of the rows. decision: `Softmax()` or
    `Regions(order)`. activation: what a pass applies before it pushes. Satisfies `engines.runtime.Labelling`.
    """

    def __init__(self, zoom: Way, decision: Decision, out: Labels, activation: Activation = "none") -> None:
        if out.shape != zoom.target:
            raise ValueError(f"an array of {out.shape} is not the grid's {zoom.target}")
        self.out, self.activation = out, activation
        self._decision, self._rows = decision, zoom.source[0]
        self._axes = tuple(_Taps.of(zoom.axis(axis)) for axis in range(3))
        self._along = self._axes[0]
        self._plane = _Plane(self._axes[1], self._axes[2], zoom.source[2])
        self._held: dict[int, _Row] = {}
        self._pushed = self._written = 0

    @property
    def order(self) -> tuple[int, ...] | None:
        """Of `Regions`; None for `Softmax`."""
        return self._decision.order

    @property
    def threshold(self) -> float:
        """Of `Regions`."""
        return self._decision.threshold

    def taps(self, axis: int) -> Taps:
        """First and second source voxel of each target voxel, and the second one's weight."""
        taps = self._axes[axis]
        return taps.first, taps.second, taps.weight

    def push(self, logits: Float) -> None:
        """The next rows of logits (channels, rows, y, x), final. They may be overwritten after the call."""
        for row in np.moveaxis(logits, 1, 0):
            self._held[self._pushed] = _Row.of(row, self._decision)
            self._pushed += 1
            while (stop := self._ready()) > self._written:
                self._write(self._written, stop)
                self._written = stop
            needed = self._along.first[self._written] if self._written < len(self.out) else self._pushed
            self._held = {index: row for index, row in self._held.items() if index >= needed}

    def finish(self) -> None:
        """To be called at the end: EngineError unless every row came and was written."""
        if self._pushed != self._rows or self._written != len(self.out):
            raise EngineError(f"{self._pushed} of {self._rows} rows of logits came")

    def _ready(self) -> int:
        """Where the target rows end that lie between the same two rows as the next one; if those came."""
        stop = self._written
        first, second = self._along.first, self._along.second
        while stop < len(self.out) and second[stop] < self._pushed:
            if (first[stop], second[stop]) != (first[self._written], second[self._written]):
                break
            stop += 1
        return stop

    def _write(self, start: int, stop: int) -> None:
        """Target rows start..stop, which lie between the same two rows: what is common to them is done once."""
        near, far = self._held[int(self._along.first[start])], self._held[int(self._along.second[start])]
        weights = self._along.weight[start:stop]
        self.out[start:stop] = self._plane.spread(near.labels)
        if self._plane.untouched and not weights.any():
            return
        border = np.flatnonzero(self._plane.spread(_disagreeing((near.patterns, far.patterns))))
        for begin in range(0, len(border), _POINTS):
            points = border[begin : begin + _POINTS]
            y, x = np.divmod(points, self.out.shape[2])
            corners, shares = self._plane.corners(y, x)
            nearer = _interpolated(near.logits, corners, shares)
            further = _interpolated(far.logits, corners, shares) if weights.any() else nearer
            for z, weight in zip(range(start, stop), weights, strict=True):
                mixed = nearer if weight == 0 else (1 - weight) * nearer + weight * further
                self.out[z, y, x] = self._decision.labels(mixed)


@dataclass(frozen=True, eq=False)
class _Row:
    """One row of the network's grid. logits: (y * x, channels): what is gathered lies together."""

    logits: Float
    patterns: npt.NDArray[np.integer]
    labels: Labels

    @classmethod
    def of(cls, row: Float, decision: Decision) -> _Row:
        reduced = decision.reduced(row)
        flat = np.array(reduced.reshape(len(reduced), -1).T, order="C")  # a copy: the row may be overwritten
        return cls(flat, decision.patterns(reduced), decision.labels(flat).reshape(row.shape[1:]))


def _disagreeing(rows: tuple[npt.NDArray[np.integer], ...]) -> _Mask:
    """(y, x): True where the cell between this point and the next ones has corners that differ in any part."""
    first = rows[0]
    mixed: _Mask = np.zeros(first.shape[1:], dtype=bool)
    for other in rows[1:]:
        mixed |= (other != first).any(axis=0)
    across = mixed.copy()
    across[:, :-1] |= mixed[:, 1:] | (first[:, :, 1:] != first[:, :, :-1]).any(axis=0)
    down: _Mask = across.copy()
    down[:-1] |= across[1:] | (first[:, 1:] != first[:, :-1]).any(axis=0)
    return down


def zoom_labels(labels: Labels, zoom: Zoom) -> Labels:
    """A label map on another grid: the label with the largest share of the linear interpolant wins.

    Of equal shares the nearest voxel's label, else the lowest: batchgenerators 0.25.5 `resize_segmentation`, order 1,
    which nnU-Net resamples the previous stage's labels with. A lone axis takes the nearest slice.
    """
    if labels.shape != zoom.source:
        raise ValueError(f"an array of {labels.shape} is not the grid's {zoom.source}")
    if zoom.source == zoom.target:
        return np.array(labels)
    along = _Taps.of(zoom.axis(0))
    plane = _Plane(_Taps.of(zoom.axis(1)), _Taps.of(zoom.axis(2)), zoom.source[2])
    z, y, x = (_nearest(zoom, axis) for axis in range(3))
    result: Labels = np.empty(zoom.target, dtype=np.uint8)
    for row, (first, second, weight) in enumerate(zip(along.first, along.second, along.weight, strict=True)):
        near, far = labels[first], labels[second]
        nearest: Labels = labels[z[row]][y][:, x]
        result[row] = nearest
        border = np.flatnonzero(np.asarray(plane.spread(_disagreeing((near[None], far[None])))))
        if len(border):
            corners, shares = plane.corners(*np.divmod(border, zoom.target[2]))
            found = np.stack([half.reshape(-1)[c] for half in (near, far) for c in corners])
            weights = np.concatenate(((1 - weight) * shares, weight * shares))
            result[row].flat[border] = _largest_share(found, weights, nearest.reshape(-1)[border])
    return result


def _nearest(zoom: Zoom, axis: int) -> _Ints:
    rule = "coordinates" if axis == zoom.lone else "zoom"
    return np.asarray(operator(zoom.source[axis], zoom.target[axis], 0, rule).argmax(axis=1))


def _largest_share(found: Labels, weights: Float, nearest: Labels) -> Labels:
    """The winner among 8 labels (8, points) with weights (8, points)."""
    shares: Float = np.stack([np.where(found == label, weights, 0).sum(axis=0) for label in found])
    top = shares.max(axis=0) - 1e-6  # equal but for rounding
    lowest = np.where(shares >= top, found, 255).min(axis=0)
    of_nearest = np.where(found == nearest, weights, 0).sum(axis=0)
    return np.asarray(np.where(of_nearest >= top, nearest, lowest), dtype=np.uint8)
