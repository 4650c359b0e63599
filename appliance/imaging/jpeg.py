"""The markers of a JPEG (ITU-T T.81) or JPEG-LS stream (T.87), from SOI to EOI, as far as a decoder relies on them.

    1. segments end inside the stream; there is one frame, of the process that the transfer syntax says, and one scan
    2. Huffman and quantisation tables can be what they say, and those that the scan names are there
    3. predictor, spectral selection and point transform are those of the process
    4. the coded data go on to EOI, with restart markers in turn where they were announced and with no other marker
    5. lossless: there are as many bits as the shortest code takes for every pixel

Coded data are not decoded: what is damaged inside them is a wrong picture, as it is to every JPEG decoder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from appliance.imaging.octets import Frame, Octets, StreamFault

BASELINE, EXTENDED, LOSSLESS, JPEG_LS = 0xC0, 0xC1, 0xC3, 0xF7
_SOI, _EOI, _SOS, _DQT, _DHT, _DRI, _LSE, _COM = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD, 0xF8, 0xFE
_RESTARTS = range(0xD0, 0xD8)
_APPLICATION = range(0xE0, 0xF0)
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {_DHT, 0xC8, 0xCC}) | {JPEG_LS}

_CODED_MARKER: Final = re.compile(rb"\xff[^\x00\xff]")
"""In coded data 0xFF is followed by 0 (T.81 B.1.1.5)."""
_CODED_MARKER_LS: Final = re.compile(rb"\xff[\x80-\xfe]")
"""... and in JPEG-LS by a bit of 0 (T.87 A.1)."""
_LONGEST_CODE = 16
_LARGEST_DIFFERENCE = 16  # category of a lossless difference, T.81 H.1.2.2
_DC, _AC = 0, 1


@dataclass
class _Stream:
    """What was read so far. tables: (class, identifier) of each Huffman table → length of its shortest code.

    preset: coding parameters of JPEG-LS (MAXVAL, T1, T2, T3, RESET), 0 for the usual.
    """

    frame: Frame | None = None
    process: int = 0
    component: int = 0
    quantised_by: int = 0
    tables: dict[tuple[int, int], int] = field(default_factory=dict)
    quantisers: set[int] = field(default_factory=set)
    preset: tuple[int, ...] = ()
    restarts: bool = False


def read(content: bytes, processes: frozenset[int]) -> Frame:
    """What the stream says of its image, checked as above. processes: the frame markers that may be. StreamFault."""
    octets, stream = Octets(content), _Stream()
    if octets.take(2) != bytes((0xFF, _SOI)):
        raise StreamFault("it does not begin as a JPEG stream does")
    while True:
        marker = _marker(octets)
        if marker in (_SOI, _EOI, 0x00, 0x01) or marker in _RESTARTS:
            raise StreamFault(f"marker 0x{marker:02X} before the coded data")
        size = octets.number(2)
        if size < 2:
            raise StreamFault(f"a segment of {size} bytes")
        segment = octets.part(size - 2)
        if marker == _SOS:
            shortest = _scan(segment, stream)
            break
        _segment(marker, segment, stream, processes)
    assert stream.frame is not None  # _scan refused it
    bits = 8 * _coded(octets, stream)
    if stream.process == LOSSLESS and bits < shortest * stream.frame.rows * stream.frame.columns:
        raise StreamFault(f"{bits} bits are too few for {stream.frame.rows} x {stream.frame.columns} pixels")
    return stream.frame


def _marker(octets: Octets) -> int:
    """The next marker; it may be preceded by any number of 0xFF (T.81 B.1.1.2)."""
    if octets.number(1) != 0xFF:
        raise StreamFault(f"no marker at byte {octets.at - 1}")
    while (code := octets.number(1)) == 0xFF:
        pass
    return code


def _segment(marker: int, segment: Octets, stream: _Stream, processes: frozenset[int]) -> None:
    if marker in _FRAMES:
        if stream.frame is not None:
            raise StreamFault("two frame headers")
        if marker not in processes:
            raise StreamFault(f"JPEG process 0x{marker:02X} is not that of the transfer syntax")
        stream.process = marker
        _frame(segment, stream)
    elif marker == _DHT:
        while segment.left:
            _huffman_table(segment, stream)
    elif marker == _DQT:
        while segment.left:
            _quantiser(segment, stream)
    elif marker == _DRI:
        stream.restarts = segment.number(segment.left) > 0
    elif marker == _LSE and JPEG_LS in processes:
        if (kind := segment.number(1)) != 1:  # palettes and sizes beyond the frame header's, T.87 C.2.4.1
            raise StreamFault(f"JPEG-LS parameters of kind {kind}")
        stream.preset = tuple(segment.number(2) for _ in range(5))
    elif marker not in _APPLICATION and marker != _COM:
        raise StreamFault(f"marker 0x{marker:02X}, which no image here has")


def _frame(segment: Octets, stream: _Stream) -> None:
    """SOF, T.81 B.2.2."""
    bits, rows, columns, samples = segment.number(1), segment.number(2), segment.number(2), segment.number(1)
    if segment.left != 3 * samples:
        raise StreamFault(f"a frame header of the wrong length for {samples} components")
    stream.frame = Frame(rows, columns, samples, bits)
    if samples != 1:
        return  # no CT image: whoever compares it with the header refuses it
    stream.component, sampling, stream.quantised_by = (segment.number(1) for _ in range(3))
    if not (1 <= sampling >> 4 <= 4 and 1 <= sampling & 15 <= 4):
        raise StreamFault(f"sampling factors 0x{sampling:02X}")
    smallest, largest = {BASELINE: (8, 8), EXTENDED: (8, 12)}.get(stream.process, (2, 16))
    if not smallest <= bits <= largest:
        raise StreamFault(f"{bits} bits a sample, which this process does not have")


def _huffman_table(segment: Octets, stream: _Stream) -> None:
    """DHT, T.81 B.2.4.2: the codes must be a prefix code, the values what the process can use."""
    kind, identifier = divmod(segment.number(1), 16)
    counts = segment.take(_LONGEST_CODE)
    values = segment.take(sum(counts))
    room = sum(count << (_LONGEST_CODE - length) for length, count in enumerate(counts, 1))
    if kind not in (_DC, _AC) or identifier > 3 or not values or room > 1 << _LONGEST_CODE:
        raise StreamFault("a Huffman table that can't be one")
    if kind == _DC and max(values) > _LARGEST_DIFFERENCE:
        raise StreamFault(f"a Huffman table with differences of {max(values)} bits")
    stream.tables[kind, identifier] = next(length for length, count in enumerate(counts, 1) if count)


def _quantiser(segment: Octets, stream: _Stream) -> None:
    """DQT, T.81 B.2.4.1."""
    precision, identifier = divmod(segment.number(1), 16)
    if precision > 1 or identifier > 3:
        raise StreamFault("a quantisation table that can't be one")
    segment.skip(64 * (precision + 1))
    stream.quantisers.add(identifier)


def _scan(segment: Octets, stream: _Stream) -> int:
    """SOS, T.81 B.2.3; the length of the shortest code of its (DC) table, 0 where it has none."""
    if stream.frame is None:
        raise StreamFault("a scan without a frame header")
    if stream.frame.samples != 1:
        return 0
    if segment.left != 6 or segment.number(1) != 1 or segment.number(1) != stream.component:
        raise StreamFault("a scan of other components than the frame's")
    table, first, last, point = (segment.number(1) for _ in range(4))
    if stream.process == JPEG_LS:
        _check_ls(stream.frame, table, first, last, point, stream.preset)
        return 0
    lossless = stream.process == LOSSLESS
    if lossless and not (1 <= first <= 7 and not last and point < stream.frame.bits):
        raise StreamFault(f"predictor {first}, which is none")
    if not lossless and (first, last, point) != (0, 63, 0):
        raise StreamFault("a progressive scan in a sequential process")
    for kind, identifier in ((_DC, table >> 4), (_AC, table & 15))[: 1 if lossless else 2]:
        if (kind, identifier) not in stream.tables:
            raise StreamFault(f"Huffman table {identifier} is not there")
    if not lossless and stream.quantised_by not in stream.quantisers:
        raise StreamFault(f"quantisation table {stream.quantised_by} is not there")
    return stream.tables[_DC, table >> 4]


def _check_ls(frame: Frame, mapped: int, near: int, interleaved: int, point: int, preset: tuple[int, ...]) -> None:
    """Scan and preset parameters, T.87 C.2.3 and table C.1. dicomsdl ended the process over a RESET of 1."""
    largest = (1 << frame.bits) - 1
    maximum, *thresholds, reset = preset or (0, 0, 0, 0, 0)
    maximum = maximum or largest
    if mapped or interleaved or point >> 4 or near > min(255, maximum // 2):
        raise StreamFault("JPEG-LS scan parameters that no image here has")
    given = [near + 1, *filter(None, thresholds), maximum]
    if maximum > largest or given != sorted(given) or not (reset == 0 or 3 <= reset <= max(255, maximum)):
        raise StreamFault(f"JPEG-LS coding parameters {preset}, which can't be")


def _coded(octets: Octets, stream: _Stream) -> int:
    """Go past the coded data and EOI; how many bytes of coded data there are. Only zeros may follow (PS3.5 A.4)."""
    pattern = _CODED_MARKER_LS if stream.process == JPEG_LS else _CODED_MARKER
    begin = octets.at
    for turn, found in enumerate(pattern.finditer(octets.content, begin)):
        code = found[0][-1]
        if code == _EOI:
            if octets.content[found.end() :].strip(b"\0"):
                raise StreamFault(f"the image ends at byte {found.start()} of {octets.end}")
            return found.start() - begin
        if not stream.restarts or code != _RESTARTS[turn % 8]:
            raise StreamFault(f"marker 0x{code:02X} within the coded data")
    raise StreamFault("the stream is cut: no end of image")
