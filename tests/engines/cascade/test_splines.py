"""Resampling by bands of matrices gives what SciPy gives for the whole volume, called as nnU-Net calls it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from core.volume import Index, Vector
from engines.cascade.splines import Zoom, lone_axis, operator, zoom_image, zoomed_shape

sizes = st.integers(1, 40)
shapes = st.tuples(sizes, sizes, sizes)
small = st.integers(2, 30)
spacing = st.sampled_from([0.33, 0.7, 0.9765625, 1.0, 1.5, 2.5, 3.0, 5.0, 8.0])
spacings = st.tuples(spacing, spacing, spacing)


def resize(image: npt.NDArray[np.float64], shape: tuple[int, ...], order: int) -> npt.NDArray[np.float64]:
    """scikit-image 0.26 `resize(image, shape, order, mode="edge", anti_aliasing=False)`, in its own steps."""
    factors = np.divide(image.shape, shape)
    out = ndimage.zoom(image, [1 / f for f in factors], order=order, mode="nearest", grid_mode=True)
    assert out.shape == tuple(shape)
    return np.clip(out, image.min(), image.max()) if order > 0 else out


def nnunet(image: npt.NDArray[np.float64], zoom: Zoom) -> npt.NDArray[np.float64]:
    """nnunetv2 2.8.1 `resample_data_or_seg` for one channel, in its own steps and in float64."""
    if zoom.source == zoom.target:
        return image
    if zoom.lone is None:
        return resize(image, zoom.target, zoom.order)
    plane = tuple(n for axis, n in enumerate(zoom.target) if axis != zoom.lone)
    slices = [resize(piece, plane, zoom.order) for piece in np.moveaxis(image, zoom.lone, 0)]
    resized = np.stack(slices, axis=zoom.lone)
    if resized.shape == zoom.target:
        return resized
    scale = np.divide(resized.shape, zoom.target)[:, None, None, None]
    coordinates = scale * (np.mgrid[: zoom.target[0], : zoom.target[1], : zoom.target[2]] + 0.5) - 0.5
    return np.asarray(ndimage.map_coordinates(resized, coordinates, order=zoom.lone_order, mode="nearest"))


def an_image(shape: Index, seed: int) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=shape)


@settings(max_examples=60)
@given(shape=shapes, target=shapes, order=st.sampled_from([0, 1, 3]), seed=st.integers(0, 99))
def test_all_axes_at_once_equal_scipys_zoom(shape: Index, target: Index, order: int, seed: int) -> None:
    image, zoom = an_image(shape, seed), Zoom(shape, target, order)
    np.testing.assert_allclose(zoom_image(image, zoom), nnunet(image, zoom), atol=1e-5)


@settings(max_examples=60)
@given(
    shape=st.tuples(small, small, small),
    target=st.tuples(small, small, small),
    lone=st.integers(0, 2),
    lone_order=st.integers(0, 1),
    seed=st.integers(0, 99),
)
def test_a_lone_axis_equals_nnunets_separate_z(
    shape: Index, target: Index, lone: int, lone_order: int, seed: int
) -> None:
    image, zoom = an_image(shape, seed), Zoom(shape, target, 3, lone, lone_order)
    np.testing.assert_allclose(zoom_image(image, zoom), nnunet(image, zoom), atol=1e-5)


@pytest.mark.parametrize("lone", [None, 0, 2])
def test_many_slabs_of_an_int16_scan_with_clipping(lone: int | None) -> None:
    shape, target = ((90, 70, 80), (61, 45, 130)) if lone is None else ((70, 41, 70), (150, 60, 30))
    hu = np.random.default_rng(1).integers(-1024, 3000, shape, dtype=np.int16)
    zoom = Zoom(shape, target, 3, lone)
    expected = nnunet(np.clip(hu.astype(np.float64), -900, 300), zoom)
    np.testing.assert_allclose(zoom_image(hu, zoom, clip=(-900, 300)), expected, atol=5e-3)


def test_results_stay_within_the_range_of_what_was_resized() -> None:
    step = np.zeros((20, 20, 20), dtype=np.int16)
    step[10:] = 1000
    result = zoom_image(step, Zoom(step.shape, (33, 20, 20), 3))
    assert (result.min(), result.max()) == (0, 1000)  # the bare spline overshoots by about 80


@settings(max_examples=30)
@given(shape=st.tuples(small, small, small), target=st.tuples(small, small, small), data=st.data())
def test_a_box_is_that_part_of_the_whole(shape: Index, target: Index, data: st.DataObject) -> None:
    low = tuple(data.draw(st.integers(0, n - 1)) for n in target)
    high = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(low, target, strict=True))
    image, zoom = an_image(shape, 0), Zoom(shape, target, 3)
    whole = zoom_image(image, zoom)
    box = zoom_image(image, zoom, box=((low[0], low[1], low[2]), (high[0], high[1], high[2])))
    np.testing.assert_allclose(box, whole[tuple(map(slice, low, high))], atol=1e-5)


def test_strides_do_not_matter_and_a_repeat_is_the_same_to_the_last_bit() -> None:
    image = an_image((25, 30, 35), 3).astype(np.float32)
    view, zoom = image[::-1].transpose(2, 0, 1), Zoom((35, 25, 30), (20, 40, 31), 3)
    first = zoom_image(view, zoom)
    np.testing.assert_array_equal(first, zoom_image(view, zoom))
    np.testing.assert_array_equal(first, zoom_image(np.ascontiguousarray(view), zoom))


@given(n=sizes, m=sizes, order=st.sampled_from([1, 3]))
def test_constants_are_kept(n: int, m: int, order: int) -> None:
    np.testing.assert_allclose(operator(n, m, order, "zoom").sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("current", "new", "separate", "expected"),
    [
        ((5, 1, 1), (1, 1, 1), "auto", 0),
        ((1, 1, 1), (1, 1, 4), "auto", 2),
        ((3, 1, 1), (1, 1, 1), "auto", None),  # not more than three times as coarse
        ((0.24, 1.25, 1.25), (1, 1, 1), "auto", None),  # two axes are equally coarse
        ((2, 1, 1), (1, 1, 1), "always", 0),
        ((1, 1, 1), (1, 1, 1), "always", None),
        ((9, 1, 1), (1, 1, 1), "never", None),
        ((4, 1, 1), (1, 4, 1), "auto", 0),  # the current grid is asked first
    ],
)
def test_which_axis_is_resampled_by_itself(current: Vector, new: Vector, separate: str, expected: int | None) -> None:
    assert lone_axis(current, new, separate) == expected  # type: ignore[arg-type]


@given(shape=shapes, source=spacings, target=spacings)
def test_the_extent_is_kept_to_half_a_voxel(shape: Index, source: Vector, target: Vector) -> None:
    for n, m, s, t in zip(shape, zoomed_shape(shape, source, target), source, target, strict=True):
        assert abs(n * s - m * t) <= t / 2 + 1e-9


def test_what_raises_between_slabs_ends_the_work() -> None:
    with pytest.raises(KeyboardInterrupt):
        zoom_image(np.zeros((9, 9, 9), np.int16), Zoom((9, 9, 9), (5, 5, 5), 3), check=_stop)


def _stop() -> None:
    raise KeyboardInterrupt
