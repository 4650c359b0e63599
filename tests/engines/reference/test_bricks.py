"""Blocks read out of bricks are those of the volume, wherever they lie, and damage is said, not read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import EngineError
from engines.reference import bricks

SHAPE = (70, 33, 50)
RNG = np.random.Generator(np.random.PCG64(5))
HU = RNG.integers(-1000, 1000, SHAPE).astype(np.int16)
LABELS = RNG.integers(0, 60, SHAPE).astype(np.uint8)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> bricks.Bricks:
    path = tmp_path_factory.mktemp("bricks") / "1.bricks"
    arrays = {"points": np.arange(12, dtype=np.int16).reshape(4, 3), "none": np.zeros((0, 3), np.int16)}
    bricks.write(path, {"hu": HU, "labels": LABELS}, arrays, {"seed": 7})
    return bricks.opened(path)


def test_about_and_arrays_come_back(stored: bricks.Bricks) -> None:
    assert stored.about == {"seed": 7}
    assert stored.shape == SHAPE
    assert np.array_equal(stored.array("points"), np.arange(12).reshape(4, 3))
    assert stored.array("none").shape == (0, 3)


@settings(max_examples=60)
@given(
    low=st.tuples(st.integers(-40, 75), st.integers(-40, 40), st.integers(-40, 60)),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50), st.integers(1, 50)),
)
def test_any_block_is_that_of_the_volume_and_filled_beyond_it(
    stored: bricks.Bricks, low: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    block = stored.read(low, size, {"hu": -1000})
    padding = [(60, 120)] * 3
    for name, volume, fill in (("hu", HU, -1000), ("labels", LABELS, 0)):
        padded = np.pad(volume, padding, constant_values=fill)
        expected = padded[tuple(slice(a + 60, a + 60 + n) for a, n in zip(low, size, strict=True))]
        assert np.array_equal(block[name], expected)
        assert block[name].dtype == volume.dtype


def test_a_damaged_file_is_named(tmp_path: Path, stored: bricks.Bricks) -> None:
    raw = bytearray(stored.path.read_bytes())
    raw[stored.start + 40] ^= 0xFF
    path = tmp_path / "broken.bricks"
    path.write_bytes(raw)
    with pytest.raises(EngineError, match=r"broken\.bricks is damaged"):
        bricks.opened(path).read((0, 0, 0), SHAPE, {})


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.bricks"
    path.write_bytes(b"something else altogether")
    with pytest.raises(EngineError, match="no file of bricks"):
        bricks.opened(path)


def test_volumes_of_different_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one shape"):
        bricks.write(tmp_path / "x", {"hu": HU, "labels": LABELS[1:]}, {}, {})
