"""What `make setup`, `make` and the project file promise."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = sorted((ROOT / "requirements").glob("*.txt"))
NOBODY = 65534
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


@pytest.fixture
def copy_of_the_project() -> Iterator[Path]:
    """What the set-up reads, in a folder that anybody may reach and `nobody` owns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part in ("scripts", "requirements"):
            shutil.copytree(ROOT / part, folder / part)
        for part in ("Makefile", "pyproject.toml"):
            shutil.copy(ROOT / part, folder)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        yield folder


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be a user without it and without a program")
def test_a_user_without_sudo_is_told_in_a_sentence_what_to_run(copy_of_the_project: Path) -> None:
    storescu = shutil.which("storescu")
    assert storescu is not None
    hidden = [storescu, *filter(None, [shutil.which("sudo")])]
    hide = " && ".join(f"mount --bind /dev/null {program}" for program in hidden)
    user = f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups"
    if subprocess.run(["unshare", "-m", "sh", "-c", hide], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{hide} && exec {user} make demo"],
        cwd=copy_of_the_project,
        env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(copy_of_the_project)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("setup:")]
    assert said[0] == "setup: root is needed once; please run: sudo apt-get install --no-install-recommends dcmtk"
    assert "installing" not in done.stderr
    assert not (copy_of_the_project / ".venv").exists()


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
