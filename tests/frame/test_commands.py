"""Every command teaches: what it does, what each argument means, and what to do when it is called wrongly."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import appliance.cli
import engines.cli
import provisioning.cli
import registry.cli

APPS = {
    "appliance.cli": appliance.cli.app,
    "engines.cli": engines.cli.app,
    "provisioning.cli": provisioning.cli.app,
    "registry.cli": registry.cli.app,
}


def commands() -> list[tuple[str, Any]]:
    """(`module command`, command) of all console commands."""
    found: list[tuple[str, Any]] = []
    for module, app in APPS.items():
        group: Any = typer.main.get_command(app)
        found.append((module, group))
        found.extend((f"{module} {name}", command) for name, command in group.commands.items())
    return found


@pytest.mark.parametrize(("name", "command"), commands(), ids=[name for name, _ in commands()])
def test_a_command_says_what_it_does_and_what_each_argument_means(name: str, command: Any) -> None:
    assert command.help, name
    assert len(command.help.split()) >= 5, f"{name}: {command.help}"
    for parameter in command.params:
        if parameter.name in ("help", "install_completion", "show_completion"):
            continue
        said = getattr(parameter, "help", None) or ""
        assert said.strip(), f"{name}: {parameter.name} is not explained"


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_help_is_shown_and_a_wrong_call_points_to_it(name: str) -> None:
    module, *rest = name.split()
    shown = CliRunner().invoke(APPS[module], [*rest, "--help"])
    assert shown.exit_code == 0, shown.output
    assert "Usage" in shown.stdout
    wrong = CliRunner().invoke(APPS[module], [*rest, "--no-such-option"])
    assert wrong.exit_code == 2
    assert "--help" in wrong.stderr


@pytest.mark.parametrize("module", APPS)
def test_the_program_itself_says_what_is_wrong_without_a_traceback(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "no-such-command"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no-such-command" in done.stderr
    assert "Traceback" not in done.stderr
