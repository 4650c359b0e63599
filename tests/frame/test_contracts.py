"""The import contracts are those of the design, and they can be broken."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("core", "engines", "appliance", "registry", "provisioning")
STAGES = ("intake", "imaging", "reporting", "delivery", "identity", "update", "health", "console")
NEVER_ON_THE_DEVICE = ("publish", "importers", "reference", "evaluation")
PURE_RULES_OF_THE_REGISTRY = ("fleet", "rollout", "screening", "alerts")


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    lint = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [str(lint), "--no-cache", "--no-logo"], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the packages and the project file, to break."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "bundles"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("core/finding.py", "import engines", "Packages point one way"),
        ("engines/manifest/__init__.py", "import appliance.study", "Packages point one way"),
        ("registry/config.py", "import engines.bundle", "The registry knows core and what a bundle's manifest is"),
        ("appliance/reporting/sr.py", "from appliance.intake import spool", "Stages of the appliance"),
        ("appliance/intake/spool.py", "import appliance.config", "Stages get plain values and ports"),
        ("appliance/intake/assembly.py", "import time", "Pure: no disk, no network, no clock"),
        ("appliance/analyser.py", "import engines.reference", "What runs on the device never publishes"),
        ("engines/runtime/choice.py", "import torch", "Heavy and device-only libraries"),
    ],
)
def test_each_contract_notices_when_it_is_broken(copy: Path, module: str, line: str, contract: str) -> None:
    with (copy / module).open("a") as source:
        source.write(f"\n{line}\n")
    said = " ".join(_lint(copy).stdout.split())
    assert re.search(rf"{contract}[^A-Z]*BROKEN", said), said


@pytest.mark.parametrize(
    "module",
    [
        *(f"appliance.{stage}" for stage in STAGES),
        *(f"engines.{name}" for name in NEVER_ON_THE_DEVICE),
        *(f"registry.{name}" for name in PURE_RULES_OF_THE_REGISTRY),
    ],
)
def test_every_part_that_the_design_restricts_is_named_as_soon_as_it_exists(module: str) -> None:
    place = ROOT / Path(*module.split("."))
    exists = place.is_dir() or place.with_suffix(".py").exists()
    named = f'"{module}"' in (ROOT / "pyproject.toml").read_text()
    assert named or not exists
