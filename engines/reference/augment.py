"""What scanners, kernels and people do to images: applied to noise-free phantoms, anew at every step.

No mirroring: the liver is on the right. All randomness comes from the generator that is passed in.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from engines.phantom import Tissue

Hu = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]

_CONTRAST_PHASE: dict[Tissue, tuple[float, float]] = {
    Tissue.VESSEL: (60, 200), Tissue.HEART: (60, 160), Tissue.KIDNEY: (60, 160), Tissue.LIVER: (20, 70),
    Tissue.SPLEEN: (40, 90), Tissue.PANCREAS: (30, 80), Tissue.STOMACH: (0, 40), Tissue.COLON: (0, 40),
    Tissue.SMALL_BOWEL: (10, 60), Tissue.MUSCLE: (0, 20),
}  # fmt: skip
"""HU that intravenous contrast adds: the localiser should find organs all the same."""


def shift_tissues(hu: Hu, labels: Labels, rng: np.random.Generator) -> Hu:
    """Every tissue a little brighter or darker; in one scan of four with contrast medium."""
    offset = rng.normal(0, 8, 256).astype(np.float32)
    offset[Tissue.OUTSIDE] = 0
    if rng.random() < 0.25:
        strength = rng.uniform(0.3, 1)
        for tissue, (low, high) in _CONTRAST_PHASE.items():
            offset[tissue] += strength * rng.uniform(low, high)
        offset[[Tissue.LIVER_LESION, Tissue.LIVER_LOOKALIKE]] = offset[Tissue.LIVER]
    return np.asarray(hu + offset[labels], np.float32)


def partial_coverage(hu: Hu, labels: Labels, rng: np.random.Generator, spacing_mm: float) -> tuple[Hu, Labels]:
    """Sometimes only chest, abdomen or any stretch of at least 150 mm."""
    if rng.random() < 0.45:
        return hu, labels
    count = hu.shape[0]
    least = min(int(150 / spacing_mm), count)
    length = int(rng.integers(least, count + 1))
    start = int(rng.integers(0, count - length + 1))
    return hu[start : start + length], labels[start : start + length]


def random_margin(hu: Hu, labels: Labels, rng: np.random.Generator) -> tuple[Hu, Labels]:
    """Fields of view between tight and generous: the body with up to 6 voxels of its surroundings on each side."""
    where = [slice(None)]
    for axis in (1, 2):
        hit = np.flatnonzero(labels.any(axis=(0, 3 - axis)))
        low, high = rng.integers(0, 7, 2)
        where.append(slice(max(int(hit[0] - low), 0), int(hit[-1] + 1 + high)))
    return hu[tuple(where)], labels[tuple(where)]


def narrow_field(hu: Hu, rng: np.random.Generator) -> Hu:
    """Sometimes a field of view that cuts off the flanks: air outside a circle."""
    if rng.random() < 0.7:
        return hu
    ny, nx = hu.shape[1:]
    y, x = np.ogrid[:ny, :nx]
    radius = rng.uniform(0.42, 0.55) * max(ny, nx)
    outside = (y - ny / 2 + rng.normal(0, 2)) ** 2 + (x - nx / 2 + rng.normal(0, 2)) ** 2 > radius**2
    hu = hu.copy()
    hu[:, outside] = -1000
    return hu


def affine(hu: torch.Tensor, target: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Sizes ±12 %, turns of about 6° and shifts; hu (1,1,Z,Y,X) linear, target (1,1,Z,Y,X) nearest."""
    scale = rng.uniform(0.88, 1.12, 3) * rng.uniform(0.92, 1.08)
    angle = rng.normal(0, 0.08, 3)
    matrix = np.diag(scale)  # rows and columns x, y, z as grid_sample wants them
    for (i, j), a in zip(((0, 1), (0, 2), (1, 2)), angle, strict=True):
        step = np.eye(3)
        step[i, i] = step[j, j] = np.cos(a)
        step[i, j], step[j, i] = -np.sin(a), np.sin(a)
        matrix = matrix @ step
    size = np.array(hu.shape[:1:-1], np.float64)  # x, y, z
    # grid_sample's coordinates are relative to each axis' length: undo that for the rotation.
    matrix = matrix * (size[None, :] / size[:, None])
    theta = torch.tensor(np.hstack([matrix, rng.normal(0, 0.04, (3, 1))])[None], dtype=torch.float32)
    grid = functional.affine_grid(theta, list(hu.shape), align_corners=False)
    air = 1000.0
    moved = functional.grid_sample(hu + air, grid, align_corners=False) - air
    labels = functional.grid_sample(target.float(), grid, mode="nearest", align_corners=False)
    return moved, labels.to(target.dtype)


def scan_again(
    hu: torch.Tensor, rng: np.random.Generator, spacing_mm: float, noise_hu: tuple[float, float]
) -> torch.Tensor:
    """Slices of 1–8 mm, blur, noise, a scanner slightly off: hu (1,1,Z,Y,X) at isotropic `spacing_mm`."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    size = list(hu.shape[2:])
    hu = hu * float(rng.uniform(0.95, 1.05)) + float(rng.normal(0, 8))
    if rng.random() < 0.25:
        hu = functional.avg_pool3d(hu, (1, 3, 3), 1, (0, 1, 1), count_include_pad=False)
    thickness = float(np.exp(rng.uniform(0, np.log(8))))
    slices = max(round(size[0] * spacing_mm / thickness), 2)
    if slices < size[0]:
        hu = functional.interpolate(hu, [slices, *size[1:]], mode="area")
    hu = hu + _noise(list(hu.shape), rng, generator, noise_hu)
    if slices < size[0]:
        hu = functional.interpolate(hu, size, mode="trilinear", align_corners=False)
    return hu


def _noise(
    shape: list[int], rng: np.random.Generator, generator: torch.Generator, sd_hu: tuple[float, float]
) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    if rng.random() < 0.5:
        noise = functional.avg_pool3d(noise, (1, 3, 3), 1, (0, 1, 1), count_include_pad=False) * 2.2
    return noise * float(np.exp(rng.uniform(*np.log(sd_hu))))
