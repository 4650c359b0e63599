"""Messages are put together whatever their fragments are; what makes no sense is refused by name."""

from __future__ import annotations

import hashlib
import struct
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom.dimse_messages import C_STORE_RSP
from pynetdicom.dsutils import decode as decode_with_pynetdicom
from pynetdicom.pdu import P_DATA_TF

from appliance.intake.wire.messages import C_STORE_RQ, Assembler, Message, decode_command, response
from appliance.intake.wire.pdus import PduStream, PduType, PeerFault

COMMAND_LAST, COMMAND, DATA_LAST, DATA = 3, 1, 2, 0


def element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, number, len(value)) + value


def store_request(data_set: bool = True) -> bytes:
    return (
        element(0x0002, b"1.2.840.10008.5.1.4.1.1.2\0")
        + element(0x0100, b"\1\0")
        + element(0x0110, b"\x63\0")
        + element(0x0800, b"\1\0" if data_set else b"\1\1")
        + element(0x1000, b"1.2.3.45")
    )


def pdv(control: int, value: bytes, context: int = 5) -> bytes:
    return struct.pack(">LBB", len(value) + 2, context, control) + value


def messages(assembler: Assembler, *bodies: bytes) -> list[Message]:
    return [m for body in bodies for m in assembler.fragments(memoryview(body))]


def cut(data: bytes, points: list[int]) -> list[bytes]:
    ends = sorted({min(p, len(data)) for p in points} | {len(data)})
    return [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]


@settings(max_examples=80)
@given(
    dataset=st.binary(max_size=2000),
    cuts=st.lists(st.integers(0, 2000), max_size=6),
    command_cuts=st.lists(st.integers(0, 120), max_size=3),
    together=st.booleans(),
)
def test_any_fragments_make_the_message(
    dataset: bytes, cuts: list[int], command_cuts: list[int], together: bool
) -> None:
    parts, command = cut(dataset, cuts), cut(store_request(), command_cuts)
    pdvs = [pdv(COMMAND_LAST if i == len(command) - 1 else COMMAND, part) for i, part in enumerate(command)]
    pdvs += [pdv(DATA_LAST if i == len(parts) - 1 else DATA, part) for i, part in enumerate(parts)]
    bodies = [b"".join(pdvs)] if together else pdvs
    assembler = Assembler(dataset_limit=2000)
    for _ in range(2):  # one after the other on the same association
        (message,) = messages(assembler, *bodies)
        assert (message.command, message.message_id, message.context_id) == (C_STORE_RQ, 99, 5)
        assert bytes(message.dataset) == dataset
        assert message.sha256 == hashlib.sha256(dataset).hexdigest()
        assert message.uid(0x1000) == "1.2.3.45"
        assert message.uid(0x0002) == "1.2.840.10008.5.1.4.1.1.2"


def test_a_command_without_a_data_set_is_whole_by_itself() -> None:
    (message,) = messages(Assembler(10), pdv(COMMAND_LAST, store_request(data_set=False)))
    assert not len(message.dataset)


LONG_ID = struct.pack("<HHLHHHLHHHLL", 0, 0x100, 2, 0x30, 0, 0x800, 2, 0x101, 0, 0x110, 4, 0x10000)
"""A C-ECHO-RQ whose Message ID has four bytes: no answer could name it."""


@pytest.mark.parametrize(
    ("bodies", "what"),
    [
        ([pdv(DATA_LAST, b"abc")], "a data set before its command"),
        ([pdv(COMMAND_LAST, store_request()), pdv(COMMAND_LAST, store_request())], "a second command"),
        ([pdv(COMMAND_LAST, store_request()), pdv(DATA, b"abc", context=7)], "two presentation contexts"),
        ([pdv(COMMAND_LAST, store_request()), pdv(DATA, bytes(101))], "more than 100 bytes"),
        ([pdv(COMMAND_LAST, store_request()), pdv(DATA, bytes(60)), pdv(DATA, bytes(60))], "more than 100 bytes"),
        ([pdv(COMMAND, bytes(40_000))] * 2, "a command set of more than 65536 bytes"),
        ([pdv(COMMAND_LAST, b"")], r"without \(0000,0100\)"),
        ([pdv(COMMAND_LAST, LONG_ID)], r"without \(0000,0110\), or with a broken one"),
        ([pdv(COMMAND_LAST, b"\xff" * 40)], "can't be decoded"),
        ([pdv(COMMAND_LAST, store_request()[:-1])], "can't be decoded"),
        ([pdv(COMMAND_LAST, store_request() + b"\0")], "a command set that is cut"),
        ([b"\0\0\0"], "a PDV that is cut"),
        ([struct.pack(">LBB", 1, 1, 3)], "shorter than its header"),
        ([struct.pack(">LBB", 30, 1, 3) + b"abc"], "longer than its PDU"),
    ],
)
def test_what_makes_no_sense_is_refused(bodies: list[bytes], what: str) -> None:
    with pytest.raises(PeerFault, match=what):
        messages(Assembler(dataset_limit=100), *bodies)


@settings(max_examples=300)
@given(noise=st.lists(st.binary(max_size=80), max_size=4))
def test_noise_is_refused_or_waits_for_more(noise: list[bytes]) -> None:
    assembler = Assembler(dataset_limit=100)
    try:
        found = messages(assembler, *noise)
    except PeerFault:
        return
    assert all(len(m.dataset) <= 100 for m in found)


@pytest.mark.parametrize("max_pdu", [0, 7, 50, 16384])
@pytest.mark.parametrize("comment", ["", "odd", "x" * 100])
def test_pynetdicom_reads_our_responses(max_pdu: int, comment: str) -> None:
    (request,) = messages(Assembler(10), pdv(COMMAND_LAST, store_request(data_set=False)))
    data = response(request, 0xA700, comment, max_pdu)
    stream, answer = PduStream(1 << 20), C_STORE_RSP()
    stream.room()[: len(data)] = data
    stream.filled(len(data))
    whole = False
    while (pdu := stream.take()) is not None:
        assert pdu.type is PduType.P_DATA_TF
        assert not max_pdu or len(pdu.body) <= max_pdu
        decoded = P_DATA_TF()
        decoded.decode(struct.pack(">BBL", 4, 0, len(pdu.body)) + bytes(pdu.body))
        whole = answer.decode_msg(decoded.to_primitive())
    assert whole
    primitive = answer.message_to_primitive()
    assert (primitive.Status, primitive.MessageIDBeingRespondedTo) == (0xA700, 99)
    assert (primitive.AffectedSOPInstanceUID, primitive.ErrorComment or "") == ("1.2.3.45", comment[:64])


def test_our_reading_of_a_command_set_is_pynetdicoms() -> None:
    ours = decode_command(store_request())
    theirs = decode_with_pynetdicom(BytesIO(store_request()), True, True)
    assert ours[0x1000].decode() == theirs.AffectedSOPInstanceUID
    assert int.from_bytes(ours[0x0110], "little") == theirs.MessageID
