"""Candidates are measured as a radiologist would, and small ones are dropped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engines.cascade.candidates import extract, longest_axial_diameter
from engines.manifest import Extraction


def rule(**changes: Any) -> Extraction:
    return Extraction(**{"probability": 0.5, "min_volume_mm3": 0, "min_diameter_mm": 0, "score": "peak", **changes})


def everywhere(shape: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    return np.ones(shape, dtype=bool)


def test_parts_that_touch_at_a_corner_are_one_candidate() -> None:
    p = np.zeros((4, 4, 4), np.float32)
    p[0, 0, 0] = p[1, 1, 1] = 0.9
    p[3, 3, 3] = 0.8
    found = extract(p, everywhere(p.shape), (2, 2, 2), rule())
    assert [(c.score, c.volume_mm3) for c in found] == [(pytest.approx(0.9), 16), (pytest.approx(0.8), 8)]


def test_candidates_come_with_the_highest_score_first_and_repeatably() -> None:
    p = np.zeros((9, 9, 9), np.float32)
    p[0, 0, 0], p[4, 4, 4], p[8, 8, 8] = 0.6, 0.9, 0.6
    found = extract(p, everywhere(p.shape), (1, 1, 1), rule())
    assert [c.box[0] for c in found] == [(4, 4, 4), (0, 0, 0), (8, 8, 8)]


def test_peak_and_mean_score() -> None:
    p = np.zeros((1, 1, 4), np.float32)
    p[0, 0] = [0.5, 0.7, 0.9, 0.2]
    organ = everywhere(p.shape)
    assert extract(p, organ, (1, 1, 1), rule())[0].score == pytest.approx(0.9)
    assert extract(p, organ, (1, 1, 1), rule(score="mean"))[0].score == pytest.approx(0.7)


def test_the_core_is_the_surest_cube_of_27_voxels() -> None:
    p = np.zeros((9, 9, 20), np.float32)
    p[3:6, 3:6, 2:5] = 0.8  # a cube, all of it as sure
    p[4, 4, 12] = 1.0  # a single voxel that is surer
    p[0, 0, 17:20] = 0.9  # at the region's edge, beyond which nothing is likely
    organ = everywhere(p.shape)
    found = {c.box[0]: c.score for c in extract(p, organ, (2, 2, 2), rule(score="core"))}
    assert found == {
        (3, 3, 2): pytest.approx(0.8),
        (4, 4, 12): pytest.approx(1 / 27),
        (0, 0, 17): pytest.approx(3 * 0.9 / 27),
    }


def test_the_core_sees_what_lies_beside_a_candidate() -> None:
    p = np.full((5, 5, 5), 0.4, np.float32)
    p[2, 2, 2] = 0.8
    (found,) = extract(p, everywhere(p.shape), (2, 2, 2), rule(score="core"))
    assert found.score == pytest.approx((26 * 0.4 + 0.8) / 27)


def test_small_ones_are_dropped_by_volume_and_by_diameter() -> None:
    p = np.zeros((3, 10, 10), np.float32)
    p[1, 1:3, 1:3] = 1  # 4 voxels
    p[1, 6, 1:9] = 1  # 8 voxels in a row
    organ = everywhere(p.shape)
    assert len(extract(p, organ, (1, 1, 1), rule())) == 2
    assert [c.volume_mm3 for c in extract(p, organ, (1, 1, 1), rule(min_volume_mm3=5))] == [8]
    assert [c.volume_mm3 for c in extract(p, organ, (1, 1, 1), rule(min_diameter_mm=5))] == [8]
    assert extract(p * 0.4, organ, (1, 1, 1), rule()) == ()


def test_share_inside_the_organ() -> None:
    p = np.zeros((1, 1, 10), np.float32)
    p[0, 0, 2:6] = 1
    organ = np.zeros(p.shape, dtype=bool)
    organ[0, 0, :3] = True
    assert extract(p, organ, (1, 1, 1), rule())[0].inside_share == 0.25


@pytest.mark.parametrize("diameter_mm", [6.0, 11.0, 20.0, 33.0])
def test_the_diameter_of_a_ball_is_its_diameter(diameter_mm: float) -> None:
    spacing = (2.5, 0.8, 0.8)
    z, y, x = np.ogrid[0:30, 0:60, 0:60]
    squared = ((z - 15) * 2.5) ** 2 + ((y - 30) * 0.8) ** 2 + ((x - 30) * 0.8) ** 2
    measured = longest_axial_diameter(squared <= (diameter_mm / 2) ** 2, spacing[1:])
    assert measured == pytest.approx(diameter_mm, abs=1.2)


def test_the_diameter_is_the_longest_in_any_direction_of_any_slice() -> None:
    mask = np.zeros((3, 40, 40), dtype=bool)
    mask[0, 5, 5] = True
    mask[2, np.arange(31), np.arange(31)] = True
    assert longest_axial_diameter(mask, (1, 1)) == pytest.approx(30 * np.sqrt(2) + 1)
    assert longest_axial_diameter(np.zeros((2, 3, 3), dtype=bool), (1, 1)) == 0


def test_the_shortcut_over_rows_agrees_with_all_pairs() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        mask = rng.random((1, 12, 12)) < 0.15
        if not mask.any():
            continue
        points = np.argwhere(mask[0]) * (1.3, 0.7)
        longest = np.sqrt(((points[:, None] - points) ** 2).sum(-1)).max()
        assert longest_axial_diameter(mask, (1.3, 0.7)) == pytest.approx(longest + 1.0)
