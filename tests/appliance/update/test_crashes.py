"""kill -9 of the updater at any moment costs nothing: after a restart the bundle becomes active, exactly once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from engines.bundle import Content
from tests.appliance.update.device import Publisher
from tests.appliance.update.webserver import Site


def test_a_killed_updater_reaches_active_exactly_once(tmp_path: Path, publisher: Publisher, site: Site) -> None:
    release = publisher.release("1.0.0", Content("lung_lesion.onnx", "network", bytes(200_000)))
    command = [sys.executable, "-m", "tests.appliance.update.crashing", str(tmp_path / "devices"), site.url]
    done = subprocess.run(
        [*command, str(publisher.repo / "metadata" / "1.root.json")], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert [run["killed"] for run in runs] == [True] * (len(runs) - 1) + [False]
    assert len(runs) > 50  # every write, rename and removal between wish and switch was a place to die
    for run in runs:
        assert run["ended"] == 0, (run, done.stderr)
        assert run["states"].count("active") == 1, run
        assert run["states"][-1] == "active", run
        assert run["bundles"] == [release.digest], run
        assert run["staged"] == [], run
