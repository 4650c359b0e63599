"""An organ's surroundings: distances as SciPy gives them for the whole grid, boxes that hold organ and margin."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from engines.cascade.localise import FoundOrgan
from engines.cascade.preprocess import Grid
from engines.cascade.region import region_box, region_of, signed_distance, stretched_grid

SHAPE, SPACING = (30, 40, 36), (6.0, 5.0, 4.0)


def organ(mask: npt.NDArray[np.bool_]) -> FoundOrgan:
    grid = Grid(SHAPE, SPACING, SPACING)
    return FoundOrgan(mask, grid, 1.0, 0.0)


def ball(centre: tuple[float, float, float], radius_mm: float) -> npt.NDArray[np.bool_]:
    z, y, x = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    squared = sum(((i + 0.5) * s - c) ** 2 for i, s, c in zip((z, y, x), SPACING, centre, strict=True))
    return np.asarray(squared <= radius_mm**2)


MASKS = {
    "in the middle": ball((90, 100, 70), 40),
    "at the edge": ball((10, 195, 5), 40),
    "hollow": ball((90, 100, 70), 45) & ~ball((90, 100, 70), 20),
    "two parts": ball((50, 60, 40), 20) | ball((130, 150, 110), 20),
    "everything": np.ones(SHAPE, dtype=bool),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("reach", [0.0, 7.0, 30.0])
def test_distances_within_reach_are_those_of_the_whole_grid(name: str, reach: float) -> None:
    mask = MASKS[name]
    filled = ndimage.binary_fill_holes(mask)
    outside = ndimage.distance_transform_edt(~filled, sampling=SPACING)
    inside = ndimage.distance_transform_edt(np.pad(filled, 1, mode="edge"), sampling=SPACING)[1:-1, 1:-1, 1:-1]
    expected = np.where(filled, 2.0 - inside, outside - 2.0)
    found = signed_distance(organ(mask), reach)
    near = expected <= reach + 4.0
    np.testing.assert_allclose(found[near], expected[near], atol=1e-4)
    assert (found[~near] > reach).all()


@pytest.mark.parametrize("name", MASKS)
def test_a_region_holds_the_organ_and_its_margin(name: str) -> None:
    mask, fine = MASKS[name], Grid(SHAPE, SPACING, (3.0, 2.5, 2.0))
    box = region_box(organ(mask), 10.0, fine, (1, 1, 1))
    region = region_of(organ(mask), 10.0, fine, box)
    whole = region_of(organ(mask), 10.0, fine, fine.whole)
    where = tuple(slice(a, b) for a, b in zip(*box, strict=True))
    np.testing.assert_array_equal(region.search, whole.search[where])
    np.testing.assert_array_equal(region.organ, whole.organ[where])
    outside = whole.organ.copy()
    outside[where] = False
    assert not outside.any()
    assert (region.search | ~region.organ).all()


def test_a_stretched_grid_spans_the_organ_and_its_margin() -> None:
    grid = stretched_grid(organ(MASKS["in the middle"]), 8.0, (20, 24, 28))
    assert grid.shape == (20, 24, 28)
    low = np.array(grid.origin_mm)
    high = low + np.array(grid.spacing_mm) * grid.shape
    extent = [np.flatnonzero(MASKS["in the middle"].any(axis=a)) for a in ((1, 2), (0, 2), (0, 1))]
    np.testing.assert_allclose(low, [e[0] * s - 8 for e, s in zip(extent, SPACING, strict=True)], atol=1)
    np.testing.assert_allclose(high, [(e[-1] + 1) * s + 8 for e, s in zip(extent, SPACING, strict=True)], atol=1)
    region = region_of(organ(MASKS["in the middle"]), 8.0, grid, grid.whole)
    share = region.organ.mean()
    assert 0.2 < share < 0.5  # a ball of 40 mm in its box with 8 mm around it: 0.30
