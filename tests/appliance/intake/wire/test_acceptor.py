"""An association is accepted, refused, used and ended as PS3.8 has it, and nothing may come out of turn."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, MaximumLengthNotification
from pynetdicom.presentation import build_context

from appliance.intake.wire.acceptor import (
    _TABLE,
    APPLICATION_CONTEXT,
    Aborted,
    Acceptor,
    AcceptorEvent,
    Established,
    Rejected,
    Rejection,
    Released,
    Rules,
    State,
)
from appliance.intake.wire.pdus import RELEASE_REPLY, Pdu, PduType, PeerFault

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
RULES = Rules("ONESCAN", (), [build_context(CT, [EXPLICIT, IMPLICIT])], 131072, 1 << 20, "2.25.1", "ONESCAN")


def request(called: str = "ONESCAN", calling: str = "SCANNER1", context: str = APPLICATION_CONTEXT) -> bytes:
    """The body of an A-ASSOCIATE-RQ, as pynetdicom makes it."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = context  # type: ignore[assignment]
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    contexts = [build_context(CT, [BIG, IMPLICIT]), build_context(MR, [EXPLICIT]), build_context(CT, [BIG])]
    for number, item in enumerate(contexts):
        item.context_id = 2 * number + 1
    primitive.presentation_context_definition_list = contexts
    length = MaximumLengthNotification()
    length.maximum_length_received = 16382
    primitive.user_information = [length]
    pdu: Any = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    return bytes(pdu.encode()[6:])


def received(acceptor: Acceptor, kind: PduType, body: bytes = bytes(4)) -> list[AcceptorEvent]:
    return list(acceptor.received(Pdu(kind, memoryview(body))))


def established(rules: Rules = RULES) -> tuple[Acceptor, Established]:
    acceptor = Acceptor(rules, lambda: None)
    (event,) = received(acceptor, PduType.ASSOCIATE_RQ, request())
    assert isinstance(event, Established)
    return acceptor, event


def test_what_is_proposed_is_accepted_context_by_context() -> None:
    acceptor, event = established()
    assert acceptor.state is State.ESTABLISHED
    assert (event.requestor.calling, event.requestor.max_pdu) == ("SCANNER1", 16382)
    assert {i: (c.sop_class_uid, c.transfer_syntax) for i, c in event.requestor.contexts.items()} == {1: (CT, IMPLICIT)}
    answer: Any = A_ASSOCIATE_AC()
    answer.decode(event.reply)
    primitive = answer.to_primitive()
    assert [c.result for c in primitive.presentation_context_definition_results_list] == [0, 3, 4]
    assert primitive.maximum_length_received == 131072
    assert primitive.implementation_class_uid == "2.25.1"


@pytest.mark.parametrize(
    ("body", "rules", "free", "why"),
    [
        (request(called="OTHER"), RULES, True, Rejection.CALLED_AE_TITLE),
        (request(), Rules(**{**vars(RULES), "calling": ("CT1",)}), True, Rejection.CALLING_AE_TITLE),
        (request(context="1.2.3"), RULES, True, Rejection.APPLICATION_CONTEXT),
        (b"\0\2" + request()[2:], RULES, True, Rejection.PROTOCOL_VERSION),
        (request(), RULES, False, Rejection.TOO_MANY),
    ],
)
def test_a_refusal_says_why(body: bytes, rules: Rules, free: bool, why: Rejection) -> None:
    acceptor = Acceptor(rules, lambda: None if free else Rejection.TOO_MANY)
    (event,) = received(acceptor, PduType.ASSOCIATE_RQ, body)
    assert isinstance(event, Rejected)
    assert event.why is why
    answer: Any = A_ASSOCIATE_RJ()
    answer.decode(event.reply)
    assert (answer.result, answer.source, answer.reason_diagnostic) == why.value
    assert acceptor.state is State.AWAITING_CLOSE


def test_no_place_is_taken_by_who_is_refused() -> None:
    claimed: list[bool] = []

    def claim() -> Rejection | None:
        claimed.append(True)
        return None

    acceptor = Acceptor(RULES, claim)
    received(acceptor, PduType.ASSOCIATE_RQ, request(called="OTHER"))
    assert not claimed


def test_release_and_abort_end_it() -> None:
    acceptor, _ = established()
    assert received(acceptor, PduType.RELEASE_RQ) == [Released(RELEASE_REPLY)]
    assert received(acceptor, PduType.ABORT) == [Aborted()]
    acceptor, _ = established()
    assert received(acceptor, PduType.ABORT) == [Aborted()]
    assert acceptor.state is State.AWAITING_CLOSE


@pytest.mark.parametrize(("state", "kind"), [p for p in product(State, PduType) if p not in _TABLE])
def test_everything_that_is_not_in_the_table_is_refused(state: State, kind: PduType) -> None:
    acceptor = Acceptor(RULES, lambda: None)
    acceptor.state = state
    with pytest.raises(PeerFault, match=f"{kind.name} in state {state.value}"):
        received(acceptor, kind)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_request_is_answered_or_refused(data: st.DataObject) -> None:
    body = bytearray(request())
    for _ in range(data.draw(st.integers(1, 5))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    body = body[: data.draw(st.integers(0, len(body)))]
    try:
        (event,) = received(Acceptor(RULES, lambda: None), PduType.ASSOCIATE_RQ, bytes(body))
    except PeerFault:
        return
    assert isinstance(event, Established | Rejected)


def test_a_context_that_proposes_nothing_is_the_peers_fault() -> None:
    abstract, transfer = b"\x30\0" + len(CT).to_bytes(2, "big") + CT.encode(), b"\x40"
    assert request().count(abstract) == 2
    with pytest.raises(PeerFault, match="can't be decoded"):
        received(
            Acceptor(RULES, lambda: None), PduType.ASSOCIATE_RQ, request().replace(abstract, transfer + abstract[1:])
        )


def test_a_message_on_a_context_that_was_refused_is_the_peers_fault() -> None:
    from tests.appliance.intake.wire.test_messages import COMMAND_LAST, pdv, store_request

    acceptor, _ = established()
    with pytest.raises(PeerFault, match="not accepted"):
        received(acceptor, PduType.P_DATA_TF, pdv(COMMAND_LAST, store_request(data_set=False), context=3))
