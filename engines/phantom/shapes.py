"""Shapes as signed distances: negative inside, in mm of the template patient, float32.

A shape is asked for its distance on a `Grid`: three broadcast-ready coordinate arrays (z, y, x). Distances are exact
for tubes and close to exact near the surface for the others (first-order distance of an implicit surface, Taubin,
IEEE PAMI 1991), which is all that partial volume needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Box = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
"""Bounds in mm: (low, high) for z, y, x."""
Point = tuple[float, float, float]
EVERYWHERE: Box = ((-1e4, 1e4), (-1e4, 1e4), (-1e4, 1e4))
_FAR = np.float32(1e3)


@dataclass(frozen=True)
class Grid:
    """Template coordinates (mm) of a block of voxels, or of single points.

    z, y, x: float32 arrays that broadcast to `shape`. axes: for each axis the coordinates along it as if the patient
    were not warped, ascending; None for scattered points. slack_mm: how far the warp moves a voxel at most.
    """

    z: Array
    y: Array
    x: Array
    axes: tuple[Array, Array, Array] | None = None
    slack_mm: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return np.broadcast_shapes(self.z.shape, self.y.shape, self.x.shape)

    def window(self, box: Box, margin_mm: float) -> tuple[slice, slice, slice] | None:
        """The part of the block that can lie within `margin_mm` of `box`; None if there is none."""
        if self.axes is None:
            return (slice(None), slice(None), slice(None))
        slices = []
        for axis, (low, high) in zip(self.axes, box, strict=True):
            reach = margin_mm + self.slack_mm
            start, stop = np.searchsorted(axis, (low - reach, high + reach))
            if start >= stop:
                return None
            slices.append(slice(int(start), int(stop)))
        return (slices[0], slices[1], slices[2])

    def crop(self, where: tuple[slice, slice, slice]) -> Grid:
        """The same coordinates on a part of the block."""
        if self.axes is None:
            return self
        axes = (self.axes[0][where[0]], self.axes[1][where[1]], self.axes[2][where[2]])
        return Grid(self.z[where], self.y[where], self.x[where], axes, self.slack_mm)


def points_grid(points: npt.ArrayLike) -> Grid:
    """Scattered points (n, 3) as z-y-x mm."""
    z, y, x = np.asarray(points, dtype=np.float32).reshape(-1, 3).T
    return Grid(z, y, x)


class Shape(Protocol):
    """Anything with bounds and a signed distance."""

    @property
    def bounds(self) -> Box: ...

    def distance(self, grid: Grid) -> Array:
        """Signed distance in mm, float32, of the grid's shape."""
        ...


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid; `turn` rotates it about the z, y and x axis (radians, in this order)."""

    centre: Point
    radii: Point
    turn: Point = (0.0, 0.0, 0.0)

    @property
    def bounds(self) -> Box:
        half = np.abs(self._rotation()).T @ np.asarray(self.radii)
        c = self.centre
        return ((c[0] - half[0], c[0] + half[0]), (c[1] - half[1], c[1] + half[1]), (c[2] - half[2], c[2] + half[2]))

    def _rotation(self) -> npt.NDArray[np.float64]:
        """Rows are the ellipsoid's own axes as z-y-x vectors."""
        result = np.eye(3)
        for angle, (i, j) in zip(self.turn, ((1, 2), (0, 2), (0, 1)), strict=True):
            step = np.eye(3)
            step[i, i] = step[j, j] = np.cos(angle)
            step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
            result = result @ step
        return result

    def distance(self, grid: Grid) -> Array:
        d = (
            grid.z - np.float32(self.centre[0]),
            grid.y - np.float32(self.centre[1]),
            grid.x - np.float32(self.centre[2]),
        )
        if any(self.turn):
            rows = self._rotation().astype(np.float32)
            d = tuple(row[0] * d[0] + row[1] * d[1] + row[2] * d[2] for row in rows)
        k0 = np.zeros(grid.shape, np.float32)
        k1 = np.full(grid.shape, 1e-12, np.float32)
        for delta, radius in zip(d, self.radii, strict=True):
            scaled = (delta * np.float32(1 / radius)) ** 2
            k0 += scaled
            k1 += scaled * np.float32(1 / radius**2)
        np.sqrt(k0, out=k0)
        np.sqrt(k1, out=k1)
        return np.asarray(k0 * (k0 - 1) / np.maximum(k1, np.float32(1e-4)), np.float32)


