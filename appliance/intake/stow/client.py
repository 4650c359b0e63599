"""One HTTP connection, served in a thread of its own: it receives, lets the conversation say what follows, and does it.

time   a request's head within `idle_s`; of its body at least `_PROGRESS` bytes in each `idle_s`, or what is left of
       it, so that a trickle ends too; our own work does not count. Between two requests `idle_s`
bytes  one chunk and one part; what a client sends ahead waits in the kernel's buffers
end    a refusal is said, then what still comes is thrown away for a moment, so that the client can read it
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from appliance.intake.door import Visit
from appliance.intake.part10 import FileMeta, read_meta
from appliance.intake.refusal import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, PROCESSING_FAILURE, InstanceRefused
from appliance.intake.stow.answer import Outcome
from appliance.intake.stow.conversation import Conversation, Event, Gone, StoreBegins, StoreEnds
from appliance.intake.stow.parts import Part
from appliance.intake.stow.request import RequestNotTaken, StowRequest, later, media_type
from appliance.intake.wire.link import LINGER_S
from core.errors import OneScanError, StorageError

if TYPE_CHECKING:
    from appliance.intake.stow.service import StowService

log = logging.getLogger(__name__)

_CHUNK: Final = 256 * 1024
_PROGRESS: Final = 64 * 1024
_SILENT = "the client was silent for too long, or sent too slowly"


class Client:
    """One connection."""

    def __init__(self, service: StowService, connection: socket.socket, peer: str) -> None:
        self._service, self._socket, self._peer = service, connection, peer
        settings = service.settings
        self._conversation = Conversation(max_part_bytes=settings.max_part_bytes, most_parts=settings.most_parts)
        self._idle_s = settings.idle_s
        self._deadline, self._since_then = time.monotonic() + self._idle_s, 0
        self.thread = threading.Thread(target=self._run, name="stow", daemon=True)

    def cut(self) -> None:
        """From another thread: nothing more is received."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def _run(self) -> None:
        try:
            if self._service.settings.listener.tls is not None:
                self._shake_hands(self._service.settings.listener.tls)
            while self._one_request():
                pass
        except RequestNotTaken as refusal:
            self._refuse(refusal, Outcome())
        except TimeoutError:
            if not self._conversation.idle:
                self._refuse(RequestNotTaken(HTTPStatus.REQUEST_TIMEOUT, _SILENT), Outcome())
        except OSError:
            pass  # cut
        except Exception:
            # The edge of this thread: one connection failed in an unforeseen way; the others and the service go on.
            log.exception("a STOW-RS connection was ended by an unforeseen error", extra={"peer": self._peer})
        finally:
            self._service.forget(self)
            self._socket.close()

    def _shake_hands(self, context: ssl.SSLContext) -> None:
        self._socket.settimeout(self._idle_s)
        try:
            self._socket = context.wrap_socket(self._socket, server_side=True)
        except ssl.SSLError as error:
            reason = (error.reason or "unknown reason").lower().replace("_", " ")
            log.warning("TLS handshake failed: %s; check the client's certificate and versions", reason,
                        extra={"peer": self._peer})  # fmt: skip
            raise

    def _one_request(self) -> bool:
        """Answer a request; False where no other may follow."""
        begins = self._next()
        if isinstance(begins, Gone):
            return False
        assert isinstance(begins, StoreBegins)
        if not self._service.has_room():
            raise later("no room for more studies", "See `onescan-appliance status` for what fills the disk.")
        if expected := self._conversation.go_on():
            self._send(expected)
        outcome = Outcome()
        try:
            with self._service.visits.request(self._peer) as visit:
                self._more_time()
                while not isinstance(event := self._next(), StoreEnds):
                    assert isinstance(event, Part)
                    self._store(visit, begins.request, event, outcome)
        except RequestNotTaken as refusal:
            self._refuse(refusal, outcome)
            return False
        except TimeoutError:
            self._refuse(RequestNotTaken(HTTPStatus.REQUEST_TIMEOUT, _SILENT), outcome)
            return False
        self._answer(outcome)
        return self._conversation.may_go_on

    def _next(self) -> Event:
        """Wait for the next event. RequestNotTaken, TimeoutError, OSError."""
        while (event := self._conversation.next_event()) is None:
            self._socket.settimeout(max(0.001, self._deadline - time.monotonic()))
            data = self._socket.recv(_CHUNK)
            if not data and self._service.stopping and not self._conversation.idle:
                raise later("the appliance is stopping", "Send it again in a minute.")
            self._since_then += len(data)
            if self._since_then >= _PROGRESS:
                self._more_time()
            self._conversation.received(data)
        if isinstance(event, StoreBegins | StoreEnds):
            self._more_time()
        return event

    def _more_time(self) -> None:
        self._deadline, self._since_then = time.monotonic() + self._idle_s, 0

    def _store(self, visit: Visit, request: StowRequest, part: Part, outcome: Outcome) -> None:
        """Store an instance; what became of it goes into the outcome."""
        began, meta = time.monotonic(), None
        try:
            try:
                meta = read_meta(memoryview(part.content))
                _check_type(part, meta, request)
            except InstanceRefused as error:
                visit.refused(str(error))
                raise
            visit.store(meta, memoryview(part.content)[meta.offset :], study_uid=request.study_uid)
        except InstanceRefused as error:
            self._failed(outcome, meta, error.status, error)
        except StorageError as error:
            self._failed(outcome, meta, OUT_OF_RESOURCES, error)
        except Exception:
            # The edge: whatever it was, the client hears a failure and keeps its instance.
            log.exception("instance not stored: unforeseen error", extra={"peer": self._peer})
            outcome.fails(meta, PROCESSING_FAILURE)
        else:
            outcome.stored.append(meta)
        self._deadline += time.monotonic() - began

    def _failed(self, outcome: Outcome, meta: FileMeta | None, reason: int, error: OneScanError) -> None:
        log.warning("instance refused: %s; %s", error, error.remedy(),
                    extra={"peer": self._peer, "status": f"{reason:04X}"})  # fmt: skip
        outcome.fails(meta, reason)

    def _answer(self, outcome: Outcome) -> None:
        status = outcome.status()
        headers = later("", "").headers if status is HTTPStatus.SERVICE_UNAVAILABLE else {}
        counts = {"stored": len(outcome.stored), "failed": len(outcome.reasons)}
        log.info("STOW-RS answered", extra={"peer": self._peer, "http_status": status.value, **counts})
        self._send(self._conversation.answer(status, outcome.as_json(), headers))
        self._more_time()

    def _refuse(self, refusal: RequestNotTaken, outcome: Outcome) -> None:
        """Say why, and what was stored before; then nothing more is taken."""
        self._service.refused(self._peer, refusal)
        with contextlib.suppress(OSError):
            self._send(self._conversation.answer(refusal.status, outcome.as_json(), refusal.headers, close=True))
            self._linger()

    def _send(self, data: bytes) -> None:
        self._socket.settimeout(self._idle_s)
        self._socket.sendall(data)

    def _linger(self) -> None:
        """Closing with bytes unread takes our words back (RFC 1122 4.2.2.13)."""
        if not isinstance(self._socket, ssl.SSLSocket):
            self._socket.shutdown(socket.SHUT_WR)
        until = time.monotonic() + LINGER_S
        while (left := until - time.monotonic()) > 0:
            self._socket.settimeout(left)
            if not self._socket.recv(_CHUNK):
                return


def _check_type(part: Part, meta: FileMeta, request: StowRequest) -> None:
    """InstanceRefused where head or part name another kind or transfer syntax than the instance has."""
    kind, parameters = media_type(part.content_type) if part.content_type else ("application/dicom", {})
    if kind != "application/dicom":
        raise InstanceRefused(CANNOT_UNDERSTAND, "the part says that it is no application/dicom")
    for named in (request.transfer_syntax, parameters.get("transfer-syntax", "")):
        if named not in ("", meta.transfer_syntax):
            raise InstanceRefused(
                CANNOT_UNDERSTAND,
                "the transfer syntax of the part's or request's type is not that of the instance",
                remedy="Have the sending system looked at: it says one transfer syntax and sends another.",
            )
