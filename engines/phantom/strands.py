"""What is thinner than the lattice: vessels, ribs, bronchi, ducts, as round cones between points, in patient mm."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.phantom.fields import Array, Axes
from engines.phantom.shapes import Box

Points = npt.NDArray[np.float64]
_REACH_MM = 4.0


@dataclass(frozen=True, eq=False)
class Strands:
    """Many round cones as one shape. a, b: ends (n, 3) z-y-x mm. ra, rb: radii (n,) there."""

    a: Points
    b: Points
    ra: npt.NDArray[np.float64]
    rb: npt.NDArray[np.float64]

    @property
    def bounds(self) -> Box:
        """The box that holds all, z-y-x."""
        low, high = self._boxes(1.0)
        first, last = low.min(axis=0), high.max(axis=0)
        return ((first[0], last[0]), (first[1], last[1]), (first[2], last[2]))

    def _boxes(self, margin: float) -> tuple[Points, Points]:
        r = np.maximum(self.ra, self.rb)[:, None] + margin
        return np.minimum(self.a, self.b) - r, np.maximum(self.a, self.b) + r

    def distance(self, axes: Axes, voxel_mm: float, reach_mm: float = _REACH_MM) -> Array:
        """Distance (z, y, x) at the product of three axes; far away it is just large.

        A tube thinner than a voxel is narrowed so that voxels get no more of it than its cross-section: painting
        with a ramp of the voxel's width adds width²/12 to the radius squared.
        """
        out = np.full(tuple(len(a) for a in axes), 1e3, np.float32)
        low, high = self._boxes(reach_mm)
        spans = [(np.searchsorted(axis, low[:, i]), np.searchsorted(axis, high[:, i])) for i, axis in enumerate(axes)]
        hit = np.logical_and.reduce([start < stop for start, stop in spans])
        thin = voxel_mm**2 / 12
        for k in np.flatnonzero(hit):
            where = tuple(slice(int(s[k]), int(e[k])) for s, e in spans)
            ra, rb = (np.sqrt(max(r * r - thin, 0.04 * r * r)) for r in (self.ra[k], self.rb[k]))
            part = tuple(a[w] for a, w in zip(axes, where, strict=True))
            view = out[where]
            np.minimum(view, _cone((part[0], part[1], part[2]), self.a[k], self.b[k], ra, rb), out=view)
        return out

    def grown(self, by_mm: float) -> Strands:
        """All radii larger by `by_mm`."""
        return Strands(self.a, self.b, self.ra + by_mm, self.rb + by_mm)


def _cone(axes: Axes, a: Points, b: Points, ra: float, rb: float) -> Array:
    along = b - a
    length2 = max(float(along @ along), 1e-6)
    z, y, x = (axes[i] - np.float32(a[i]) for i in range(3))
    d = along.astype(np.float32)
    z, y, x = z[:, None, None], y[:, None], x
    scaled = d / np.float32(length2)
    t = np.clip((z * scaled[0] + y * scaled[1]) + x * scaled[2], 0, 1)
    near = (z - t * d[0]) ** 2
    near += (y - t * d[1]) ** 2
    near += (x - t * d[2]) ** 2
    return np.asarray(np.sqrt(near) - (np.float32(ra) + t * np.float32(rb - ra)), np.float32)


def strands(lines: Iterable[tuple[npt.ArrayLike, npt.ArrayLike]]) -> Strands:
    """Strands along polylines: each is points (n, 3) z-y-x and radii (n,) or one radius."""
    a, b, ra, rb = [], [], [], []
    for points, radii in lines:
        p = np.asarray(points, np.float64)
        r = np.broadcast_to(np.asarray(radii, np.float64), (len(p),))
        a.append(p[:-1])
        b.append(p[1:])
        ra.append(r[:-1])
        rb.append(r[1:])
    return Strands(np.concatenate(a), np.concatenate(b), np.concatenate(ra), np.concatenate(rb))


def curve(points: npt.ArrayLike, per_segment: int = 4) -> Points:
    """A Catmull-Rom curve through points or rows of any width, (per_segment · (n - 1) + 1, width)."""
    p = np.asarray(points, np.float64)
    p = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    t = (np.arange(per_segment) / per_segment)[:, None]
    rows = []
    for i in range(len(p) - 3):
        a, b, c, d = p[i : i + 4]
        rows.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    rows.append(p[-2:-1])
    return np.vstack(rows)


def grow_tree(rng: np.random.Generator, root: npt.ArrayLike, goals: Points, first_mm: float, last_mm: float) -> Strands:
    """A vessel tree: each goal, nearest first, joins the nearest point that stands already.

    Radii follow Murray's law (PNAS 12:207, 1926): a parent's radius cubed is the sum of its branches' cubed.
    """
    start = np.asarray(root, np.float64)
    goals = goals[np.argsort(np.linalg.norm(goals - start, axis=1))]
    nodes = np.empty((2 * len(goals) + 1, 3))
    nodes[0], parent, count = start, [-1], 1
    for goal in goals:
        gaps = np.linalg.norm(nodes[:count] - goal, axis=1)
        # Branches leave forwards: a joint that would turn the flow back is as good as farther away.
        ahead, grown = goal - nodes[:count], nodes[:count] - start
        turn = (ahead * grown).sum(axis=1) / np.maximum(np.linalg.norm(grown, axis=1) * gaps, 1e-6)
        turn[0] = 0.5
        gaps = gaps * (1.6 - 0.8 * turn)
        near = int(np.argmin(gaps))
        if gaps[near] < 4:
            continue
        nodes[count] = (nodes[near] + goal) / 2 + rng.normal(0, 0.07 * gaps[near], 3)
        nodes[count + 1] = goal
        parent += [near, count]
        count += 2
    load = np.full(count, last_mm**3)
    children = np.zeros(count)
    for i in range(count - 1, 0, -1):
        if children[i]:
            load[i] = children[i]
        children[parent[i]] += load[i]
    radii = np.minimum(np.cbrt(load), first_mm)
    up = np.asarray(parent[1:], int)
    return Strands(nodes[up], nodes[1:count], np.minimum(radii[up], radii[1:] * 1.25), radii[1:])