@dataclass(frozen=True)
class Tube:
    """Round cones along a polyline. points: (z, y, x) mm. radii: one a point."""

    points: tuple[Point, ...]
    radii: tuple[float, ...]

    @property
    def bounds(self) -> Box:
        p, r = np.asarray(self.points), np.asarray(self.radii)[:, None]
        low, high = (p - r).min(axis=0), (p + r).max(axis=0)
        return ((low[0], high[0]), (low[1], high[1]), (low[2], high[2]))

    def distance(self, grid: Grid) -> Array:
        result = np.full(grid.shape, _FAR, np.float32)
        ends = zip(self.points, self.points[1:], self.radii, self.radii[1:], strict=False)
        for a, b, ra, rb in ends:
            where = grid.window(Tube((a, b), (ra, rb)).bounds, 6.0)
            if where is not None:
                part = result[where] if grid.axes is not None else result
                np.minimum(part, _round_cone(grid.crop(where), a, b, ra, rb), out=part)
        return result


def _round_cone(grid: Grid, a: Point, b: Point, ra: float, rb: float) -> Array:
    axis = np.subtract(b, a)
    length2 = max(float(axis @ axis), 1e-6)
    dz, dy, dx = (np.float32(v) for v in axis)
    pz, py, px = grid.z - np.float32(a[0]), grid.y - np.float32(a[1]), grid.x - np.float32(a[2])
    t = np.clip((pz * dz + py * dy + px * dx) * np.float32(1 / length2), 0, 1).astype(np.float32)
    pz, py, px = pz - t * dz, py - t * dy, px - t * dx
    return np.asarray(np.sqrt(pz * pz + py * py + px * px) - np.float32(ra) - t * np.float32(rb - ra), np.float32)


@dataclass(frozen=True)
class Prism:
    """A column along z whose cross-section is a squircle: half axes and centre are given at knots and interpolated.

    knots: rows (z, half width x, half depth y, centre y). squareness: 0 is an ellipse, 1 a rectangle.
    """

    knots: tuple[tuple[float, float, float, float], ...]
    squareness: float = 0.0

    @property
    def bounds(self) -> Box:
        k = np.asarray(self.knots)
        half = float(k[:, 1].max())
        return (EVERYWHERE[0], (float((k[:, 3] - k[:, 2]).min()), float((k[:, 3] + k[:, 2]).max())), (-half, half))

    def distance(self, grid: Grid) -> Array:
        k = np.asarray(self.knots, dtype=np.float32)
        half_x, half_y, mid_y = (np.interp(grid.z, k[:, 0], k[:, i]).astype(np.float32) for i in (1, 2, 3))
        dy = grid.y - mid_y
        u, v = (grid.x / half_x) ** 2, (dy / half_y) ** 2
        f = np.sqrt(np.maximum(u + v - np.float32(self.squareness) * np.minimum(u * v, 1), 1e-6))
        radius = np.sqrt(grid.x * grid.x + dy * dy)
        # Radial distance, shortened by the obliqueness of an ellipse's surface to its radius.
        return np.asarray((radius + 1) * (1 - 1 / np.maximum(f, np.float32(0.02))), np.float32)


@dataclass(frozen=True)
class Dome:
    """Everything below the diaphragm: two cupolas with deep posterior and lateral recesses.

    right, left: (z, y, x) of the tops. recess_mm: how far the posterior recess hangs below the top.
    """

    right: Point
    left: Point
    recess_mm: float = 100.0
    bounds: Box = EVERYWHERE

    def distance(self, grid: Grid) -> Array:
        top = np.maximum(self._height(grid, self.right, -1), self._height(grid, self.left, 1))
        return np.asarray((grid.z - top) * np.float32(0.65), np.float32)

    def _height(self, grid: Grid, top: Point, side: int) -> Array:
        lateral = (grid.x - np.float32(top[2])) * np.float32(side)
        back = grid.y - np.float32(top[1])
        drop = np.where(lateral > 0, (lateral / 58) ** 2 * np.float32(0.75 * self.recess_mm), (lateral / 80) ** 2 * 16)
        drop = drop + np.where(back > 0, (back / 78) ** 2 * np.float32(self.recess_mm), (back / 75) ** 2 * 38)
        return np.asarray(np.float32(top[0]) - np.minimum(drop, np.float32(1.35 * self.recess_mm)), np.float32)


