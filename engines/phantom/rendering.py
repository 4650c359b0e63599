"""Anatomy in, CT volume and truth out, a few slices at a time, at any spacing.

    1  the block's voxels are divided until no piece is thicker than 2 mm (`_pieces`)
    2  every layer is painted, each piece getting the share of it that the surface leaves inside
    3  the mean of the pieces is the voxel: partial volume in all directions
    4  kernel and noise, slice by slice (`physics`)

The truth of a voxel is the label at its middle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.volume import Geometry, Vector, Volume
from engines.phantom.fields import Array, Axes
from engines.phantom.physics import Kernel, SliceFilter, couch, metal_streaks, slice_sd
from engines.phantom.strands import Strands
from engines.phantom.studio import Layer, Spot
from engines.phantom.torso import Torso

Labels = npt.NDArray[np.uint8]
_PIECE_MM = 2.0
_BLOCK = 700_000
CENTRE_NOISE = 1.08
"""Noise in the middle of a body over that of the whole slice: its rays are the weakest."""
COVERAGE: dict[str, tuple[float, float]] = {
    "torso": (-25.0, 622.0),
    "chest": (300.0, 622.0),
    "abdomen and pelvis": (-25.0, 430.0),
    "upper abdomen": (190.0, 430.0),
}
"""Template z from and to of a scan."""


@dataclass(frozen=True)
class Scan:
    """How the person is scanned.

    spacing_mm, matrix: voxel spacing (z, y, x) and count (y, x); matrix None fits the body. coverage_mm: template z
    from and to. kernel None: neither noise nor blur. dose: relative to the usual.
    """

    spacing_mm: Vector = (3.0, 0.78, 0.78)
    matrix: tuple[int, int] | None = (512, 512)
    coverage_mm: tuple[float, float] = COVERAGE["torso"]
    kernel: Kernel | None = Kernel.SOFT
    dose: float = 1.0
    with_couch: bool = True


@dataclass(frozen=True, eq=False)
class Rendered:
    """The scan and its truth, (z, y, x). organs: `Tissue` labels; lesions: 0 or a finding's number; both uint8.

    noise_hu: standard deviation of the noise in the middle of each slice, 0 without a kernel.
    """

    volume: Volume
    organs: Labels
    lesions: Labels
    noise_hu: Array


@dataclass(frozen=True, eq=False)
class Block:
    """Some slices of a scan, as in `Rendered`."""

    hu: npt.NDArray[np.int16]
    organs: Labels
    lesions: Labels
    noise_hu: Array


def geometry_of(torso: Torso, scan: Scan) -> Geometry:
    """The grid of a scan: centred on the body, slices from feet to head."""
    dz, dy, dx = scan.spacing_mm
    (_, _), (front, back), (right, left) = torso.trunk
    if scan.matrix is None:
        ny, nx = _quick((back - front + 62) / dy), _quick((left - right + 24) / dx)
        middle = (front + back + 42) / 2
    else:
        ny, nx = scan.matrix
        middle = (front + back) / 2 + 12
    low, high = (z * torso.person.scale[0] for z in scan.coverage_mm)
    nz = max(round((high - low) / dz), 1)
    return Geometry((nz, ny, nx), scan.spacing_mm, (-(nx - 1) / 2 * dx, middle - (ny - 1) / 2 * dy, low + dz / 2))


def _quick(least: float) -> int:
    """The next whole number that has no prime factor above 5: Fourier transforms of such lengths are the quick ones."""
    n = int(np.ceil(least))
    while pow(30, 20, n):  # 0 exactly where n divides a power of 2 · 3 · 5
        n += 1
    return n


def render(torso: Torso, scan: Scan | None = None, progress: Callable[[int, int], None] | None = None) -> Rendered:
    """The whole scan. progress(slices done, slices in all)."""
    scan = scan or Scan()
    geometry = geometry_of(torso, scan)
    hu = np.empty(geometry.shape, np.int16)
    organs, lesions = np.empty(geometry.shape, np.uint8), np.empty(geometry.shape, np.uint8)
    noise = np.empty(geometry.shape[0], np.float32)
    done = 0
    for block in render_blocks(torso, scan):
        rows = slice(done, done + len(block.hu))
        hu[rows], organs[rows], lesions[rows], noise[rows] = block.hu, block.organs, block.lesions, block.noise_hu
        done = rows.stop
        if progress:
            progress(done, geometry.shape[0])
    return Rendered(Volume(hu, geometry), organs, lesions, noise)


def render_blocks(torso: Torso, scan: Scan) -> Iterator[Block]:
    """The scan in blocks of a few slices, from feet to head, in bounded memory."""
    geometry = geometry_of(torso, scan)
    nz, ny, nx = geometry.shape
    pieces = tuple(max(round(s / _PIECE_MM), 1) for s in geometry.spacing_mm)
    per_block = max(_BLOCK // (ny * nx * int(np.prod(pieces))), 1)
    y, x = (_pieces(geometry, axis, 0, geometry.shape[axis], pieces[axis]) for axis in (1, 2))
    empty = couch(y, x, torso.back_mm) if scan.with_couch else np.full((y.size, x.size), -1000, np.float32)
    finish = _Finish(torso, scan, geometry)
    for start in range(0, nz, per_block):
        count = min(per_block, nz - start)
        z = _pieces(geometry, 0, start, start + count, pieces[0])
        hu, organs, lesions = paint(torso.layers, (z, y, x), empty, torso)
        shape = (count, pieces[0], ny, pieces[1], nx, pieces[2])
        mean = hu if max(pieces) == 1 else hu.reshape(shape).mean(axis=(1, 3, 5))
        at = tuple(slice(p // 2, None, p) for p in pieces)
        noise = finish.noise(mean)
        yield Block(finish(mean, noise, start), organs[at], lesions[at], noise)


def _pieces(geometry: Geometry, axis: int, start: int, stop: int, pieces: int) -> Array:
    """Centres (mm) of the pieces of voxels start..stop."""
    fine = (np.arange((stop - start) * pieces) + 0.5) / pieces - 0.5
    return np.asarray(geometry.origin_mm[2 - axis] + (start + fine) * geometry.spacing_mm[axis], np.float32)


def paint(layers: list[Layer], axes: Axes, empty: Array, torso: Torso) -> tuple[Array, Labels, Labels]:
    """The layers on the product of three axes: HU float32, organ labels, finding numbers."""
    shape = tuple(len(a) for a in axes)
    hu = np.broadcast_to(empty, shape).astype(np.float32)
    organs, lesions = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    steps = [float(a[1] - a[0]) if len(a) > 1 else 1.0 for a in axes]
    voxel = float(np.cbrt(steps[1] * steps[2] * min(steps[0], _PIECE_MM)))
    for layer in layers:
        where = _window(layer, axes, voxel + layer.soft_mm)
        if where is not None:
            _paint(layer, where, axes, voxel, (hu, organs, lesions), torso)
    return hu, organs, lesions


def _window(layer: Layer, axes: Axes, margin: float) -> tuple[slice, slice, slice] | None:
    found = []
    for axis, (low, high) in zip(axes, layer.bounds, strict=True):
        start, stop = np.searchsorted(axis, (low - margin, high + margin))
        if start >= stop:
            return None
        found.append(slice(int(start), int(stop)))
    return (found[0], found[1], found[2])


def _paint(
    layer: Layer,
    where: tuple[slice, slice, slice],
    axes: Axes,
    voxel: float,
    onto: tuple[Array, Labels, Labels],
    torso: Torso,
) -> None:
    part = (axes[0][where[0]], axes[1][where[1]], axes[2][where[2]])
    edge = voxel + layer.soft_mm
    distance = layer.shape.distance(part, voxel) if isinstance(layer.shape, Strands) else layer.shape.at(part)
    share = distance * np.float32(-1 / edge)
    share += np.float32(0.5)
    np.clip(share, 0, 1, out=share)
    tight = _tight(share)
    if tight is None:
        return
    share, distance = share[tight], distance[tight]
    inner = tuple(slice(w.start + t.start, w.start + t.stop) for w, t in zip(where, tight, strict=True))
    value: Array | np.float32
    if callable(layer.hu):
        spot = Spot((part[0][tight[0]], part[1][tight[1]], part[2][tight[2]]), distance, torso.fine, torso.coarse)
        value = layer.hu(spot)
    else:
        value = np.float32(layer.hu)
    target = onto[0][inner]
    mix = value - target
    mix *= share * np.float32(layer.opacity) if layer.opacity != 1.0 else share
    target += mix
    inside = share > 0.5
    if layer.tissue is not None:
        onto[1][inner][inside] = layer.tissue
    if layer.lesion:
        onto[2][inner][inside] = layer.lesion


def _tight(share: Array) -> tuple[slice, slice, slice] | None:
    """The smallest window that holds all of `share` that isn't 0."""
    some = np.any(share, axis=0)
    rows = np.flatnonzero(some.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(some.any(axis=0))
    depth = np.flatnonzero(share[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].any(axis=(1, 2)))
    return (
        slice(int(depth[0]), int(depth[-1]) + 1),
        slice(int(rows[0]), int(rows[-1]) + 1),
        slice(int(columns[0]), int(columns[-1]) + 1),
    )


def noise_profile(geometry: Geometry) -> Array:
    """How the noise of a slice varies over it, (y, x): rays through the middle of the body are the weakest."""
    _, ny, nx = geometry.shape
    y = (np.arange(ny) - ny / 2) * geometry.spacing_mm[1]
    x = geometry.origin_mm[0] + geometry.spacing_mm[2] * np.arange(nx)
    inside = np.clip((x[None, :] / 190) ** 2 + (y[:, None] / 130) ** 2, 0, 1.2)
    return np.asarray(CENTRE_NOISE - 0.33 * inside, np.float32)


class _Finish:
    """Kernel, noise and rounding, slice by slice; each slice has its own stream, so blocks may be of any size."""

    def __init__(self, torso: Torso, scan: Scan, geometry: Geometry) -> None:
        self._torso, self._scan, self._geometry = torso, scan, geometry
        _, dy, dx = geometry.spacing_mm
        self._filter = (
            SliceFilter((geometry.shape[1], geometry.shape[2]), (dy, dx), scan.kernel) if scan.kernel else None
        )
        self._profile = noise_profile(geometry)

    def noise(self, block: Array) -> Array:
        """Standard deviation of the noise in each slice of a block (z, y, x), HU."""
        dz, dy, dx = self._geometry.spacing_mm
        kernel, dose = self._scan.kernel, self._scan.dose
        if kernel is None:
            return np.zeros(len(block), np.float32)
        return np.asarray([slice_sd(kernel, plane, dy * dx, dz, dose) for plane in block], np.float32)

    def __call__(self, block: Array, noise: Array, start: int) -> npt.NDArray[np.int16]:
        if self._filter is not None:
            for i, sd in enumerate(noise):
                rng = self._torso.person.rng(90, start + i)
                streaks = metal_streaks(block[i], self._geometry.spacing_mm[1:], self._torso.person.rng(91))
                block[i] = self._filter(block[i] + streaks, sd * self._profile, rng)
        return np.asarray(np.clip(np.rint(block), -1024, 3071), np.int16)
