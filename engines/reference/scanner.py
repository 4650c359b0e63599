"""Noise-free pieces of patients → pieces as scanned: kernel, dose and slice thickness drawn anew each time.

The law of scans is the phantoms' own (`difficulty.SCANS`), and so are filter and noise (`torso.physics`). Two ways in
which a scan comes to working spacing are imitated:

    rendered at it     as cohorts are judged: every 2 mm slice has noise of its own
    resampled to it    as scans from a scanner are: slices as thick as drawn, interpolated where that is thicker
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.cascade.preprocess import Grid
from engines.phantom import Kernel, difficulty
from engines.phantom.person import pick
from engines.phantom.physics import SliceFilter

Hu = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Look:
    """How a piece is scanned. sd_hu: noise in slices of `thickness_mm`; offset_hu: of a scanner slightly off."""

    kernel: Kernel
    thickness_mm: float
    sd_hu: float
    offset_hu: float


def draw_look(rng: np.random.Generator, spacing_mm: float, rendered_share: float = 0.6) -> Look:
    """A scan by the law, at this working spacing."""
    law: dict[str, Any] = difficulty.SCANS
    kernel, thickness = Kernel(pick(rng, law["kernels"])), float(pick(rng, law["slice_mm"]))
    low, high = law["dose"]
    dose = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    if rng.random() < rendered_share:
        # As `torso.scanning` has it: less dose for thicker slices, at the spacing rendered.
        dose *= float(np.clip(thickness / spacing_mm, 0.5, 1.5))
        thickness = spacing_mm
    seen = max(thickness, spacing_mm)  # thinner slices are averaged
    sd = float(law["noise_sd_hu"][kernel.value]) * float(np.sqrt(5 / seen / dose))
    return Look(kernel, seen, sd, float(rng.normal(0, 1.5)))


def scanned(hu: Hu, profile: Hu, girth: Hu, look: Look, spacing_mm: float, rng: np.random.Generator) -> Hu:
    """A noise-free block (z, y, x) at `spacing_mm` as scanned. profile (y, x), girth (z,): see `patients`."""
    slices = Grid(
        (len(hu), 1, 1),
        (spacing_mm, 1, 1),
        (look.thickness_mm, 1, 1),
        (float(rng.uniform(-1, 0)) * look.thickness_mm, 0, 0),
    )
    thick = look.thickness_mm > 1.05 * spacing_mm
    if thick:
        along = slices.axis_weights(0, 0, slices.shape[0])
        hu = np.asarray(along @ hu.reshape(len(hu), -1), np.float32).reshape(-1, *hu.shape[1:])
        girth = np.asarray(along @ girth, np.float32)
    noisy = _filtered(hu, profile, girth * np.float32(look.sd_hu), look.kernel, spacing_mm, rng)
    if thick:
        back = slices.axis_weights_back(0, 0, slices.source_shape[0])
        noisy = np.asarray(back @ noisy.reshape(len(noisy), -1), np.float32).reshape(-1, *noisy.shape[1:])
    return np.asarray(noisy + np.float32(look.offset_hu), np.float32)


def _filtered(hu: Hu, profile: Hu, sd: Hu, kernel: Kernel, spacing_mm: float, rng: np.random.Generator) -> Hu:
    """All slices at once through the kernel, with noise of `sd` (z,) times `profile`."""
    rule = _filter(hu.shape[1], hu.shape[2], kernel, spacing_mm)
    noise = np.fft.rfft2(rng.standard_normal(hu.shape, dtype=np.float32)) * rule.noise
    content = np.fft.rfft2(hu) * rule.edges
    both = np.fft.irfft2(np.stack([content, noise]), s=hu.shape[1:])
    return np.asarray(both[0] + sd[:, None, None] * profile * both[1], np.float32)


@lru_cache(maxsize=32)
def _filter(rows: int, columns: int, kernel: Kernel, spacing_mm: float) -> SliceFilter:
    return SliceFilter((rows, columns), (spacing_mm, spacing_mm), kernel)
