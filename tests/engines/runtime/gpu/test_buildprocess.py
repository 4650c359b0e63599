"""A build in a child: bounded, at idle priority, ended within seconds, and its silence is never success."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from core.errors import EngineError
from engines.buildprocess import ChildBuild, judge
from engines.bundle import Bundle
from tests.engines.bundle.test_parity import CASE, packed

CHILD = "tests.engines.runtime.gpu.building_child"
pytestmark = pytest.mark.usefixtures("host_kernels_for_children")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return packed(tmp_path_factory.mktemp("built") / "bundle", CASE)


@pytest.fixture
def build(tmp_path: Path) -> ChildBuild:
    (tmp_path / "plans").mkdir()
    return ChildBuild(tmp_path / "plans", module=CHILD)


def behave(build: ChildBuild, how: str) -> None:
    (build.plans / "behaviour").write_text(how)


def test_a_child_builds_and_compares_at_the_lowest_priority_and_tells_how_far_it_is(
    build: ChildBuild, bundle: Bundle
) -> None:
    said: list[Mapping[str, Any]] = []
    outcome = build.run(bundle.folder, progress=said.append)
    assert (outcome.kind, outcome.built) == ("ready", 3), outcome.detail
    assert {plan["precision"] for plan in outcome.plans} == {"fp32"}
    assert outcome.cases[0]["passed"] is True
    assert said
    assert all(set(line) == {"network", "phase", "done", "total"} for line in said)
    assert (build.plans / "priority").read_text() == "19"


def test_a_build_that_is_no_longer_wanted_keeps_what_it_measured_and_is_taken_up_again(
    build: ChildBuild, bundle: Bundle
) -> None:
    behave(build, "slow")
    begun: list[Mapping[str, Any]] = []
    outcome = build.run(bundle.folder, wanted=lambda: len(begun) < 2, progress=begun.append)
    assert outcome.kind == "postponed"
    assert not _children()
    measured = len(next(build.plans.glob("timing-*.cache")).read_bytes())
    assert 1 <= measured < 30
    (build.plans / "behaviour").unlink()
    assert build.run(bundle.folder).kind == "ready"
    assert len(next(build.plans.glob("timing-*.cache")).read_bytes()) > measured


def test_a_child_that_does_not_listen_is_killed(build: ChildBuild, bundle: Bundle) -> None:
    behave(build, "deaf")
    outcome = build.run(bundle.folder, wanted=lambda: not (build.plans / "priority").exists())
    assert (outcome.kind, outcome.detail) == ("postponed", "it was no longer wanted")
    assert not _children()


def test_a_build_that_takes_too_long_is_a_failure(tmp_path: Path, bundle: Bundle) -> None:
    build = ChildBuild(tmp_path / "plans", deadline_s=1.5, module=CHILD)
    build.plans.mkdir()
    behave(build, "deaf")
    outcome = build.run(bundle.folder)
    assert outcome.kind == "failed"
    assert "longer than" in outcome.detail


@pytest.mark.parametrize(
    ("how", "complaint"), [("crash", "ended by SIGSEGV"), ("silent", "ended with 3 and no answer"), ("greedy", "MiB")]
)
def test_a_build_that_breaks_is_a_failure_that_says_how(
    tmp_path: Path, bundle: Bundle, how: str, complaint: str
) -> None:
    build = ChildBuild(tmp_path / "plans", memory_mb=2048, module=CHILD)
    build.plans.mkdir()
    behave(build, how)
    outcome = build.run(bundle.folder)
    assert (outcome.kind, complaint in outcome.detail) == ("failed", True), outcome.detail


def test_a_bundle_that_is_none_is_refused_with_the_number_of_its_check(build: ChildBuild, tmp_path: Path) -> None:
    outcome = build.run(tmp_path)
    assert outcome.kind == "failed"
    assert "check 1" in outcome.detail
    assert outcome.remedy


def test_only_one_build_works_in_a_folder(build: ChildBuild, bundle: Bundle) -> None:
    with (build.plans / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        outcome = build.run(bundle.folder)
    assert (outcome.kind, "another build" in outcome.detail) == ("failed", True)


def test_without_a_gpu_the_real_child_says_what_is_missing(tmp_path: Path, bundle: Bundle) -> None:
    try:
        from engines.runtime import cuda

        cuda.first_device()
    except (ImportError, EngineError):
        outcome = ChildBuild(tmp_path / "plans").run(bundle.folder)
        assert outcome.kind == "failed"
        assert "TensorRT" in outcome.detail or "CUDA" in outcome.detail or "GPU" in outcome.detail
        assert outcome.remedy
    else:
        pytest.skip("a GPU is at hand")


def test_a_child_dies_with_its_parent(build: ChildBuild, bundle: Bundle) -> None:
    behave(build, "deaf")
    code = (
        "import sys; from pathlib import Path; from engines.buildprocess import ChildBuild;"
        f"ChildBuild(Path({str(build.plans)!r}), module={CHILD!r}).run(Path({str(bundle.folder)!r}))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[4])
    try:
        _until(lambda: (build.plans / "priority").exists())
        (child,) = psutil.Process(parent.pid).children()
    finally:
        parent.kill()
        parent.wait()
    _until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_an_outcome_is_believed_only_from_a_child_that_ended_well() -> None:
    fields = {"kind": "ready", "detail": "", "built": 1, "plans": [], "cases": [], "remedy": ""}
    assert judge(0, {"outcome": fields}, None).kind == "ready"
    assert judge(1, {"outcome": fields}, None).kind == "failed"
    assert judge(0, json.loads("{}"), None).kind == "failed"


def _children() -> list[psutil.Process]:
    return [p for p in psutil.Process(os.getpid()).children() if CHILD in " ".join(p.cmdline())]


def _until(true: Any) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
