"""The gate of a service: one thread that listens, and lets connections in within their limits.

    1. the peer's address is on the list, or there is none
    2. fewer connections than allowed are inside, in whatever state: a silent one costs a thread
    3. its address does not connect too often

What is not let in is closed at once, with a line in the log that says what to do. What is let in counts until `left`,
and from before the next one is accepted, so no burst passes the limit. DICOM and STOW-RS have a gate each.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from appliance.intake.wire.bounds import Networks, RateLimiter, may_connect
from core.errors import ConfigError

log = logging.getLogger(__name__)

_BACKLOG: Final = 64
_BREATH_S: Final = 0.1
"""After a connection that could not be accepted: it is not tried again at once, or the thread would spin."""


@dataclass(frozen=True)
class Listener:
    """Where to listen. port: 0 for a free one. tls: None for plain DICOM."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True)
class Admission:
    """Who is let in. connections: inside at a time; raised_by: the setting that says so. The rest: `bounds.Limits`."""

    connections: int
    raised_by: str
    connections_per_minute: float
    addresses: Networks


def can_not_listen(error: OSError, section: str) -> ConfigError:
    """What `Gate.open` raised, with what to do about it. section: the configuration's, that has host and port."""
    remedy = f"End the other program on this port, or give {section}.host and {section}.port other values."
    if error.errno == errno.EACCES:
        remedy = (
            "Ports below 1024 take the capability CAP_NET_BIND_SERVICE, which the unit in deploy/systemd has; or give "
            f"{section}.port a value from 1024 on."
        )
    return ConfigError(f"can't listen on {error.filename}: {error.strerror}", remedy=remedy)


class Inside(Protocol):
    """A connection that was let in, with the thread that serves it. It is not started yet."""

    @property
    def thread(self) -> threading.Thread:
        """Started by the gate."""


One = TypeVar("One", bound=Inside)


class Gate(Generic[One]):
    """From `open` to `close`; `ports` are known after `open`, in the order of the listeners."""

    def __init__(
        self,
        name: str,
        admission: Admission,
        let_in: Callable[[socket.socket, str, ssl.SSLContext | None], One],
        look: Callable[[], None] | None = None,
        look_s: float | None = None,
    ) -> None:
        """name: of the service, in logs. let_in: gets connection, address, and TLS of the listener that it came to.

        look: called in the listening thread after each connection, and every `look_s` seconds.
        """
        self.ports: tuple[int, ...] = ()
        self._name, self._admission, self._let_in = name, admission, let_in
        self._look, self._look_s = look, look_s
        self._rate = RateLimiter(admission.connections_per_minute)
        self._inside: set[One] = set()
        self._lock = threading.Lock()
        self._woken, self._wake = socket.socketpair()
        self._thread: threading.Thread | None = None

    def open(self, *listeners: Listener) -> None:
        """Listen. OSError where a port is taken or may not be used; its `filename` says which."""
        with contextlib.ExitStack() as opened:
            listening = {opened.enter_context(_open(one)): one.tls for one in listeners}
            opened.pop_all()
        self.ports = tuple(int(one.getsockname()[1]) for one in listening)
        name = f"{self._name.lower()}-listener"
        self._thread = threading.Thread(target=self._listen, args=(listening,), name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """True while connections are accepted."""
        return self._thread is not None and self._thread.is_alive()

    def inside(self) -> tuple[One, ...]:
        """The connections that are open."""
        with self._lock:
            return tuple(self._inside)

    def left(self, one: One) -> None:
        """A connection is over."""
        with self._lock:
            self._inside.discard(one)

    def close(self) -> None:
        """Let nobody in any more; who is inside stays."""
        if self._thread is not None:
            self._wake.send(b"!")
            self._thread.join()
            self._thread = None
        for waker in (self._woken, self._wake):
            waker.close()

    def _listen(self, listening: Mapping[socket.socket, ssl.SSLContext | None]) -> None:
        with contextlib.ExitStack() as closing:
            for one in listening:
                closing.enter_context(one)
            while True:
                ready = select.select([*listening, self._woken], [], [], self._look_s)[0]
                if self._woken in ready:
                    return
                for one in ready:
                    self._accept(one, listening[one])
                if self._look is not None:
                    self._look()

    def _accept(self, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        try:
            connection, address = listening.accept()
        except OSError as error:  # gone again, or no descriptor left
            log.warning("a connection could not be accepted: %s", error.strerror)
            time.sleep(_BREATH_S)
            return
        peer = str(address[0])
        if refusal := self._refusal(peer):
            connection.close()
            log.warning("%s connection refused: %s", self._name, refusal, extra={"peer": peer})
            return
        with contextlib.suppress(OSError):  # the peer may be gone
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._serve(self._let_in(connection, peer, tls), connection, peer)

    def _serve(self, one: One, connection: socket.socket, peer: str) -> None:
        with self._lock:
            self._inside.add(one)
        try:
            one.thread.start()
        except RuntimeError as error:  # the system has no thread left
            self.left(one)
            connection.close()
            log.warning("%s connection refused: %s", self._name, error, extra={"peer": peer})
            time.sleep(_BREATH_S)

    def _refusal(self, peer: str) -> str:
        """Why a connection is not let in; "" where it is."""
        admission = self._admission
        if not may_connect(peer, admission.addresses):  # 1
            return "its address is not in the list: add it to receiver.addresses if it is a sender"
        if len(self.inside()) >= admission.connections:  # 2
            return f"{admission.connections} are open; raise {admission.raised_by} if they are all wanted"
        if not self._rate.allows(peer, time.monotonic()):  # 3
            return "too many a minute from there: check the sender, or raise receiver.connections_per_minute"
        return ""


def _open(where: Listener) -> socket.socket:
    """A socket that listens. OSError, its `filename` says where."""
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    try:
        return socket.create_server((where.host, where.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"{where.host}:{where.port}") from error
