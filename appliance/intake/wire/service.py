"""Sockets and threads of the DICOM service: one thread listens, one serves each connection. The only part that waits.

    connections  refused at accept() beyond a limit (`bounds.Limits`): a silent one costs a thread
    TLS          its handshake is done in the connection's thread and counts as negotiation
    TCP_NODELAY  else a default storescu waits 57 ms a slice for a delayed acknowledgement

A request is answered before the next bytes are read: what a peer sends ahead waits in the kernel's buffers.
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
from appliance.intake.wire.bounds import Limits, RateLimiter, may_connect
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

    def rejected(self, link: Link, requestor: Requestor, why: Rejection) -> None:
        """One was refused."""

    def admits(self) -> Rejection | None:
        """Why no association can be taken now, though a place is free; None: it can."""

    def request(self, link: Link, message: Message, context: Context) -> tuple[int, str]:
        """Status and error comment for a message. PeerFault where the association has to end for it."""

    def ended(self, link: Link, released: bool, fault: str) -> None:
        """An association that was established is over. fault: what was wrong, "" where the peer just went."""


@dataclass(frozen=True)
class Listener:
    """Where to listen. port: 0 for a free one. tls: None for plain DICOM."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None


class Link:
    """One connection, served in a thread of its own."""

    def __init__(
        self, service: Service, connection: socket.socket, peer: str, tls: ssl.SSLContext | None = None
    ) -> None:
        self.peer, self.tls = peer, tls is not None
        self._context = tls
        self.requestor: Requestor | None = None
        self._service, self._socket = service, connection
        self._stream = PduStream(service.rules.max_pdu + _TOLERANCE)
        self._acceptor = Acceptor(service.rules, lambda: service.claim(self))
        self._deadline = time.monotonic() + service.limits.negotiation_s
        self._sending = threading.Lock()
        self._fault, self._over, self._ending = "", False, False
        self.thread = threading.Thread(target=self._run, name="dicom-association", daemon=True)

    @property
    def established(self) -> bool:
        """True between the acceptance and the end of an association."""
        return self.requestor is not None and not self._over

    def end(self) -> None:
        """From another thread: abort what is open; the peer closes then, and the thread comes to its end."""
        self._ending = True
        with contextlib.suppress(OSError):
            if self.established:
                self._send(abort(0, by_provider=False))
            else:
                self.cut()

    def cut(self) -> None:
        """From another thread: end the connection without another word."""
        with contextlib.suppress(OSError):
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
        if self._context is not None:
            self._shake_hands(self._context)
        while self._receive():
            if self._ending:  # what was under way when we aborted
                self._linger()
                return
            while (pdu := self._stream.take()) is not None:
                for event in self._acceptor.received(pdu):
                    if not self._handled(event):
                        return
                self._deadline = time.monotonic() + self._service.limits.idle_s

    def _shake_hands(self, context: ssl.SSLContext) -> None:
        self._socket.settimeout(self._service.limits.negotiation_s)
        try:
            self._socket = context.wrap_socket(self._socket, server_side=True)
        except ssl.SSLError as error:
            reason = (error.reason or "unknown reason").lower().replace("_", " ")
            log.warning("TLS handshake failed: %s; check the sender's certificate and versions", reason,
                        extra={"peer": self.peer})  # fmt: skip
            raise

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
                answers.rejected(self, requestor, why)
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
        """Let the peer close (Sta13): closing first, with bytes unread, takes our words back (RFC 1122 4.2.2.13)."""
        until = time.monotonic() + _LINGER_S
        scrap = bytearray(64 * 1024)
        with contextlib.suppress(TimeoutError):
            while (left := until - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv_into(scrap):
                    return


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
            listening = {opened.enter_context(_listening(one)): one.tls for one in listeners}
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
        until = time.monotonic() + _LINGER_S
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


def _listening(where: Listener) -> socket.socket:
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    try:
        return socket.create_server((where.host, where.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"{where.host}:{where.port}") from error
