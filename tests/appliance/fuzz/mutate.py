"""Seeds with their structure, and what is done to them: one case follows from its random numbers alone."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

_LONG_FORM = frozenset({b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC", b"UR"})
_PRINTED = ("", "-1", "0", "1e308", "1e-308", "nan", "9" * 16, "1.2.3", "\\" * 8, "\x00", "\xff")


@dataclass(frozen=True)
class Seed:
    """cuts: where PDUs, fragments or elements begin. lengths: where a length stands, and how it is packed."""

    name: str
    data: bytes
    cuts: tuple[int, ...]
    lengths: tuple[tuple[int, str], ...]


def pdu_seed(name: str, data: bytes) -> Seed:
    """A stream of PDUs: cut at them, with the lengths of PDUs, fragments, and items of the request."""
    cuts, lengths, at = [], [], 0
    while at < len(data):
        kind, length = struct.unpack_from(">BxL", data, at)
        cuts.append(at)
        lengths.append((at + 2, ">L"))
        if kind == 4:
            lengths.append((at + 6, ">L"))
            cuts.append(at + 6)
            if data[at + 11] & 1:
                lengths += [(at + 12 + offset, fmt) for offset, fmt in _elements(data[at + 12 : at + 6 + length])[1]]
        elif kind == 1:
            item = at + 74
            while item + 4 <= at + 6 + length:
                cuts.append(item)
                lengths.append((item + 2, ">H"))
                item += 4 + struct.unpack_from(">H", data, item + 2)[0]
        at += 6 + length
    return Seed(name, data, (*cuts, len(data)), tuple(lengths))


def dataset_seed(name: str, data: bytes, begin: int = 0) -> Seed:
    """A data set from `begin` on, cut at elements of every depth. The name says the encoding."""
    cuts, lengths = _elements(data[begin:], name.startswith(("explicit", "enhanced")))
    moved = tuple((at + begin, fmt) for at, fmt in lengths)
    return Seed(name, data, (*(at + begin for at in cuts), len(data)), moved)


def stream_seed(name: str, data: bytes) -> Seed:
    """A compressed image: cut at its markers, or at its RLE segments, with their lengths."""
    if data[:1] != b"\xff":
        lengths = tuple((at, "<L") for at in range(0, 4 + 4 * data[0], 4))
        return Seed(name, data, (*(struct.unpack_from("<L", data, at)[0] for at, _ in lengths[1:]), len(data)), lengths)
    cuts, lengths_found, at = [0], [], 2
    while data[at : at + 2] not in (b"\xff\xda", b"\xff\x93"):  # the scan, or the first tile's data
        cuts.append(at)
        lengths_found.append((at + 2, ">H"))
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return Seed(name, data, (*cuts, at, len(data)), tuple(lengths_found))


def _elements(data: bytes, explicit: bool = False) -> tuple[list[int], list[tuple[int, str]]]:
    """Beginnings and lengths of the elements of a valid data set; sequences and items are gone into."""
    cuts, lengths, at = [], [], 0
    while at + 8 <= len(data):
        cuts.append(at)
        group, vr = data[at : at + 2], data[at + 4 : at + 6]
        if not explicit or group == b"\xfe\xff":
            place, fmt, head = at + 4, "<L", 8
        elif vr in _LONG_FORM:
            place, fmt, head = at + 8, "<L", 12
        else:
            place, fmt, head = at + 6, "<H", 8
        (length,) = struct.unpack_from(fmt, data, place)
        lengths.append((place, fmt))
        inside = data[at + head : at + head + 4] == b"\xfe\xff\x00\xe0" or (group == b"\xfe\xff" and length > 8)
        at += head + (0 if inside or length == 0xFFFFFFFF else length)
    return cuts, lengths


def mutated(seed: Seed, others: Sequence[Seed], random: Random) -> bytes:
    """One to four changes to `seed`: a value of another length, or lengths and values in place, then its structure."""
    data = bytearray(seed.data)
    if random.random() < 0.2:
        _resize(data, seed, random)
        return bytes(data)
    for _ in range(random.randrange(1, 4)):
        random.choice(_IN_PLACE)(data, seed, random)
    if random.random() < 0.6:
        random.choice(_STRUCTURE)(data, seed, others, random)
    return bytes(data)


def _flip(data: bytearray, seed: Seed, random: Random) -> None:
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _byte(data: bytearray, seed: Seed, random: Random) -> None:
    data[random.randrange(len(data))] = random.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, random.randrange(256)))


def _length(data: bytearray, seed: Seed, random: Random) -> None:
    at, fmt = random.choice(seed.lengths)
    (old,) = struct.unpack_from(fmt, data, at)
    most = 0xFFFF if fmt[1] == "H" else 0xFFFFFFFF
    new = random.choice(
        (0, 1, most, most - 1, most >> 1, old + 1, old - 1, old + 2, old - 2, 2 * old, random.randrange(512))
    )
    struct.pack_into(fmt, data, at, new & most)


def _value(data: bytearray, seed: Seed, random: Random) -> None:
    """Another number or text over a value, padded with blanks; the length stays."""
    at, fmt = random.choice(seed.lengths)
    begin, (length,) = at + struct.calcsize(fmt), struct.unpack_from(fmt, seed.data, at)
    if 0 < length <= 64 and begin + length <= len(data):
        text = random.choice(_PRINTED).encode("latin-1")[:length]
        data[begin : begin + length] = text + b" " * (length - len(text))


def _resize(data: bytearray, seed: Seed, random: Random) -> None:
    """A value becomes longer or shorter, and all lengths around it with it: well formed, but not what is expected."""
    at, fmt = random.choice(seed.lengths)
    begin, (length,) = at + struct.calcsize(fmt), struct.unpack_from(fmt, data, at)
    if length == 0xFFFFFFFF or begin + length > len(data):
        return
    new = random.choice((b"", random.randbytes(1), random.randbytes(4), b"1" * random.randrange(400), b"9" * 308))
    if random.random() < 0.3:
        new = random.choice(_PRINTED).encode("latin-1")
    for around, its_fmt in seed.lengths:
        inside, (its,) = around + struct.calcsize(its_fmt), struct.unpack_from(its_fmt, data, around)
        if its != 0xFFFFFFFF and inside <= begin and begin + length <= inside + its:
            struct.pack_into(
                its_fmt, data, around, (its + len(new) - length) & (0xFFFF if its_fmt[1] == "H" else 0xFFFFFFFF)
            )
    data[begin : begin + length] = new


def _truncate(data: bytearray, seed: Seed, others: Sequence[Seed], random: Random) -> None:
    del data[random.choice((random.randrange(len(data)), random.choice(seed.cuts))) :]


def _remove(data: bytearray, seed: Seed, others: Sequence[Seed], random: Random) -> None:
    first, last = _piece(seed, random)
    del data[first:last]


def _duplicate(data: bytearray, seed: Seed, others: Sequence[Seed], random: Random) -> None:
    first, last = _piece(seed, random)
    data[last:last] = data[first:last] * random.choice((1, 1, 1, 2, 50))


def _move(data: bytearray, seed: Seed, others: Sequence[Seed], random: Random) -> None:
    first, last = _piece(seed, random)
    piece = data[first:last]
    del data[first:last]
    at = random.choice(seed.cuts)
    data[at:at] = piece


def _splice(data: bytearray, seed: Seed, others: Sequence[Seed], random: Random) -> None:
    other = random.choice(others)
    first, last = _piece(other, random)
    at = random.choice(seed.cuts)
    data[at:at] = other.data[first:last]


def _piece(seed: Seed, random: Random) -> tuple[int, int]:
    """From one cut to another: mostly the next ones."""
    first = random.randrange(len(seed.cuts) - 1)
    last = min(len(seed.cuts) - 1, first + random.choice((1, 1, 1, 2, 3, 10)))
    return seed.cuts[first], seed.cuts[last]


_IN_PLACE: tuple[Callable[[bytearray, Seed, Random], None], ...] = (_flip, _byte, _length, _length, _value)
_STRUCTURE: tuple[Callable[[bytearray, Seed, Sequence[Seed], Random], None], ...] = (
    *(_truncate, _remove, _duplicate, _move, _splice),
)
