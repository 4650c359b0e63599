"""Every test that docs/hostile-input.md names is there, and every setting too."""

from __future__ import annotations

import re
from pathlib import Path

from appliance.config import AnalyserConfig, ReceiverConfig, StowConfig

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "hostile-input.md").read_text()
SECTIONS = {"": ReceiverConfig, "stow": StowConfig, "analyser": AnalyserConfig}
ROWS = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("|") and "::" in line]


def test_each_named_test_exists() -> None:
    named = re.findall(r"`([\w./]+\.py)::(\w+)`", PAGE)
    assert len(named) > 30
    for file, name in named:
        assert f"def {name}(" in (ROOT / "tests" / "appliance" / file).read_text(), f"{file}::{name}"


def test_each_setting_exists() -> None:
    settings = [name for row in ROWS for name in re.findall(r"(?:`| )([a-z_.]+)`", row[2])]
    assert len(settings) > 10
    for name in settings:
        section, _, field = name.rpartition(".")
        assert field in SECTIONS[section].model_fields, name
