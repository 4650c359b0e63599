"""The DICOM service: who is served, and the end of it all. One thread listens, one serves each connection.

connections  refused at accept() beyond a limit (`bounds.Limits`): a silent one costs a thread
TCP_NODELAY  else a default storescu waits 57 ms a slice for what an acknowledgement keeps back of our response; what it
             sends is acknowledged at once (`link`), or small slices would wait 49 ms each
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from appliance.intake.wire.acceptor import Rejection, Rules
from appliance.intake.wire.bounds import Limits, RateLimiter, may_connect
from appliance.intake.wire.link import LINGER_S, Answers, Link

log = logging.getLogger(__name__)

_BACKLOG = 64
_STOP_S = 10.0


@dataclass(frozen=True)
class Listener:
    """Where to listen. port: 0 for a free one. tls: None for plain DICOM."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None


class Service:
    """From `start` to `stop`; `ports` are known after `start`, in the order of the listeners."""

    def __init__(self, rules: Rules, limits: Limits, answers: Answers) -> None:
        self.rules, self.limits, self.answers = rules, limits, answers
        self.ports: tuple[int, ...] = ()
        self._links: set[Link] = set()
        self._places: set[Link] = set()  # of those, what is or may become an association
        self._rate = RateLimiter(limits.connections_per_minute)
        self._working = 0
        self._changed = threading.Condition()
        self._woken, self._wake = socket.socketpair()
        self._listener: threading.Thread | None = None

    def start(self, *listeners: Listener) -> None:
        """Listen. OSError where a port is taken or may not be used; its `filename` says which."""
        with contextlib.ExitStack() as opened:
            listening = {opened.enter_context(open_listener(one)): one.tls for one in listeners}
            opened.pop_all()
        self.ports = tuple(int(one.getsockname()[1]) for one in listening)
        self._listener = threading.Thread(target=self._listen, args=(listening,), name="dicom-listener", daemon=True)
        self._listener.start()

    @property
    def alive(self) -> bool:
        """True while connections are accepted."""
        return self._listener is not None and self._listener.is_alive()

    def links(self) -> tuple[Link, ...]:
        """The connections that are open."""
        with self._changed:
            return tuple(self._links)

    def stop(self) -> None:
        """Take no more connections, let requests that are being answered finish, end the associations."""
        if self._listener is None:
            return
        self._wake.send(b"!")
        self._listener.join()
        with self._changed:
            self._changed.wait_for(lambda: self._working == 0, timeout=_STOP_S)
        links = self.links()
        for link in links:
            link.end()
        until = time.monotonic() + LINGER_S
        for link in links:
            link.thread.join(timeout=max(0.0, until - time.monotonic()))
            link.cut()
        for link in links:
            link.thread.join(timeout=_STOP_S)
        self._listener = None
        for waker in (self._woken, self._wake):
            waker.close()

    def claim(self, link: Link) -> Rejection | None:
        """Take one of the places for associations, until `forget`; or why there is none."""
        if refusal := self.answers.admits():
            return refusal
        with self._changed:
            if len(self._places) >= self.limits.associations:
                return Rejection.TOO_MANY
            self._places.add(link)
            return None

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Around a request that is being answered."""
        with self._changed:
            self._working += 1
        try:
            yield
        finally:
            with self._changed:
                self._working -= 1
                self._changed.notify_all()

    def forget(self, link: Link) -> None:
        """A connection is over."""
        with self._changed:
            self._links.discard(link)
            self._places.discard(link)

    def _listen(self, listening: Mapping[socket.socket, ssl.SSLContext | None]) -> None:
        with contextlib.ExitStack() as closing:
            for one in listening:
                closing.enter_context(one)
            while True:
                ready = select.select([*listening, self._woken], [], [])[0]
                if self._woken in ready:
                    return
                for one in ready:
                    self._accept(one, listening[one])

    def _accept(self, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        try:
            connection, address = listening.accept()
        except OSError as error:  # gone again, or no descriptor left
            log.warning("a connection could not be accepted: %s", error.strerror)
            time.sleep(0.1)
            return
        peer = str(address[0])
        if refusal := self._refusal(peer):
            connection.close()
            log.warning("connection refused: %s", refusal, extra={"peer": peer})
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(self, connection, peer, tls)
        with self._changed:  # counted before the next one is accepted: no burst passes the limit
            self._links.add(link)
        link.thread.start()

    def _refusal(self, peer: str) -> str:
        """Why a connection is not served; "" where it is."""
        if not may_connect(peer, self.limits.addresses):
            return "its address is not in the list: add it to receiver.addresses if it is a sender"
        if len(self.links()) >= self.limits.connections:
            return f"{self.limits.connections} are open; raise receiver.max_associations if they are all wanted"
        if not self._rate.allows(peer, time.monotonic()):
            return "too many a minute from there: check the sender, or raise receiver.connections_per_minute"
        return ""


def open_listener(where: Listener) -> socket.socket:
    """A socket that listens. OSError, its `filename` says where."""
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    try:
        return socket.create_server((where.host, where.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"{where.host}:{where.port}") from error
