"""A pass on the device gives what a pass on the host gives, in whatever order streams do their work."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest

from core.errors import DeviceLost, EngineError
from core.volume import Index
from engines.cascade.orientation import axis_order
from engines.cascade.tiles import tiles
from engines.runtime import Activation, Pass, Tensor, Window, sums
from engines.runtime.host import HostPass
from engines.runtime.images import DeviceImage
from engines.runtime.ring import DevicePass
from tests.engines.runtime import networks
from tests.engines.runtime.gpu.simulator import RealDevice, SimulatedDevice, SimulatedExecution

AIR = -10.24  # -1024 HU, normalised as the tiny networks expect it: HU / 100
SIZE = (8, 8, 8)
PLAIN: tuple[Index, ...] = ((0, 0, 0),)
LOPSIDED = networks.smoothing((0.7, 0.2, 0.1))
FOUR = networks.lines((0, 0.1), (2, -0.1), (-2, 0), (0.5, 0))
"""Four channels: softmax over two is another formula."""


def image(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(3).normal(size=(1, *shape)).astype(np.float32)


class OrtNetwork:
    """ONNX Runtime without any check: what the host's pass runs."""

    def __init__(self, content: bytes) -> None:
        self._session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])

    def prepare(self, shape: Index) -> None:
        pass

    def run(self, image: Tensor) -> Tensor:
        logits: Tensor = self._session.run(["logits"], {"image": image})[0]
        return logits


def slide(
    sliding: Pass,
    shape: Index,
    size: Index,
    overlap: float = 0.5,
    mirrors: Sequence[Index] = PLAIN,
    floor: bool = False,
) -> npt.NDArray[np.float32]:
    """All rows of a pass over a region of `shape`, driven as the cascade drives it."""
    parts, taken = [], 0
    for tile in tiles(shape, size, overlap, sum_to_one=not floor):
        if tile.start[0] > taken:
            parts.append(sliding.take(tile.start[0]))
            taken = tile.start[0]
        for flips in mirrors:
            sliding.add(tile, flips)
    return np.concatenate([*parts, sliding.take(shape[0])], axis=1)


def uploaded(device: SimulatedDevice | RealDevice, x: npt.NDArray[np.float32]) -> DeviceImage:
    """An image (I, Z, Y, X) along a network's axes, in the device's memory."""
    channels, z, y, x_ = x.shape
    result = DeviceImage(device, channels, (z, y, x_), device.stream(), axis_order("SPL"))
    for channel, values in enumerate(x):
        result.set_channel(channel, values)
    return result


def on_device(
    device: SimulatedDevice | RealDevice, x: npt.NDArray[np.float32], window: Window, *contents: bytes, **changes: float
) -> DevicePass:
    executions = [
        SimulatedExecution(device, content, scratch=64 * (i + 1), **changes) for i, content in enumerate(contents)
    ]
    return DevicePass(device, executions, uploaded(device, x), window)


