"""docs/evaluation.md: its commands run, in its order, and leave what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_the_walk_through_can_be_walked(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    commands = "\n".join(line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines())
    table = re.search(r"```csv\n(.*?)```", text, re.S)
    assert table is not None
    lines = [line.strip() for line in table.group(1).splitlines()]
    (tmp_path / "cases.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "model").symlink_to(ROOT / "engines" / "bundles" / "reference")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    make = "".join(f"onescan-engines phantom {7 + i} studies/{name} --slice-mm 7\n" for i, name in enumerate("ab"))
    said = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", make + commands],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    for name in (
        "first-report/report.html",
        "first-report/evaluation.json",
        "report/report.html",
        "comparison/comparison.html",
    ):
        assert (tmp_path / name).stat().st_size > 5000, name
