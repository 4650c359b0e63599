"""The DICOM service: C-ECHO, C-STORE, MPPS, Storage Commitment as SCP (PS3.4 A, B, F, J), on the bounded `wire`.

What is accepted is a literal table below. A study brings more than slices: secondary captures and the dose report are
accepted and kept with it, but never analysed. Every refusal has a status, a comment for the sender and a log line with
the sender's AE title and the remedy; nothing that a peer sends ends the service.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from pynetdicom.presentation import PresentationContext, build_context

from appliance.intake.commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE, encoded_report, event_type
from appliance.intake.commitments import Commitments
from appliance.intake.control import Asker, RequestRefused, Status
from appliance.intake.facts import CT_IMAGE, ENHANCED_CT, LEGACY_CONVERTED_CT
from appliance.intake.procedure_step import PROCEDURE_STEP, ProcedureSteps
from appliance.intake.refusal import OUT_OF_RESOURCES, PROCESSING_FAILURE, SUCCESS, InstanceRefused
from appliance.intake.senders import Senders
from appliance.intake.spool import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from appliance.intake.storing import StoreRequest
from appliance.intake.uids import UNCOMPRESSED
from appliance.intake.wire.acceptor import Context, Rejection, Requestor, Rules
from appliance.intake.wire.bounds import Limits
from appliance.intake.wire.gate import Listener, can_not_listen
from appliance.intake.wire.link import Link
from appliance.intake.wire.messages import (
    AFFECTED_SOP_CLASS,
    AFFECTED_SOP_INSTANCE,
    C_ECHO_RQ,
    C_STORE_RQ,
    Message,
    event_report,
)
from appliance.intake.wire.pdus import UNEXPECTED_PDU, PeerFault
from appliance.intake.wire.service import Service
from core.errors import OneScanError, StorageError

log = logging.getLogger(__name__)

VERIFICATION = "1.2.840.10008.1.1"
SOP_CLASSES: dict[str, str] = {
    CT_IMAGE: "CT Image Storage",
    ENHANCED_CT: "Enhanced CT Image Storage",
    LEGACY_CONVERTED_CT: "Legacy Converted Enhanced CT Image Storage",
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
PDU_BYTES: Final = 128 * 1024
"""What we announce as our maximum (PS3.8 D.1)."""
REJECTIONS: Mapping[Rejection, str] = {
    Rejection.CALLING_AE_TITLE: "its AE title is not in the list of senders: add it to receiver.calling_ae_titles, or "
    "correct it at the sender",
    Rejection.CALLED_AE_TITLE: "it called another AE title: set ours at the sender",
    Rejection.TOO_MANY: "too many associations are open: raise receiver.max_associations, or try later",
    Rejection.NO_ROOM: "no room for more studies, or the receiver is stopping: see `onescan-appliance status`",
    Rejection.APPLICATION_CONTEXT: "it does not speak DICOM as PS3.7 has it: check what program connects here",
    Rejection.PROTOCOL_VERSION: "it does not speak version 1 of the upper layer: check what program connects here",
}


_Service: TypeAlias = Callable[[Hashable, Asker, Message, Context], None]


class Receiver:
    """The service, from `start` to `stop`. The callbacks run in the threads of the associations."""

    def __init__(
        self,
        *,
        listeners: Sequence[Listener],
        ae_title: str,
        calling_ae_titles: Sequence[str],
        limits: Limits,
        max_dataset_bytes: int,
        max_request_bytes: int,
        senders: Senders,
        has_room: Callable[[], bool],
        store: Callable[[StoreRequest], None],
        commitments: Commitments | None,
        steps: ProcedureSteps | None,
        opened: Callable[[Hashable, str, str], None],
        closed: Callable[[Hashable, bool], None],
    ) -> None:
        """has_room: whether new work may be taken; asked before each association and, by `store`, each instance.

        max_request_bytes: of a data set that is not stored. commitments, steps: None where not offered.
        """
        self._listeners, self._senders, self._has_room = tuple(listeners), senders, has_room
        self._store, self._opened, self._closed = store, opened, closed
        self._commitments = commitments
        self._control_services: dict[str, _Service] = {}
        if commitments is not None:
            self._control_services[PUSH_MODEL] = commitments.request
        if steps is not None:
            self._control_services[PROCEDURE_STEP] = steps.request
        self._stopping = False
        _silence_libraries()
        rules = Rules(
            ae_title=ae_title,
            calling=tuple(calling_ae_titles),
            contexts=accepted_contexts(self._control_services),
            max_pdu=PDU_BYTES,
            dataset_limit=max_dataset_bytes,
            control_limit=max_request_bytes,
            implementation_class_uid=IMPLEMENTATION_CLASS_UID,
            implementation_version_name=IMPLEMENTATION_VERSION_NAME,
        )
        self._service = Service(rules, limits, self)

    @property
    def ports(self) -> tuple[int, ...]:
        """The TCP ports that are listened on, in the order of the listeners."""
        return self._service.ports

    @property
    def alive(self) -> bool:
        """True while new associations are accepted."""
        return self._service.alive

    @property
    def connected(self) -> bool:
        """True while anybody is."""
        return bool(self._service.links())

    def start(self) -> None:
        """Listen. ConfigError where the port is taken or may not be used."""
        try:
            self._service.start(*self._listeners)
        except OSError as error:
            raise can_not_listen(error, "receiver") from error

    def stop(self) -> None:
        """Refuse what is new, finish the instances in flight, end the associations, close the port."""
        self._stopping = True
        self._service.stop()

    def established(self, link: Link, requestor: Requestor) -> None:
        """See `wire.link.Answers`."""
        sender = _sender(link)
        self._senders.connected(sender, link.peer, link.tls, requestor.refused)
        if not requestor.contexts:
            log.warning(
                "association without an accepted presentation context: the sender proposed only SOP classes or "
                "transfer syntaxes that are not taken; send CT images, uncompressed or losslessly compressed",
                extra={"sender": sender},
            )
        self._opened(link, sender, link.peer)
        if self._commitments is not None:
            self._commitments.opened(link, Asker(sender, link.peer), requestor.contexts.values())

    def admits(self) -> Rejection | None:
        """See `wire.link.Answers`."""
        return None if self._has_room() and not self._stopping else Rejection.NO_ROOM

    def rejected(self, link: Link, requestor: Requestor, why: Rejection) -> None:
        """See `wire.link.Answers`."""
        sender, called = _printable(requestor.calling), _printable(requestor.called)
        self._senders.refused(sender, link.peer, f"{REJECTIONS[why]} (it called {called})")
        log.warning(
            "association refused: %s", REJECTIONS[why], extra={"sender": sender, "called": called, "peer": link.peer}
        )

    def ended(self, link: Link, released: bool, fault: str) -> None:
        """See `wire.link.Answers`."""
        sender = _sender(link)
        if not released:
            self._senders.broken(sender, link.peer, fault or "aborted or cut by the sender, or on the way")
        if fault:
            log.warning("association ended: %s; check the sender", fault, extra={"sender": sender})
        elif not released:
            log.warning("association aborted or cut; the sender has to push again", extra={"sender": sender})
        if self._commitments is not None:
            self._commitments.closed(link)
        self._closed(link, released)

    def request(self, link: Link, message: Message, context: Context) -> tuple[int, str]:
        """See `wire.link.Answers`."""
        sender = _sender(link)
        if message.command == C_ECHO_RQ and context.sop_class_uid == VERIFICATION:
            log.info("C-ECHO answered", extra={"sender": sender})
            return SUCCESS, ""
        if (service := self._control_services.get(context.sop_class_uid)) is not None:
            return self._control(link, message, context, service)
        if message.command != C_STORE_RQ or context.sop_class_uid not in SOP_CLASSES:
            raise PeerFault(f"a command {message.command:04X} that this service does not have", UNEXPECTED_PDU)
        request = StoreRequest(
            association=link,
            sender=sender,
            sop_class_uid=message.uid(AFFECTED_SOP_CLASS),
            sop_instance_uid=message.uid(AFFECTED_SOP_INSTANCE),
            transfer_syntax=context.transfer_syntax,
            dataset=message.dataset,
            sha256=message.sha256,
        )
        status, comment = self._answer(request)
        if status == SUCCESS:
            self._senders.stored(sender, link.peer)
        else:
            self._senders.instance_refused(sender, link.peer, comment)
        return status, comment

    def speaks(self, link: Link) -> bool:
        """See `wire.link.Answers`."""
        return self._commitments is not None and not self._stopping and self._commitments.speaks(link)

    def speak(self, link: Link) -> bytes:
        """See `wire.link.Answers`."""
        assert self._commitments is not None
        assert link.requestor is not None
        owed = self._commitments.next_report(link)
        if owed is None:
            return b""
        contexts = link.requestor.contexts
        context_id = next(number for number, context in contexts.items() if context.sop_class_uid == PUSH_MODEL)
        message_id, report = owed
        return event_report(
            context_id,
            message_id,
            (PUSH_MODEL, PUSH_MODEL_INSTANCE),
            event_type(report),
            encoded_report(report, contexts[context_id].transfer_syntax),
            link.requestor.max_pdu,
        )

    def answered(self, link: Link, message: Message, context: Context) -> None:
        """See `wire.link.Answers`."""
        if self._commitments is None:
            raise PeerFault("an answer to a request that was not made", UNEXPECTED_PDU)
        self._commitments.answered(link, message)

    def _control(self, link: Link, message: Message, context: Context, service: _Service) -> tuple[int, str]:
        """A request that stores nothing: its status, and what a field engineer should know of it."""
        asker = Asker(_sender(link), link.peer)
        try:
            service(link, asker, message, context)
        except RequestRefused as error:
            status: int = error.status
            refused: OneScanError = error
        except StorageError as error:
            status, refused = Status.RESOURCE_LIMITATION, error
        except Exception:
            # The edge of this thread: whatever it was, the sender hears a failure.
            log.exception("request not answered: unforeseen error", extra={"sender": asker.ae_title})
            return Status.PROCESSING_FAILURE, "unforeseen error"
        else:
            self._senders.asked(asker.ae_title, asker.address)
            return Status.SUCCESS, ""
        self._senders.request_refused(asker.ae_title, asker.address, f"request refused: {refused}")
        return _refuse(status, refused, asker.ae_title, "request")

    def _answer(self, request: StoreRequest) -> tuple[int, str]:
        try:
            if self._stopping:
                raise InstanceRefused(OUT_OF_RESOURCES, "the appliance is stopping", remedy="Try again in a minute.")
            self._store(request)
            return SUCCESS, ""
        except InstanceRefused as error:
            return _refuse(error.status, error, request.sender)
        except StorageError as error:
            return _refuse(OUT_OF_RESOURCES, error, request.sender)
        except Exception:
            # The edge of this thread: whatever it was, the sender hears a failure and keeps its instance.
            log.exception("instance not stored: unforeseen error", extra={"sender": request.sender})
            return PROCESSING_FAILURE, "unforeseen error"


def _silence_libraries() -> None:
    """They would log UIDs and other text of what peers sent."""
    for name in ("pynetdicom", "pydicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom\.valuerep")


def accepted_contexts(control: Iterable[str]) -> list[PresentationContext]:
    """What is accepted. control: the SOP classes offered besides storage and verification."""
    stored = [build_context(sop_class, list(TRANSFER_SYNTAXES)) for sop_class in SOP_CLASSES]
    return [*(build_context(sop_class, list(UNCOMPRESSED)) for sop_class in (VERIFICATION, *control)), *stored]


def _refuse(status: int, error: OneScanError, sender: str, what: str = "instance") -> tuple[int, str]:
    log.warning("%s refused: %s; %s", what, error, error.remedy(), extra={"sender": sender, "status": f"{status:04X}"})
    return status, _printable(str(error))


def _sender(link: Link) -> str:
    return _printable(link.requestor.calling if link.requestor else "")


def _printable(text: str) -> str:
    """What a peer sent, fit for a log line."""
    return "".join(c if c.isprintable() and c.isascii() else "?" for c in str(text)).strip()
