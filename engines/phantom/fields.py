"""Signed distances kept on a coarse lattice and read at any resolution.

Most organs are smooth: their signed distance, sampled every 4 mm and interpolated by cubic B-splines, puts their
surface where it belongs to a fraction of a millimetre. So anatomy may be modelled freely on 1.5 million points, and a
512 × 512 slice costs three small matrix products an organ. What is thinner than the lattice (vessels, ribs, ducts)
stays analytic: `strands`.

Axes are z-y-x in mm of the patient; a lattice point also knows its template coordinates (`Canvas.template`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.phantom.shapes import Box, Grid, Shape

Array = npt.NDArray[np.float32]
Axes = tuple[Array, Array, Array]
Windows = tuple[slice, slice, slice]
PITCH_MM = 4.0
FAR_MM = 60.0
"""Distances are cut off here: farther away nobody asks."""


def cut(first: npt.NDArray[np.floating[Any]], *others: npt.NDArray[np.floating[Any]]) -> npt.NDArray[Any]:
    """The distance to what several shapes have in common: their greatest, without stacking them first."""
    out = np.array(first)
    for other in others:
        out = np.maximum(out, other, out=out if other.shape == out.shape and other.dtype == out.dtype else None)
    return out


@dataclass(frozen=True)
class Lattice:
    """Points origin + pitch · index, z-y-x in mm."""

    origin: tuple[float, float, float]
    shape: tuple[int, int, int]
    pitch: float = PITCH_MM

    def axis(self, i: int) -> Array:
        """Coordinates along axis i."""
        return (self.origin[i] + self.pitch * np.arange(self.shape[i])).astype(np.float32)

    def windows(self, box: Box, margin_mm: float) -> Windows:
        """Indices that hold `box` and the margin around it, clipped to the lattice."""
        found = []
        for (low, high), start, count in zip(box, self.origin, self.shape, strict=True):
            first = int(np.floor((low - margin_mm - start) / self.pitch))
            last = int(np.ceil((high + margin_mm - start) / self.pitch)) + 1
            first = min(max(first, 0), count - 4)
            found.append(slice(first, min(max(last, first + 4), count)))
        return (found[0], found[1], found[2])

    def part(self, where: Windows) -> Lattice:
        """The lattice of a window."""
        low = [w.start for w in where]
        o = tuple(self.origin[i] + self.pitch * low[i] for i in range(3))
        shape = tuple(w.stop - w.start for w in where)
        return Lattice((o[0], o[1], o[2]), (shape[0], shape[1], shape[2]), self.pitch)


def spline_weights(at: Array, start: float, pitch: float, count: int) -> Array:
    """Cubic B-spline weights (len(at), count) of points on a lattice axis; rows sum to 1, ends are repeated.

    Without the prefilter that would make it interpolate: distances are smoothed by 1/6 pitch² of their curvature, half
    a millimetre at a radius of 10 mm, and lattice noise becomes band-limited (Unser, IEEE Signal Process. Mag. 1999).
    """
    u = np.clip((at.astype(np.float64) - start) / pitch, 0, count - 1)
    whole = np.minimum(np.floor(u), count - 2).astype(np.intp)
    t = u - whole
    taps = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    weights = np.zeros((len(at), count), np.float32)
    rows = np.arange(len(at))
    for k, tap in enumerate(taps):
        weights[rows, np.clip(whole + k - 1, 0, count - 1)] += (tap / 6).astype(np.float32)
    return weights


def interpolate(values: Array, lattice: Lattice, axes: Axes) -> Array:
    """`values` on `lattice`, read at the product of three axes (mm): (len z, len y, len x)."""
    out = values
    for i in range(3):
        low, high = float(axes[i].min()), float(axes[i].max())
        first = max(int((low - lattice.origin[i]) / lattice.pitch) - 2, 0)
        last = min(int((high - lattice.origin[i]) / lattice.pitch) + 4, lattice.shape[i])
        first = min(first, lattice.shape[i] - 2)
        last = max(last, first + 2)
        weights = spline_weights(axes[i], lattice.origin[i] + first * lattice.pitch, lattice.pitch, last - first)
        if i == 0:
            part = out[first:last]
            out = (weights @ part.reshape(last - first, -1)).reshape(len(axes[0]), *part.shape[1:])
        elif i == 1:
            out = np.matmul(weights, out[:, first:last])
        else:
            out = np.matmul(out[:, :, first:last], weights.T)
    return out


@dataclass(frozen=True, eq=False)
class Field:
    """A signed distance (mm, negative inside) on a window of the lattice; outside the window: far away."""

    values: Array
    lattice: Lattice
    where: Windows

    @property
    def bounds(self) -> Box:
        """Where the distance is below 6 mm, z-y-x; an empty box if nowhere."""
        near = self.values < 6.0
        spans = []
        for i in range(3):
            hit = np.flatnonzero(near.any(axis=tuple(k for k in range(3) if k != i)))
            if not hit.size:
                return ((0.0, -1.0), (0.0, -1.0), (0.0, -1.0))
            axis = self.lattice.origin[i] + self.lattice.pitch * (self.where[i].start + hit[[0, -1]])
            spans.append((float(axis[0] - self.lattice.pitch), float(axis[1] + self.lattice.pitch)))
        return (spans[0], spans[1], spans[2])

    def at(self, axes: Axes) -> Array:
        """The distance at the product of three axes."""
        return interpolate(self.values, self.lattice.part(self.where), axes)

    def grown(self, by_mm: float) -> Field:
        """Grown by `by_mm`; shrunk where negative."""
        return Field(self.values - np.float32(by_mm), self.lattice, self.where)

    def on(self, where: Windows) -> Array:
        """The values on another window, FAR_MM where this field has none."""
        out = np.full(tuple(w.stop - w.start for w in where), FAR_MM, np.float32)
        mine, theirs = [], []
        for a, b in zip(self.where, where, strict=True):
            low, high = max(a.start, b.start), min(a.stop, b.stop)
            if low >= high:
                return out
            mine.append(slice(low - a.start, high - a.start))
            theirs.append(slice(low - b.start, high - b.start))
        out[tuple(theirs)] = self.values[tuple(mine)]
        return out

    def without(self, *others: Field, gap_mm: float = 0.0) -> Field:
        """What lies at least `gap_mm` outside all `others`."""
        values = self.values.copy()
        for other in others:
            np.maximum(values, np.float32(gap_mm) - other.on(self.where), out=values)
        return Field(values, self.lattice, self.where)

    def within(self, *others: Field) -> Field:
        """What lies in all of them."""
        values = self.values.copy()
        for other in others:
            np.maximum(values, other.on(self.where), out=values)
        return Field(values, self.lattice, self.where)

    def displaced(self, by: Array) -> Field:
        """The surface moved outwards by `by` mm, an array on this field's window."""
        return Field(self.values - by, self.lattice, self.where)

    def points(self, rng: np.random.Generator, count: int, depth_mm: float = 0.0) -> npt.NDArray[np.float64]:
        """`count` random positions (n, 3) z-y-x mm deeper inside than `depth_mm`; fewer only if there are none."""
        inside = np.argwhere(self.values < -depth_mm)
        if not len(inside):
            return np.empty((0, 3))
        picked = inside[rng.integers(0, len(inside), count)] + rng.uniform(-0.5, 0.5, (count, 3))
        start = np.asarray([w.start for w in self.where])
        return np.asarray(np.asarray(self.lattice.origin) + self.lattice.pitch * (picked + start), np.float64)

    def value_at(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The nearest lattice point's distance (n,) for positions (n, 3)."""
        start = np.asarray([w.start for w in self.where])
        index = np.rint((points - np.asarray(self.lattice.origin)) / self.lattice.pitch).astype(int) - start
        ok = ((index >= 0) & (index < self.values.shape)).all(axis=1)
        out = np.full(len(points), FAR_MM)
        i = index[ok]
        out[ok] = self.values[i[:, 0], i[:, 1], i[:, 2]]
        return out


def union(*fields: Field, blend_mm: float = 0.0) -> Field:
    """The union of fields, on the window that holds all; `blend_mm` rounds the seams (polynomial minimum)."""
    where = tuple(slice(min(f.where[i].start for f in fields), max(f.where[i].stop for f in fields)) for i in range(3))
    box = (where[0], where[1], where[2])
    out = fields[0].on(box)
    for field in fields[1:]:
        other = field.on(box)
        if blend_mm:
            overlap = np.maximum(np.float32(blend_mm) - np.abs(out - other), 0)
            out = np.minimum(out, other) - overlap * overlap * np.float32(0.25 / blend_mm)
        else:
            np.minimum(out, other, out=out)
    return Field(out, fields[0].lattice, box)


@dataclass(frozen=True, eq=False)
class Sheet:
    """A layer thinner than the lattice: within `half_mm` of a surface's zero, where `keep` is negative."""

    surface: Field
    keep: Field
    half_mm: float

    @property
    def bounds(self) -> Box:
        """Where it can be, z-y-x mm."""
        near = np.maximum(np.abs(self.surface.on(self.keep.where)) - 4, self.keep.values)
        return Field(near, self.keep.lattice, self.keep.where).bounds

    def at(self, axes: Axes) -> Array:
        """The distance at the product of three axes."""
        across = np.abs(self.surface.at(axes)) - np.float32(self.half_mm)
        return np.asarray(np.maximum(across, self.keep.at(axes)), np.float32)


class Noise:
    """Smooth random numbers of sd about 1 with a grain of `pitch_mm`, the same at every resolution."""

    def __init__(self, rng: np.random.Generator, box: Box, pitch_mm: float) -> None:
        shape = [int(np.ceil((high - low) / pitch_mm)) + 5 for low, high in box]
        start = tuple(low - 2 * pitch_mm for low, _ in box)
        self._lattice = Lattice((start[0], start[1], start[2]), (shape[0], shape[1], shape[2]), pitch_mm)
        # A B-spline keeps 0.4793 of white noise's variance an axis, averaged over positions.
        self._values = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.4793**-1.5)

    def at(self, axes: Axes, shift_mm: float = 0.0) -> Array:
        """The numbers at the product of three axes; another `shift_mm` gives independent ones."""
        if shift_mm:
            low, n = self._lattice.origin, self._lattice.shape
            period = [self._lattice.pitch * (n[i] - 4) for i in range(3)]
            moved = [
                (low[i] + 2 * self._lattice.pitch + np.mod(a - low[i] + shift_mm * (i + 1), period[i] * 0.98)).astype(
                    np.float32
                )
                for i, a in enumerate(axes)
            ]
            return interpolate(self._values, self._lattice, (moved[0], moved[1], moved[2]))
        return interpolate(self._values, self._lattice, axes)


