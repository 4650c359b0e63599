"""Streamed labels are those of full-size logits that SciPy interpolated."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from core.errors import EngineError
from core.volume import Index
from engines.cascade.labelmaps import Decision, LabelStream, Regions, Softmax, zoom_labels
from engines.cascade.splines import Zoom, zoom_image

sizes = st.integers(1, 24)
shapes = st.tuples(sizes, sizes, sizes)
_CLOSE = 1e-4
"""Logits that differ by less may be told apart either way: float32 here, float64 there."""


def some_logits(shape: Index, channels: int, seed: int, smooth: float) -> npt.NDArray[np.float32]:
    noise = np.random.default_rng(seed).normal(size=(channels, *shape))
    smoothed = ndimage.gaussian_filter(noise, (0, smooth, smooth, smooth))
    return np.asarray(smoothed / smoothed.std(), dtype=np.float32)


def full_size(logits: npt.NDArray[np.float32], zoom: Zoom) -> npt.NDArray[np.float32]:
    return np.stack([zoom_image(channel, zoom) for channel in logits])


def streamed(logits: npt.NDArray[np.float32], zoom: Zoom, decision: Decision, rows: int) -> npt.NDArray[np.uint8]:
    out = np.full(zoom.target, 255, dtype=np.uint8)
    stream = LabelStream(zoom, decision, out)
    for begin in range(0, zoom.source[0], rows):
        piece = logits[:, begin : begin + rows].copy()
        stream.push(piece)
        piece[:] = np.nan  # whoever fills a ring does that with its next rows
    stream.finish()
    return out


@settings(max_examples=60)
@given(
    shape=shapes,
    target=shapes,
    channels=st.integers(2, 5),
    seed=st.integers(0, 99),
    smooth=st.sampled_from([0.0, 2.0]),
    lone=st.sampled_from([None, 0, 1, 2]),
    rows=st.integers(1, 7),
)
def test_softmax_labels_equal_the_argmax_of_full_size_logits(
    shape: Index, target: Index, channels: int, seed: int, smooth: float, lone: int | None, rows: int
) -> None:
    logits, zoom = some_logits(shape, channels, seed, smooth), Zoom(shape, target, 1, lone)
    expected = full_size(logits, zoom)
    got = streamed(logits, zoom, Softmax(), rows)
    chosen = np.take_along_axis(expected, got[None].astype(np.int64), axis=0)[0]
    assert (chosen >= expected.max(axis=0) - _CLOSE).all()
    clear = np.sort(expected, axis=0)[-1] - np.sort(expected, axis=0)[-2] > _CLOSE
    np.testing.assert_array_equal(got[clear], expected.argmax(axis=0)[clear])


@settings(max_examples=40)
@given(
    shape=shapes,
    target=shapes,
    order=st.permutations([1, 2, 3]),
    seed=st.integers(0, 99),
    smooth=st.sampled_from([0.0, 2.0]),
)
def test_regions_are_written_in_their_order(
    shape: Index, target: Index, order: list[int], seed: int, smooth: float
) -> None:
    logits, zoom = some_logits(shape, 3, seed, smooth), Zoom(shape, target, 1)
    full = full_size(logits, zoom)
    expected = np.zeros(target, dtype=np.uint8)
    for channel, value in enumerate(order):
        expected[full[channel] > 0] = value
    clear = (np.abs(full) > _CLOSE).all(axis=0)
    np.testing.assert_array_equal(streamed(logits, zoom, Regions(tuple(order)), 3)[clear], expected[clear])


def test_equal_logits_go_to_the_first_class() -> None:
    zoom = Zoom((4, 4, 4), (7, 7, 7), 1)
    for channels in (2, 3):
        assert not streamed(np.ones((channels, 4, 4, 4), np.float32), zoom, Softmax(), 2).any()


def test_a_second_best_everywhere_may_win_in_between() -> None:
    logits = np.array([[9, 0], [0, 9], [8, 8]], np.float32).reshape(3, 2, 1, 1)
    assert 2 in streamed(logits, Zoom((2, 1, 1), (9, 1, 1), 1), Softmax(), 1)


def test_out_may_be_a_reversed_and_transposed_view() -> None:
    logits, zoom = some_logits((9, 8, 7), 3, 0, 1.0), Zoom((9, 8, 7), (12, 15, 10), 1)
    source = np.zeros((15, 10, 12), np.uint8)
    stream = LabelStream(zoom, Softmax(), source.transpose(2, 0, 1)[::-1])
    stream.push(logits)
    stream.finish()
    np.testing.assert_array_equal(source.transpose(2, 0, 1)[::-1], streamed(logits, zoom, Softmax(), 4))


def test_missing_rows_are_an_error_not_background() -> None:
    stream = LabelStream(Zoom((4, 2, 2), (8, 2, 2), 1), Softmax(), np.zeros((8, 2, 2), np.uint8))
    stream.push(np.zeros((2, 3, 2, 2), np.float32))
    with pytest.raises(EngineError, match="3 of 4 rows"):
        stream.finish()


def shares(labels: npt.NDArray[np.uint8], zoom: Zoom) -> npt.NDArray[np.float32]:
    return np.stack([zoom_image((labels == value).astype(np.float32), zoom) for value in range(4)])


@settings(max_examples=60)
@given(shape=shapes, target=shapes, lone=st.sampled_from([None, 0, 2]), seed=st.integers(0, 99))
def test_a_label_maps_voxel_takes_the_label_with_the_largest_share(
    shape: Index, target: Index, lone: int | None, seed: int
) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1)
    labels = np.digitize(noise, np.quantile(noise, [0.25, 0.5, 0.75])).astype(np.uint8)
    zoom = Zoom(shape, target, 1, lone)
    got, expected = zoom_labels(labels, zoom), shares(labels, zoom)
    chosen = np.take_along_axis(expected, got[None].astype(np.int64), axis=0)[0]
    assert (chosen >= expected.max(axis=0) - _CLOSE).all()


def test_of_equal_shares_the_nearest_voxel_decides() -> None:
    labels = np.array([2, 1], np.uint8).reshape(2, 1, 1)
    zoom = Zoom((2, 1, 1), (3, 1, 1), 1)  # the middle voxel is half of each
    nearest = ndimage.zoom(labels.astype(float), (1.5, 1, 1), order=0, mode="nearest", grid_mode=True)
    np.testing.assert_array_equal(zoom_labels(labels, zoom), nearest)
