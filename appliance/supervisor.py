"""All roles as children of one process: for containers, laptops and the demo. On a box systemd does this.

The supervisor imports what idle roles need, then forks each role: they share those pages, and a role that ended is back
in milliseconds. No thread of ours runs before a fork. Children speak systemd's notify protocol to us; one that ends or
falls silent is started again, with a growing pause.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.process import BaseProcess

from appliance.notify import Notifier

log = logging.getLogger(__name__)

STOP_S = 20.0
WATCHDOG_S = 60.0
_FORK = multiprocessing.get_context("fork")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_PAUSES_S = (0.2, 1.0, 2.0, 5.0, 10.0)
_STABLE_S = 30.0


@dataclass
class Child:
    """One role's process and what it said last."""

    role: str
    listener: socket.socket
    address: str
    process: BaseProcess | None = None
    started: float = 0.0
    heard: float = 0.0
    ready: bool = False
    status: str = "not started"
    failures: int = 0
    start_at: float = field(default=0.0)

    @property
    def deadline(self) -> float:
        """When it has to be looked at though nothing was heard of it (monotonic)."""
        return self.start_at if self.process is None else self.heard + WATCHDOG_S


class Supervisor:
    """Starts the roles, restarts what ends, stops all on SIGTERM."""

    def __init__(self, roles: Sequence[str], be: Callable[[str], None], preload: Callable[[], None]) -> None:
        """be: what a role's process does, until it ends. preload: imports what idle roles need; starts nothing."""
        self._be = be
        self._preload = preload
        self._children = [_child(role) for role in roles]
        self._stopping = False
        self._notifier = Notifier()
        self._told_ready = False

    def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        with ExitStack() as stack:
            self._wake, wake = socket.socketpair()
            for end in (self._wake, wake):
                end.setblocking(False)
                stack.enter_context(closing(end))
            stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(wake.fileno()))
            for number in _SIGNALS:
                stack.callback(signal.signal, number, signal.signal(number, self._stop))
            stack.callback(self._stop_all)
            _warm_up(self._preload)
            while not self._stopping:
                for child in self._children:
                    self._tend(child)
                self._listen()
                self._tell()

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _tend(self, child: Child) -> None:
        now = time.monotonic()
        if child.process is None:
            if now >= child.start_at:
                self._start(child, now)
        elif child.process.exitcode is not None:
            self._ended(child, child.process.exitcode, now)
        elif child.ready and now - child.heard >= WATCHDOG_S:
            log.error("role is silent; ending it", extra={"child": child.role})
            child.process.kill()
            child.process.join()

    def _start(self, child: Child, now: float) -> None:
        child.process = _FORK.Process(target=self._become, args=(child,), name=child.role)
        child.started = child.heard = now
        child.ready, child.status = False, "starting"
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # a stop must not reach the child while it has our handlers
        try:
            child.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _become(self, child: Child) -> None:
        """In the child: let go of what is the supervisor's, be told what systemd tells, and be the role."""
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        self._wake.close()
        for other in self._children:
            other.listener.close()
        os.environ.pop("WATCHDOG_PID", None)
        os.environ.update(
            NOTIFY_SOCKET=child.address, WATCHDOG_USEC=str(int(WATCHDOG_S * 1e6)), ONESCAN_SUPERVISOR=str(os.getppid())
        )
        gc.enable()
        self._be(child.role)

    def _ended(self, child: Child, code: int, now: float) -> None:
        child.failures = 0 if code == 0 or now - child.started > _STABLE_S else child.failures + 1
        pause = _PAUSES_S[min(child.failures, len(_PAUSES_S) - 1)]
        child.process, child.ready, child.start_at = None, False, now + pause
        child.status = f"ended with {code}; starts again in {pause:g} s"
        log.log(
            logging.ERROR if code else logging.INFO,  # the analyser ends by itself to give its memory back
            "role ended",
            extra={"child": child.role, "code": code, "again_in_s": pause},
        )

    def _listen(self) -> None:
        """Sleep until a child speaks or ends, a signal comes, or one has to be looked at."""
        listeners = {child.listener: child for child in self._children}
        ends = [child.process.sentinel for child in self._children if child.process]
        patience = max(0.0, min(child.deadline for child in self._children) - time.monotonic())
        for heard in connection.wait([*listeners, *ends, self._wake], patience):
            if isinstance(heard, socket.socket) and heard in listeners:
                self._hear(listeners[heard], heard.recv(4096).decode(errors="replace"))

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
            process.join(max(0.1, deadline - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()
        for child in self._children:
            child.listener.close()


def _warm_up(preload: Callable[[], None]) -> None:
    """Import, and keep the garbage collector away from it: a page that is written to is shared no more."""
    gc.disable()
    preload()
    gc.freeze()


def _child(role: str) -> Child:
    address = f"@onescan-{os.getpid()}-{role}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind("\0" + address[1:])
    return Child(role, listener, address)
