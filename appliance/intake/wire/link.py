"""One connection, served in a thread of its own: it receives, lets the acceptor say what follows, and does it.

    time  negotiation within `Limits.negotiation_s` of connecting; between two PDUs, and from a PDU's first byte to its
          last, `Limits.idle_s` at most, however slowly it drips
    TLS   its handshake is done here and counts as negotiation

A request is answered before the next bytes are read: what a peer sends ahead waits in the kernel's buffers. What we ask
of the peer (the report of a storage commitment) is said when it pauses, one request at a time.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

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
)
from appliance.intake.wire.messages import Message, response
from appliance.intake.wire.pdus import PduStream, PeerFault, abort

if TYPE_CHECKING:
    from appliance.intake.wire.service import Service

log = logging.getLogger(__name__)

LINGER_S: Final = 2.0
_PAUSE_S = 0.5
"""Silence after which a peer is taken to listen; most release at once, and are called back."""
_QUICK_ACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)  # Linux
_TOLERANCE = 1024 * 1024
"""Beyond the announced PDU length: an A-ASSOCIATE-RQ with many contexts, senders that overstep a little."""


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

    def speaks(self, link: Link) -> bool:
        """Whether something is to be asked of the peer as soon as it pauses."""

    def speak(self, link: Link) -> bytes:
        """The PDUs of that request; empty where it is not wanted any more."""

    def answered(self, link: Link, message: Message, context: Context) -> None:
        """The peer's response to a request of ours. PeerFault where there was none."""

    def ended(self, link: Link, released: bool, fault: str) -> None:
        """An association that was established is over. fault: what was wrong, "" where the peer just went."""


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
        if not self.established or self.tls:  # OpenSSL has no room for a second thread beside the one that reads
            self.cut()
        elif self._sending.acquire(timeout=LINGER_S):
            try:
                with contextlib.suppress(OSError):
                    self._socket.settimeout(LINGER_S)
                    self._socket.sendall(abort(0, by_provider=False))
            finally:
                self._sending.release()

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
            try:
                self._association_over(released=False)
            finally:
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
        count = self._wait_and_receive(room, begun)
        self._acknowledge()
        self._stream.filled(count)
        if not begun and self.requestor is not None:
            self._deadline = time.monotonic() + self._service.limits.idle_s
        return count > 0

    def _acknowledge(self) -> None:
        """At once, which has to be asked for each time: a sender with Nagle's algorithm keeps the rest until then."""
        if _QUICK_ACK is not None:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)

    def _wait_and_receive(self, room: memoryview, begun: bool) -> int:
        """As recv_into; if the peer pauses, we say what we have to ask of it."""
        answers = self._service.answers
        while self.established and not begun and answers.speaks(self):
            self._socket.settimeout(min(_PAUSE_S, max(0.001, self._deadline - time.monotonic())))
            try:
                return self._socket.recv_into(room)
            except TimeoutError:
                if time.monotonic() >= self._deadline:
                    raise
                if said := answers.speak(self):
                    self._send(said)
        self._socket.settimeout(max(0.001, self._deadline - time.monotonic()))
        return self._socket.recv_into(room)

    def _handled(self, event: AcceptorEvent) -> bool:
        """Do what an event asks for; False where nothing may follow."""
        answers = self._service.answers
        match event:
            case Request(message, context) if message.is_response:
                answers.answered(self, message, context)
                return True
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
        until = time.monotonic() + LINGER_S
        scrap = bytearray(64 * 1024)
        with contextlib.suppress(TimeoutError):
            while (left := until - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv_into(scrap):
                    return
