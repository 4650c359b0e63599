"""One association as its acceptor sees it (PS3.8 9.2): PDUs in, events out. Sans-IO.

What may come when is a literal table; everything else is the peer's fault and ends the connection. The request and the
answer to it are decoded, negotiated and encoded by pynetdicom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final, TypeAlias

from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import PresentationContext, negotiate_as_acceptor

from appliance.intake.wire.messages import CONTROL_LIMIT, Assembler, Message
from appliance.intake.wire.pdus import INVALID_PARAMETER, RELEASE_REPLY, UNEXPECTED_PDU, Pdu, PduType, PeerFault, encode

APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"


class State(Enum):
    """Of PS3.8 table 9-10, what an acceptor needs that answers at once."""

    AWAITING_REQUEST = "Sta2"
    ESTABLISHED = "Sta6"
    AWAITING_CLOSE = "Sta13"


class Rejection(Enum):
    """Why an association is refused: result, source, reason (PS3.8 table 9-21)."""

    CALLING_AE_TITLE = (1, 1, 3)
    CALLED_AE_TITLE = (1, 1, 7)
    APPLICATION_CONTEXT = (1, 1, 2)
    PROTOCOL_VERSION = (1, 2, 2)
    TOO_MANY = (2, 3, 2)
    NO_ROOM = (2, 3, 1)


@dataclass(frozen=True)
class Rules:
    """What is accepted. calling: AE titles that may send, empty: all. max_pdu: what we announce, bytes.

    dataset_limit: bytes of a stored data set; control_limit: of that of any other message.
    """

    ae_title: str
    calling: Sequence[str]
    contexts: Sequence[PresentationContext]
    max_pdu: int
    dataset_limit: int
    implementation_class_uid: str
    implementation_version_name: str
    control_limit: int = CONTROL_LIMIT


@dataclass(frozen=True)
class Context:
    """An accepted presentation context."""

    sop_class_uid: str
    transfer_syntax: str


@dataclass(frozen=True)
class RefusedContext:
    """A presentation context that is not taken. result: 1 to 4 (PS3.8 table 9-18)."""

    sop_class_uid: str
    transfer_syntaxes: tuple[str, ...]
    result: int


@dataclass(frozen=True)
class Requestor:
    """Who asks for an association. max_pdu: the longest PDU that it takes, 0 for any. contexts: accepted, by id."""

    calling: str
    called: str
    max_pdu: int
    contexts: Mapping[int, Context] = field(default_factory=dict)
    refused: tuple[RefusedContext, ...] = ()


@dataclass(frozen=True)
class Established:
    """Send `reply`; messages may follow."""

    requestor: Requestor
    reply: bytes


@dataclass(frozen=True)
class Rejected:
    """Send `reply`; the peer will close."""

    requestor: Requestor
    why: Rejection
    reply: bytes


@dataclass(frozen=True)
class Request:
    """A message to be answered, or one that answers us."""

    message: Message
    context: Context


@dataclass(frozen=True)
class Released:
    """Send `reply`; the peer will close."""

    reply: bytes = RELEASE_REPLY


@dataclass(frozen=True)
class Aborted:
    """The peer gave up; close."""


AcceptorEvent: TypeAlias = Established | Rejected | Request | Released | Aborted


class Acceptor:
    """One association from its first byte. claim: take one of the places for associations, or say why not."""

    def __init__(self, rules: Rules, claim: Callable[[], Rejection | None]) -> None:
        self.state = State.AWAITING_REQUEST
        self._rules, self._claim = rules, claim
        self._assembler = Assembler(rules.dataset_limit, rules.control_limit)
        self._contexts: Mapping[int, Context] = {}

    def received(self, pdu: Pdu) -> Iterator[AcceptorEvent]:
        """What follows from a PDU. PeerFault where it may not come now, or is none."""
        handle = _TABLE.get((self.state, pdu.type))
        if handle is None:
            raise PeerFault(f"a PDU of type {pdu.type.name} in state {self.state.value}", UNEXPECTED_PDU)
        return handle(self, pdu.body)

    def _on_request(self, body: memoryview) -> Iterator[AcceptorEvent]:
        version, request = _decoded(body)
        requestor = Requestor(
            _text(request.calling_ae_title), _text(request.called_ae_title), request.maximum_length_received or 0
        )
        rejection = self._rejection(version, request, requestor)
        if rejection is not None:
            self.state = State.AWAITING_CLOSE
            yield Rejected(requestor, rejection, _reject(rejection))
            return
        results, _ = negotiate_as_acceptor(
            request.presentation_context_definition_list, list(self._rules.contexts), roles=None
        )
        self._contexts = {
            int(c.context_id): Context(str(c.abstract_syntax), str(c.transfer_syntax[0]))
            for c in results
            if c.result == 0 and c.context_id is not None
        }
        self.state = State.ESTABLISHED
        proposed = {c.context_id: c for c in request.presentation_context_definition_list}
        refused = tuple(
            RefusedContext(
                str(c.abstract_syntax), tuple(map(str, proposed[c.context_id].transfer_syntax)), c.result or 0
            )
            for c in results
            if c.result != 0
        )
        requestor = replace(requestor, contexts=self._contexts, refused=refused)
        yield Established(requestor, self._accept(request, results))

    def _on_data(self, body: memoryview) -> Iterator[AcceptorEvent]:
        for message in self._assembler.fragments(body):
            context = self._contexts.get(message.context_id)
            if context is None:
                raise PeerFault("a message on a presentation context that was not accepted", INVALID_PARAMETER)
            yield Request(message, context)

    def _on_release(self, body: memoryview) -> Iterator[AcceptorEvent]:
        self.state = State.AWAITING_CLOSE
        yield Released()

    def _on_abort(self, body: memoryview) -> Iterator[AcceptorEvent]:
        self.state = State.AWAITING_CLOSE
        yield Aborted()

    def _rejection(self, version: int, request: A_ASSOCIATE, requestor: Requestor) -> Rejection | None:
        if not version & 1:
            return Rejection.PROTOCOL_VERSION
        if str(request.application_context_name) != APPLICATION_CONTEXT:
            return Rejection.APPLICATION_CONTEXT
        if requestor.called != self._rules.ae_title.strip():
            return Rejection.CALLED_AE_TITLE
        if self._rules.calling and requestor.calling not in {title.strip() for title in self._rules.calling}:
            return Rejection.CALLING_AE_TITLE
        return self._claim()

    def _accept(self, request: A_ASSOCIATE, results: list[PresentationContext]) -> bytes:
        longest = MaximumLengthNotification()
        longest.maximum_length_received = self._rules.max_pdu
        implementation = ImplementationClassUIDNotification()
        implementation.implementation_class_uid = self._rules.implementation_class_uid
        version = ImplementationVersionNameNotification()
        version.implementation_version_name = self._rules.implementation_version_name
        answer = A_ASSOCIATE()
        answer.application_context_name = APPLICATION_CONTEXT
        answer.calling_ae_title, answer.called_ae_title = request.calling_ae_title, request.called_ae_title
        answer.result, answer.result_source = 0, 1
        answer.presentation_context_definition_results_list = results
        answer.user_information = [longest, implementation, version]
        pdu = A_ASSOCIATE_AC()
        pdu.from_primitive(answer)
        return pdu.encode()


_Handler: TypeAlias = Callable[[Acceptor, memoryview], Iterator[AcceptorEvent]]
_TABLE: Mapping[tuple[State, PduType], _Handler] = {
    (State.AWAITING_REQUEST, PduType.ASSOCIATE_RQ): Acceptor._on_request,
    (State.AWAITING_REQUEST, PduType.ABORT): Acceptor._on_abort,
    (State.ESTABLISHED, PduType.P_DATA_TF): Acceptor._on_data,
    (State.ESTABLISHED, PduType.RELEASE_RQ): Acceptor._on_release,
    (State.ESTABLISHED, PduType.ABORT): Acceptor._on_abort,
    (State.AWAITING_CLOSE, PduType.ABORT): Acceptor._on_abort,
}


def _decoded(body: memoryview) -> tuple[int, A_ASSOCIATE]:
    """Protocol version and request. PeerFault where pynetdicom can't read it."""
    try:
        pdu: Any = A_ASSOCIATE_RQ()
        pdu.decode(encode(PduType.ASSOCIATE_RQ, bytes(body)))
        request = pdu.to_primitive()
        _check_contexts(request.presentation_context_definition_list)
        return int(pdu.protocol_version), request
    except Exception as error:  # what a broken request makes it raise has no common base
        what = f"an association request that can't be decoded ({type(error).__name__})"
        raise PeerFault(what, INVALID_PARAMETER) from error


def _check_contexts(proposed: Sequence[PresentationContext]) -> None:
    """ValueError unless each proposes something (PS3.8 9.3.2.2), which pynetdicom takes for granted."""
    if not proposed:
        raise ValueError("no presentation context")
    for context in proposed:
        if not context.abstract_syntax or not context.transfer_syntax:
            raise ValueError(f"presentation context {context.context_id} proposes no syntax")


def _reject(why: Rejection) -> bytes:
    answer = A_ASSOCIATE()
    answer.result, answer.result_source, answer.diagnostic = why.value
    pdu = A_ASSOCIATE_RJ()
    pdu.from_primitive(answer)
    return pdu.encode()


def _text(title: str | None) -> str:
    return (title or "").strip()
