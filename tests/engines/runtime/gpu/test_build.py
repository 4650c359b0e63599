"""Plans are built once, resumed where they were ended, and run only if the golden cases agree."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import EngineError
from engines.build import build_plans, profile_of
from engines.bundle import Bundle, open_bundle
from engines.commands.options import REFERENCE
from engines.manifest import Network
from engines.runtime.gpu import TensorRtRuntime
from engines.runtime.plans import Profile, Shelf
from tests.engines.bundle.test_parity import CASE, packed
from tests.engines.cascade import toy
from tests.engines.runtime import networks
from tests.engines.runtime.gpu.simulator import (
    SimulatedBuilder,
    SimulatedDevice,
    SimulatedLibrary,
    runtime_on_trial,
)


@pytest.fixture
def gpu(host_kernels: ctypes.CDLL) -> SimulatedDevice:
    return SimulatedDevice(host_kernels)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return packed(tmp_path / "bundle", CASE)


def go_on(network: str, phase: str, done: int, total: int) -> bool:
    return True


def in_use(runtime: TensorRtRuntime) -> TensorRtRuntime:
    """The same plans for somebody who runs only those that agreed."""
    return TensorRtRuntime(runtime.device, SimulatedLibrary(runtime.device), runtime.shelf)  # type: ignore[arg-type]


def test_plans_that_agree_on_the_golden_cases_may_run(gpu: SimulatedDevice, bundle: Bundle, tmp_path: Path) -> None:
    runtime, builder = runtime_on_trial(gpu, tmp_path / "plans"), SimulatedBuilder()
    said = []

    def step(*what: object) -> bool:
        said.append(what)
        return True

    outcome = build_plans(bundle, runtime, builder, step)
    assert (outcome.kind, outcome.built, len(outcome.plans)) == ("ready", 3, 3), outcome.detail
    assert [case["passed"] for case in outcome.cases] == [True]
    assert ("lung_lesion", "Building engine", 10, 10) in said
    for name in ("localiser", "lung_lesion", "liver_lesion"):
        in_use(runtime).load(bundle.path(f"{name}.onnx"))
    again = build_plans(bundle, runtime, builder, step)
    assert (again.kind, again.built, len(builder.begun)) == ("ready", 0, 3)
    gpu.check()


def test_plans_that_do_not_agree_never_run(gpu: SimulatedDevice, tmp_path: Path) -> None:
    blind = packed(tmp_path / "bundle", CASE, lung_lesion=networks.bands((5000, 6000)))
    runtime = runtime_on_trial(gpu, tmp_path / "plans")
    outcome = build_plans(blind, runtime, SimulatedBuilder(), go_on)
    assert outcome.kind == "refused"
    assert "lung: negative instead of positive" in outcome.detail
    assert "another runtime" in outcome.remedy
    with pytest.raises(EngineError, match="has not agreed"):
        in_use(runtime).load(blind.path("localiser.onnx"))


def test_a_gpu_that_does_not_write_its_outputs_is_refused(gpu: SimulatedDevice, bundle: Bundle, tmp_path: Path) -> None:
    runtime = runtime_on_trial(gpu, tmp_path / "plans", written=0.9)
    outcome = build_plans(bundle, runtime, SimulatedBuilder(), go_on)
    assert outcome.kind == "refused"
    assert "not written in full" in outcome.detail


def test_a_bundle_without_golden_cases_gets_no_plans_that_may_run(gpu: SimulatedDevice, tmp_path: Path) -> None:
    outcome = build_plans(
        toy.bundle(tmp_path / "bundle"), runtime_on_trial(gpu, tmp_path / "plans"), SimulatedBuilder(), go_on
    )
    assert outcome.kind == "refused"
    assert "no golden case" in outcome.detail


def ends_after(steps: int) -> Callable[[str, str, int, int], bool]:
    left = steps

    def step(network: str, phase: str, done: int, total: int) -> bool:
        nonlocal left
        left -= 1
        return left >= 0

    return step


@pytest.mark.parametrize("steps", range(0, 31, 3))
def test_a_build_that_was_ended_goes_on_with_what_was_built_and_measured(
    gpu: SimulatedDevice, bundle: Bundle, tmp_path: Path, steps: int
) -> None:
    runtime, builder = runtime_on_trial(gpu, tmp_path / "plans"), SimulatedBuilder()
    outcome = build_plans(bundle, runtime, builder, ends_after(steps))
    assert (outcome.kind, outcome.built) == ("postponed", steps // 10)
    assert not any(plan.agreed for name in bundle.manifest.networks for plan in runtime.shelf.every(
        runtime.key(bundle.path(name.files[0]).read_bytes())))  # fmt: skip
    resumed = SimulatedBuilder()
    assert build_plans(bundle, runtime, resumed, go_on).kind == "ready"
    assert len(resumed.begun) == 3 - steps // 10
    if resumed.caches:  # the ended step was measured too
        assert len(resumed.caches[0]) == min(steps + 1, 30)


def test_a_damaged_plan_is_built_again(gpu: SimulatedDevice, bundle: Bundle, tmp_path: Path) -> None:
    runtime = runtime_on_trial(gpu, tmp_path / "plans")
    build_plans(bundle, runtime, SimulatedBuilder(), go_on)
    victim = next(Path(runtime.shelf.folder).glob("*.plan"))
    victim.write_bytes(b"")
    builder = SimulatedBuilder()
    outcome = build_plans(bundle, runtime, builder, go_on)
    assert (outcome.kind, outcome.built, len(builder.begun)) == ("ready", 1, 1)
    assert [case["passed"] for case in outcome.cases] == [True]  # and compared again


def test_agreement_with_one_bundle_is_none_with_another(gpu: SimulatedDevice, bundle: Bundle, tmp_path: Path) -> None:
    runtime = runtime_on_trial(gpu, tmp_path / "plans")
    build_plans(bundle, runtime, SimulatedBuilder(), go_on)
    other = packed(tmp_path / "other", CASE, liver_lesion=networks.bands((100, 140), (180, 421)))
    outcome = build_plans(other, runtime, SimulatedBuilder(), go_on)
    assert (outcome.kind, outcome.built, len(outcome.cases)) == ("ready", 1, 1)


def test_profiles_take_a_tile_exactly_and_a_whole_scan_up_to_the_largest() -> None:
    manifest = open_bundle(REFERENCE).manifest
    localiser = manifest.network("localiser")
    assert profile_of(manifest.network("lung")) == Profile.exact((64, 64, 64))
    assert profile_of(manifest.network("lung_malignancy")) == Profile.exact((48, 48, 48))
    assert profile_of(localiser) == Profile((32, 32, 32), (128, 128, 128), (512, 192, 192))
    turned = Network.model_validate({**localiser.model_dump(), "axes": "LAS", "spacing_mm": (3, 6, 6)})
    assert profile_of(turned) == Profile((32, 32, 32), (160, 96, 96), (256, 128, 352))


@pytest.mark.parametrize("scan", [(16, 16, 16), (300, 175, 175), (500, 192, 192)])
def test_the_localisers_profile_covers_every_scan_up_to_head_to_feet(scan: tuple[int, int, int]) -> None:
    localiser = open_bundle(REFERENCE).manifest.networks[0]
    padded = tuple(-(-n // 32) * 32 for n in scan)
    assert profile_of(localiser).covers((padded[0], padded[1], padded[2]))


def test_the_shelf_keeps_nothing_half_written(gpu: SimulatedDevice, bundle: Bundle, tmp_path: Path) -> None:
    runtime = runtime_on_trial(gpu, tmp_path / "plans")
    build_plans(bundle, runtime, SimulatedBuilder(), ends_after(14))
    names = sorted(path.suffix for path in Shelf(tmp_path / "plans").folder.iterdir())
    assert names == [".cache", ".cubin", ".json", ".plan"]
