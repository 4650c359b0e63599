"""Key images: the outline is where the lesion is, letters and words say what they should."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from appliance.reporting.drawing import BANNER_PX, GAP_PX, SLICE_PX, Scene, draw, orientation_letters
from core.volume import Geometry

RED = (255, 92, 72)


@pytest.fixture
def scene() -> Scene:
    outline = np.zeros((100, 100), bool)
    outline[20:30, 70:80] = True
    return Scene(
        hu=np.full((100, 100), 40, np.int16),
        outline=outline,
        centre=(24.5, 74.5),
        window=(40.0, 400.0),
        spacing_mm=(1.0, 1.0),
        letters=("R", "L", "A", "P"),
        colour=RED,
        caution="RESEARCH ONLY",
        title="Lung cancer",
        verdict="POSITIVE",
        lines=("one",),
        foot="foot",
    )


def test_outline_surrounds_the_lesion(scene: Scene) -> None:
    pixels = draw(scene)
    view = pixels[BANNER_PX + GAP_PX :, GAP_PX : GAP_PX + SLICE_PX][:SLICE_PX]
    rows, columns = np.nonzero((view == RED).all(axis=2))
    scale = SLICE_PX / 100
    assert rows.min() == pytest.approx(20 * scale, abs=4)
    assert rows.max() == pytest.approx(30 * scale, abs=4)
    assert columns.min() == pytest.approx(70 * scale, abs=4)
    assert columns.max() == pytest.approx(80 * scale, abs=4)


def test_pixels_that_are_not_square_are_drawn_to_scale(scene: Scene) -> None:
    pixels = draw(dataclasses.replace(scene, spacing_mm=(2.0, 1.0)))
    view = pixels[BANNER_PX + GAP_PX :, GAP_PX : GAP_PX + SLICE_PX][:SLICE_PX]
    rows, columns = np.nonzero((view == RED).all(axis=2))
    assert np.ptp(rows) == pytest.approx(2 * np.ptp(columns), rel=0.15)


def test_lesion_at_the_edge_and_without_voxels_can_be_drawn(scene: Scene) -> None:
    for centre in ((0.0, 0.0), (99.0, 99.0)):
        empty = np.zeros((100, 100), bool)
        assert draw(dataclasses.replace(scene, outline=empty, centre=centre)).shape == draw(scene).shape


@pytest.mark.parametrize(
    ("y", "x", "letters"),
    [
        ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0), ("R", "L", "A", "P")),
        ((0.0, -1.0, 0.0), (-1.0, 0.0, 0.0), ("L", "R", "P", "A")),
        ((0.0, 0.0, -1.0), (0.0, 1.0, 0.0), ("A", "P", "H", "F")),
    ],
)
def test_letters_name_the_patients_sides(
    y: tuple[float, float, float], x: tuple[float, float, float], letters: tuple[str, str, str, str]
) -> None:
    geometry = Geometry((1, 2, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), ((0.0, 0.0, 1.0), y, x))
    assert orientation_letters(geometry) == letters
