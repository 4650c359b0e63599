"""A child process that is a server: start, wait until it answers, stop by pid, die with the parent."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from core.errors import OneScanError

if TYPE_CHECKING:
    from typing_extensions import Self

_POLL_S = 0.02
_LOG_LINES = 15


class ServerError(OneScanError):
    """A private server did not start, or its program is not installed."""

    default_remedy = "Run `make setup`, then read the server's log, which is named here."


@dataclass(frozen=True)
class Command:
    """How to start a server. `user` matters only to root; `stop_with` asks it to end in an orderly way."""

    argv: Sequence[str]
    user: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_with: signal.Signals = signal.SIGTERM


class Server(ABC):
    """A server with a folder of its own. Subclasses say how it is started and when it is ready."""

    start_timeout_s = 60.0
    stop_timeout_s = 20.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.log_file = self.folder / f"{type(self).__name__}.log"
        self._child: subprocess.Popen[bytes] | None = None
        self._command: Command | None = None

    @abstractmethod
    def prepare(self) -> Command:
        """Write what the server needs (idempotent) and say how to start it."""

    @abstractmethod
    def is_ready(self) -> bool:
        """True when the server answers."""

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    def start(self) -> Self:
        """Start and wait until it answers. Raises `ServerError` with the end of its log if it doesn't."""
        if self.pid is not None:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        self._command = self.prepare()
        with self.log_file.open("ab") as log:
            self._child = subprocess.Popen(
                [*_dying_with_parent(self._command), *self._command.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._command.environment},
                cwd="/",
                start_new_session=True,  # Ctrl-C goes to the parent, which stops its servers in order
            )
        self._wait_until_ready()
        return self

    def stop(self, ask_with: signal.Signals | None = None) -> None:
        """Ask it to end, wait, and end it for good if it doesn't listen. No error if it does not run."""
        child, command = self._child, self._command
        if child is None or command is None:
            return
        if child.poll() is None:
            child.send_signal(ask_with or command.stop_with)
            try:
                child.wait(self.stop_timeout_s)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._child = None

    def log(self) -> str:
        """What the server wrote so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.start_timeout_s
        while not self.is_ready():
            if self.pid is None or time.monotonic() > deadline:
                ended = self.pid is None
                self.stop()
                what = "ended at once" if ended else f"does not answer after {self.start_timeout_s:.0f} s"
                tail = "\n".join(self.log().splitlines()[-_LOG_LINES:])
                raise ServerError(f"{type(self).__name__} {what}; its log is {self.log_file}:\n{tail}")
            time.sleep(_POLL_S)


def program(name: str, *folders: str) -> str:
    """The full path of an installed program. Raises `ServerError` where it is missing."""
    search = os.pathsep.join([*folders, os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which(name, path=search)
    if found is None:
        raise ServerError(f"the program {name} is not installed")
    return found


def _dying_with_parent(command: Command) -> list[str]:
    """A prefix that makes the kernel end the child when the thread that started it ends, whatever ends it.

    `setpriv` becomes the server by exec, so the pid is the server's; it asks for the signal after the change
    of user, which would clear it.
    """
    prefix = [program("setpriv"), f"--pdeathsig={command.stop_with.name.removeprefix('SIG')}"]
    if command.user is not None and os.geteuid() == 0:
        prefix += [f"--reuid={command.user}", f"--regid={command.user}", "--init-groups"]
    return [*prefix, "--"]
