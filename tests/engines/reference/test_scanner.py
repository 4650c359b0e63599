"""Pieces are scanned by the same law and the same physics as whole torsos."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from engines.phantom import Kernel, difficulty
from engines.phantom.physics import SliceFilter
from engines.reference.scanner import Look, draw_look, scanned

SHAPE = (12, 40, 48)
FLAT = (np.ones(SHAPE[1:], np.float32), np.ones(SHAPE[0], np.float32))


def ramp() -> np.ndarray[Any, np.dtype[np.float32]]:
    z, y, x = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in SHAPE), indexing="ij")
    return np.asarray(3 * z + 0.5 * y - x, np.float32)


@pytest.mark.parametrize("kernel", list(Kernel))
def test_a_slice_of_working_thickness_is_what_the_renderer_makes_of_it(kernel: Kernel) -> None:
    hu, look = ramp(), Look(kernel, 2.0, 15.0, 0.0)
    made = scanned(hu, *FLAT, look, 2.0, rng=_drawn_alike())
    rule, rng = SliceFilter(SHAPE[1:], (2.0, 2.0), kernel), _drawn_alike()
    rng.uniform(-1, 0)  # the phase of thick slices
    for plane, source in zip(made, hu, strict=True):
        assert np.allclose(plane, rule(source, np.full(SHAPE[1:], 15.0, np.float32), rng), atol=1e-3)


def _drawn_alike() -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(11))


def test_girth_and_place_scale_the_noise() -> None:
    profile = np.ones(SHAPE[1:], np.float32)
    profile[:, :24] = 0.5
    girth = np.ones(SHAPE[0], np.float32)
    girth[6:] = 2
    noise = scanned(np.zeros(SHAPE, np.float32), profile, girth, Look(Kernel.SOFT, 2.0, 20.0, 0.0), 2.0, _drawn_alike())
    quarter = [noise[a, :, b].std() for a in (slice(0, 6), slice(6, 12)) for b in (slice(0, 24), slice(24, 48))]
    assert np.allclose(np.array(quarter) / quarter[1], [0.5, 1, 1, 2], rtol=0.15)


def test_thick_slices_keep_means_and_lose_what_is_thinner() -> None:
    stripes = np.zeros((48, 40, 48), np.float32)
    stripes[::2] = 100
    girth = np.ones(48, np.float32)
    thick = scanned(stripes, FLAT[0], girth, Look(Kernel.SOFT, 8.0, 0.0, 0.0), 2.0, _drawn_alike())
    middle = thick[8:-8]
    assert abs(middle.mean() - 50) < 2
    assert middle.std(axis=0).max() < 12
    assert stripes.std() == 50


def test_noise_of_thick_slices_hangs_together_along_the_body() -> None:
    def along(thickness: float) -> float:
        hu, girth = np.zeros((48, 40, 48), np.float32), np.ones(48, np.float32)
        noise = scanned(hu, FLAT[0], girth, Look(Kernel.SOFT, thickness, 10.0, 0.0), 2.0, _drawn_alike())
        return float(np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1])

    assert abs(along(2.0)) < 0.1
    assert along(5.0) > 0.5


def test_looks_follow_the_law() -> None:
    rng = np.random.Generator(np.random.PCG64(3))
    looks = [draw_look(rng, 2.0) for _ in range(4000)]
    kernels = Counter(look.kernel.value for look in looks)
    law: dict[str, Any] = difficulty.SCANS
    for kernel, share in law["kernels"].items():
        assert abs(kernels[kernel] / 4000 - share) < 0.03
    rendered = sum(look.thickness_mm == 2.0 for look in looks) / 4000
    thin = sum(share for mm, share in law["slice_mm"].items() if mm <= 2)
    assert abs(rendered - (0.6 + 0.4 * thin)) < 0.03
    assert all(2.0 <= look.thickness_mm <= 8.0 and look.sd_hu > 0 for look in looks)
    assert {draw_look(rng, 2.0, rendered_share=1.0).thickness_mm for _ in range(200)} == {2.0}
