"""Sockets and threads of the DICOM service: one thread listens, one serves each connection. The only part that waits.

    connections  refused at accept() beyond the limit: a silent one costs a thread
    negotiation  an association is asked for within `negotiation_s` of connecting (ARTIM, PS3.8 9.1.4)
    time         between two PDUs, and from a PDU's first byte to its last, `idle_s` at most, however slowly it drips
    TCP_NODELAY  else a default storescu waits 57 ms a slice for a delayed acknowledgement

A request is answered before the next bytes are read: what a peer sends ahead waits in the kernel's buffers.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from appliance.intake.wire.acceptor import (
    Aborted,
    Acceptor,
    AcceptorEvent,
    Context,
    Established,
    Rejected,
    Rejection,
    Released,
    Request,
    Requestor,
    Rules,
)
from appliance.intake.wire.messages import Message, response
from appliance.intake.wire.pdus import PduStream, PeerFault, abort

log = logging.getLogger(__name__)

_BACKLOG = 64
_TOLERANCE = 1024 * 1024
"""Beyond the announced PDU length: an A-ASSOCIATE-RQ with many contexts, senders that overstep a little."""
_LINGER_S = 2.0
_STOP_S = 10.0


class Answers(Protocol):
    """Whoever answers. All are called in the connection's thread; `link` stands for the association."""

    def established(self, link: Link, requestor: Requestor) -> None:
        """An association began."""

    def rejected(self, requestor: Requestor, why: Rejection, peer: str) -> None:
        """One was refused."""

    def request(self, link: Link, message: Message, context: Context) -> tuple[int, str]:
        """Status and error comment for a message. PeerFault where the association has to end for it."""

    def ended(self, link: Link, released: bool, fault: str) -> None:
        """An association that was established is over. fault: what was wrong, "" where the peer just went."""


@dataclass(frozen=True)
class Limits:
    """associations: established at a time. connections: of any state. Seconds as in the module's docstring."""

    associations: int
    connections: int
    idle_s: float
    negotiation_s: float


