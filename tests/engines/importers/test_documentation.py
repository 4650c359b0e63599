"""The walk through `docs/bring-your-own-model.md` works as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from engines.bundle import open_bundle

PAGE = Path(__file__).parents[3] / "docs" / "bring-your-own-model.md"


def commands(kind: str) -> list[str]:
    """The page's shell blocks: "sh" those for everybody, "sh monai" those that need MONAI."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)


def run(blocks: list[str], folder: Path) -> str:
    """All blocks in one shell that stops at the first error; what they printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = "set -euo pipefail\n" + "\n".join(blocks)
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(PAGE.parents[1])}
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_shell_block_belongs_to_a_test() -> None:
    kinds = set(re.findall(r"^```(\S.*)$", PAGE.read_text(), flags=re.MULTILINE))
    assert kinds == {"sh", "sh monai", "sh nnunet"}
    assert all(commands(kind) for kind in kinds)


@pytest.mark.timeout(280)
def test_the_onnx_walk_makes_a_bundle_that_verifies(tmp_path: Path) -> None:
    said = run(commands("sh"), tmp_path)
    assert "golden case first: agrees" in said
    case = open_bundle(tmp_path / "torso").manifest.golden[0]
    assert {organ.organ for organ in case.organs} == {"lung", "liver"}
    assert (tmp_path / "labels.npz").stat().st_size > 1000
