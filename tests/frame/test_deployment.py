"""The systemd units: one for each role, the same sandbox in all, as tight as it was measured to be."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.cli import ROLES

UNITS = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
COMMON = re.compile(r"# ---- the same in all five units .*?# ---- this unit's own ----", re.DOTALL)
KEY = "/var/lib/onescan/identity/device.key"
WORST_EXPOSURE = 2.0  # of 10, as systemd 252 counts


def _unit(role: str) -> str:
    return (UNITS / f"onescan-{role}.service").read_text()


def test_the_target_wants_one_unit_for_each_role() -> None:
    wanted = re.findall(r"onescan-(\w+)\.service", (UNITS / "onescan.target").read_text())
    assert sorted(wanted) == sorted(ROLES)
    assert {path.name for path in UNITS.glob("*.service")} == {f"onescan-{role}.service" for role in ROLES}


@pytest.mark.parametrize("role", ROLES)
def test_a_unit_starts_its_role_in_the_common_sandbox(role: str) -> None:
    common = COMMON.search(_unit("receiver"))
    assert common is not None
    assert common.group() in _unit(role)
    assert f"\nExecStart=/opt/onescan/bin/onescan-appliance run {role}\n" in _unit(role)


def test_only_the_courier_can_read_the_device_key() -> None:
    for role in ROLES:
        assert (f"InaccessiblePaths=-{KEY}" in _unit(role)) == (role != "courier"), role


def test_the_analyser_has_no_network() -> None:
    assert "\nPrivateNetwork=yes\n" in _unit("analyser")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here to judge the units")
@pytest.mark.parametrize("role", ROLES)
def test_systemd_finds_little_exposed(role: str, tmp_path: Path) -> None:
    folder = tmp_path / "etc" / "systemd" / "system"
    shutil.copytree(UNITS, folder)
    binary = tmp_path / "opt" / "onescan" / "bin" / "onescan-appliance"
    binary.parent.mkdir(parents=True)
    binary.touch(mode=0o755)
    argv = ["systemd-analyze", "security", f"--root={tmp_path}", "--offline=true", f"onescan-{role}.service"]
    judged = subprocess.run(argv, capture_output=True, text=True, check=False)
    if "unrecognized option" in judged.stderr:
        pytest.skip("this systemd-analyze is older than 250 and can't judge offline")
    exposure = re.search(r"Overall exposure level.*: ([\d.]+)", judged.stdout)
    assert exposure is not None, judged.stdout + judged.stderr
    assert float(exposure.group(1)) <= WORST_EXPOSURE