class Link:
    """One connection, served in a thread of its own."""

    def __init__(self, service: Service, connection: socket.socket, peer: str) -> None:
        self.peer = peer
        self.requestor: Requestor | None = None
        self._service, self._socket = service, connection
        self._stream = PduStream(service.rules.max_pdu + _TOLERANCE)
        self._acceptor = Acceptor(service.rules, lambda: service.claim(self))
        self._deadline = time.monotonic() + service.limits.negotiation_s
        self._sending = threading.Lock()
        self._fault, self._over = "", False
        self.thread = threading.Thread(target=self._run, name="dicom-association", daemon=True)

    @property
    def established(self) -> bool:
        """True between the acceptance and the end of an association."""
        return self.requestor is not None and not self._over

    def end(self) -> None:
        """From another thread: abort what is open, and have the thread come to its end."""
        with contextlib.suppress(OSError):
            if self.established:
                self._send(abort(0, by_provider=False))
            self._socket.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        try:
            self._serve()
        except PeerFault as fault:
            self._fault = str(fault)
            with contextlib.suppress(OSError):
                self._send(abort(fault.abort_reason))
                self._linger()
        except TimeoutError:
            self._fault = "the peer was silent for too long, or a PDU came too slowly"
            with contextlib.suppress(OSError):
                self._send(abort(0))
        except OSError:
            pass  # cut
        except Exception:
            # The edge of this thread: one connection failed in an unforeseen way; the others and the service go on.
            log.exception("connection ended by an unforeseen error", extra={"peer": self.peer})
        finally:
            self._association_over(released=False)
            self._service.forget(self)
            self._socket.close()

    def _serve(self) -> None:
        while self._receive():
            while (pdu := self._stream.take()) is not None:
                for event in self._acceptor.received(pdu):
                    if not self._handled(event):
                        return
                self._deadline = time.monotonic() + self._service.limits.idle_s

    def _receive(self) -> bool:
        """Wait for bytes; False where the peer closed."""
        room, begun = self._stream.room(), self._stream.begun
        self._socket.settimeout(max(0.001, self._deadline - time.monotonic()))
        count = self._socket.recv_into(room)
        self._stream.filled(count)
        if not begun and self.requestor is not None:
            self._deadline = time.monotonic() + self._service.limits.idle_s
        return count > 0

    def _handled(self, event: AcceptorEvent) -> bool:
        """Do what an event asks for; False where nothing may follow."""
        answers = self._service.answers
        match event:
            case Request(message, context):
                with self._service.at_work():
                    status, comment = answers.request(self, message, context)
                    assert self.requestor is not None
                    self._send(response(message, status, comment, self.requestor.max_pdu))
                return True
            case Established(requestor, reply):
                self.requestor = requestor
                answers.established(self, requestor)
                self._send(reply)
                return True
            case Rejected(requestor, why, reply):
                answers.rejected(requestor, why, self.peer)
                self._send(reply)
                self._linger()
            case Released(reply):
                self._association_over(released=True)
                self._send(reply)
                self._linger()
            case Aborted():
                pass
        return False

    def _association_over(self, released: bool) -> None:
        if self.established:
            self._over = True
            self._service.answers.ended(self, released, self._fault)

    def _send(self, data: bytes) -> None:
        with self._sending:
            self._socket.settimeout(self._service.limits.idle_s)
            self._socket.sendall(data)

    def _linger(self) -> None:
        """Let the peer close: closing first, with bytes unread, would take our last words back (RFC 1122 4.2.2.13)."""
        until = time.monotonic() + _LINGER_S
        self._socket.shutdown(socket.SHUT_WR)
        scrap = bytearray(64 * 1024)
        while (left := until - time.monotonic()) > 0:
            self._socket.settimeout(left)
            if not self._socket.recv_into(scrap):
                return


class Service:
    """From `start` to `stop`; `port` is known after `start`."""

    def __init__(self, rules: Rules, limits: Limits, answers: Answers) -> None:
        self.rules, self.limits, self.answers = rules, limits, answers
        self.port = 0
        self._links: set[Link] = set()
        self._places: set[Link] = set()  # of those, what is or may become an association
        self._working = 0
        self._changed = threading.Condition()
        self._woken, self._wake = socket.socketpair()
        self._listener: threading.Thread | None = None

    def start(self, host: str, port: int) -> None:
        """Listen. OSError where the port is taken or may not be used."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self.port = int(listening.getsockname()[1])
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
        for link in links:
            link.thread.join(timeout=_STOP_S)
        self._listener = None
        for waker in (self._woken, self._wake):
            waker.close()

    def claim(self, link: Link) -> bool:
        """Take one of the places for associations, until `forget`; False where none is left."""
        with self._changed:
            if len(self._places) >= self.limits.associations:
                return False
            self._places.add(link)
            return True

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

    def _listen(self, listening: socket.socket) -> None:
        with listening:
            while True:
                ready = select.select([listening, self._woken], [], [])[0]
                if self._woken in ready:
                    return
                try:
                    connection, address = listening.accept()
                except OSError as error:  # gone again, or no descriptor left
                    log.warning("a connection could not be accepted: %s", error.strerror)
                    time.sleep(0.1)
                    continue
                self._admit(connection, str(address[0]))

    def _admit(self, connection: socket.socket, peer: str) -> None:
        """Serve a connection, or close it. It is counted before the next one is accepted: no burst passes the limit."""
        with self._changed:
            if len(self._links) >= self.limits.connections:
                connection.close()
                log.warning(
                    "connection refused: %d are open; raise the limit if they are all wanted",
                    self.limits.connections,
                    extra={"peer": peer},
                )
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = Link(self, connection, peer)
            self._links.add(link)
        link.thread.start()
