"""A stream of PDUs comes out as it went in, however the network cuts it, within its bound."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.intake.wire.pdus import HEADER, PduStream, PduType, PeerFault, abort, encode

LIMIT = 300_000
BODIES = st.lists(
    st.tuples(st.sampled_from(list(PduType)), st.integers(0, 400) | st.integers(0, LIMIT)), min_size=1, max_size=12
)


def fed(stream: PduStream, data: bytes) -> Iterator[tuple[PduType, bytes]]:
    """The PDUs that are whole after `data`, which comes as the room allows."""
    while data:
        room = stream.room()
        count = min(len(room), len(data))
        room[:count] = data[:count]
        stream.filled(count)
        data = data[count:]
        while (pdu := stream.take()) is not None:
            yield pdu.type, bytes(pdu.body)


@settings(max_examples=60)
@given(pdus=BODIES, cuts=st.lists(st.integers(1, 70_000), min_size=1, max_size=40), seed=st.integers(0, 255))
def test_any_cut_gives_the_same_pdus(pdus: list[tuple[PduType, int]], cuts: list[int], seed: int) -> None:
    expected = [
        (kind, bytes((seed + i) % 256 for i in range(min(n, 300))) + bytes(max(0, n - 300))) for kind, n in pdus
    ]
    data = b"".join(encode(kind, body) for kind, body in expected)
    stream, at, turn = PduStream(LIMIT), 0, 0
    taken: list[tuple[PduType, bytes]] = []
    while at < len(data):
        taken += fed(stream, data[at : at + cuts[turn % len(cuts)]])
        at, turn = at + cuts[turn % len(cuts)], turn + 1
        assert len(stream._buffer) <= LIMIT + HEADER.size + 64 * 1024
    assert taken == expected
    assert not stream.begun


@pytest.mark.parametrize("cut", [6, 7, 5_000])
def test_a_length_beyond_the_limit_is_refused_before_it_is_read(cut: int) -> None:
    stream = PduStream(LIMIT)
    held = len(stream._buffer)
    room = stream.room()
    data = (struct.pack(">BBL", 4, 0, LIMIT + 1) + bytes(cut))[:cut]
    room[: len(data)] = data
    stream.filled(len(data))
    with pytest.raises(PeerFault, match=f"a PDU of {LIMIT + 1} bytes"):
        stream.take()
    with pytest.raises(PeerFault):
        stream.room()
    assert len(stream._buffer) == held


@pytest.mark.parametrize("kind", [0, 8, 0x47, 0xFF])
def test_what_is_no_pdu_is_refused(kind: int) -> None:
    stream = PduStream(LIMIT)
    stream.room()[:6] = struct.pack(">BBL", kind, 0, 4)
    stream.filled(6)
    with pytest.raises(PeerFault, match="no PDU"):
        stream.take()


def test_a_header_alone_is_a_pdu_that_begun() -> None:
    stream = PduStream(LIMIT)
    stream.room()[:3] = b"\4\0\0"
    stream.filled(3)
    assert stream.take() is None
    assert stream.begun


def test_an_abort_names_who_and_why() -> None:
    assert abort(2) == b"\7\0\0\0\0\4\0\0\2\2"
    assert abort(2, by_provider=False) == b"\7\0\0\0\0\4\0\0\0\0"
