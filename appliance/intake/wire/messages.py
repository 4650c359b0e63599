"""DIMSE messages (PS3.7): put together from P-DATA fragments, and what we say taken apart into them. Sans-IO.

A command set is a handful of elements of group 0000, implicit VR little endian (PS3.7 6.3.1); they stay bytes here.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from appliance.intake.wire.pdus import INVALID_PARAMETER, UNEXPECTED_PDU, PduType, PeerFault, encode

AFFECTED_SOP_CLASS: Final = 0x0002
REQUESTED_SOP_CLASS: Final = 0x0003
COMMAND_FIELD: Final = 0x0100
MESSAGE_ID: Final = 0x0110
RESPONDED_TO: Final = 0x0120
DATA_SET_TYPE: Final = 0x0800
STATUS: Final = 0x0900
ERROR_COMMENT: Final = 0x0902
AFFECTED_SOP_INSTANCE: Final = 0x1000
REQUESTED_SOP_INSTANCE: Final = 0x1001
EVENT_TYPE: Final = 0x1002
ACTION_TYPE: Final = 0x1008
A_DATA_SET: Final = 0x0001
NO_DATA_SET: Final = 0x0101
C_STORE_RQ, C_ECHO_RQ, RESPONSE = 0x0001, 0x0030, 0x8000
N_EVENT_REPORT_RQ, N_SET_RQ, N_ACTION_RQ, N_CREATE_RQ = 0x0100, 0x0120, 0x0130, 0x0140

CONTROL_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of a data set that is no stored object, unless configured otherwise: 20,000 references and more."""

_NEEDED: Final = (COMMAND_FIELD, DATA_SET_TYPE)
_SHORTS: Final = (*_NEEDED, MESSAGE_ID, RESPONDED_TO, STATUS, EVENT_TYPE, ACTION_TYPE)
_PDV = struct.Struct(">LBB")
_ELEMENT = struct.Struct("<HHL")
_COMMAND_LIMIT = 64 * 1024
_IS_COMMAND, _IS_LAST = 1, 2
_UNBOUNDED_STEP = 1024 * 1024
"""Of a peer that takes PDUs of any length."""


