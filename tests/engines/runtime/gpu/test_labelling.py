"""Labels made on the device are the host's, voxel by voxel, in whatever order streams do their work."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest

from core.errors import EngineError
from core.volume import Index
from engines.cascade.labelmaps import Decision, LabelStream, Regions, Softmax
from engines.cascade.splines import Zoom
from engines.cascade.tiles import tiles
from engines.runtime import Activation, Pass, Window, labelling
from engines.runtime.host import HostPass
from tests.engines.runtime import networks
from tests.engines.runtime.gpu.simulator import RealDevice, SimulatedDevice
from tests.engines.runtime.gpu.test_ring import FOUR, LOPSIDED, PLAIN, SIZE, OrtNetwork, on_device

AIR = -10.24
ORDER = (3, 1, 4, 2)


def image(*shape: int) -> npt.NDArray[np.float32]:
    """Noise with a grain: surfaces, and cells whose corners agree."""
    coarse = np.random.default_rng(3).normal(size=(1, *(-(-n // 3) for n in shape))).astype(np.float32)
    grown = coarse.repeat(3, 1).repeat(3, 2).repeat(3, 3)
    return np.ascontiguousarray(grown[:, : shape[0], : shape[1], : shape[2]])


def labelled(
    sliding: Pass,
    zoom: Zoom,
    decision: Decision,
    activation: Activation = "none",
    floor: bool = False,
    mirrors: Sequence[Index] = PLAIN,
) -> npt.NDArray[np.uint8]:
    """A pass over all tiles, labelled as the cascade has it labelled, into a view that is reversed and transposed."""
    a, b, c = zoom.target
    stored: npt.NDArray[np.uint8] = np.full((b, c, a), 99, np.uint8)
    out = stored.transpose(2, 0, 1)[:, ::-1]
    stream, done = LabelStream(zoom, decision, out, activation), 0
    for tile in tiles(zoom.source, SIZE, 0.5, sum_to_one=not floor):
        if tile.start[0] > done:
            done = tile.start[0]
            sliding.label(done, stream)
        for flips in mirrors:
            sliding.add(tile, flips)
    sliding.label(zoom.source[0], stream)
    return out


def assert_as_on_the_host(
    device: SimulatedDevice | RealDevice, zoom: Zoom, decision: Decision, content: bytes, window: Window, **how: object
) -> npt.NDArray[np.uint8]:
    x = image(*zoom.source)
    expected = labelled(HostPass([OrtNetwork(content)], x, window), zoom, decision, **how)  # type: ignore[arg-type]
    got = labelled(on_device(device, x, window, content), zoom, decision, **how)  # type: ignore[arg-type]
    device.check()
    np.testing.assert_array_equal(got, expected)
    assert len(np.unique(got)) > 1
    return got


ZOOMS = {
    "finer": Zoom((20, 13, 10), (37, 20, 27), 1),
    "coarser": Zoom((20, 13, 10), (7, 5, 4), 1),
    "the same": Zoom((20, 13, 10), (20, 13, 10), 1),
    "nearest along z": Zoom((20, 13, 10), (33, 20, 17), 1, 0, 0),
    "smaller than a tile": Zoom((5, 6, 7), (9, 6, 20), 1),
}


@pytest.mark.parametrize("zoom", ZOOMS)
@pytest.mark.parametrize("content", [LOPSIDED, FOUR], ids=["two", "four"])
def test_the_largest_channel_wins_where_it_does_on_the_host(
    device: SimulatedDevice | RealDevice, zoom: str, content: bytes
) -> None:
    channels = 4 if content is FOUR else 2
    got = assert_as_on_the_host(device, ZOOMS[zoom], Softmax(), content, Window(SIZE, channels, (AIR,)))
    assert got.max() == (2 if content is FOUR else 1)


@pytest.mark.parametrize("zoom", ZOOMS)
def test_regions_are_written_over_each_other_as_on_the_host(device: SimulatedDevice | RealDevice, zoom: str) -> None:
    assert_as_on_the_host(device, ZOOMS[zoom], Regions(ORDER), FOUR, Window(SIZE, 4, (AIR,)))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("content", [LOPSIDED, FOUR], ids=["two", "four"])
def test_logits_can_become_probabilities_before_they_are_interpolated(
    device: SimulatedDevice | RealDevice, activation: Activation, content: bytes
) -> None:
    """Thresholds are no round numbers: probabilities agree to within rounding, not in every bit."""
    channels = 4 if content is FOUR else 2
    decision = Softmax() if activation == "softmax" else Regions(ORDER[:channels], 0.517)
    window = Window(SIZE, channels, (AIR,))
    assert_as_on_the_host(device, ZOOMS["finer"], decision, content, window, activation=activation)


def test_weights_with_a_floor_divide_before_rows_are_labelled(device: SimulatedDevice | RealDevice) -> None:
    window = Window(SIZE, 4, (AIR,), activation="softmax", floor=0.1, runs=8)
    mirrors = list(product((0, 1), repeat=3))
    decision = Regions(ORDER, 0.217)
    assert_as_on_the_host(device, ZOOMS["finer"], decision, FOUR, window, floor=True, mirrors=mirrors)


def test_labels_that_leave_in_many_parts_are_put_together(
    device: SimulatedDevice | RealDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at_once in (1, 3):
        monkeypatch.setattr(labelling, "_LABELLED", at_once * 20 * 27)
        assert_as_on_the_host(device, ZOOMS["finer"], Softmax(), FOUR, Window(SIZE, 4, (AIR,)))


def test_an_output_that_can_not_be_trusted_leaves_no_labels_behind(device: SimulatedDevice | RealDevice) -> None:
    x, window = np.abs(image(20, 13, 10)) + 1, Window(SIZE, 2, (1.0,))
    x[0, -1, -1, -1] = -1  # its logarithm is no number; only the very last tile sees it, which no later one settles
    with pytest.raises(EngineError, match="NaN"):
        labelled(on_device(device, x, window, networks.logarithms()), ZOOMS["finer"], Softmax())


def test_regions_for_other_channels_than_the_pass_has_are_refused(device: SimulatedDevice | RealDevice) -> None:
    with pytest.raises(EngineError, match="2 regions for 4 channels"):
        labelled(on_device(device, image(20, 13, 10), Window(SIZE, 4, (AIR,)), FOUR), ZOOMS["finer"], Regions((1, 2)))
