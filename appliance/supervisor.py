"""All roles as children of one process: for containers, laptops and the demo. On a box systemd does this.

Children speak systemd's notify protocol to us; one that ends or falls silent is started again, with a growing pause.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from appliance.notify import Notifier

log = logging.getLogger(__name__)

STOP_S = 20.0
WATCHDOG_S = 60.0
STARTING_S, IDLE_S = 0.1, 1.0
_PAUSES_S = (0.2, 1.0, 2.0, 5.0, 10.0)
_STABLE_S = 30.0


@dataclass
class Child:
    """One role's process and what it said last."""

    role: str
    listener: socket.socket
    address: str
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    heard: float = 0.0
    ready: bool = False
    status: str = "not started"
    failures: int = 0
    start_at: float = field(default=0.0)


class Supervisor:
    """Starts the roles, restarts what ends, stops all on SIGTERM."""

    def __init__(self, roles: Sequence[str], config: Path) -> None:
        self._config = config
        self._children = [_child(role) for role in roles]
        self._stopping = False
        self._notifier = Notifier()
        self._told_ready = False

    def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        try:
            while not self._stopping:
                for child in self._children:
                    self._tend(child)
                self._listen(self._patience_s())
                self._tell()
        finally:
            self._stop_all()

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _tend(self, child: Child) -> None:
        now = time.monotonic()
        if child.process is None:
            if now >= child.start_at:
                self._start(child, now)
        elif (code := child.process.poll()) is not None:
            self._ended(child, code, now)
        elif child.ready and now - child.heard > WATCHDOG_S:
            log.error("role is silent; ending it", extra={"child": child.role})
            child.process.kill()

    def _start(self, child: Child, now: float) -> None:
        command = [sys.executable, "-m", "appliance.cli", "run", child.role, "--config", str(self._config)]
        environment = {
            **os.environ,
            "NOTIFY_SOCKET": child.address,
            "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)),
            "ONESCAN_SUPERVISED": "1",
        }
        environment.pop("WATCHDOG_PID", None)
        child.process = subprocess.Popen(command, env=environment)
        child.started = child.heard = now
        child.ready, child.status = False, "starting"

    def _ended(self, child: Child, code: int, now: float) -> None:
        child.failures = 0 if now - child.started > _STABLE_S else child.failures + 1
        pause = _PAUSES_S[min(child.failures, len(_PAUSES_S) - 1)]
        child.process, child.ready, child.start_at = None, False, now + pause
        child.status = f"ended with {code}; starts again in {pause:g} s"
        log.error("role ended", extra={"child": child.role, "code": code, "again_in_s": pause})

    def _patience_s(self) -> float:
        """Quick while somebody is starting, slow when all is well: an idle box should be idle."""
        return IDLE_S if all(child.ready for child in self._children) else STARTING_S

    def _listen(self, seconds: float) -> None:
        listeners = {child.listener: child for child in self._children}
        for listener in select.select(list(listeners), [], [], seconds)[0]:
            self._hear(listeners[listener], listener.recv(4096).decode(errors="replace"))

    @staticmethod
    def _hear(child: Child, text: str) -> None:
        child.heard = time.monotonic()
        fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        child.status = fields.get("STATUS", child.status)
        child.ready = child.ready or fields.get("READY") == "1"

    def _tell(self) -> None:
        if all(child.ready for child in self._children):
            if not self._told_ready:
                self._told_ready = True
                log.info("all roles are ready")
                self._notifier.ready("all roles are ready")
            self._notifier.alive()

    def _stop_all(self) -> None:
        self._notifier.stopping()
        running = [child.process for child in self._children if child.process]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + STOP_S
        for process in running:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for child in self._children:
            child.listener.close()


def _child(role: str) -> Child:
    address = f"@onescan-{os.getpid()}-{role}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind("\0" + address[1:])
    return Child(role, listener, address)
