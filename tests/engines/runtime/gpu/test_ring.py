"""A pass on the device gives what the NumPy cascade gives, in whatever order streams do their work."""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest

from core.errors import DeviceLost, EngineError
from engines.cascade.tiles import tiles
from engines.runtime.host import activated
from engines.runtime.ring import Activation, DevicePass, Window, region_of
from tests.engines.runtime import networks
from tests.engines.runtime.gpu.simulator import SimulatedDevice, SimulatedExecution

AIR = -10.24  # -1024 HU, normalised as the tiny networks expect it: HU / 100
SIZE = (8, 8, 8)


def image(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(3).normal(size=(1, 1, *shape)).astype(np.float32)


def padded(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A network's input: the image, and air beyond its far ends."""
    result = np.full((1, 1, *SIZE), AIR, dtype=np.float32)
    z, y, x = image.shape
    result[0, 0, :z, :y, :x] = image
    return result


def reference(
    content: bytes,
    x: npt.NDArray[np.float32],
    overlap: float,
    activation: Activation,
    mirrors: list[tuple[int, int, int]],
) -> npt.NDArray[np.float32]:
    """The cascade's way: padded tiles, mirrored runs, weights of `engines.cascade.tiles`, all in NumPy."""
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    channels = session.get_outputs()[0].shape[1]
    result = np.zeros((channels, *x.shape[2:]), np.float32)
    for tile in tiles(x.shape[2:], SIZE, overlap):
        inside = tuple(slice(0, b - a) for a, b in zip(tile.start, tile.stop, strict=True))
        for flips in mirrors:
            axes = tuple(2 + axis for axis, flip in enumerate(flips) if flip)
            given = np.ascontiguousarray(np.flip(padded(x[0, 0][tile.where]), axes))
            logits = np.flip(session.run(["logits"], {"image": given})[0], axes)
            if activation == "none":
                part = logits[0]
            else:
                part = activated(logits[0], activation)
            along_z, along_y, along_x = tile.weights
            part = part[(slice(None), *inside)] * np.float32(1 / len(mirrors))
            result[(slice(None), *tile.where)] += part * along_z[:, None, None] * (along_y[:, None] * along_x)
    return result


def run(
    device: SimulatedDevice,
    content: bytes,
    x: npt.NDArray[np.float32],
    overlap: float,
    activation: Activation = "none",
    mirrors: list[tuple[int, int, int]] | None = None,
    **changes: float,
) -> npt.NDArray[np.float32]:
    mirrors = mirrors or [(0, 0, 0)]
    window = Window(SIZE, (AIR,), activation=activation, runs=len(mirrors))
    sliding = DevicePass(device, [SimulatedExecution(device, content, **changes)], region_of(device, x), window)
    parts, taken = [], 0
    for tile in tiles(x.shape[2:], SIZE, overlap):
        if tile.start[0] > taken:
            parts.append(sliding.take(tile.start[0]))
            taken = tile.start[0]
        for flips in mirrors:
            sliding.add(tile, flips)
    parts.append(sliding.take(x.shape[2]))
    device.check()
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("activation", ["none", "softmax", "sigmoid"])
@pytest.mark.parametrize("shape", [(20, 13, 10), (5, 6, 7), (8, 8, 8)], ids=str)
def test_a_pass_blends_as_the_cascade_does(
    device: SimulatedDevice, shape: tuple[int, int, int], activation: Activation
) -> None:
    content, x = networks.smoothing(), image(*shape)
    expected = reference(content, x, 0.5, activation, [(0, 0, 0)])
    np.testing.assert_allclose(run(device, content, x, 0.5, activation), expected, rtol=2e-6, atol=2e-6)


def test_logits_are_blended_to_the_very_bits_of_numpy(device: SimulatedDevice) -> None:
    x = image(20, 9, 10)
    expected = reference(networks.smoothing(), x, 0.5, "none", [(0, 0, 0)])
    assert run(device, networks.smoothing(), x, 0.5).tobytes() == expected.tobytes()


def test_mirrored_runs_are_undone_and_averaged(device: SimulatedDevice) -> None:
    lopsided, x = networks.smoothing((0.7, 0.2, 0.1)), image(11, 8, 6)
    mirrors = list(product((0, 1), repeat=3))
    expected = reference(lopsided, x, 0.25, "softmax", mirrors)
    np.testing.assert_allclose(run(device, lopsided, x, 0.25, "softmax", mirrors), expected, rtol=1e-5, atol=1e-6)


def test_folds_are_averaged(device: SimulatedDevice) -> None:
    x, contents = image(12, 8, 8), [networks.smoothing(), networks.smoothing((0.7, 0.2, 0.1))]
    executions = [
        SimulatedExecution(device, content, scratch) for content, scratch in zip(contents, (64, 640), strict=True)
    ]
    sliding = DevicePass(device, executions, region_of(device, x), Window(SIZE, (AIR,), runs=2))
    parts = []
    for tile in tiles((12, 8, 8), SIZE, 0.5):
        if tile.start[0] > sliding.dropped:
            parts.append(sliding.take(tile.start[0]))
        sliding.add(tile)
    parts.append(sliding.take(12))
    expected = np.mean([reference(content, x, 0.5, "none", [(0, 0, 0)]) for content in contents], axis=0)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, rtol=1e-5, atol=1e-6)


def test_a_small_region_can_lie_in_the_middle_of_the_tile(device: SimulatedDevice) -> None:
    x, content = image(5, 8, 3), networks.smoothing((0.7, 0.2, 0.1))
    sliding = DevicePass(
        device, [SimulatedExecution(device, content)], region_of(device, x), Window(SIZE, (0.0,), centred=True)
    )
    (tile,) = tiles((5, 8, 3), SIZE, 0.5)
    sliding.add(tile)
    given = np.zeros((1, 1, *SIZE), np.float32)
    given[0, 0, 1:6, :, 2:5] = x[0, 0]
    logits = ort.InferenceSession(content).run(["logits"], {"image": given})[0][0]
    np.testing.assert_allclose(sliding.take(5), logits[:, 1:6, :, 2:5], rtol=1e-5, atol=1e-6)


def test_a_tile_that_needs_many_slabs_waits_for_all_of_them(device: SimulatedDevice) -> None:
    x, content = image(70, 4, 5), networks.smoothing()
    sliding = DevicePass(
        device, [SimulatedExecution(device, content)], region_of(device, x), Window((70, 4, 5), (AIR,))
    )
    sliding.add(next(tiles((70, 4, 5), (70, 4, 5), 0.5)))
    expected = ort.InferenceSession(content).run(["logits"], {"image": x})[0][0]
    np.testing.assert_allclose(sliding.take(70), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("written", [0.0, 0.5, 0.999])
def test_an_output_that_the_network_did_not_write_in_full_is_a_failure(device: SimulatedDevice, written: float) -> None:
    with pytest.raises(EngineError, match="not written in full"):
        run(device, networks.smoothing(), image(20, 8, 8), 0.5, written=written)


def test_what_an_earlier_tile_left_in_the_buffer_is_not_taken_for_an_output(device: SimulatedDevice) -> None:
    with pytest.raises(EngineError, match="not written in full"):
        run(device, networks.smoothing(), image(20, 8, 8), 0.0, written=0.0, good=2)


def test_an_output_of_zeros_or_nans_is_a_failure_even_on_one_tile_of_many(device: SimulatedDevice) -> None:
    with pytest.raises(EngineError, match="zero throughout"):
        run(device, networks.zeros(), image(8, 8, 8), 0.5)
    x = np.abs(image(24, 8, 8)) + 1
    x[0, 0, 20, 3, 3] = -1  # its logarithm is no number; only the last tile sees it
    with pytest.raises(EngineError, match="NaN"):
        run(device, networks.logarithms(), x, 0.0)


def test_a_run_that_the_library_refuses_is_a_failure(device: SimulatedDevice) -> None:
    x = image(8, 8, 8)
    execution = SimulatedExecution(device, networks.smoothing())
    sliding = DevicePass(device, [execution], region_of(device, x), Window(SIZE, (AIR,)))
    execution.refuse = True
    with pytest.raises(EngineError, match="refused"):
        sliding.add(next(tiles((8, 8, 8), SIZE, 0.5)))


def test_a_lost_gpu_is_said_to_be_lost_and_stays_so(device: SimulatedDevice) -> None:
    x = image(16, 8, 8)
    sliding = DevicePass(
        device, [SimulatedExecution(device, networks.smoothing())], region_of(device, x), Window(SIZE, (AIR,))
    )
    first = next(tiles((16, 8, 8), SIZE, 0.0))
    sliding.add(first)
    device.lost = True
    for action in (lambda: sliding.take(8), lambda: sliding.add(first), lambda: device.allocate(1)):
        with pytest.raises(DeviceLost) as lost:
            action()
    assert "must end" in lost.value.remedy()


def test_a_ring_refuses_what_it_can_not_hold(device: SimulatedDevice) -> None:
    x = image(24, 8, 8)
    sliding = DevicePass(
        device, [SimulatedExecution(device, networks.smoothing())], region_of(device, x), Window(SIZE, (AIR,))
    )
    assert sliding.depth == 8
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
