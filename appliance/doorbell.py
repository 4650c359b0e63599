"""Doorbells: a datagram that wakes another role. It carries nothing and may be lost; every role also looks by itself.

Sockets are files in the run folder, so that folder permissions decide who may ring. A Unix socket's path may have
107 bytes; we reach it through the folder's descriptor, so that a deep state folder works too.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from core.durable import make_folder


class _Folder:
    """The run folder, addressed by a short path that works from this process only."""

    def __init__(self, run: Path) -> None:
        self._fd = os.open(make_folder(run, 0o2770), os.O_PATH | os.O_DIRECTORY)

    def address(self, role: str) -> str:
        return f"/proc/self/fd/{self._fd}/{role}.bell"

    def close(self) -> None:
        os.close(self._fd)


class Bells:
    """Rings other roles (implements `ports.Doorbell`)."""

    def __init__(self, run: Path) -> None:
        self._folder = _Folder(run)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def ring(self, role: str) -> None:
        """Wake `role` if it listens. Never raises, never blocks."""
        with contextlib.suppress(OSError):  # nobody there, or its queue is full: it will look by itself
            self._socket.sendto(b"!", self._folder.address(role))

    def close(self) -> None:
        """Give the descriptors back."""
        self._socket.close()
        self._folder.close()


class Bell:
    """This role's own bell: wait on `fileno()`, then `drain()`."""

    def __init__(self, run: Path, role: str) -> None:
        self._folder = _Folder(run)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        address = self._folder.address(role)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address)
        self._socket.bind(address)
        os.chmod(address, 0o660)

    def fileno(self) -> int:
        """The descriptor that becomes readable when somebody rings."""
        return self._socket.fileno()

    def drain(self) -> None:
        """Forget all rings so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(16)

    def close(self) -> None:
        """Take the bell down."""
        self._socket.close()
        self._folder.close()