@dataclass(frozen=True)
class HalfSpace:
    """Points p with normal · (p - point) < 0."""

    point: Point
    normal: Point
    bounds: Box = EVERYWHERE

    def distance(self, grid: Grid) -> Array:
        n = np.asarray(self.normal, np.float64) / np.linalg.norm(self.normal)
        nz, ny, nx = (np.float32(v) for v in n)
        return np.asarray(grid.z * nz + grid.y * ny + grid.x * nx - np.float32(n @ np.asarray(self.point)), np.float32)


@dataclass(frozen=True)
class Union:
    """Smooth union (polynomial minimum); `blend_mm` rounds the seam."""

    parts: tuple[Shape, ...]
    blend_mm: float = 0.0

    @property
    def bounds(self) -> Box:
        boxes = np.asarray([p.bounds for p in self.parts])
        low, high = boxes[:, :, 0].min(axis=0) - self.blend_mm, boxes[:, :, 1].max(axis=0) + self.blend_mm
        return ((low[0], high[0]), (low[1], high[1]), (low[2], high[2]))

    def distance(self, grid: Grid) -> Array:
        result = self.parts[0].distance(grid)
        for part in self.parts[1:]:
            other = part.distance(grid)
            if self.blend_mm > 0:
                k = np.float32(self.blend_mm)
                overlap = np.maximum(k - np.abs(result - other), 0)
                result = np.minimum(result, other) - overlap * overlap * np.float32(0.25 / self.blend_mm)
            else:
                result = np.minimum(result, other)
        return np.asarray(result, np.float32)


@dataclass(frozen=True)
class Both:
    """What lies in every part and in none of `without`; the first part gives the bounds."""

    parts: tuple[Shape, ...]
    without: tuple[Shape, ...] = ()

    @property
    def bounds(self) -> Box:
        return self.parts[0].bounds

    def distance(self, grid: Grid) -> Array:
        result = self.parts[0].distance(grid)
        for part in self.parts[1:]:
            result = np.maximum(result, part.distance(grid))
        for part in self.without:
            result = np.maximum(result, -part.distance(grid))
        return result


@dataclass(frozen=True)
class Grown:
    """A shape grown (or, with a negative number, shrunk) by `by_mm`."""

    shape: Shape
    by_mm: float

    @property
    def bounds(self) -> Box:
        (z0, z1), (y0, y1), (x0, x1) = self.shape.bounds
        g = self.by_mm
        return ((z0 - g, z1 + g), (y0 - g, y1 + g), (x0 - g, x1 + g))

    def distance(self, grid: Grid) -> Array:
        return np.asarray(self.shape.distance(grid) - np.float32(self.by_mm), np.float32)


@dataclass(frozen=True)
class Lumpy:
    """A shape whose surface is displaced by smooth waves: amplitude and wavelength in mm, `phase` makes it unique."""

    shape: Shape
    amplitude_mm: float
    wavelength_mm: float
    phase: Point

    @property
    def bounds(self) -> Box:
        return Grown(self.shape, self.amplitude_mm).bounds

    def distance(self, grid: Grid) -> Array:
        k = np.float32(2 * np.pi / self.wavelength_mm)
        a, b, c = (np.float32(p) for p in self.phase)
        wave = np.sin(k * grid.z + a) * np.sin(k * grid.y + b) + np.sin(k * grid.x + c) * np.cos(k * grid.z + b)
        return np.asarray(self.shape.distance(grid) + np.float32(0.5 * self.amplitude_mm) * wave, np.float32)


Intensity = float | Callable[[Grid, Array], Array]
"""HU of a layer: a number, or a function of the grid and of the distance there."""
