"""What `make setup`, `make` and the project file promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = sorted((ROOT / "requirements").glob("*.txt"))
VERSIONS = ("3.10", "3.11", "3.12", "3.13")

if sys.version_info >= (3, 11):
    import tomllib

    PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
else:
    pytest.skip("reads pyproject.toml with tomllib, which came with Python 3.11", allow_module_level=True)


def _pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", path.read_text(), re.MULTILINE))


def _make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_each_supported_python_has_requirements_to_run_and_to_test() -> None:
    assert {path.name for path in REQUIREMENTS} == {
        *(name for version in VERSIONS for name in (f"{version}.txt", f"{version}-dev.txt")),
        "referees.txt",
    }


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_requirements_are_pinned_and_hashed_and_name_no_address(path: Path) -> None:
    text = path.read_text()
    assert "//" not in text
    assert not re.search(r"^\s*--(?!hash)", text, re.MULTILINE), "an option of pip, such as an index"
    blocks = re.split(r"\n(?=\S)", text.strip())
    for block in blocks:
        assert re.match(r"[A-Za-z0-9._-]+==[^ ]+( ; platform_machine == 'x86_64')? \\\n", block), block[:80]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block[:80]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_dependency_of_the_project_is_in_the_requirements(version: str) -> None:
    def names(dependencies: list[str]) -> set[str]:
        return {re.split(r"[\[;<>= ]", one)[0].lower() for one in dependencies}

    extras = PROJECT["project"]["optional-dependencies"]
    run = set(_pins(ROOT / "requirements" / f"{version}.txt"))
    dev = set(_pins(ROOT / "requirements" / f"{version}-dev.txt"))
    assert names([*PROJECT["project"]["dependencies"], *extras["cpu"], *extras["registry"]]) <= run
    assert names(extras["dev"]) <= run | dev
    assert not run & dev, "two pins for one package"


def test_setup_says_what_is_missing_without_installing_it(tmp_path: Path) -> None:
    environment = tmp_path / "nowhere"
    checked = subprocess.run(
        ["scripts/setup", "--check"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "ONESCAN_VENV": str(environment)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 1
    assert f"missing: a current virtual environment in {environment}" in checked.stdout
    assert not environment.exists()


def test_setup_shows_how_to_call_it() -> None:
    asked = subprocess.run(["scripts/setup", "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert asked.returncode == 2
    assert "scripts/setup [runtime|dev|referees] [--check]" in asked.stdout


def test_make_alone_lists_every_target_that_a_user_would_call() -> None:
    shown = _make()
    assert shown.returncode == 0
    for target in ("setup", "demo", "test", "test-full", "lint", "bench-NAME", "clean"):
        assert re.search(rf"^  make {target} +\w", shown.stdout, re.MULTILINE), target


def test_ci_runs_make_test_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[-1] == "exec make test"
    assert not any("pytest" in line or "ruff" in line for line in lines)


def test_console_commands_lead_to_a_function() -> None:
    for target in PROJECT["project"]["scripts"].values():
        module, function = target.split(":")
        source = (ROOT / Path(*module.split("."))).with_suffix(".py").read_text()
        assert re.search(rf"^(def {function}\(|{function} =|{function}: )", source, re.MULTILINE), target


def test_the_shell_scripts_parse() -> None:
    for script in (
        ROOT / "scripts" / "setup",
        ROOT / "scripts" / "test",
        ROOT / "scripts" / "lock",
        ROOT / ".ci" / "run",
    ):
        assert script.stat().st_mode & 0o111, f"{script.name} is not executable"
        subprocess.run(["bash", "-n", str(script)], check=True)
