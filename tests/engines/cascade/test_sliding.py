"""A sliding window with mirrored runs, folds and turned axes gives what the sum over all voxels, written out, gives."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from core.errors import EngineError
from engines.cascade.budget import Budget, Watch
from engines.cascade.loaded import LoadedNetwork
from engines.cascade.orientation import axis_order
from engines.cascade.sliding import probabilities, slide
from engines.cascade.tiles import tiles
from engines.manifest import Network
from engines.runtime import Window
from engines.runtime.host import HostImage, HostPass, activated
from engines.runtime.onnx import OnnxRuntime
from tests.engines.runtime import networks

Float = npt.NDArray[np.float32]
SIZE = (8, 12, 16)
AIR = -10.24


def loaded(folder: Path, *contents: bytes, **changes: Any) -> LoadedNetwork:
    fields = {
        "id": "net",
        "stage": "detect",
        "files": [f"fold-{i}.onnx" for i in range(len(contents))],
        "spacing_mm": [1, 1, 1],
        "intensity": networks.INTENSITY,
        "tiling": {"kind": "patch", "size": SIZE, "overlap": 0.5, **changes.pop("tiling", {})},
        "activation": "softmax",
        "labels": ["background", "lesion"],
        "region": "volume",
        **changes,
    }
    spec, runtime = Network.model_validate(fields), OnnxRuntime(1)
    for name, content in zip(spec.files, contents, strict=True):
        (folder / name).write_bytes(content)
    return LoadedNetwork(spec, tuple(runtime.load(folder / name) for name in spec.files), runtime)


def image(shape: tuple[int, int, int] = (20, 25, 30)) -> Float:
    return np.random.default_rng(5).normal(size=(1, *shape)).astype(np.float32)


def watch() -> Watch:
    return Watch(Budget(), lambda: False)


def slid(network: LoadedNetwork, x: Float, **options: Any) -> Float:
    rows = list(slide(network, HostImage(x), AIR, watch(), **options))
    assert [r.start for r in rows] == list(np.cumsum([0, *(r.values.shape[1] for r in rows)])[:-1])
    return np.concatenate([r.values for r in rows], axis=1)


def written_out(network: LoadedNetwork, x: Float, activation: str) -> Float:
    """Every tile, fold and mirrored run one after the other, into one map of the whole image."""
    tiling = network.spec.tiling
    assert tiling.kind == "patch"
    result = np.zeros((2, *x.shape[1:]))
    mirrorings = list(product(*((0, 1) if axis in network.spec.mirror else (0,) for axis in "zyx")))
    for tile in tiles(x.shape[1:], tiling.size, tiling.overlap, tiling.gaussian, tiling.steps):
        z, y, x_weights = tile.weights
        weights = z[:, None, None] * y[:, None] * x_weights
        for flips in mirrorings:
            axes = tuple(2 + axis for axis, flip in enumerate(flips) if flip)
            for fold in network.folds:
                given = np.ascontiguousarray(np.flip(x[(slice(None), *tile.where)][None], axes))
                logits = np.flip(fold.run(given), axes)[0]
                result[(slice(None), *tile.where)] += weights * activated(logits, activation)  # type: ignore[arg-type]
    return result / (len(mirrorings) * len(network.folds))


@pytest.mark.parametrize("blend", ["logits", "probabilities"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mirror": ["x"]},
        {"mirror": ["z", "y", "x"]},
        {"tiling": {"gaussian": False, "overlap": 0.25, "steps": "last_shifted"}},
    ],
    ids=["plain", "one axis", "three axes", "constant weights"],
)
def test_rows_are_the_weighted_mean_over_tiles_folds_and_mirrored_runs(
    tmp_path: Path, blend: str, changes: dict[str, Any]
) -> None:
    network = loaded(tmp_path, networks.shifting(0), networks.smoothing(), blend=blend, **dict(changes))
    x = image()
    expected = written_out(network, x, "none" if blend == "logits" else "softmax")
    np.testing.assert_allclose(slid(network, x), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(20, 25, 30), (8, 12, 16), (5, 12, 40)])
def test_weights_with_a_floor_are_normalised_by_their_sum_as_monai_does(
    tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    tiling = {"floor": 1e-3, "steps": "last_shifted", "pad": "zero_centred"}
    network = loaded(tmp_path, networks.shifting(0), mirror=["y"], blend="logits", tiling=tiling)
    x, size = image(shape), network.spec.tiling.size  # type: ignore[union-attr]
    numerator, denominator = np.zeros((2, *shape)), np.zeros(shape)
    for tile in tiles(shape, size, 0.5, True, "last_shifted", sum_to_one=False):
        edges = [b - a for a, b in zip(tile.start, tile.stop, strict=True)]
        inside = tuple(slice((whole - n) // 2, (whole - n) // 2 + n) for whole, n in zip(size, edges, strict=True))
        bells = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in size]
        weights = np.maximum(bells[0][:, None, None] * bells[1][:, None] * bells[2], 1e-3)[inside]
        given = np.zeros((1, 1, *size), np.float32)
        given[(0, 0, *inside)] = x[(0, *tile.where)]
        for axes in ((), (3,)):
            logits = np.flip(network.folds[0].run(np.ascontiguousarray(np.flip(given, axes))), axes)[0]
            numerator[(slice(None), *tile.where)] += logits[(slice(None), *inside)] * weights
            denominator[tile.where] += weights
    np.testing.assert_allclose(slid(network, x), numerator / denominator, atol=1e-5)


def test_a_floor_is_for_gaussian_weights_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="floor"):
        loaded(tmp_path, networks.smoothing(), tiling={"floor": 1e-3, "gaussian": False})


def test_only_the_channels_that_are_wanted_are_kept(tmp_path: Path) -> None:
    network, x = loaded(tmp_path, networks.smoothing()), image()
    both = slid(network, x)
    np.testing.assert_array_equal(slid(network, x, keep=(1,)), both[1:])
    by_logits = loaded(tmp_path, networks.smoothing(), blend="logits")
    rows = slid(by_logits, x, keep=(1,))
    assert rows.shape == both.shape
    np.testing.assert_allclose(probabilities(by_logits, rows, (1,)), activated(rows, "softmax", (1,)), atol=1e-6)


def test_tiles_that_nobody_wants_are_zero_where_only_they_are(tmp_path: Path) -> None:
    network, x = loaded(tmp_path, networks.smoothing(), tiling={"overlap": 0.0}), image((16, 24, 32))
    full = slid(network, x)
    part = slid(network, x, wanted=lambda tile: tile.start[0] > 0)
    assert not part[:, :8].any()
    np.testing.assert_array_equal(part[:, 8:], full[:, 8:])
    assert not slid(network, x, wanted=lambda tile: False).any()


@pytest.mark.parametrize("pad", ["air_far", "zero_centred"])
def test_a_small_region_is_surrounded_as_the_manifest_says(tmp_path: Path, pad: str) -> None:
    network, x = loaded(tmp_path, networks.smoothing(), tiling={"pad": pad}, blend="logits"), image((5, 7, 9))
    given = np.full((1, 1, *SIZE), 0.0 if pad == "zero_centred" else AIR, dtype=np.float32)
    before = [(n - m) // 2 if pad == "zero_centred" else 0 for n, m in zip(SIZE, x.shape[1:], strict=True)]
    where = tuple(slice(b, b + m) for b, m in zip(before, x.shape[1:], strict=True))
    given[(0, 0, *where)] = x[0]
    expected = network.folds[0].run(given)[0][(slice(None), *where)]
    np.testing.assert_allclose(slid(network, x), expected, atol=1e-6)


@pytest.mark.parametrize("letters", ["SPL", "LPS", "RAS", "PIL", "ARI"])
def test_a_network_s_axes_are_a_view_that_can_be_turned_back(letters: str) -> None:
    axes = axis_order(letters)
    canonical = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    view = axes.view(canonical)
    assert np.shares_memory(view, canonical)
    assert view.shape[1:] == axes.from_canonical((3, 4, 5))
    assert axes.to_canonical(axes.from_canonical((3, 4, 5))) == (3, 4, 5)
    start, stop = (0, 1, 1), (2, 2, 3)
    low, high = axes.box_to_canonical((start, stop), (3, 4, 5))
    part = view[(slice(None), *(slice(a, b) for a, b in zip(start, stop, strict=True)))]
    of_canonical = canonical[(slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))]
    np.testing.assert_array_equal(np.sort(part.ravel()), np.sort(of_canonical.ravel()))


def test_a_network_in_other_axes_sees_the_patient_in_them(tmp_path: Path) -> None:
    """Moving by a voxel to Superior is moving along the first axis of SPL and against the last of PLI."""
    x = image()
    canonical = slid(loaded(tmp_path, networks.shifting(0), blend="logits", tiling={"size": [64] * 3}), x)
    axes = axis_order("PLI")
    other = loaded(tmp_path, networks.shifting(2), blend="logits", tiling={"size": [64] * 3})
    turned = np.zeros_like(canonical)
    axes.view(turned)[...] = slid(other, axes.view(x))
    expected = np.zeros_like(canonical[1])
    expected[:-1] = x[0, 1:]  # PLI grows to Inferior: to higher indices of it is to lower ones of S
    np.testing.assert_allclose(turned[1, :-1], expected[:-1], atol=1e-5)
    np.testing.assert_allclose(canonical[1, 1:], x[0, :-1], atol=1e-5)


def test_the_ring_holds_a_tile_s_depth_and_refuses_what_is_not_in_it(tmp_path: Path) -> None:
    network, x = loaded(tmp_path, networks.smoothing()), image((40, 12, 16))
    window = Window(SIZE, 2, (AIR,))
    ring = HostPass(network.folds, x, window)
    assert ring._ring.shape == (2, 8, 12, 16)
    first, *_, last = tiles((40, 12, 16), SIZE, 0.0)
    ring.add(first)
    with pytest.raises(EngineError, match="does not fit"):
        ring.add(last)
    with pytest.raises(EngineError, match="not in the ring"):
        ring.take(9)
    assert ring.take(8).shape == (2, 8, 12, 16)
    with pytest.raises(EngineError, match="does not fit"):
        ring.add(first)


def test_a_map_with_other_channels_than_the_manifest_s_is_refused(tmp_path: Path) -> None:
    network = loaded(tmp_path, networks.bands((0, 1), (1, 2)))
    with pytest.raises(EngineError, match="not a map of 2 channels"):
        slid(network, image())
