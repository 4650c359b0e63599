"""Several roles of the registry under one process: started together, restarted when they die, stopped together."""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence

_log = logging.getLogger(__name__)
_POLL_S = 0.2
_PATIENCE_S = 20.0  # for a role to end after SIGTERM
_STEADY_S = 60.0  # a role that ran this long starts again at once
_LONGEST_PAUSE_S = 30.0


class _Role:
    """One child process and when it may be started again."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._command = command
        self._pause_s = 1.0
        self._start_at = 0.0
        self._started_at = 0.0
        self.process: subprocess.Popen[bytes] | None = None

    def tend(self) -> None:
        """Start it if it is due; notice if it has died."""
        now = time.monotonic()
        if self.process is None:
            if now >= self._start_at:
                self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
                self._started_at = now
                _log.info("role started", extra={"role": self.name, "pid": self.process.pid})
        elif self.process.poll() is not None:
            self._pause_s = 1.0 if now - self._started_at > _STEADY_S else min(self._pause_s * 2, _LONGEST_PAUSE_S)
            self._start_at = now + self._pause_s
            fate = {"role": self.name, "exit_status": self.process.returncode, "again_in_s": self._pause_s}
            _log.error("role ended by itself", extra=fate)
            self.process = None


def supervise(commands: Mapping[str, Sequence[str]], stop: threading.Event) -> None:
    """Keep the commands running until `stop` is set; then end them with SIGTERM, and SIGKILL for who does not go."""
    roles = [_Role(name, command) for name, command in commands.items()]
    try:
        while not stop.is_set():
            for role in roles:
                role.tend()
            stop.wait(_POLL_S)
    finally:
        _end([role.process for role in roles if role.process is not None])


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _PATIENCE_S
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _log.error("a role did not stop in time", extra={"pid": process.pid})
            process.kill()
            process.wait()


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
