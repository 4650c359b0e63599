"""How a person happens to be scanned: kernel, thickness, dose, coverage, by the law's shares."""

from __future__ import annotations

from typing import Any

import numpy as np

from core.volume import Vector
from engines.phantom import difficulty
from engines.phantom.person import Person, pick
from engines.phantom.physics import Kernel
from engines.phantom.rendering import COVERAGE, Scan


def sample_scan(
    person: Person, spacing_mm: Vector | None = None, *, shifted: bool = False, whole: bool = False
) -> Scan:
    """A scan of `person`. spacing_mm: instead of drawing the thickness; the matrix then fits the body.

    shifted: by the shifted cohort's law. whole: always the whole torso.
    """
    rng = person.rng(80)
    law: dict[str, Any] = {**difficulty.SCANS, **(difficulty.SHIFTED if shifted else {})}
    kernel, thickness = Kernel(pick(rng, law["kernels"])), float(pick(rng, law["slice_mm"]))
    low, high = law["dose"]
    dose = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    coverage = COVERAGE[str(pick(rng, law["coverage"]))]
    if whole:
        coverage = COVERAGE["torso"]
    if spacing_mm is not None:
        return Scan(spacing_mm, None, coverage, kernel, _dose_at(dose, thickness, spacing_mm[0]))
    pixel = round(float(rng.uniform(0.72, 0.92)) * max(person.scale[1:]), 3)
    return Scan((thickness, pixel, pixel), (512, 512), coverage, kernel, dose)


def _dose_at(dose: float, drawn_mm: float, rendered_mm: float) -> float:
    """Scanners choose less dose for thicker slices: keep the noise of the thickness drawn, at the spacing rendered."""
    return dose * float(np.clip(drawn_mm / rendered_mm, 0.5, 1.5))