class Digest(Protocol):
    """What of hashlib's objects is used."""

    def update(self, data: memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclass(frozen=True)
class Message:
    """One DIMSE message of the peer. dataset: as it encoded it, empty without one; sha256: of it.

    elements: of the command set, by element number.
    """

    context_id: int
    elements: Mapping[int, bytes]
    dataset: memoryview
    sha256: str

    @property
    def command(self) -> int:
        """Command Field."""
        return _number(self.elements, COMMAND_FIELD)

    @property
    def message_id(self) -> int:
        """Message ID."""
        return _number(self.elements, MESSAGE_ID)

    @property
    def is_response(self) -> bool:
        """True where it answers a request of ours; `responded_to` and `status` say which, and how."""
        return bool(self.command & RESPONSE)

    @property
    def responded_to(self) -> int:
        """Message ID Being Responded To."""
        return self.number(RESPONDED_TO)

    @property
    def status(self) -> int:
        """Status."""
        return self.number(STATUS)

    def number(self, element: int) -> int:
        """A number of the command set; 0 where it is missing."""
        return _number(self.elements, element)

    def uid(self, element: int) -> str:
        """A UID of the command set; "" where it is missing."""
        return self.elements.get(element, b"").decode("ascii", "replace").rstrip("\0 ")


@dataclass
class _Incoming:
    """A message that is being received."""

    context_id: int
    command: bytearray = field(default_factory=bytearray)
    elements: Mapping[int, bytes] | None = None
    dataset: bytearray = field(default_factory=bytearray)
    digest: Digest = field(default_factory=hashlib.sha256)


class Assembler:
    """Fragments in, messages out. dataset_limit: bytes of a stored data set; control_limit: of any other message's."""

    def __init__(self, dataset_limit: int, control_limit: int = CONTROL_LIMIT) -> None:
        self._dataset_limit, self._control_limit = dataset_limit, control_limit
        self._incoming: _Incoming | None = None

    def fragments(self, body: memoryview) -> Iterator[Message]:
        """The messages that are whole after a P-DATA-TF with this body. PeerFault where it makes no sense.

        The data set is hashed as it comes: the sender is busy sending the next fragment meanwhile.
        """
        at = 0
        while at < len(body):
            if at + _PDV.size > len(body):
                raise PeerFault("a PDV that is cut", INVALID_PARAMETER)
            length, context_id, control = _PDV.unpack_from(body, at)
            if length < 2 or at + 4 + length > len(body):
                raise PeerFault("a PDV that is longer than its PDU, or shorter than its header", INVALID_PARAMETER)
            message = self._fragment(context_id, control, body[at + _PDV.size : at + 4 + length])
            at += 4 + length
            if message is not None:
                yield message

    def _fragment(self, context_id: int, control: int, value: memoryview) -> Message | None:
        incoming = self._incoming = self._incoming or _Incoming(context_id)
        if context_id != incoming.context_id:
            raise PeerFault("a message on two presentation contexts", INVALID_PARAMETER)
        if bool(control & _IS_COMMAND) is (incoming.elements is not None):
            what = "a data set before its command" if incoming.elements is None else "a second command"
            raise PeerFault(what, UNEXPECTED_PDU)
        if incoming.elements is None:
            return self._command_fragment(incoming, control, value)
        stored = _number(incoming.elements, COMMAND_FIELD) == C_STORE_RQ
        limit = self._dataset_limit if stored else self._control_limit
        if len(incoming.dataset) + len(value) > limit:
            raise PeerFault(f"a data set of more than {limit} bytes")
        incoming.dataset += value
        incoming.digest.update(value)
        return self._whole(incoming) if control & _IS_LAST else None

    def _command_fragment(self, incoming: _Incoming, control: int, value: memoryview) -> Message | None:
        if len(incoming.command) + len(value) > _COMMAND_LIMIT:
            raise PeerFault(f"a command set of more than {_COMMAND_LIMIT} bytes")
        incoming.command += value
        if not control & _IS_LAST:
            return None
        incoming.elements = decode_command(bytes(incoming.command))
        has_data_set = _number(incoming.elements, DATA_SET_TYPE) != NO_DATA_SET
        return None if has_data_set else self._whole(incoming)

    def _whole(self, incoming: _Incoming) -> Message:
        self._incoming = None
        assert incoming.elements is not None
        return Message(
            incoming.context_id, incoming.elements, memoryview(incoming.dataset), incoming.digest.hexdigest()
        )


def decode_command(data: bytes) -> dict[int, bytes]:
    """Elements of a command set by number. PeerFault where it is none."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        if at + _ELEMENT.size > len(data):
            raise PeerFault("a command set that is cut", INVALID_PARAMETER)
        group, element, length = _ELEMENT.unpack_from(data, at)
        at += _ELEMENT.size
        if group != 0 or at + length > len(data):
            raise PeerFault("a message that can't be decoded", INVALID_PARAMETER)
        found[element] = data[at : at + length]
        at += length
    for number in _SHORTS:
        length = len(found.get(number, b""))
        if length != 2 and (length or number in _NEEDED):
            raise PeerFault(f"a command set without (0000,{number:04X}), or with a broken one", INVALID_PARAMETER)
    return found


def response(request: Message, status: int, comment: str = "", max_pdu: int = 0) -> bytes:
    """The P-DATA-TF PDUs of a response without data set (PS3.7 9.3 and 10.3). max_pdu: of the peer, 0 for any length.

    comment: Error Comment (0000,0902), at most 64 characters, shown by many senders.
    """
    sop_class = request.elements.get(AFFECTED_SOP_CLASS) or request.elements.get(REQUESTED_SOP_CLASS, b"")
    elements = {
        AFFECTED_SOP_CLASS: sop_class,
        COMMAND_FIELD: struct.pack("<H", request.command | RESPONSE),
        RESPONDED_TO: struct.pack("<H", request.message_id),
        DATA_SET_TYPE: struct.pack("<H", NO_DATA_SET),
        STATUS: struct.pack("<H", status),
    }
    if comment:
        text = comment.encode("ascii", "replace")[:64]
        elements[ERROR_COMMENT] = text + b" " * (len(text) % 2)
    for instance in (REQUESTED_SOP_INSTANCE, AFFECTED_SOP_INSTANCE):
        if instance in request.elements:
            elements[AFFECTED_SOP_INSTANCE] = request.elements[instance]
    if ACTION_TYPE in request.elements:
        elements[ACTION_TYPE] = request.elements[ACTION_TYPE]
    return b"".join(_fragments(request.context_id, _command_set(elements), _IS_COMMAND, max_pdu))


def event_report(
    context_id: int, message_id: int, sop: tuple[str, str], event_type: int, dataset: bytes, max_pdu: int = 0
) -> bytes:
    """The P-DATA-TF PDUs of an N-EVENT-REPORT-RQ (PS3.7 10.3.1). sop: affected class and instance."""
    elements = {
        AFFECTED_SOP_CLASS: _padded(sop[0]),
        COMMAND_FIELD: struct.pack("<H", N_EVENT_REPORT_RQ),
        MESSAGE_ID: struct.pack("<H", message_id),
        DATA_SET_TYPE: struct.pack("<H", A_DATA_SET),
        AFFECTED_SOP_INSTANCE: _padded(sop[1]),
        EVENT_TYPE: struct.pack("<H", event_type),
    }
    command = _fragments(context_id, _command_set(elements), _IS_COMMAND, max_pdu)
    return b"".join((*command, *_fragments(context_id, dataset, 0, max_pdu)))


def _command_set(elements: Mapping[int, bytes]) -> bytes:
    rest = b"".join(_ELEMENT.pack(0, number, len(v)) + v for number, v in sorted(elements.items()))
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<L", len(rest)) + rest


def _fragments(context_id: int, content: bytes, control: int, max_pdu: int) -> Iterator[bytes]:
    step = max(1, max_pdu - _PDV.size) if max_pdu else _UNBOUNDED_STEP
    for at in range(0, len(content), step):
        last = _IS_LAST if at + step >= len(content) else 0
        value = content[at : at + step]
        yield encode(PduType.P_DATA_TF, _PDV.pack(len(value) + 2, context_id, control | last) + value)


def _padded(uid: str) -> bytes:
    value = uid.encode("ascii")
    return value + b"\0" * (len(value) % 2)


def _number(elements: Mapping[int, bytes], element: int) -> int:
    return int.from_bytes(elements.get(element, b""), "little")
