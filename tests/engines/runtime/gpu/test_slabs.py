"""Resampling on the device gives what engines.cascade.preprocess gives."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from core.errors import EngineError
from engines.cascade import preprocess
from engines.cascade.intensity import normaliser
from engines.cascade.preprocess import Grid, interpolate
from engines.cascade.tiles import tiles
from engines.manifest.networks import Clip
from engines.runtime import Window, slabs
from engines.runtime.ring import DevicePass, UploadedRegion
from tests.engines.runtime import networks
from tests.engines.runtime.gpu.simulator import RealDevice, SimulatedDevice, SimulatedExecution

CLIP = Clip(clip_low_hu=-160, clip_high_hu=240, mean_hu=37.5, std_hu=81.25)


def hu(*shape: int) -> npt.NDArray[np.int16]:
    return np.random.default_rng(5).integers(-1024, 1500, shape, dtype=np.int16)


@pytest.mark.parametrize(
    ("shape", "source_mm", "target_mm", "box"),
    [
        ((100, 24, 20), (1.0, 0.8, 0.8), (3.0, 2.0, 2.0), None),  # coarser
        ((9, 12, 10), (5.0, 0.8, 0.8), (1.5, 1.5, 0.5), None),  # finer along z and x
        ((40, 30, 20), (1.5, 1.0, 1.0), (2.0, 2.0, 2.0), ((7, 3, 2), (20, 11, 9))),  # a box of the grid
        ((5, 4, 3), (2.0, 2.0, 2.0), (2.0, 2.0, 2.0), None),  # the same
    ],
)
def test_resampling_a_scan_gives_what_numpy_gives(
    device: SimulatedDevice | RealDevice,
    shape: tuple[int, int, int],
    source_mm: tuple[float, float, float],
    target_mm: tuple[float, float, float],
    box: tuple[tuple[int, int, int], tuple[int, int, int]] | None,
) -> None:
    grid = Grid(shape, source_mm, target_mm)
    box = box or ((0, 0, 0), grid.shape)
    upside_down = hu(*shape)[::-1, :, ::-1]  # a canonical view of a scan has negative strides
    expected = preprocess.resample(upside_down, grid, box)
    weights = [grid.axis_weights(axis, low, high) for axis, (low, high) in enumerate(zip(*box, strict=True))]
    image = slabs.resample(device, upside_down, (weights[0], weights[1], weights[2]))
    np.testing.assert_allclose(image.scan(), expected, rtol=1e-6, atol=1e-4)
    image.normalise(CLIP.clip_low_hu, CLIP.clip_high_hu, CLIP.mean_hu, CLIP.std_hu)
    normaliser(CLIP, lambda: expected).apply(expected)
    np.testing.assert_allclose(image.scan(), expected, rtol=1e-6, atol=1e-5)
    device.check()


def test_normalising_gives_the_very_bits_of_numpy(device: SimulatedDevice | RealDevice) -> None:
    values = np.linspace(-300, 400, 4 * 5 * 50, dtype=np.float32).reshape(4, 5, 50)
    image = slabs.DeviceImage(device, (1, 4, 5, 50), device.stream())
    image.set_channel(0, values)
    image.normalise(CLIP.clip_low_hu, CLIP.clip_high_hu, CLIP.mean_hu, CLIP.std_hu)
    expected = values.copy()
    normaliser(CLIP, lambda: expected).apply(expected)
    assert image.scan().tobytes() == expected.tobytes()


def test_a_scan_resampled_on_the_device_goes_through_a_pass_without_leaving_it(
    device: SimulatedDevice | RealDevice,
) -> None:
    grid = Grid((40, 20, 18), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0))
    source, (z, y, x) = hu(40, 20, 18), grid.shape
    weights = [grid.axis_weights(axis, 0, n) for axis, n in enumerate(grid.shape)]
    image = slabs.resample(device, source, (weights[0], weights[1], weights[2]))
    image.normalise(CLIP.clip_low_hu, CLIP.clip_high_hu, CLIP.mean_hu, CLIP.std_hu)
    host = preprocess.resample(source, grid, ((0, 0, 0), grid.shape))
    normaliser(CLIP, lambda: host).apply(host)
    window = Window((z, y, x), 2, (0.0,))
    taken = []
    for region in (image, UploadedRegion(device, host[None])):
        sliding = DevicePass(device, [SimulatedExecution(device, networks.smoothing())], region, window)
        sliding.add(next(tiles((z, y, x), (z, y, x), 0)))
        taken.append(sliding.take(z))
    np.testing.assert_allclose(taken[0], taken[1], rtol=1e-5, atol=1e-5)


@pytest.fixture
def filled(device: SimulatedDevice | RealDevice) -> tuple[DevicePass, npt.NDArray[np.float32]]:
    """A pass with four channels whose sums are known, and these sums (C, Z, Y, X)."""
    content = networks.lines((0, 0.1), (2, -0.1), (-2, 0), (0.5, 0))
    x = np.random.default_rng(7).normal(size=(1, 12, 7, 9)).astype(np.float32)
    window = Window((12, 7, 9), 4, (0.0,))
    twin = DevicePass(device, [SimulatedExecution(device, content)], UploadedRegion(device, x), window)
    sliding = DevicePass(device, [SimulatedExecution(device, content)], UploadedRegion(device, x), window)
    for each in (twin, sliding):
        each.add(next(tiles((12, 7, 9), (12, 7, 9), 0)))
    return sliding, twin.take(12)


TO_SOURCE = [(2.0, 0.7), (2.0, 3.1), (1.3, 1.3)]
"""mm of the ring's voxels and of the target's: finer, coarser, the same."""


def weights_to(source_mm: float, target_mm: float, begin: int, end: int) -> slabs.Weights:
    return preprocess.axis_weights(12, source_mm, target_mm, begin, end)


@pytest.mark.parametrize(("ring_mm", "target_mm"), TO_SOURCE)
def test_labels_are_those_of_the_largest_resampled_channel(
    device: SimulatedDevice | RealDevice,
    filled: tuple[DevicePass, npt.NDArray[np.float32]],
    ring_mm: float,
    target_mm: float,
) -> None:
    sliding, sums = filled
    counts = [max(1, int(n * ring_mm / target_mm)) for n in sums.shape[1:]]
    along = [
        preprocess.axis_weights(n, ring_mm, target_mm, 0, count)
        for n, count in zip(sums.shape[1:], counts, strict=True)
    ]
    expected = np.stack([interpolate(channel, along[0], along[1], along[2]) for channel in sums])
    got = slabs.labels(sliding, (along[0], along[1], along[2]), device)
    # where two channels are equal to within rounding either may win; elsewhere only the largest
    ordered = np.sort(expected, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-4
    assert clear.mean() > 0.5
    assert len(np.unique(got)) > 2
    np.testing.assert_array_equal(got[clear], expected.argmax(axis=0)[clear])
    np.testing.assert_allclose(
        slabs.peaks(sliding, [1, 3], (along[0], along[1], along[2]), device),
        expected[[1, 3]].max(axis=0),
        rtol=1e-5,
        atol=1e-5,
    )
    device.check()


def test_slabs_of_labels_join_without_a_seam(
    device: SimulatedDevice | RealDevice, filled: tuple[DevicePass, npt.NDArray[np.float32]]
) -> None:
    sliding, _ = filled
    along = [preprocess.axis_weights(n, 2.0, 1.0, 0, 2 * n) for n in (12, 7, 9)]
    at_once = slabs.labels(sliding, (along[0], along[1], along[2]), device)
    parts = []
    for begin in range(0, 24, 5):
        z = along[0][begin : begin + 5]
        sliding.drop(int(z.indices.min()))
        parts.append(slabs.labels(sliding, (z, along[1], along[2]), device))
    np.testing.assert_array_equal(np.concatenate(parts), at_once)


def test_slices_that_left_the_ring_are_not_read(
    device: SimulatedDevice | RealDevice, filled: tuple[DevicePass, npt.NDArray[np.float32]]
) -> None:
    sliding, _ = filled
    along = [preprocess.axis_weights(n, 1.0, 1.0, 0, n) for n in (12, 7, 9)]
    sliding.drop(3)
    with pytest.raises(EngineError, match="not in the ring"):
        slabs.labels(sliding, (along[0], along[1], along[2]), device)
    with pytest.raises(EngineError, match="no channels"):
        slabs.peaks(sliding, [4], (along[0][3:], along[1], along[2]), device)
