"""The DICOM service: who is served, and the end of it all. One thread listens (`gate`), one serves each connection.

connections  refused at accept() beyond a limit (`bounds.Limits`): a silent one costs a thread
TCP_NODELAY  else a default storescu waits 57 ms a slice for what an acknowledgement keeps back of our response; what it
             sends is acknowledged at once (`link`), or small slices would wait 49 ms each
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator

from appliance.intake.wire.acceptor import Rejection, Rules
from appliance.intake.wire.bounds import Limits
from appliance.intake.wire.gate import Admission, Gate, Listener
from appliance.intake.wire.link import LINGER_S, Answers, Link

_STOP_S = 10.0


class Service:
    """From `start` to `stop`; `ports` are known after `start`, in the order of the listeners."""

    def __init__(self, rules: Rules, limits: Limits, answers: Answers) -> None:
        self.rules, self.limits, self.answers = rules, limits, answers
        admission = Admission(
            *(limits.connections, "receiver.max_associations", limits.connections_per_minute, limits.addresses)
        )
        self._gate = Gate("DICOM", admission, self._link)
        self._places: set[Link] = set()  # what is or may become an association
        self._working = 0
        self._changed = threading.Condition()

    def start(self, *listeners: Listener) -> None:
        """Listen. OSError where a port is taken or may not be used; its `filename` says which."""
        self._gate.open(*listeners)

    @property
    def ports(self) -> tuple[int, ...]:
        """Where it listens."""
        return self._gate.ports

    @property
    def alive(self) -> bool:
        """True while connections are accepted."""
        return self._gate.alive

    def links(self) -> tuple[Link, ...]:
        """The connections that are open."""
        return self._gate.inside()

    def stop(self) -> None:
        """Take no more connections, let requests that are being answered finish, end the associations."""
        self._gate.close()
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
            self._places.discard(link)
        self._gate.left(link)

    def _link(self, connection: socket.socket, peer: str, tls: ssl.SSLContext | None) -> Link:
        return Link(self, connection, peer, tls)
