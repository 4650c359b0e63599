"""Where the pixels of a slice are in its file: native frame after frame, or fragments of compressed ones (PS3.5 A.4).

Read here and not by a decoder, because decoders trust lengths: one was seen to crash the process over a file that ends
before its Pixel Data does, others fill in what is missing.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from dataclasses import dataclass
from typing import BinaryIO

from appliance.imaging.header import ImageHeader
from core.errors import InputRefused
from core.finding import Reason

IMPLICIT = "1.2.840.10008.1.2"
NATIVE = frozenset({IMPLICIT, "1.2.840.10008.1.2.1"})
_PIXEL_DATA, _ITEM, _END = 0x7FE00010, 0xFFFEE000, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_PIXEL_VRS = (b"OB", b"OW", b"UN")
_BYTES = 2
"""Of a stored value: `decode` takes no others."""


@dataclass(frozen=True)
class Fragment:
    """A part of a compressed stream: `size` bytes of the file from `at` on."""

    at: int
    size: int


def native_frame(file: BinaryIO, header: ImageHeader) -> bytes:
    """The stored values of a slice as they stand in the file. InputRefused(UNREADABLE) where there are too few."""
    at, length = _element(file, header)
    size = _BYTES * header.rows * header.columns
    if length == _UNDEFINED or length < size * header.frames:
        raise InputRefused(
            Reason.UNREADABLE, f"{0 if length == _UNDEFINED else length} bytes of pixel data are too few"
        )
    file.seek(at + size * ((header.frame or 1) - 1))
    return _exactly(file, size)


def compressed_frame(file: BinaryIO, fragments: tuple[Fragment, ...]) -> bytes:
    """The compressed stream of a slice."""
    parts = []
    for fragment in fragments:
        file.seek(fragment.at)
        parts.append(_exactly(file, fragment.size))
    return b"".join(parts)


def frames_of(file: BinaryIO, header: ImageHeader) -> tuple[tuple[Fragment, ...], ...]:
    """The fragments of each frame of a file whose pixels are compressed.

    Told apart by the Basic Offset Table, or by there being as many fragments as frames. InputRefused(UNREADABLE) where
    neither helps, or the list is not closed before the file ends.
    """
    at, length = _element(file, header)
    if length != _UNDEFINED:
        raise InputRefused(Reason.UNREADABLE, "compressed pixel data are not in fragments")
    table, *fragments = _items(file, at)
    if header.frames == 1:
        return (tuple(fragments),)
    file.seek(table.at)
    offsets = struct.unpack(f"<{table.size // 4}L", _exactly(file, table.size // 4 * 4))
    if not offsets:
        if len(fragments) != header.frames:
            raise InputRefused(Reason.UNREADABLE, f"{len(fragments)} fragments for {header.frames} frames")
        return tuple((fragment,) for fragment in fragments)
    if len(offsets) != header.frames or [*offsets] != sorted(offsets):
        raise InputRefused(Reason.UNREADABLE, f"offsets of {len(offsets)} frames where there are {header.frames}")
    frames: list[list[Fragment]] = [[] for _ in offsets]
    first = table.at + table.size + 8  # offsets count from the item tag of the first fragment
    for fragment in fragments:
        frames[max(0, bisect_right(offsets, fragment.at - first) - 1)].append(fragment)
    return tuple(map(tuple, frames))


def _element(file: BinaryIO, header: ImageHeader) -> tuple[int, int]:
    """Where the value of Pixel Data begins, and its length."""
    implicit = header.transfer_syntax == IMPLICIT
    file.seek(header.pixels_at)
    head = _exactly(file, 8 if implicit else 12)
    group, element = struct.unpack_from("<HH", head)
    if group << 16 | element != _PIXEL_DATA or not (implicit or head[4:6] in _PIXEL_VRS):
        raise InputRefused(Reason.UNREADABLE, "no pixel data")
    return header.pixels_at + len(head), int(struct.unpack_from("<L", head, len(head) - 4)[0])


def _items(file: BinaryIO, at: int) -> list[Fragment]:
    """The Basic Offset Table and the fragments behind it."""
    items: list[Fragment] = []
    while True:
        file.seek(at)
        group, element, size = struct.unpack("<HHL", _exactly(file, 8))
        tag = group << 16 | element
        if tag == _END and items:
            return items
        if tag != _ITEM or size == _UNDEFINED:
            raise InputRefused(Reason.UNREADABLE, "the list of pixel data fragments is broken")
        items.append(Fragment(at + 8, size))
        at += 8 + size


def _exactly(file: BinaryIO, size: int) -> bytes:
    content = file.read(size)
    if len(content) != size:
        raise InputRefused(Reason.UNREADABLE, "the file ends within the pixel data")
    return content
