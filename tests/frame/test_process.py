"""A private server starts, says why it doesn't, stops by its own pid, and never outlives who started it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from deploy.embedded.ports import answers, free_port
from deploy.embedded.process import Command, Server, ServerError, program

_LISTEN = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(600)"
_DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + _LISTEN


class Listener(Server):
    """A server that is a line of Python."""

    def __init__(self, folder: Path, code: str = _LISTEN) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.code = code

    def prepare(self) -> Command:
        return Command([sys.executable, "-c", self.code, str(self.port)])

    def is_ready(self) -> bool:
        return answers(self.port)


def _is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_it_answers_inside_the_block_and_is_gone_after_it(tmp_path: Path) -> None:
    with Listener(tmp_path) as server:
        pid = server.pid
        assert pid is not None
        assert answers(server.port)
    assert server.pid is None
    assert not _is_alive(pid)


def test_it_comes_back_on_the_same_port(tmp_path: Path) -> None:
    with Listener(tmp_path) as server:
        first = server.pid
        server.stop()
        assert not answers(server.port)
        server.start()
        assert answers(server.port)
        assert server.pid != first


def test_start_and_stop_may_be_repeated(tmp_path: Path) -> None:
    with Listener(tmp_path) as server:
        pid = server.pid
        assert server.start().pid == pid
    server.stop()


def test_a_server_that_ends_at_once_says_why(tmp_path: Path) -> None:
    server = Listener(tmp_path, code="raise SystemExit('no certificate in this folder')")
    with pytest.raises(ServerError, match="no certificate in this folder"):
        server.start()
    assert server.pid is None


def test_a_server_that_never_answers_is_given_up_and_ended(tmp_path: Path) -> None:
    server = Listener(tmp_path, code="import os, time; print('pid', os.getpid(), flush=True); time.sleep(600)")
    server.start_timeout_s = 0.5
    with pytest.raises(ServerError, match="does not answer"):
        server.start()
    assert not _is_alive(int(server.log().split()[1]))


def test_a_server_that_ignores_sigterm_is_ended_all_the_same(tmp_path: Path) -> None:
    server = Listener(tmp_path, code=_DEAF)
    server.stop_timeout_s = 0.3
    pid = server.start().pid
    assert pid is not None
    server.stop()
    assert not _is_alive(pid)


def test_a_server_dies_with_its_parent_even_when_that_is_killed(tmp_path: Path) -> None:
    parent = f"""
import time
from pathlib import Path
from tests.frame.test_process import Listener
server = Listener(Path({str(tmp_path)!r})).start()
print(server.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        assert _is_alive(pid)
        child.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while _is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _is_alive(pid)


def test_a_program_that_is_missing_is_named_with_the_remedy() -> None:
    with pytest.raises(ServerError, match="no-such-program") as raised:
        program("no-such-program")
    assert "make setup" in raised.value.remedy()
