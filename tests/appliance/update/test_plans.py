"""A trial on a box with a GPU: plans first; what can't be planned is tried on what runs instead, or refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from appliance.update.plans import PlanTrial, trial_for
from appliance.update.trial import ChildTrial
from engines.build import Outcome
from engines.buildprocess import ChildBuild
from engines.bundle import Bundle

from .test_trial import CASE, WRONG, packed


class Scripted:
    """Implements plans.Build."""

    def __init__(self, kind: str) -> None:
        self.kind, self.asked = kind, 0

    def run(
        self,
        bundle: Path,
        wanted: Callable[[], bool] = lambda: True,
        progress: Callable[[Mapping[str, Any]], None] = lambda said: None,
    ) -> Outcome:
        self.asked += 1
        return Outcome(self.kind, "as the script says", built=1)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return packed(tmp_path_factory.mktemp("bundles") / "good", CASE)


@pytest.mark.parametrize(
    ("kind", "verdict", "code"),
    [
        ("ready", "passed", ""),
        ("postponed", "postponed", ""),
        ("refused", "failed", "golden case"),
        ("failed", "failed", "engine"),
    ],
)
def test_where_only_the_gpu_will_do_its_build_decides(tmp_path: Path, kind: str, verdict: str, code: str) -> None:
    found = PlanTrial(Scripted(kind), None).run(tmp_path)
    assert (found.kind, found.code) == (verdict, code)


@pytest.mark.parametrize("kind", ["refused", "failed"])
def test_where_any_runtime_will_do_the_bundle_is_tried_on_what_runs_instead(
    good: Bundle, tmp_path: Path, kind: str
) -> None:
    otherwise = ChildTrial("onnx", deadline_s=120)
    assert PlanTrial(Scripted(kind), otherwise).run(good.folder).kind == "passed"
    wrong = packed(tmp_path / "wrong", WRONG)
    assert PlanTrial(Scripted(kind), otherwise).run(wrong.folder).code == "golden case"


def test_a_box_that_must_use_a_gpu_and_has_none_refuses_and_says_why(good: Bundle, tmp_path: Path) -> None:
    """The real build child, on a machine without a GPU (or without pycuda)."""
    trial = trial_for("tensorrt", "auto", tmp_path / "plans", 4096)
    assert isinstance(trial, PlanTrial)
    if trial.run(good.folder).kind == "passed":
        pytest.skip("this machine has a GPU that builds plans")
    verdict = trial.run(good.folder)
    assert (verdict.kind, verdict.code) == ("failed", "engine")
    assert "TensorRT" in verdict.detail or "CUDA" in verdict.detail or "GPU" in verdict.detail


@pytest.mark.parametrize("preference", ["openvino", "onnx"])
def test_a_box_that_was_told_a_cpu_runtime_builds_no_plans(tmp_path: Path, preference: str) -> None:
    assert isinstance(trial_for(preference, "auto", tmp_path, 4096), ChildTrial)  # type: ignore[arg-type]


def test_the_build_keeps_to_the_folder_and_memory_it_is_given(tmp_path: Path) -> None:
    trial = trial_for("tensorrt", "auto", tmp_path / "plans", 2048)
    assert isinstance(trial, PlanTrial)
    assert trial.build == ChildBuild(tmp_path / "plans", 2048)
