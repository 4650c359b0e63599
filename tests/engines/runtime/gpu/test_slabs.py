"""A scan resampled on the device is what NumPy makes of it, whatever the rule, the box and the network's axes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from core.errors import EngineError
from core.volume import Index
from engines.cascade.intensity import Normaliser, normaliser
from engines.cascade.linear import spaced_grid
from engines.cascade.orientation import Box, axis_order
from engines.cascade.preprocess import Grid
from engines.cascade.resampling import Gridded, Zoomed
from engines.cascade.splines import Zoom
from engines.cascade.tiles import tiles
from engines.manifest.networks import Clip
from engines.runtime import Resampling, Window, slabs
from engines.runtime.host import OnHost
from engines.runtime.images import DeviceImage
from engines.runtime.ring import DevicePass
from tests.engines.runtime import networks
from tests.engines.runtime.gpu.simulator import RealDevice, SimulatedDevice, SimulatedExecution
from tests.engines.runtime.gpu.test_ring import uploaded

CLIP = Clip(clip_low_hu=-160, clip_high_hu=240, mean_hu=37.5, std_hu=81.25)
SPL = axis_order("SPL")


def hu(*shape: int) -> npt.NDArray[np.int16]:
    noise = np.random.default_rng(5).integers(-1024, 1500, shape, dtype=np.int16)
    return noise[::-1, :, ::-1]  # a canonical view of a scan has negative strides


def gridded(
    shape: Index, source_mm: tuple[float, ...], target_mm: tuple[float, ...], box: Box | None = None
) -> Gridded:
    grid = Grid(shape, source_mm, target_mm)  # type: ignore[arg-type]
    return Gridded(hu(*shape), grid, box or grid.whole)


def spaced(axes: str, target_mm: tuple[float, float, float]) -> Gridded:
    grid = spaced_grid((40, 30, 20), (1.5, 1.0, 0.8), target_mm, axis_order(axes))
    return Gridded(hu(40, 30, 20), grid, grid.whole)


def zoomed(source: Index, target: Index, lone: int | None, box: Box | None = None, lone_order: int = 0) -> Zoomed:
    return Zoomed(hu(*source), Zoom(source, target, 3, lone, lone_order), box or ((0, 0, 0), target), (-700.5, 800.25))


CASES: dict[str, Callable[[], Resampling]] = {
    "coarser": lambda: gridded((100, 24, 20), (1.0, 0.8, 0.8), (3.0, 2.0, 2.0)),
    "finer along z and x": lambda: gridded((9, 12, 10), (5.0, 0.8, 0.8), (1.5, 1.5, 0.5)),
    "a box": lambda: gridded((40, 30, 20), (1.5, 1.0, 1.0), (2.0, 2.0, 2.0), ((7, 3, 2), (20, 11, 9))),
    "the same": lambda: gridded((5, 4, 3), (2.0, 2.0, 2.0), (2.0, 2.0, 2.0)),
    "MONAI's": lambda: spaced("RAS", (2.0, 1.1, 0.5)),
    "MONAI's, whole slabs unused": lambda: spaced("SPL", (50.0, 1.1, 0.5)),
    "splines": lambda: zoomed((40, 14, 12), (23, 20, 9), None),
    "splines, a box": lambda: zoomed((40, 14, 12), (23, 20, 9), None, ((4, 3, 1), (20, 18, 8))),
    "splines, z by itself": lambda: zoomed((21, 14, 12), (9, 20, 9), 0),
    "splines, x by itself, linear": lambda: zoomed((10, 14, 12), (15, 20, 19), 2, ((2, 3, 4), (14, 18, 15)), 1),
}


@pytest.mark.parametrize("case", CASES)
def test_a_scan_becomes_what_numpy_makes_of_it(device: SimulatedDevice | RealDevice, case: str) -> None:
    scan = CASES[case]()
    expected = OnHost().resample(scan, SPL)
    got = slabs.resample(device, scan, SPL)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got.values(), expected.values(), rtol=1e-5, atol=2e-3)
    for image in (expected, got):
        image.normalise(normaliser(CLIP, lambda: np.empty(0)))
    np.testing.assert_allclose(got.values(), expected.values(), rtol=1e-5, atol=5e-5)
    device.check()


def test_a_spline_does_not_overshoot_where_the_host_s_does_not(device: SimulatedDevice | RealDevice) -> None:
    """Noise of two values: without the limits cubic splines leave their range by a third of it."""
    steps = np.where(hu(18, 14, 12) > 0, np.int16(500), np.int16(-500))
    for lone in (None, 0):
        scan = Zoomed(steps, Zoom((18, 14, 12), (31, 29, 25), 3, lone, 0), ((0, 0, 0), (31, 29, 25)))
        values = slabs.resample(device, scan, SPL).values()
        assert values.min() == -500
        assert values.max() == 500


@pytest.mark.parametrize("axes", ["SPL", "LIP", "RAS", "AIR"])
@pytest.mark.parametrize("case", ["a box", "splines, x by itself, linear"])
def test_a_pass_sees_the_image_along_the_network_s_axes(
    device: SimulatedDevice | RealDevice, axes: str, case: str
) -> None:
    scan, order = CASES[case](), axis_order(axes)
    mask = np.random.default_rng(1).random((2, *slabs.resample(device, scan, SPL).shape[1:]), dtype=np.float32)
    rule = Normaliser((-500.0, 500.0), 10.0, 1 / 300)
    expected, got = OnHost().resample(scan, order, mask), slabs.resample(device, scan, order, mask)
    for image in (expected, got):
        image.normalise(rule)
    assert got.shape == expected.shape
    window = Window((8, 8, 8), 2, (0.5, 0.0, 1.0))
    taken = []
    for image in (got, uploaded(device, expected.values())):
        sliding = DevicePass(device, [SimulatedExecution(device, networks.channels_summed(3))], image, window)
        rows, done = [], 0
        for tile in tiles(got.shape[1:], window.size, 0.5):
            if tile.start[0] > done:
                rows.append(sliding.take(tile.start[0]))
                done = tile.start[0]
            sliding.add(tile)
        taken.append(np.concatenate([*rows, sliding.take(got.shape[1])], axis=1))
    np.testing.assert_allclose(taken[0], taken[1], rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(got.values(), expected.values(), rtol=1e-5, atol=1e-4)


def test_normalising_gives_the_very_bits_of_numpy(device: SimulatedDevice | RealDevice) -> None:
    values = np.linspace(-300, 400, 4 * 5 * 50, dtype=np.float32).reshape(4, 5, 50)
    for rule in (normaliser(CLIP, lambda: values), Normaliser(None, -12.3, 0.07)):
        image, expected = uploaded(device, values[None]), values.copy()
        image.normalise(rule)
        rule.apply(expected)
        assert image.values()[0].tobytes() == expected.tobytes()


def test_a_channel_of_another_shape_is_refused(device: SimulatedDevice | RealDevice) -> None:
    image = DeviceImage(device, 2, (4, 5, 6), device.stream(), SPL)
    with pytest.raises(EngineError, match="a channel of"):
        image.set_channel(1, np.zeros((4, 5, 5), np.float32))


def test_a_cancelled_study_is_noticed_between_slabs(device: SimulatedDevice | RealDevice) -> None:
    asked = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        slabs.resample(device, CASES["coarser"](), SPL, check=check)
    assert len(asked) == 3
