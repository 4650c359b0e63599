"""MONAI's Spacing on our grids: its rule of lengths, its voxel centres, whatever way the network's axes run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from engines.cascade.linear import Spaced, spaced_grid, spaced_length
from engines.cascade.orientation import axis_order
from engines.cascade.preprocess import Float, interpolate, resample
from engines.cascade.sampling import Sampler
from engines.manifest import Network
from engines.runtime.onnx import OnnxRuntime

SHAPE, MM = (21, 18, 25), (2.5, 0.8, 0.8)


def expected(array: np.ndarray, source_mm: tuple[float, ...], target_mm: tuple[float, ...]) -> np.ndarray:
    """The definition, by SciPy: sample at j * target / source, edges repeated. Axes as they are."""
    lengths = [spaced_length(n, s, t) for n, s, t in zip(array.shape, source_mm, target_mm, strict=True)]
    at = [np.arange(m) * t / s for m, s, t in zip(lengths, source_mm, target_mm, strict=True)]
    return ndimage.map_coordinates(array.astype(np.float64), np.meshgrid(*at, indexing="ij"), order=1, mode="nearest")


def volume(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(3).integers(-1000, 1000, shape).astype(np.int16)


@pytest.mark.parametrize(
    ("n", "source", "target", "voxels"),
    [(10, 1.0, 1.0, 10), (10, 1.0, 2.0, 6), (11, 1.0, 2.0, 6), (12, 1.0, 2.0, 6), (14, 1.0, 2.0, 8), (1, 1.0, 3.0, 1)],
)
def test_lengths_are_rounded_halves_to_even(n: int, source: float, target: float, voxels: int) -> None:
    assert spaced_length(n, source, target) == voxels


@pytest.mark.parametrize("axes", ["SPL", "RAS", "LPS", "LAS", "IAR", "SAR"])
@pytest.mark.parametrize("target_mm", [(1.5, 1.5, 2.0), (0.7, 0.9, 0.6), (4.0, 3.0, 5.0)])
def test_every_axis_order_gives_what_resampling_in_that_order_gives(axes: str, target_mm: tuple[float, ...]) -> None:
    hu, order = volume(), axis_order(axes)
    own_mm = order.from_canonical(MM)
    grid = spaced_grid(SHAPE, MM, order.to_canonical(target_mm), order)
    ours = order.view(resample(hu, grid, grid.whole))
    np.testing.assert_allclose(ours, expected(order.view(hu), own_mm, target_mm), atol=2e-3)


def test_a_box_is_cut_out_of_the_whole() -> None:
    grid = spaced_grid(SHAPE, MM, (2.0, 1.1, 0.5), axis_order("SPL"))
    whole = resample(volume(), grid, grid.whole)
    part = resample(volume(), grid, ((3, 2, 5), (17, 9, 30)))
    np.testing.assert_allclose(part, whole[3:17, 2:9, 5:30], atol=1e-3)


@given(st.integers(2, 60), st.floats(0.4, 6), st.floats(0.4, 6), st.booleans())
def test_there_and_back_a_ramp_stays_a_ramp_where_both_grids_reach(n: int, s: float, t: float, backwards: bool) -> None:
    order = axis_order("IPL" if backwards else "SPL")
    grid = spaced_grid((n, 2, 2), (s, 1.0, 1.0), (t, 1.0, 1.0), order)
    ramp: Float = np.broadcast_to(np.arange(n, dtype=np.float32)[:, None, None], (n, 2, 2))
    there = resample(ramp, grid, grid.whole)
    back = interpolate(there, *(grid.axis_weights_back(axis, 0, grid.source_shape[axis]) for axis in range(3)))
    first = grid.origin_mm[0] / s + t / (2 * s) - 0.5  # the new grid's first and last centre, in old voxels
    last = first + (grid.shape[0] - 1) * t / s
    reached = (np.arange(n) >= max(first, 0)) & (np.arange(n) <= min(last, n - 1))
    between = reached & (np.arange(n) >= first + t / s) & (np.arange(n) <= last - t / s)
    np.testing.assert_allclose(back[between, 0, 0], np.arange(n)[between], atol=1e-3)


def test_the_sampler_uses_it_where_the_manifest_says_linear() -> None:
    spec = Network.model_validate(
        {
            "id": "net", "stage": "detect", "region": "volume", "files": ["net.onnx"], "spacing_mm": [1.5, 1.5, 2.0],
            "axes": "RAS", "resampling": {"kind": "linear"}, "intensity": {"kind": "none"}, "activation": "softmax",
            "tiling": {"kind": "patch", "size": [16, 16, 16], "overlap": 0.5}, "labels": ["background", "lesion"],
        }
    )  # fmt: skip
    sampler = Sampler(spec, volume(), MM)
    assert isinstance(sampler.grid, Spaced)
    order = axis_order("RAS")
    (image,) = sampler.sample(sampler.grid.whole, OnnxRuntime(1)).image.values()
    np.testing.assert_allclose(
        image, expected(order.view(volume()), order.from_canonical(MM), (1.5, 1.5, 2.0)), atol=2e-3
    )