class Canvas:
    """The lattice over a patient, with the template coordinates of each point."""

    def __init__(self, lattice: Lattice, template: Axes, scale_mm: float, noise: Noise) -> None:
        """scale_mm: patient mm per template mm, mean over the axes. noise: grain of some cm, for organic outlines."""
        self.lattice, self.template, self.scale = lattice, template, scale_mm
        middle = [np.median(t, axis=tuple(k for k in range(3) if k != i)) for i, t in enumerate(template)]
        self.straight: Axes = (middle[0], middle[1], middle[2])
        self.slack_mm = max(
            float(np.abs(t - np.expand_dims(m, tuple(k for k in range(3) if k != i))).max())
            for i, (t, m) in enumerate(zip(template, middle, strict=True))
        )
        # Of each plane across each axis, the least and the greatest template coordinate: hundreds of shapes ask.
        self._spans = [
            (t.min(axis=others), t.max(axis=others))
            for t, others in zip(template, ((1, 2), (0, 2), (0, 1)), strict=True)
        ]
        axes = (lattice.axis(0), lattice.axis(1), lattice.axis(2))
        self.lumps = noise.at(axes)
        self.small_lumps = noise.at(tuple(a * np.float32(2.3) % 600 for a in axes))

    def field(self, shape: Shape, lumps_mm: float = 0.0, small_mm: float = 0.0, margin_mm: float = 14.0) -> Field:
        """A template shape's distance in patient mm; its outline waves by `lumps_mm` (cm) and `small_mm` (finer)."""
        where = self._windows(shape.bounds, margin_mm + lumps_mm)
        z, y, x = (t[where] for t in self.template)
        values = shape.distance(Grid(z, y, x, self._lines(where), self.slack_mm)) * np.float32(self.scale)
        if lumps_mm:
            values -= np.float32(lumps_mm) * self.lumps[where]
        if small_mm:
            values -= np.float32(small_mm) * self.small_lumps[where]
        np.minimum(values, np.float32(FAR_MM), out=values)
        return Field(values, self.lattice, where)

    def _lines(self, where: Windows) -> Axes:
        """Coordinates along the axes as if the patient were not warped, for cropping."""
        z, y, x = (a[w] for a, w in zip(self.straight, where, strict=True))
        return (z, y, x)

    def constant(self, function: Array) -> Field:
        """A field over the whole lattice from values at every point."""
        n = self.lattice.shape
        return Field(function, self.lattice, (slice(0, n[0]), slice(0, n[1]), slice(0, n[2])))

    def _windows(self, box: Box, margin_mm: float) -> Windows:
        """Lattice window of a template box: found on the template coordinates' own lines."""
        found = []
        for i, (low, high) in enumerate(box):
            least, most = self._spans[i]
            hit = np.flatnonzero((most >= low - margin_mm) & (least <= high + margin_mm))
            n = self.lattice.shape[i]
            first, last = (int(hit[0]), int(hit[-1]) + 1) if hit.size else (0, 1)
            first = min(first, n - 4)
            found.append(slice(first, max(last, first + 4)))
        return (found[0], found[1], found[2])