def assert_as_on_the_host(
    device: SimulatedDevice | RealDevice,
    x: npt.NDArray[np.float32],
    window: Window,
    *contents: bytes,
    overlap: float = 0.5,
    mirrors: Sequence[Index] = PLAIN,
    exactly: bool = False,
) -> None:
    shape: Index = (x.shape[1], x.shape[2], x.shape[3])
    host = HostPass([OrtNetwork(content) for content in contents], x, window)
    expected = slide(host, shape, window.size, overlap, mirrors, window.floor > 0)
    got = slide(on_device(device, x, window, *contents), shape, window.size, overlap, mirrors, window.floor > 0)
    device.check()
    if exactly:
        assert got.tobytes() == expected.tobytes()
    else:
        np.testing.assert_allclose(got, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("content", [networks.smoothing(), FOUR], ids=["two", "four"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("shape", [(20, 13, 10), (5, 6, 7)], ids=str)
def test_probabilities_are_blended_as_on_the_host(
    device: SimulatedDevice | RealDevice, shape: Index, activation: Activation, content: bytes
) -> None:
    channels = 4 if content is FOUR else 2
    window = Window(SIZE, channels, (AIR,), activation=activation)
    assert_as_on_the_host(device, image(*shape), window, content)


@pytest.mark.parametrize("shape", [(20, 9, 10), (5, 6, 7), (8, 8, 8)], ids=str)
def test_logits_are_blended_to_the_very_bits_of_numpy(device: SimulatedDevice | RealDevice, shape: Index) -> None:
    assert_as_on_the_host(device, image(*shape), Window(SIZE, 2, (AIR,)), networks.smoothing(), exactly=True)


def test_only_the_channels_that_are_wanted_are_blended(device: SimulatedDevice | RealDevice) -> None:
    window = Window(SIZE, 4, (AIR,), activation="softmax", keep=(3, 1))
    assert_as_on_the_host(device, image(11, 8, 9), window, FOUR)


def test_mirrored_runs_are_undone_and_averaged(device: SimulatedDevice | RealDevice) -> None:
    window = Window(SIZE, 2, (AIR,), activation="softmax", runs=8)
    mirrors = list(product((0, 1), repeat=3))
    assert_as_on_the_host(device, image(11, 8, 6), window, LOPSIDED, overlap=0.25, mirrors=mirrors)


def test_folds_are_averaged(device: SimulatedDevice | RealDevice) -> None:
    contents = (networks.smoothing(), LOPSIDED, networks.smoothing((0.1, 0.1, 0.8)))
    assert_as_on_the_host(device, image(12, 8, 8), Window(SIZE, 2, (AIR,), runs=3), *contents, exactly=True)


@pytest.mark.parametrize("floor", [1e-3, 0.2])
@pytest.mark.parametrize("shape", [(20, 9, 10), (5, 6, 7)], ids=str)
def test_weights_with_a_floor_are_blended_to_the_very_bits_of_numpy(
    device: SimulatedDevice | RealDevice, shape: Index, floor: float
) -> None:
    contents, mirrors = (networks.smoothing(), LOPSIDED), [(0, 0, 0), (0, 1, 1)]
    window = Window(SIZE, 2, (AIR,), runs=4, floor=floor)
    assert_as_on_the_host(device, image(*shape), window, *contents, mirrors=mirrors, exactly=True)


def test_where_no_tile_of_a_weighed_pass_was_run_nothing_is_divided(device: SimulatedDevice | RealDevice) -> None:
    sliding = on_device(device, image(24, 8, 8), Window(SIZE, 2, (AIR,), floor=0.1), LOPSIDED)
    every = list(tiles((24, 8, 8), SIZE, 0.0, sum_to_one=False))
    sliding.add(every[0])
    assert sliding.take(8).any()
    assert not sliding.take(16).any()
    sliding.add(every[2])
    assert np.isfinite(sliding.take(24)).all()


def test_a_small_region_can_lie_in_the_middle_of_the_tile(device: SimulatedDevice | RealDevice) -> None:
    mirrors = [(0, 0, 0), (1, 0, 1)]
    window = Window(SIZE, 2, (0.0,), centred=True, runs=2)
    assert_as_on_the_host(device, image(5, 8, 3), window, LOPSIDED, mirrors=mirrors, exactly=True)


def test_an_image_of_several_channels_with_odd_strides_is_gathered_in_order(
    device: SimulatedDevice | RealDevice,
) -> None:
    x = np.random.default_rng(2).normal(size=(9, 8, 40, 3)).astype(np.float32).transpose(3, 2, 1, 0)[:, ::-1]
    window = Window((16, 8, 8), 2, (AIR, 0.0, 1.0))
    assert_as_on_the_host(device, x, window, networks.channels_summed(3), exactly=True)


def test_rows_that_leave_in_many_parts_are_put_together(
    device: SimulatedDevice | RealDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sums, "_FETCHED", 3 * 2 * 9 * 10 * 4)  # three rows
    assert_as_on_the_host(device, image(20, 9, 10), Window(SIZE, 2, (AIR,)), networks.smoothing(), exactly=True)


def test_the_gpus_own_time_is_told(device: SimulatedDevice | RealDevice) -> None:
    sliding = on_device(device, image(12, 8, 8), Window(SIZE, 2, (AIR,)), LOPSIDED)
    assert not any(sliding.seconds.values())
    slide(sliding, (12, 8, 8), SIZE)
    assert set(sliding.seconds) == {"network", "blend"}
    assert all(seconds > 0 for seconds in sliding.seconds.values())


@pytest.mark.parametrize("written", [0.0, 0.5, 0.999])
def test_an_output_that_the_network_did_not_write_in_full_is_a_failure(
    device: SimulatedDevice | RealDevice, written: float
) -> None:
    sliding = on_device(device, image(20, 8, 8), Window(SIZE, 2, (AIR,)), LOPSIDED, written=written)
    with pytest.raises(EngineError, match="not written in full"):
        slide(sliding, (20, 8, 8), SIZE)


def test_what_an_earlier_tile_left_in_the_buffer_is_not_taken_for_an_output(
    device: SimulatedDevice | RealDevice,
) -> None:
    sliding = on_device(device, image(20, 8, 8), Window(SIZE, 2, (AIR,)), LOPSIDED, written=0.0, good=2)
    with pytest.raises(EngineError, match="not written in full"):
        slide(sliding, (20, 8, 8), SIZE)


def test_an_output_of_zeros_or_nans_is_a_failure_even_on_one_tile_of_many(device: SimulatedDevice | RealDevice) -> None:
    with pytest.raises(EngineError, match="zero throughout"):
        slide(on_device(device, image(8, 8, 8), Window(SIZE, 2, (AIR,)), networks.zeros()), (8, 8, 8), SIZE)
    x = np.abs(image(24, 8, 8)) + 1
    x[0, 20, 3, 3] = -1  # its logarithm is no number; only the last tile sees it
    with pytest.raises(EngineError, match="NaN"):
        slide(on_device(device, x, Window(SIZE, 2, (AIR,)), networks.logarithms()), (24, 8, 8), SIZE, 0.0)


def test_a_run_that_the_library_refuses_is_a_failure(device: SimulatedDevice | RealDevice) -> None:
    execution = SimulatedExecution(device, LOPSIDED)
    sliding = DevicePass(device, [execution], uploaded(device, image(8, 8, 8)), Window(SIZE, 2, (AIR,)))
    execution.refuse = True
    with pytest.raises(EngineError, match="refused"):
        slide(sliding, (8, 8, 8), SIZE)


def test_a_lost_gpu_is_said_to_be_lost_and_stays_so(simulated: SimulatedDevice) -> None:
    sliding = on_device(simulated, image(16, 8, 8), Window(SIZE, 2, (AIR,)), LOPSIDED)
    first = next(tiles((16, 8, 8), SIZE, 0.0))
    sliding.add(first)
    simulated.lost = True
    for action in (lambda: sliding.take(8), lambda: sliding.add(first), lambda: simulated.allocate(1)):
        with pytest.raises(DeviceLost) as lost:
            action()
    assert "must end" in lost.value.remedy()


def test_a_ring_refuses_what_it_can_not_hold(device: SimulatedDevice | RealDevice) -> None:
    sliding = on_device(device, image(24, 8, 8), Window(SIZE, 2, (AIR,)), LOPSIDED)
    assert sliding.sums.depth == 9  # one more for labels, which lie between two slices
    every = list(tiles((24, 8, 8), SIZE, 0.0))
    sliding.add(every[0])
    with pytest.raises(EngineError, match="does not fit"):
        sliding.add(every[1])
    with pytest.raises(EngineError, match="not in a ring"):
        sliding.take(9)
    sliding.take(8)
    sliding.add(every[1])
    with pytest.raises(EngineError, match="does not fit"):
        sliding.add(every[0])


@pytest.mark.parametrize(
    ("window", "contents", "complaint"),
    [
        (Window(SIZE, 3, (AIR,)), [LOPSIDED], "not a map of 3 channels"),
        (Window(SIZE, 2, (AIR, 0.0)), [LOPSIDED], "as many values"),
        (Window(SIZE, 2, (AIR,)), [LOPSIDED, FOUR], "different channels"),
    ],
)
def test_a_window_that_does_not_fit_its_networks_is_refused(
    device: SimulatedDevice | RealDevice, window: Window, contents: list[bytes], complaint: str
) -> None:
    with pytest.raises(EngineError, match=complaint):
        on_device(device, image(8, 8, 8), window, *contents)
