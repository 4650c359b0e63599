"""The stream of PDUs on a connection (PS3.8 9.3): bytes in, whole PDUs out. Sans-IO.

    buffer = stream.room()            where the next bytes may be received into
    stream.filled(n)                  so many were
    while pdu := stream.take(): ...   type and body; the body is a view that `room` makes invalid

The body of a PDU is received in place and never copied here. Memory is one buffer of the largest PDU that came so far,
which is `limit` at most; a header that announces more raises before a byte of it is read.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

HEADER = struct.Struct(">BxL")
_FIRST = 16 * 1024
_AHEAD = 64 * 1024  # room for what follows a PDU, so that one call to the kernel may bring more than one


class PduType(IntEnum):
    """PS3.8 table 9-11 and the following."""

    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    P_DATA_TF = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


class PeerFault(Exception):
    """The peer broke a rule or passed a bound. abort_reason: of A-ABORT (PS3.8 table 9-26)."""

    def __init__(self, what: str, abort_reason: int = 0) -> None:
        super().__init__(what)
        self.abort_reason = abort_reason


UNRECOGNISED_PDU, UNEXPECTED_PDU, INVALID_PARAMETER = 1, 2, 6


class Pdu(NamedTuple):
    """One PDU. body: without the header of six bytes."""

    type: PduType
    body: memoryview


class PduStream:
    """limit: the longest body that is taken, in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray(_FIRST)
        self._begin = self._end = 0

    @property
    def begun(self) -> bool:
        """True while a part of a PDU is here."""
        return self._end > self._begin

    def room(self) -> memoryview:
        """Where the next bytes go, at least one. Views of bodies that were taken before are invalid from now on."""
        held = self._end - self._begin
        wanted = HEADER.size + self._limit_checked() if held >= HEADER.size else HEADER.size
        if wanted + _AHEAD > len(self._buffer) and wanted > len(self._buffer) - self._begin:
            grown = bytearray(max(wanted + _AHEAD, len(self._buffer)))  # a new one: views of the old may be alive
            grown[:held] = self._buffer[self._begin : self._end]
            self._buffer, self._begin, self._end = grown, 0, held
        elif self._begin:
            self._buffer[:held] = self._buffer[self._begin : self._end]
            self._begin, self._end = 0, held
        return memoryview(self._buffer)[self._end :]

    def filled(self, count: int) -> None:
        """`count` bytes were written into what `room` gave."""
        self._end += count

    def take(self) -> Pdu | None:
        """The next whole PDU. PeerFault where its header is none, or it is too long."""
        if self._end - self._begin < HEADER.size:
            return None
        length = self._limit_checked()
        end = self._begin + HEADER.size + length
        if end > self._end:
            return None
        body = memoryview(self._buffer)[self._begin + HEADER.size : end]
        pdu = Pdu(PduType(self._buffer[self._begin]), body)
        self._begin = end
        return pdu

    def _limit_checked(self) -> int:
        """The length that the header at the front announces."""
        kind, length = HEADER.unpack_from(self._buffer, self._begin)
        if not PduType.ASSOCIATE_RQ <= kind <= PduType.ABORT:
            raise PeerFault(f"bytes that are no PDU (type {kind})", UNRECOGNISED_PDU)
        if length > self._limit:
            raise PeerFault(f"a PDU of {length} bytes was announced", INVALID_PARAMETER)
        return int(length)


def encode(kind: PduType, body: bytes) -> bytes:
    """A PDU as bytes."""
    return HEADER.pack(kind, len(body)) + body


RELEASE_REPLY = encode(PduType.RELEASE_RP, bytes(4))


def abort(reason: int, by_provider: bool = True) -> bytes:
    """An A-ABORT (PS3.8 9.3.8)."""
    return encode(PduType.ABORT, bytes((0, 0, 2 if by_provider else 0, reason if by_provider else 0)))
