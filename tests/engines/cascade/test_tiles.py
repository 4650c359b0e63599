"""Tiles cover everything, and in every voxel their weights sum to one."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.cascade.tiles import starts, tiles

shapes = st.tuples(*[st.integers(1, 40)] * 3)
edges = st.tuples(*[st.integers(1, 24)] * 3)
overlaps = st.floats(0, 0.9)


@settings(max_examples=60)
@given(shape=shapes, size=edges, overlap=overlaps)
def test_weights_sum_to_one_in_every_voxel(
    shape: tuple[int, int, int], size: tuple[int, int, int], overlap: float
) -> None:
    total = np.zeros(shape)
    for tile in tiles(shape, size, overlap):
        z, y, x = tile.weights
        assert total[tile.where].shape == (len(z), len(y), len(x))
        assert all(0 <= a < b <= n for a, b, n in zip(tile.start, tile.stop, shape, strict=True))
        total[tile.where] += z[:, None, None] * y[:, None] * x
    np.testing.assert_allclose(total, 1, rtol=1e-5)


@given(n=st.integers(1, 500), size=st.integers(1, 128), overlap=overlaps)
def test_neighbours_overlap_by_at_least_what_is_asked_for(n: int, size: int, overlap: float) -> None:
    begins = starts(n, size, overlap)
    assert begins[0] == 0
    assert begins[-1] == max(0, n - size)
    assert all(later > earlier for earlier, later in pairwise(begins))
    for earlier, later in pairwise(begins):
        assert earlier + size - later >= int(size * overlap) - 1 or later == earlier + 1


def test_the_order_and_the_number_of_tiles_are_fixed() -> None:
    once = [(tile.start, tile.stop) for tile in tiles((70, 64, 100), (64, 64, 64), 0.5)]
    assert once == [(tile.start, tile.stop) for tile in tiles((70, 64, 100), (64, 64, 64), 0.5)]
    assert once == sorted(once)
    assert [start for start, _ in once] == [(z, 0, x) for z in (0, 6) for x in (0, 18, 36)]


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_a_tile_s_middle_counts_more_than_its_edge(overlap: float) -> None:
    first = next(iter(tiles((64, 64, 64), (32, 32, 32), overlap)))
    along_z = first.weights[0]
    assert along_z[0] == pytest.approx(1)  # nothing else covers the volume's edge
    if overlap:
        assert along_z[-1] < 0.2


@pytest.mark.parametrize(("peak", "expected"), [("middle", 15.5), ("voxel", 16)])
def test_the_bell_stands_symmetrically_or_as_nnunets(peak: Literal["middle", "voxel"], expected: float) -> None:
    weights = next(iter(tiles((64, 64, 64), (32, 32, 32), 0.5, sum_to_one=False, peak=peak))).weights[0]
    np.testing.assert_allclose(weights, np.exp(-0.5 * ((np.arange(32) - expected) / 4) ** 2), rtol=1e-5)
