"""The process of one role: it waits for its bell, its watchdog and SIGTERM, and turns its loop in between."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from appliance.doorbell import Bell, Bells
from appliance.notify import Notifier

RESCAN_S = 5.0
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15  # linux/prctl.h


class RoleProcess:
    """Everything a role has besides its work. Use as a context manager; `turn` runs the loop until SIGTERM."""

    def __init__(self, name: str, run: Path) -> None:
        self.name = name
        self.stopping = threading.Event()
        self.notifier = Notifier()
        self._run = run
        self._stack = ExitStack()

    def __enter__(self) -> RoleProcess:
        _be_called(self.name)
        if supervisor := os.environ.get("ONESCAN_SUPERVISOR"):
            _die_with_parent(int(supervisor))
        self.bell = self._stack.enter_context(contextlib.closing(Bell(self._run, self.name)))
        self.bells = self._stack.enter_context(contextlib.closing(Bells(self._run)))
        self._wake_r, wake_w = socket.socketpair()
        for end in (self._wake_r, wake_w):
            end.setblocking(False)
            self._stack.enter_context(contextlib.closing(end))
        before = signal.set_wakeup_fd(wake_w.fileno())
        self._stack.callback(signal.set_wakeup_fd, before)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._stack.callback(signal.signal, number, signal.signal(number, self._stop))
        return self

    def __exit__(self, *_: object) -> None:
        self.notifier.stopping()
        self._stack.close()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stopping.set()

    def turn(
        self,
        step: Callable[[], float],
        ready: str,
        alive: Callable[[], bool] = lambda: True,
        longest_s: float = 30.0,
    ) -> None:
        """Call `step` until a stop is asked for; it returns the seconds that it is content to wait.

        Between steps the role sleeps until its bell rings, never longer than 5 s. The watchdog hears of us while
        `alive()` and while no step takes more than `longest_s`: a role that hangs must be started again.
        """
        self._step_began: float | None = None
        heart = threading.Thread(target=self._beat, args=(alive, longest_s), name="watchdog", daemon=True)
        heart.start()
        self.notifier.ready(ready)
        while not self.stopping.is_set():
            self._step_began = time.monotonic()
            wait = step()
            self._step_began = None
            self.sleep(min(wait, RESCAN_S))

    def _beat(self, alive: Callable[[], bool], longest_s: float) -> None:
        while self.notifier.watchdog_s and not self.stopping.wait(self.notifier.watchdog_s / 3):
            began = self._step_began
            if alive() and (began is None or time.monotonic() - began < longest_s):
                self.notifier.alive()

    def sleep(self, seconds: float) -> None:
        """Until the bell rings, a signal comes or `seconds` are over."""
        if self.stopping.is_set():
            return
        select.select([self.bell.fileno(), self._wake_r.fileno()], [], [], max(seconds, 0.0))
        self.bell.drain()
        with contextlib.suppress(BlockingIOError):
            self._wake_r.recv(64)


def process_name(role: str) -> str:
    """What `top` and `ps -o comm` call a role's process; the kernel keeps 15 characters (prctl(2))."""
    return f"onescan-{role}"[:15]


def _be_called(role: str) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_NAME, process_name(role).encode())


def _die_with_parent(parent: int) -> None:
    """A supervisor that is killed takes its roles with it (prctl(2)); they stop cleanly."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it was killed before we could say so
        raise SystemExit(1)
