"""The DICOM service: C-ECHO and C-STORE as SCP (PS3.4 A and B), on pynetdicom with bounded transport.

What is accepted is a literal table below. A study brings more than slices: secondary captures and the dose report are
accepted and kept with it, but never analysed. Every refusal has a status, a comment for the sender and a log line with
the sender's AE title and the remedy; nothing that a peer sends ends the service.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, _config, evt

from appliance.intake.facts import CT_IMAGE, ENHANCED_CT
from appliance.intake.refusal import OUT_OF_RESOURCES, PROCESSING_FAILURE, SUCCESS, InstanceRefused
from appliance.intake.spool import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from appliance.intake.storing import StoreRequest
from appliance.intake.transport import PDU_BYTES, BoundedServer
from core.errors import ConfigError, OneScanError, StorageError

log = logging.getLogger(__name__)

VERIFICATION = "1.2.840.10008.1.1"
SOP_CLASSES: dict[str, str] = {
    CT_IMAGE: "CT Image Storage",
    ENHANCED_CT: "Enhanced CT Image Storage",
    "1.2.840.10008.5.1.4.1.1.7": "Secondary Capture Image Storage",
    "1.2.840.10008.5.1.4.1.1.88.67": "X-Ray Radiation Dose SR Storage",
}
TRANSFER_SYNTAXES: dict[str, str] = {
    "1.2.840.10008.1.2.1": "Explicit VR Little Endian",
    "1.2.840.10008.1.2": "Implicit VR Little Endian",
    "1.2.840.10008.1.2.4.57": "JPEG Lossless, Non-Hierarchical (Process 14)",
    "1.2.840.10008.1.2.4.70": "JPEG Lossless, Non-Hierarchical, First-Order Prediction",
    "1.2.840.10008.1.2.4.80": "JPEG-LS Lossless",
    "1.2.840.10008.1.2.4.81": "JPEG-LS Lossy (Near-Lossless)",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 (Lossless Only)",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.5": "RLE Lossless",
}
_UNCOMPRESSED = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]
_STOP_S = 10.0
_REJECTIONS = {
    3: "its AE title is not in the list of senders: add it to receiver.calling_ae_titles, or correct it at the sender",
    7: "it called another AE title: set ours at the sender",
    2: "too many associations are open: raise receiver.max_associations, or have the sender try later",
}


class Receiver:
    """The service, from `start` to `stop`. The callbacks run in the threads of the associations."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        ae_title: str,
        calling_ae_titles: Sequence[str],
        max_associations: int,
        max_dataset_bytes: int,
        idle_s: float,
        negotiation_s: float,
        store: Callable[[StoreRequest], None],
        opened: Callable[[threading.Thread, str], None],
        closed: Callable[[threading.Thread, bool], None],
    ) -> None:
        self._address = (host, port)
        self._max_associations, self._max_dataset_bytes = max_associations, max_dataset_bytes
        self._store, self._opened, self._closed = store, opened, closed
        self._ae = _application_entity(ae_title, calling_ae_titles, max_associations, idle_s, negotiation_s)
        self._server: BoundedServer | None = None
        self._listener: threading.Thread | None = None
        self._stopping = False
        self._in_flight = 0
        self._changed = threading.Condition()

    @property
    def port(self) -> int:
        """The TCP port that is listened on."""
        assert self._server is not None, "the receiver is not started"
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Listen. ConfigError where the port is taken or may not be used."""
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_ECHO, self._on_echo),
            (evt.EVT_ESTABLISHED, self._on_established),
            (evt.EVT_RELEASED, self._on_ended, [True]),
            (evt.EVT_ABORTED, self._on_ended, [False]),
            (evt.EVT_REJECTED, self._on_rejected),
        ]
        try:
            server = BoundedServer(
                self._ae,
                self._address,
                self._ae.ae_title,
                self._ae.supported_contexts,
                evt_handlers=handlers,
                connection_limit=2 * self._max_associations,
                unhandled_limit=self._max_dataset_bytes,
            )
        except OSError as error:
            host, port = self._address
            remedy = "End the other program on this port, or give receiver.host and receiver.port other values."
            raise ConfigError(f"can't listen on {host}:{port}: {error.strerror}", remedy=remedy) from error
        self._ae._servers.append(server)  # type: ignore[arg-type]  # how pynetdicom counts the associations of an AE
        self._server = server
        self._listener = threading.Thread(target=server.listen, name="dicom-listener", daemon=True)
        self._listener.start()

    @property
    def alive(self) -> bool:
        """True while new associations are accepted."""
        return self._listener is not None and self._listener.is_alive()

    def stop(self) -> None:
        """Refuse what is new, finish the instances in flight, end the associations, close the port."""
        if self._server is None or self._listener is None:
            return
        self._stopping = True
        self._server.end(self._listener)
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight == 0, timeout=_STOP_S)
        for association in self._server.active_associations:
            _end(association)
        self._server = None

    def _on_store(self, event: Any) -> int | Dataset:
        with self._changed:
            self._in_flight += 1
        try:
            return self._answer(event)
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def _answer(self, event: Any) -> int | Dataset:
        sender = _printable(event.assoc.requestor.ae_title)
        request = _request_of(event, sender)
        try:
            if self._stopping:
                raise InstanceRefused(OUT_OF_RESOURCES, "the appliance is stopping", remedy="Try again in a minute.")
            self._store(request)
            return SUCCESS
        except InstanceRefused as error:
            return _refuse(error.status, error, sender)
        except StorageError as error:
            return _refuse(OUT_OF_RESOURCES, error, sender)
        except Exception:
            # The edge of this thread: whatever it was, the sender hears a failure and keeps its instance.
            log.exception("instance not stored: unforeseen error", extra={"sender": sender})
            return _status(PROCESSING_FAILURE, "unforeseen error")
        finally:
            event.assoc.dul.socket.handled(len(request.dataset))

    def _on_echo(self, event: Any) -> int:
        event.assoc.dul.socket.handled(0)
        log.info("C-ECHO answered", extra={"sender": _printable(event.assoc.requestor.ae_title)})
        return SUCCESS

    def _on_established(self, event: Any) -> None:
        sender = _printable(event.assoc.requestor.ae_title)
        if not event.assoc.accepted_contexts:
            log.warning(
                "association without an accepted presentation context: the sender proposed only SOP classes or "
                "transfer syntaxes that are not taken; send CT images, uncompressed or losslessly compressed",
                extra={"sender": sender},
            )
        self._opened(event.assoc, sender)

    def _on_ended(self, event: Any, released: bool) -> None:
        sender = _printable(event.assoc.requestor.ae_title)
        exceeded = event.assoc.dul.socket.exceeded
        if exceeded:
            log.warning("association ended: %s; check the sender", exceeded, extra={"sender": sender})
        elif not released:
            log.warning("association aborted or cut; the sender has to push again", extra={"sender": sender})
        self._closed(event.assoc, released)

    def _on_rejected(self, event: Any) -> None:
        request, reply = event.assoc.requestor.primitive, event.assoc.acceptor.primitive
        log.warning(
            "association refused: %s",
            _REJECTIONS.get(reply.diagnostic, "see PS3.8 9.3.4"),
            extra={
                "sender": _printable(request.calling_ae_title),
                "called": _printable(request.called_ae_title),
                "peer": event.assoc.requestor.address,
            },
        )


def _application_entity(
    ae_title: str, calling: Sequence[str], max_associations: int, idle_s: float, negotiation_s: float
) -> AE:
    _config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # it logs UIDs and tracebacks of what peers sent
    ae = AE(ae_title)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.maximum_pdu_size = PDU_BYTES
    ae.maximum_associations = max_associations
    ae.require_called_aet = True
    ae.require_calling_aet = list(calling)
    ae.network_timeout = idle_s
    ae.acse_timeout = negotiation_s
    ae.dimse_timeout = idle_s
    ae.add_supported_context(VERIFICATION, _UNCOMPRESSED)
    for sop_class in SOP_CLASSES:
        ae.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))
    return ae


def _request_of(event: Any, sender: str) -> StoreRequest:
    return StoreRequest(
        association=event.assoc,
        sender=sender,
        sop_class_uid=str(event.request.AffectedSOPClassUID),
        sop_instance_uid=str(event.request.AffectedSOPInstanceUID),
        transfer_syntax=str(event.context.transfer_syntax),
        dataset=event.encoded_dataset(include_meta=False) if event.request.DataSet else b"",
    )


def _refuse(status: int, error: OneScanError, sender: str) -> Dataset:
    log.warning("instance refused: %s; %s", error, error.remedy(), extra={"sender": sender, "status": f"{status:04X}"})
    return _status(status, str(error))


def _status(status: int, comment: str) -> Dataset:
    """A response with Error Comment (0000,0902): at most 64 characters, shown by many senders."""
    answer = Dataset()
    answer.Status = status
    answer.ErrorComment = _printable(comment)[:64]
    return answer


def _printable(text: str) -> str:
    """What a peer sent, fit for a log line."""
    return "".join(c if c.isprintable() and c.isascii() else "?" for c in str(text)).strip()


def _end(association: Any) -> None:
    """End an association from outside its thread: after its responses are out, abort it or drop the connection."""
    until = time.monotonic() + 1.0
    while not association.dul.to_provider_queue.empty() and time.monotonic() < until:
        time.sleep(0.01)
    if association.is_established:
        association.abort()
        association.join(timeout=_STOP_S)
    else:  # its thread waits for a request that will not come, and ends by itself after the negotiation timeout
        bury(association)


def bury(association: Any) -> None:
    """Close what a dead or dying association left open: its connection, and the thread that reads from it."""
    association.dul.socket.close()
    association.kill()
