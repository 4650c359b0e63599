"""Patient in, CT volume and labels out, a few slices at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.volume import Geometry, Vector, Volume
from engines.phantom.anatomy import Layer, body_layers, bone_layers, build_frame
from engines.phantom.labels import Tissue
from engines.phantom.lesions import lesion_layers
from engines.phantom.noise import Kernel, couch, noise_filter, slice_noise, slice_sd
from engines.phantom.patient import Patient, warp_of
from engines.phantom.shapes import Grid
from engines.phantom.viscera import abdominal_layers, build_organs, liver_vessels, lung_vessels, mediastinal_layers
from engines.phantom.warp import Warp

Labels = npt.NDArray[np.uint8]
LUNG_APEX_MM, SYMPHYSIS_MM = 640.0, -10.0
"""Template z of the ends of a whole-torso scan."""
_SUBSLICE_MM = 1.6
_BLOCK_VOXELS = 600_000


@dataclass(frozen=True)
class Scan:
    """How the patient is scanned.

    spacing_mm, matrix: voxel spacing and count (z, y, x and y, x); matrix None fits the body. coverage_mm: template z
    from and to. kernel None: no noise. dose: relative to the usual.
    """

    spacing_mm: Vector = (3.0, 0.75, 0.75)
    matrix: tuple[int, int] | None = (512, 512)
    coverage_mm: tuple[float, float] = (SYMPHYSIS_MM, LUNG_APEX_MM)
    kernel: Kernel | None = Kernel.SOFT
    dose: float = 1.0
    with_couch: bool = True


def layers_of(patient: Patient) -> list[Layer]:
    """Everything that is painted, in order."""
    frame = build_frame(patient)
    organs = build_organs(patient, frame)
    return [
        *body_layers(patient, frame),
        *lung_vessels(patient, organs),
        *bone_layers(patient, frame),
        *abdominal_layers(patient, frame, organs),
        *liver_vessels(patient, organs),
        *mediastinal_layers(patient, frame),
        *lesion_layers(patient, organs),
    ]


def body_size_mm(patient: Patient) -> tuple[float, float]:
    """Depth and width (y, x) of a field of view that holds the whole patient."""
    body = build_frame(patient).body
    _, (front, back), (right, left) = body.bounds
    slack = warp_of(patient).slack_mm
    return (
        (2 * max(-front, back) + 2 * slack) * patient.scale[1] + 10,
        (2 * max(-right, left) + 2 * slack) * patient.scale[2] + 10,
    )


def geometry_of(patient: Patient, scan: Scan) -> Geometry:
    """The grid of a scan: centred on the patient, slices from feet to head."""
    dz, dy, dx = scan.spacing_mm
    if scan.matrix is None:
        depth, width = body_size_mm(patient)
        ny, nx = int(np.ceil((depth + 50) / dy)), int(np.ceil(width / dx))
    else:
        ny, nx = scan.matrix
    low, high = (z * patient.scale[0] for z in scan.coverage_mm)
    nz = max(round((high - low) / dz), 1)
    return Geometry(
        shape=(nz, ny, nx),
        spacing_mm=scan.spacing_mm,
        origin_mm=(-(nx - 1) / 2 * dx, -(ny - 1) / 2 * dy, low + dz / 2),
    )


def render(
    patient: Patient, scan: Scan | None = None, progress: Callable[[int, int], None] | None = None
) -> tuple[Volume, Labels]:
    """The volume and its labels (`Tissue`), both (z, y, x). progress(slices done, slices in all)."""
    scan = scan or Scan()
    geometry = geometry_of(patient, scan)
    hu = np.empty(geometry.shape, np.int16)
    labels = np.empty(geometry.shape, np.uint8)
    done = 0
    for part, part_labels in render_blocks(patient, scan):
        hu[done : done + len(part)], labels[done : done + len(part)] = part, part_labels
        done += len(part)
        if progress:
            progress(done, geometry.shape[0])
    return Volume(hu, geometry), labels


def render_blocks(patient: Patient, scan: Scan) -> Iterator[tuple[npt.NDArray[np.int16], Labels]]:
    """The volume in blocks of a few slices, from feet to head, in bounded memory."""
    geometry = geometry_of(patient, scan)
    nz, ny, nx = geometry.shape
    dz, dy, dx = geometry.spacing_mm
    warp, layers = warp_of(patient), layers_of(patient)
    subslices = max(round(dz / _SUBSLICE_MM), 1)
    per_block = max(_BLOCK_VOXELS // (ny * nx * subslices), 1)
    y = geometry.origin_mm[1] + np.arange(ny, dtype=np.float64) * dy
    x = geometry.origin_mm[0] + np.arange(nx, dtype=np.float64) * dx
    empty = _empty_scanner(patient, scan, y, x)
    finish = _Finish(patient, scan, geometry)
    for start in range(0, nz, per_block):
        count = min(per_block, nz - start)
        fine = (np.arange(count * subslices) + 0.5) / subslices - 0.5
        z = geometry.origin_mm[2] + (start + fine) * dz
        hu, labels = _paint(layers, warp, z, y, x, empty, dy)
        mean = hu.reshape(count, subslices, ny, nx).mean(axis=1)
        yield finish(mean, start), labels.reshape(count, subslices, ny, nx)[:, subslices // 2]


def _empty_scanner(
    patient: Patient, scan: Scan, y: npt.NDArray[np.float64], x: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    if not scan.with_couch:
        return np.full((y.size, x.size), -1000, np.float32)
    _, (_, back), _ = build_frame(patient).wall.bounds
    return couch(y, x, (back + 0.8 * patient.fat_mm) * patient.scale[1])


def _paint(
    layers: list[Layer],
    warp: Warp,
    z: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    x: npt.NDArray[np.float64],
    empty: npt.NDArray[np.float32],
    pixel_mm: float,
) -> tuple[npt.NDArray[np.float32], Labels]:
    zz, yy, xx = (a.astype(np.float32) for a in (z[:, None, None], y[None, :, None], x[None, None, :]))
    shape = (z.size, y.size, x.size)
    tz, ty, tx = (np.broadcast_to(a, shape) for a in warp.to_template(zz, yy, xx))
    axes = tuple((a / s).astype(np.float32) for a, s in zip((z, y, x), warp.scale, strict=True))
    grid = Grid(tz, ty, tx, (axes[0], axes[1], axes[2]), warp.slack_mm)
    hu = np.broadcast_to(empty, shape).copy()
    labels = np.zeros(shape, np.uint8)
    for layer in layers:
        _paint_layer(layer, grid, hu, labels, pixel_mm)
    return hu, labels


def _paint_layer(layer: Layer, grid: Grid, hu: npt.NDArray[np.float32], labels: Labels, pixel_mm: float) -> None:
    edge = pixel_mm + layer.soft_mm
    where = grid.window(layer.shape.bounds, edge)
    if where is None:
        return
    part = grid.crop(where)
    distance = layer.shape.distance(part)
    share = np.clip(np.float32(0.5) - distance * np.float32(1 / edge), 0, 1)
    if not share.any():
        return
    value = layer.hu(part, distance) if callable(layer.hu) else np.float32(layer.hu)
    target = hu[where]
    target += share * (value - target)
    labels[where][share > 0.5] = layer.tissue


class _Finish:
    """Noise and rounding, slice by slice; each slice has its own stream, so blocks may be of any size."""

    def __init__(self, patient: Patient, scan: Scan, geometry: Geometry) -> None:
        self._patient, self._scan, self._geometry = patient, scan, geometry
        _, dy, dx = geometry.spacing_mm
        shape = (geometry.shape[1], geometry.shape[2])
        self._filter = noise_filter(shape, (dy, dx), scan.kernel) if scan.kernel else None

    def __call__(self, block: npt.NDArray[np.float32], start: int) -> npt.NDArray[np.int16]:
        dz, dy, dx = self._geometry.spacing_mm
        if self._filter is not None and self._scan.kernel is not None:
            for i, plane in enumerate(block):
                rng = self._patient.generator(30, start + i)
                sd = slice_sd(self._scan.kernel, plane, dy * dx, dz, self._scan.dose)
                plane += sd * slice_noise(rng, self._filter, (plane.shape[0], plane.shape[1]))
        return np.clip(np.rint(block), -1024, 3071).astype(np.int16)


def organ_mask(labels: Labels, *tissues: Tissue) -> npt.NDArray[np.bool_]:
    """Where the labels are one of `tissues`."""
    return np.isin(labels, [int(t) for t in tissues])
