"""The supervisor: roles that share its pages, come back when they end or fall silent, and end with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.appliance.intake.stand import wait_for

PROGRAM = """
import os, sys, time
from pathlib import Path
from appliance import supervisor
from appliance.log import set_up
from appliance.role import RoleProcess

supervisor.WATCHDOG_S = float(sys.argv[3])
folder = Path(sys.argv[1])

def be(role):
    with (folder / role).open("a") as file:
        file.write(f"{os.getpid()}\\n")
    with RoleProcess(role, folder / "run") as process:
        if role == "mute":
            process.notifier.ready("falls silent")
            time.sleep(600)
        if role == "leaver" and len((folder / role).read_text().splitlines()) == 1:
            sys.exit(3)
        process.turn(lambda: float("inf"), "turns")
    (folder / f"{role}.clean").touch()

set_up("supervisor")
supervisor.Supervisor(sys.argv[2].split(","), be, lambda: None).run()
"""


class Stand:
    """A supervisor of roles that do nothing."""

    def __init__(self, folder: Path, roles: str, watchdog_s: float = 60.0) -> None:
        self.folder = folder
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(PROGRAM), str(folder), roles, str(watchdog_s)],
                stderr=log,
                env={key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"},
            )

    def lives(self, role: str) -> list[int]:
        """The process ids that a role has had, oldest first."""
        path = self.folder / role
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []

    def ready(self) -> bool:
        return "all roles are ready" in self.log.read_text()


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    opened = Stand(tmp_path, "one,two")
    yield opened
    opened.process.kill()
    opened.process.wait()


def test_a_stop_is_passed_on_and_every_role_ends_cleanly(stand: Stand) -> None:
    wait_for(stand.ready)
    stand.process.terminate()
    assert stand.process.wait(30) == 0
    assert (stand.folder / "one.clean").exists()
    assert (stand.folder / "two.clean").exists()


@pytest.mark.parametrize("last", ["one", "two", "three", "four"])
def test_a_stop_at_any_moment_of_starting_leaves_nobody_behind(tmp_path: Path, last: str) -> None:
    roles = ("one", "two", "three", "four")
    stand = Stand(tmp_path, ",".join(roles))
    wait_for(lambda: stand.lives(last))
    stand.process.terminate()
    assert stand.process.wait(30) == 0
    for pid in [pid for role in roles for pid in stand.lives(role)]:
        assert not psutil.pid_exists(pid), "a role outlived its supervisor"


def test_a_killed_role_comes_back_and_the_others_do_not_notice(stand: Stand) -> None:
    wait_for(stand.ready)
    [other] = stand.lives("two")
    os.kill(stand.lives("one")[0], signal.SIGKILL)
    wait_for(lambda: len(stand.lives("one")) == 2)
    assert stand.lives("two") == [other]
    again = psutil.Process(stand.lives("one")[1])
    wait_for(lambda: again.name() == "onescan-one")  # a role names itself after its supervisor has told of it


def test_a_role_that_fails_at_first_is_started_again(tmp_path: Path) -> None:
    stand = Stand(tmp_path, "one,leaver")
    try:
        wait_for(stand.ready)
        assert len(stand.lives("leaver")) == 2
        assert '"code": 3' in stand.log.read_text()
    finally:
        stand.process.kill()
        stand.process.wait()


def test_a_silent_role_is_ended_and_started_again(tmp_path: Path) -> None:
    stand = Stand(tmp_path, "mute", watchdog_s=1.0)
    try:
        wait_for(lambda: len(stand.lives("mute")) >= 2)
        assert "role is silent" in stand.log.read_text()
    finally:
        stand.process.kill()
        stand.process.wait()
        for pid in stand.lives("mute")[-1:]:  # it hears nothing, not even that its supervisor is gone
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_a_killed_supervisor_takes_its_roles_with_it(stand: Stand) -> None:
    wait_for(stand.ready)
    pids = stand.lives("one") + stand.lives("two")
    stand.process.kill()
    stand.process.wait()
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids))
    assert (stand.folder / "one.clean").exists(), "it was told to stop, not cut off"


def test_idle_roles_hold_nothing_that_only_a_study_needs() -> None:
    words = (
        "import sys; from appliance import service; service.preload(); "
        "print(*{'scipy', 'highdicom', 'openvino', 'onnxruntime', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
