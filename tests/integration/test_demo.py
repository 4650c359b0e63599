"""`make demo` as a program: a study of one's own, and what it says where there is none."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from pydicom import dcmread

from deploy.onescan import REPOSITORY
from tests.integration.conftest import Hospital

pytestmark = pytest.mark.integration


def make_demo(folder: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """`make demo`, all but the set-up, in a folder of its own."""
    # Under `make test` we are a make in a make: what the outer one handed down is not what a person's shell has.
    shell = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    recipe = subprocess.run(
        ["make", "-n", "demo", *settings], cwd=REPOSITORY, capture_output=True, text=True, check=True, env=shell
    )
    command = recipe.stdout.strip().splitlines()[-1].removeprefix("exec ")
    return subprocess.run(
        f"{command} --folder {folder}",
        shell=True,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**shell, "COLUMNS": "200"},
    )


def test_a_study_of_ones_own_runs_the_whole_way_and_everything_ends(hospital: Hospital, tmp_path: Path) -> None:
    sent = hospital.phantom()
    own = sent.files[0].parent
    (own / "README.txt").write_text("not DICOM: left out")
    done = make_demo(tmp_path / "demo", "ONCE=1", f"STUDY={own}")
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (
        "pancreas",
        "colorectum",
        "never for clinical use",
        "Registry  http://127.0.0.1",
    ):
        assert words in done.stdout
    listed = [Path(line[line.index("/") :]) for line in done.stdout.splitlines() if line.endswith(".dcm")]
    assert {dcmread(path).Modality for path in listed} >= {"SR"}
    assert {dcmread(path).StudyInstanceUID for path in listed} == {sent.uid}


def test_a_folder_without_dicom_is_said_in_a_sentence(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "holiday.jpg").write_bytes(b"x" * 200)
    done = make_demo(tmp_path / "demo", "ONCE=1", f"STUDY={empty}")
    assert done.returncode == 1
    assert f"there is no DICOM file in {empty}" in done.stdout
    assert "make demo STUDY=" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert "Starting" not in done.stdout, "it should look before it starts everything"
