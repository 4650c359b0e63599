"""The headers of a JPEG 2000 codestream (ITU-T T.800 annex A), HTJ2K (T.814) among them, from SOC to EOC.

    1. segments and tile-parts end inside the stream
    2. SIZ comes first; the image area has no offset and no subsampling that would hide a larger one, tiles cover it
    3. tile-parts are of tiles that exist, and each tile has one

Some systems put a whole JP2 file where DICOM has the bare codestream (PS3.5 A.4.4): its boxes are gone through to it.
"""

from __future__ import annotations

from appliance.imaging.octets import Frame, Octets, StreamFault

_SOC, _SIZ, _COD, _QCD, _SOT, _SOD, _EOC = 0xFF4F, 0xFF51, 0xFF52, 0xFF5C, 0xFF90, 0xFF93, 0xFFD9
_JP2 = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_MOST_TILES = 4096
"""8 x 8 pixels each of a matrix of 512; a decoder keeps some 6 kB for every tile before it has read one."""
_MOST_BITS = 38  # T.800 table A.11


def read(content: bytes) -> Frame:
    """What the codestream says of its image, checked as above. StreamFault."""
    octets = _codestream(content)
    if octets.number(2) != _SOC or octets.number(2) != _SIZ:
        raise StreamFault("it does not begin as a JPEG 2000 stream does")
    frame, tiles = _size(_body(octets))
    seen = set()
    while (marker := octets.number(2)) != _SOT:
        seen.add(marker)
        if marker < 0xFF50 or marker in (_SOD, _EOC, _SIZ):
            raise StreamFault(f"marker 0x{marker:04X} in the main header")
        _body(octets)
    if not {_COD, _QCD} <= seen:
        raise StreamFault("coding or quantisation parameters are not there")
    if absent := tiles - len(_tile_parts(octets, tiles)):
        raise StreamFault(f"{absent} of {tiles} tiles are not there")
    return frame


def _codestream(content: bytes) -> Octets:
    """The codestream, or that in the first contiguous codestream box of a JP2 file (T.800 annex I)."""
    octets = Octets(content)
    if not content.startswith(_JP2):
        return octets
    while True:
        size, kind, head = octets.number(4), octets.take(4), 8
        if size == 1:
            size, head = octets.number(8), 16
        if size == 0:
            size = octets.left + head
        if size < head:
            raise StreamFault(f"a JP2 box of {size} bytes")
        box = octets.part(size - head)
        if kind == b"jp2c":
            return box


def _body(octets: Octets) -> Octets:
    """The segment behind a marker, without its length."""
    size = octets.number(2)
    if size < 2:
        raise StreamFault(f"a segment of {size} bytes")
    return octets.part(size - 2)


def _size(segment: Octets) -> tuple[Frame, int]:
    """SIZ, T.800 A.5.1: the image and its number of tiles."""
    segment.skip(2)  # capabilities
    right, bottom, left, top, width, height, tiles_left, tiles_top = (segment.number(4) for _ in range(8))
    samples = segment.number(2)
    if not samples or segment.left != 3 * samples:
        raise StreamFault(f"a size segment of the wrong length for {samples} components")
    depth, *subsampling = (segment.number(1) for _ in range(3))
    bits = (depth & 0x7F) + 1
    if bits > _MOST_BITS or subsampling != [1, 1] or left or top:
        raise StreamFault("an image area with offset or subsampling, or samples of no known size")
    if not (width and height and right and bottom) or tiles_left or tiles_top:
        raise StreamFault("tiles that don't cover the image")
    tiles = -(-right // width) * -(-bottom // height)
    if tiles > _MOST_TILES:
        raise StreamFault(f"{tiles} tiles, at most {_MOST_TILES} are read")
    return Frame(bottom, right, samples, bits, signed=bool(depth & 0x80)), tiles


def _tile_parts(octets: Octets, tiles: int) -> set[int]:
    """Go past all tile-parts, from behind the first SOT marker on; which tiles they are of (T.800 A.4.2)."""
    found = set()
    while True:
        begin = octets.at - 2
        segment = _body(octets)
        if segment.left != 8:
            raise StreamFault("a tile-part header of the wrong length")
        tile, size = segment.number(2), segment.number(4)
        if tile >= tiles:
            raise StreamFault(f"a part of tile {tile}, of {tiles}")
        found.add(tile)
        if not size:  # up to EOC
            if not octets.content[octets.at : octets.end].rstrip(b"\0").endswith(_EOC.to_bytes(2, "big")):
                raise StreamFault("the stream is cut: no end of codestream")
            return found
        if begin + size < octets.at + 2:
            raise StreamFault(f"a tile-part of {size} bytes")
        octets.skip(begin + size - octets.at)
        marker = octets.number(2) if octets.left > 1 else 0
        if marker != _SOT:
            # some encoders leave EOC out: what counts is that all tiles are here
            if marker not in (0, _EOC):
                raise StreamFault(f"marker 0x{marker:04X} where a tile-part begins")
            return found
