"""`onescan-engines build` says what was built, whether it may run, and why not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engines.bundle.test_parity import CASE, packed
from tests.engines.runtime import networks

pytestmark = pytest.mark.usefixtures("host_kernels_for_children")
ROOT = Path(__file__).parents[4]


def call(*arguments: Any) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `onescan-engines build`; its child works on a simulated GPU."""
    command = [sys.executable, "-m", "tests.engines.runtime.gpu.building_command", "build", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def test_help_teaches() -> None:
    code, said, _ = call("--help")
    assert code == 0
    for word in ("idle priority", "Ctrl-C", "golden cases", "Exit status", "Examples"):
        assert word in " ".join(said.split())


def test_a_build_whose_plans_agree_lists_them_and_exits_0(tmp_path: Path) -> None:
    bundle = packed(tmp_path / "bundle", CASE)
    code, said, _ = call(bundle.folder, "--plans", tmp_path / "plans")
    assert code == 0
    assert said.count("fp32, images of") == 3
    assert "golden case torso: agrees" in said
    assert f"the plans in {tmp_path / 'plans'} may run" in said
    code, said, _ = call(bundle.folder, "--plans", tmp_path / "plans", "--json")
    again = json.loads(said)
    assert (code, again["kind"], again["built"], len(again["plans"])) == (0, "ready", 0, 3)


def test_plans_that_do_not_agree_are_named_with_the_reason_and_exit_1(tmp_path: Path) -> None:
    bundle = packed(tmp_path / "bundle", CASE, lung_lesion=networks.bands((5000, 6000)))
    code, said, complained = call(bundle.folder, "--plans", tmp_path / "plans")
    assert code == 1
    assert "lung: negative instead of positive" in said
    assert "will not run" in complained
    assert "another runtime" in complained


def test_a_build_that_is_ended_exits_2_and_says_how_to_go_on(tmp_path: Path) -> None:
    bundle = packed(tmp_path / "bundle", CASE)
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "behaviour").write_text("interrupted")
    code, _, complained = call(bundle.folder, "--plans", tmp_path / "plans")
    assert code == 2
    assert "run it again" in complained


def test_a_build_that_fails_says_what_happened_and_exits_1(tmp_path: Path) -> None:
    bundle = packed(tmp_path / "bundle", CASE)
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "behaviour").write_text("crash")
    code, _, complained = call(bundle.folder, "--plans", tmp_path / "plans")
    assert code == 1
    assert "ended by SIGSEGV" in complained
