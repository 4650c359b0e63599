"""Walk an encoded data set without decoding it (PS3.5 section 7): every declared length is checked, values stay bytes.

Sans-IO and iterative: nesting can't exhaust the stack, and the number of steps is bounded.
"""

from __future__ import annotations

import struct
from collections.abc import Container
from dataclasses import dataclass

from appliance.intake.refusal import CANNOT_UNDERSTAND, TRUNCATED, InstanceRefused

ITEM = 0xFFFEE000
ITEM_DELIMITER = 0xFFFEE00D
SEQUENCE_DELIMITER = 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010
UNDEFINED = 0xFFFFFFFF

_LONG_FORM = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_UPPER = frozenset(range(ord("A"), ord("Z") + 1))
_MAX_DEPTH = 64
_MAX_STEPS = 4_000_000


@dataclass(frozen=True)
class PixelData:
    """Where the pixels are: bytes of native Pixel Data, or the number and size of encapsulated fragments."""

    length: int
    encapsulated: bool
    fragments: int = 0  # without the Basic Offset Table


@dataclass(frozen=True)
class Walked:
    """What a walk found at the top level of a data set."""

    values: dict[int, bytes]  # the wanted tags that are there, values still padded
    pixels: PixelData | None


class _Reader:
    """The data set and a bounded number of steps over it."""

    def __init__(self, dataset: bytes | memoryview, explicit: bool) -> None:
        self.view = memoryview(dataset)
        self.explicit = explicit
        self.steps = 0

    def header(self, pos: int, explicit: bool) -> tuple[int, bytes, int, int]:
        """(tag, VR or b"", length, position of the value) of the element at `pos`."""
        self.steps += 1
        if self.steps > _MAX_STEPS:
            raise InstanceRefused(CANNOT_UNDERSTAND, f"the data set has more than {_MAX_STEPS} elements")
        view = self.view
        if pos + 8 > len(view):
            raise _truncated(pos, len(view))
        group, element, length = struct.unpack_from("<HHL", view, pos)
        tag = group << 16 | element
        if not explicit or group == 0xFFFE:
            return tag, b"", length, pos + 8
        vr = bytes(view[pos + 4 : pos + 6])
        if vr[0] not in _UPPER or vr[1] not in _UPPER:
            raise InstanceRefused(CANNOT_UNDERSTAND, f"element {_name(tag)} at byte {pos} has no valid VR")
        if vr not in _LONG_FORM:
            return tag, vr, length >> 16, pos + 8
        if pos + 12 > len(view):
            raise _truncated(pos, len(view))
        return tag, vr, struct.unpack_from("<L", view, pos + 8)[0], pos + 12

    def past(self, pos: int, length: int) -> int:
        """The position behind a value of defined length."""
        end = pos + length
        if end > len(self.view):
            raise _truncated(pos, len(self.view))
        return end


def walk(dataset: bytes | memoryview, explicit: bool, wanted: Container[int]) -> Walked:
    """Walk the top level of a little-endian data set. InstanceRefused where lengths or delimiters are wrong."""
    reader = _Reader(dataset, explicit)
    values: dict[int, bytes] = {}
    pixels: PixelData | None = None
    pos = 0
    while pos < len(reader.view):
        tag, vr, length, start = reader.header(pos, explicit)
        if tag >> 16 == 0xFFFE:
            raise InstanceRefused(CANNOT_UNDERSTAND, f"delimiter {_name(tag)} outside a sequence at byte {pos}")
        if length == UNDEFINED and tag == PIXEL_DATA:
            pos, pixels = _fragments(reader, start)
        elif length == UNDEFINED:
            pos = _behind_sequence(reader, start, explicit and vr != b"UN")
        else:
            pos = reader.past(start, length)
            if tag == PIXEL_DATA:
                pixels = PixelData(length, encapsulated=False)
            elif tag in wanted:
                values[tag] = bytes(reader.view[start:pos])
    return Walked(values, pixels)


def _fragments(reader: _Reader, pos: int) -> tuple[int, PixelData]:
    """Encapsulated Pixel Data (PS3.5 A.4): items of defined length, then the sequence delimiter."""
    items = total = 0
    while True:
        tag, _, length, start = reader.header(pos, explicit=False)
        if tag == SEQUENCE_DELIMITER:
            return start, PixelData(total, encapsulated=True, fragments=max(0, items - 1))
        if tag != ITEM or length == UNDEFINED:
            raise InstanceRefused(CANNOT_UNDERSTAND, f"{_name(tag)} where a pixel data fragment belongs")
        pos = reader.past(start, length)
        total += length if items else 0  # the first item is the Basic Offset Table
        items += 1


def _behind_sequence(reader: _Reader, pos: int, explicit: bool) -> int:
    """The position behind a sequence of undefined length whose first item is at `pos`.

    `explicit` is False inside an UN of undefined length, which is implicit VR whatever the rest is (PS3.5 6.2.2).
    """
    stack: list[tuple[bool, bool]] = [(True, explicit)]  # (between items?, explicit VR?)
    while stack:
        between_items, explicit = stack[-1]
        tag, vr, length, start = reader.header(pos, explicit)
        pos = start
        if tag == (SEQUENCE_DELIMITER if between_items else ITEM_DELIMITER):
            stack.pop()
        elif between_items and tag != ITEM:
            raise InstanceRefused(CANNOT_UNDERSTAND, f"{_name(tag)} where an item of a sequence belongs")
        elif not between_items and tag >> 16 == 0xFFFE:
            raise InstanceRefused(CANNOT_UNDERSTAND, f"delimiter {_name(tag)} inside an item")
        elif length != UNDEFINED:
            pos = reader.past(start, length)
        elif len(stack) >= _MAX_DEPTH:
            raise InstanceRefused(CANNOT_UNDERSTAND, f"sequences nested deeper than {_MAX_DEPTH // 2}")
        else:
            stack.append((not between_items, explicit and vr != b"UN"))
    return pos


def _name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _truncated(pos: int, size: int) -> InstanceRefused:
    return InstanceRefused(TRUNCATED, f"the data set ends at byte {size}, inside the element that begins near {pos}")
