"""A compressed stream held against its DICOM header, before any decoder sees it.

Decoders take the size of an image from the stream and the room for it from the header: dicomsdl wrote past its buffer
where the two differed, and ended the process (ADR 0035). What passes here says the same as the header about rows,
columns, samples and bits, and is whole as far as its markers tell. Pure; it costs a fraction of decoding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from appliance.imaging import jpeg, jpeg2000
from appliance.imaging.octets import Frame, Octets, StreamFault

RLE = "1.2.840.10008.1.2.5"
_RLE_HEADER = 64
_MOST_EXPANSION, _MOST_BESIDE = 4, 1 << 20
"""A stream has at most so many bytes for each byte of the image, and beside them. Lossless JPEG of noise takes 2."""


@dataclass(frozen=True)
class Told:
    """What the DICOM header says of the image."""

    transfer_syntax: str
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    signed: bool


def fault(stream: bytes, told: Told) -> str:
    """Why a stream must not be decoded; "" where it may."""
    most = told.rows * told.columns * told.samples * told.bits_allocated // 8 * _MOST_EXPANSION + _MOST_BESIDE
    if len(stream) > most:
        return f"{len(stream)} bytes for an image of {told.rows} x {told.columns} pixels"
    try:
        if told.transfer_syntax == RLE:
            _check_rle(stream, told)
        elif read := _FRAME_OF.get(told.transfer_syntax):
            _compare(read(stream), told)
        else:
            return "no decoder here takes its transfer syntax"
    except StreamFault as error:
        return str(error)
    return ""


def _compare(frame: Frame, told: Told) -> None:
    if (frame.rows, frame.columns) != (told.rows, told.columns):
        raise StreamFault(
            f"the stream has {frame.rows} rows and {frame.columns} columns, the header says {told.rows} and "
            f"{told.columns}"
        )
    if frame.samples != told.samples:
        raise StreamFault(f"the stream has {frame.samples} samples a pixel, the header says {told.samples}")
    if frame.samples != 1:
        raise StreamFault(f"{frame.samples} samples a pixel, where CT has one")
    if -(-frame.bits // 8) * 8 != told.bits_allocated:
        raise StreamFault(f"the stream has {frame.bits} bits a sample, the header allocates {told.bits_allocated}")
    if frame.signed and not told.signed:  # dicomsdl reads it 32,768 off
        raise StreamFault("the stream's samples have a sign, the header says that they have none")
    if frame.bits < told.bits_stored and told.signed and not frame.signed:
        # of an unsigned sample fewer bits are the same number; where the sign went can't be told
        raise StreamFault(f"the stream has {frame.bits} bits a sample, the header says {told.bits_stored} with sign")


def _check_rle(stream: bytes, told: Told) -> None:
    """The RLE header (PS3.5 G.5) and its segments, one for each byte of a sample, that hold a byte for each pixel."""
    octets = Octets(stream)
    count, *offsets = (int.from_bytes(octets.take(4), "little") for _ in range(_RLE_HEADER // 4))
    needed = told.samples * (told.bits_allocated // 8)
    if count != needed or count > len(offsets):
        raise StreamFault(f"{count} RLE segments, the header makes {needed}")
    bounds = [*offsets[:count], len(stream)]
    if bounds[0] != _RLE_HEADER or bounds != sorted(bounds):
        raise StreamFault("RLE segments that are not one behind the other")
    for begin, end in pairwise(bounds):
        _check_segment(stream, begin, end, told.rows * told.columns)


def _check_segment(stream: bytes, at: int, end: int, pixels: int) -> None:
    """Runs and literals (PS3.5 G.3.2) of one segment. Of more than there are pixels pydicom cuts off the rest."""
    unfolded = 0
    while at < end and unfolded < pixels:
        code = stream[at]
        if code < 128:
            at += code + 2
            unfolded += code + 1
        elif code > 128:
            at += 2
            unfolded += 257 - code
        else:
            at += 1
    if unfolded != pixels or at > end or stream[at:end].strip(b"\0"):
        raise StreamFault(f"an RLE segment holds other than a byte for each of {pixels} pixels")


def _jpeg(*processes: int) -> Callable[[bytes], Frame]:
    return partial(jpeg.read, processes=frozenset(processes))


_FRAME_OF: dict[str, Callable[[bytes], Frame]] = {
    "1.2.840.10008.1.2.4.50": _jpeg(jpeg.BASELINE),
    "1.2.840.10008.1.2.4.51": _jpeg(jpeg.BASELINE, jpeg.EXTENDED),
    "1.2.840.10008.1.2.4.57": _jpeg(jpeg.LOSSLESS),
    "1.2.840.10008.1.2.4.70": _jpeg(jpeg.LOSSLESS),
    "1.2.840.10008.1.2.4.80": _jpeg(jpeg.JPEG_LS),
    "1.2.840.10008.1.2.4.81": _jpeg(jpeg.JPEG_LS),
    "1.2.840.10008.1.2.4.90": jpeg2000.read,
    "1.2.840.10008.1.2.4.91": jpeg2000.read,
    "1.2.840.10008.1.2.4.201": jpeg2000.read,
    "1.2.840.10008.1.2.4.202": jpeg2000.read,
    "1.2.840.10008.1.2.4.203": jpeg2000.read,
}

COMPRESSED = frozenset({RLE, *_FRAME_OF})
"""Transfer syntaxes whose streams are checked here; no other is decoded."""
