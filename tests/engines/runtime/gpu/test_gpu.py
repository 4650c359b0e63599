"""The TensorRT runtime above the library and the device: which plan runs, what is checked, what is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from core.errors import DeviceLost, EngineError
from engines.cascade.tiles import tiles
from engines.runtime import Runtime, Window, kernels
from engines.runtime.gpu import GpuNetwork, TensorRtRuntime
from engines.runtime.plans import Profile, Shelf
from tests.engines.runtime import networks
from tests.engines.runtime.gpu.simulator import SimulatedDevice, SimulatedLibrary
from tests.engines.runtime.gpu.test_ring import uploaded

SHAPE = (8, 9, 10)


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    path = tmp_path / "0123abcd"
    path.write_bytes(networks.smoothing())
    return path


def runtime_with_plan(
    device: SimulatedDevice, blob: Path, profile: Profile, agreed: bool = True, **changes: float
) -> TensorRtRuntime:
    trial = bool(changes.pop("trial", False))
    shelf = Shelf(blob.parent / "plans")
    runtime = TensorRtRuntime(device, SimulatedLibrary(device, **changes), shelf, trial=trial)
    key = runtime.key(blob.read_bytes())
    plan = shelf.save(key, profile, "fp16", blob.read_bytes(), 1)
    if agreed:
        shelf.agree(plan, key, {})
    return runtime


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(1, 1, *shape)).astype(np.float32)


def test_a_network_gives_what_its_plan_computes_at_every_shape_of_its_profile(
    simulated: SimulatedDevice, blob: Path
) -> None:
    runtime: Runtime = runtime_with_plan(simulated, blob, Profile((4, 4, 4), (8, 8, 8), (12, 12, 12)))
    network = runtime.load(blob)
    session = ort.InferenceSession(blob.read_bytes())
    kept = []
    for shape in ((8, 8, 8), (4, 6, 12), (12, 12, 12), (8, 8, 8)):
        x = image(*shape)
        kept.append((network.run(x), session.run(["logits"], {"image": x})[0]))
    for logits, expected in kept:  # compared at the end: a later run must not write into an earlier result
        np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert (runtime.name, runtime.precision) == ("tensorrt", "fp16")
    simulated.check()


def test_a_classifier_gives_its_scores(simulated: SimulatedDevice, blob: Path) -> None:
    blob.write_bytes(networks.mean_in_mask_above(-100))
    network = runtime_with_plan(simulated, blob, Profile.exact(SHAPE)).load(blob)
    x = np.ones((1, 2, *SHAPE), np.float32)
    np.testing.assert_allclose(network.run(x), [[0, 40]], rtol=1e-5)
    with pytest.raises(EngineError, match="takes 2 channels, not 1"):
        network.run(x[:, :1])


def test_a_network_without_a_plan_says_how_to_get_one(simulated: SimulatedDevice, blob: Path) -> None:
    runtime = TensorRtRuntime(simulated, SimulatedLibrary(simulated), Shelf(blob.parent / "plans"))
    with pytest.raises(EngineError, match="there is no plan") as refused:
        runtime.load(blob)
    assert "onescan-engines build" in refused.value.remedy()
    with pytest.raises(EngineError, match="can't read"):
        runtime.load(blob.with_name("nothing"))


def test_a_plan_that_has_not_agreed_runs_only_to_be_compared(simulated: SimulatedDevice, blob: Path) -> None:
    profile = Profile.exact(SHAPE)
    with pytest.raises(EngineError, match="has not agreed"):
        runtime_with_plan(simulated, blob, profile, agreed=False).load(blob)
    trial = runtime_with_plan(simulated, blob, profile, agreed=False, trial=True)
    assert trial.load(blob).run(image(*SHAPE)).shape == (1, 2, *SHAPE)


def test_a_shape_that_no_plan_was_built_for_is_refused_and_says_which_there_are(
    simulated: SimulatedDevice, blob: Path
) -> None:
    network = runtime_with_plan(simulated, blob, Profile.exact(SHAPE)).load(blob)
    with pytest.raises(EngineError, match=r"\(8, 9, 11\).*\(8, 9, 10\) to \(8, 9, 10\)"):
        network.run(image(8, 9, 11))


def test_a_damaged_plan_does_not_reach_the_library(simulated: SimulatedDevice, blob: Path) -> None:
    runtime = runtime_with_plan(simulated, blob, Profile.exact(SHAPE))
    (plan,) = (blob.parent / "plans").glob("*.plan")
    plan.write_bytes(plan.read_bytes()[:-1])
    with pytest.raises(EngineError, match="damaged"):
        runtime.load(blob).run(image(*SHAPE))


@pytest.mark.parametrize("written", [0.0, 0.9])
def test_an_output_not_written_in_full_is_a_failure_also_on_a_buffer_used_before(
    simulated: SimulatedDevice, blob: Path, written: float
) -> None:
    network = runtime_with_plan(simulated, blob, Profile.exact(SHAPE), written=written, good=1).load(blob)
    network.run(image(*SHAPE))
    with pytest.raises(EngineError, match="not written in full"):
        network.run(image(*SHAPE))


def test_a_run_that_is_refused_and_a_gpu_that_is_lost_are_failures(simulated: SimulatedDevice, blob: Path) -> None:
    runtime = runtime_with_plan(simulated, blob, Profile.exact(SHAPE))
    network = runtime.load(blob)
    network.prepare(SHAPE)
    (execution,) = runtime._library.opened  # type: ignore[attr-defined]
    execution.refuse = True
    with pytest.raises(EngineError, match="refused"):
        network.run(image(*SHAPE))
    execution.refuse = False
    network.run(image(*SHAPE))
    simulated.lost = True
    for _ in range(2):
        with pytest.raises(DeviceLost):
            network.run(image(*SHAPE))


def test_networks_share_scratch_memory_that_grows_to_the_largest_need(simulated: SimulatedDevice, blob: Path) -> None:
    runtime = TensorRtRuntime(simulated, SimulatedLibrary(simulated), Shelf(blob.parent))
    small = runtime.scratch(100)
    assert runtime.scratch(50) is small
    assert runtime.scratch(1000).nbytes == 1000
    with pytest.raises(EngineError, match=r"no .* memory"):
        runtime.scratch(1 << 40)


def test_a_plan_opens_once_whatever_the_shapes(simulated: SimulatedDevice, blob: Path) -> None:
    runtime = runtime_with_plan(simulated, blob, Profile((4, 4, 4), (8, 8, 8), (12, 12, 12)))
    network = runtime.load(blob)
    for shape in ((8, 8, 8), (4, 6, 12), (8, 8, 8)):
        network.run(image(*shape))
    assert len(runtime._library.opened) == 1  # type: ignore[attr-defined]


def test_a_pass_over_networks_of_the_runtime_uses_their_plans(
    simulated: SimulatedDevice, blob: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = runtime_with_plan(simulated, blob, Profile.exact((8, 8, 8)))
    monkeypatch.setattr(kernels, "compiled", lambda folder, architecture: f"{folder.name} {architecture}".encode())
    ensemble: list[GpuNetwork] = [runtime.load(blob), runtime.load(blob)]
    x = image(8, 8, 8)
    for _ in range(2):
        sliding = runtime.open_pass(ensemble, uploaded(simulated, x[0]), Window((8, 8, 8), 2, (0.0,), runs=2))
        sliding.add(next(tiles((8, 8, 8), (8, 8, 8), 0)))
        np.testing.assert_allclose(sliding.take(8), ensemble[0].run(x)[0], atol=1e-6)
    assert simulated.loaded == [b"plans sm_87"]
