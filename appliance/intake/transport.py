"""pynetdicom's transport with the bounds it lacks (measured on 3.0.4; docs/adr/0011).

connections      refused at accept() beyond the limit: a silent connection costs a thread
PDU length       checked before the PDU is read: a header may claim 4 GB
unhandled bytes  of messages not answered yet: a data set (or a pipeline of them) has an upper size
time             a PDU that was begun arrives within the network timeout, however slowly it drips
TCP_NODELAY      else a default storescu waits 57 ms a slice for a delayed acknowledgement
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationServer, AssociationSocket, RequestHandler

log = logging.getLogger(__name__)

PDU_BYTES = 128 * 1024
"""What we announce as our maximum (PS3.8 D.1)."""
_PDU_TOLERANCE = 1024 * 1024
"""What we take: an A-ASSOCIATE-RQ with many contexts, and senders that overstep the announced length a little."""


class BoundedSocket(AssociationSocket):
    """The socket of one association, read with bounds on size and time."""

    def __init__(self, assoc: Association, client_socket: socket.socket, unhandled_limit: int) -> None:
        super().__init__(assoc, client_socket=client_socket)
        self._limit = unhandled_limit
        self._unhandled = 0
        self._deadline = 0.0
        self.exceeded = ""

    def recv(self, nr_bytes: int) -> bytearray:
        """`nr_bytes` bytes, or fewer where the connection ends. OSError beyond a bound; the association then ends."""
        if nr_bytes == 6:  # the header of the next PDU (PS3.8 9.3): its clock starts
            self._deadline = time.monotonic() + (self.assoc.network_timeout or 60)
        elif nr_bytes > PDU_BYTES + _PDU_TOLERANCE:
            raise self._refuse(f"a PDU of {nr_bytes} bytes was announced")
        self._unhandled += nr_bytes
        if self._unhandled > self._limit:
            raise self._refuse(f"a data set of more than {self._limit} bytes")
        connection = self.socket
        if connection is None:
            raise OSError("the connection was closed")
        buffer = bytearray(nr_bytes)
        view = memoryview(buffer)
        got = 0
        while got < nr_bytes:
            connection.settimeout(max(0.001, self._deadline - time.monotonic()))
            count = connection.recv_into(view[got:])
            if not count:
                view.release()
                del buffer[got:]
                break
            got += count
        return buffer

    def handled(self, size: int) -> None:
        """A message with a data set of `size` bytes was answered."""
        idle = self.assoc.dimse.msg_queue.empty()
        self._unhandled = 0 if idle else max(0, self._unhandled - size)

    def _shutdown_socket(self) -> None:
        """Close the connection. One that ends before it asked for an association needs its threads no longer."""
        super()._shutdown_socket()
        if self.assoc.dul.state_machine.current_state == "Sta2":  # awaiting A-ASSOCIATE-RQ (PS3.8 9.2.1)
            self.assoc.dul.to_user_queue.put(None)  # what the association takes for the end of its patience

    def _refuse(self, what: str) -> OSError:
        self.exceeded = what
        return OSError(what)


class _Handler(RequestHandler):
    """Gives each association a bounded socket."""

    server: BoundedServer

    def _create_association(self) -> Association:
        assoc = super()._create_association()
        while not assoc.dul.event_queue.empty():  # Evt5 of the socket that is replaced; ours puts its own
            assoc.dul.event_queue.get_nowait()
        assoc.dul.socket = BoundedSocket(assoc, self.request, self.server.unhandled_limit)
        receive = _guarded(assoc.dul.socket, assoc.dimse.receive_primitive)
        assoc.dimse.receive_primitive = receive  # type: ignore[method-assign, assignment]
        return assoc


def _guarded(connection: BoundedSocket, receive: Callable[[Any], None]) -> Callable[[Any], None]:
    """pynetdicom's decoder of DIMSE messages, ending the connection where it would have ended its thread."""

    def receive_primitive(primitive: Any) -> None:
        try:
            receive(primitive)
        except Exception as error:
            # what a broken command set makes pydicom raise has no common base
            connection.exceeded = f"a message that can't be decoded ({type(error).__name__})"
            connection.close()

    return receive_primitive


class BoundedServer(AssociationServer):
    """The listening socket.

    Each association is made and started in the listening thread (under 2 ms), so that the next connection is already
    counted against it. pynetdicom's threaded server does it in a thread of its own, and a burst passes the limit.
    """

    request_queue_size = 64

    def __init__(
        self,
        ae: AE,
        address: tuple[str, int],
        ae_title: str,
        contexts: list[PresentationContext],
        ssl_context: ssl.SSLContext | None = None,
        evt_handlers: list[Any] | None = None,
        *,
        connection_limit: int,
        unhandled_limit: int,
    ) -> None:
        self.connection_limit = connection_limit
        self.unhandled_limit = unhandled_limit
        self._woken, self._wake = socket.socketpair()
        super().__init__(ae, address, ae_title, contexts, ssl_context, evt_handlers, _Handler)

    def listen(self) -> None:
        """Take connections until `end`, asleep in between (socketserver's own loop looks ten times a second)."""
        while True:
            ready = select.select([self.fileno(), self._woken.fileno()], [], [])[0]
            if self._woken.fileno() in ready:
                return
            self.handle_request()

    def end(self, listener: threading.Thread) -> None:
        """Have `listener`, the thread in `listen`, come back, and close the port."""
        self._wake.send(b"!")
        listener.join()
        self.server_close()
        for waker in (self._woken, self._wake):
            waker.close()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """False beyond the connection limit: the connection is closed without a thread."""
        if len(self.active_associations) < self.connection_limit:
            request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return True
        log.warning(
            "connection refused: %d are open; raise the limit if they are all wanted",
            self.connection_limit,
            extra={"peer": str(client_address[0])},
        )
        return False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One connection failed in an unforeseen way; the others and the service go on."""
        log.exception("connection ended by an unforeseen error", extra={"peer": str(client_address[0])})
