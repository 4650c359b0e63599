"""What is fuzzed: each target runs one case and lets nothing out but what it must not do.

association   PduStream and Acceptor from the first byte   a peer's fault, or events
messages      the same once the association stands         a peer's fault, or events whose answers can be encoded
examine       examine() of a received data set             refused, or facts that the ledger keeps unchanged
meta          read_meta() of a file's beginning            refused, or a place inside the file
header        read_headers() of a stored file              refused, or headers
stream        fault() of a compressed image                a reason, or none where sizes agree
slice         a stored file to a slice in HU, by whatever  refused, or HU of the header's size: and no decoder may end
              decoder takes it                             the process
assembly      Assembly under random orders of events       never complete while somebody is bringing; forgets all
"""

from __future__ import annotations

import contextlib
import dataclasses
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from pydicom.encaps import encapsulate

from appliance.imaging.codestream import Told, fault
from appliance.imaging.decode import AIR_HU, SliceDecoder
from appliance.imaging.header import ImageHeader, read_header, read_headers
from appliance.intake.examine import examine
from appliance.intake.facts import InstanceFacts
from appliance.intake.part10 import read_meta
from appliance.intake.refusal import InstanceRefused
from appliance.intake.wire.acceptor import Acceptor, AcceptorEvent, Request, State
from appliance.intake.wire.messages import response
from appliance.intake.wire.pdus import PduStream, PeerFault
from core.errors import InputRefused
from core.extent import Extent
from tests.appliance.dicom_samples import ct_slice, part10
from tests.appliance.fuzz.interleavings import interleaving
from tests.appliance.fuzz.make_corpus import CORPUS, INSTANCE, SIDE
from tests.appliance.fuzz.mutate import Seed, dataset_seed, mutated, pdu_seed, stream_seed
from tests.appliance.intake.wire.test_acceptor import CT, EXPLICIT, IMPLICIT, RULES

RLE = "1.2.840.10008.1.2.5"
LONGEST_PDU = 16 * 1024


def _read(suffix: str) -> Iterator[tuple[str, bytes]]:
    for path in sorted(CORPUS.glob(f"*{suffix}")):
        yield path.name, path.read_bytes()


CONNECTIONS = [pdu_seed(*one) for one in _read(".pdus")]
ESTABLISHED = [pdu_seed(seed.name, seed.data[6 + int.from_bytes(seed.data[2:6], "big") :]) for seed in CONNECTIONS]
DATASETS = [dataset_seed(*one) for one in _read(".dataset")]
FILES = [dataset_seed(name, data, 132) for name, data in _read(".dcm")]
STREAMS = [stream_seed(name.removesuffix(".stream"), data) for name, data in _read(".stream")]
METAS = [dataset_seed("explicit", seed.data[: read_meta(seed.data).offset + 64], 132) for seed in FILES]


def _case(seeds: list[Seed], random: Random) -> tuple[Seed, bytes]:
    seed = random.choice(seeds)
    return seed, mutated(seed, seeds, random)


def events(data: bytes, acceptor: Acceptor, random: Random) -> Iterator[AcceptorEvent]:
    """What follows from `data`, received in pieces of any size."""
    stream, at = PduStream(LONGEST_PDU), 0
    while at < len(data):
        room = stream.room()
        count = min(len(room), len(data) - at, random.choice((1, 7, 300, 70_000)))
        room[:count] = data[at : at + count]
        stream.filled(count)
        at += count
        while pdu := stream.take():
            yield from acceptor.received(pdu)


def _association(random: Random) -> None:
    _, data = _case(CONNECTIONS, random)
    _drive(data, Acceptor(RULES, lambda: None), random)


def _messages(random: Random) -> None:
    acceptor = Acceptor(RULES, lambda: None)
    acceptor.state, acceptor._contexts = State.ESTABLISHED, _CONTEXTS
    _, data = _case(ESTABLISHED, random)
    _drive(data, acceptor, random)


def _drive(data: bytes, acceptor: Acceptor, random: Random) -> None:
    with contextlib.suppress(PeerFault):
        for event in events(data, acceptor, random):
            if isinstance(event, Request):
                assert response(event.message, 0xC000, "no", max_pdu=random.choice((0, 7, 16382)))


def _examine(random: Random) -> None:
    seed, data = _case(DATASETS, random)
    syntax = RLE if "encapsulated" in seed.name else EXPLICIT if seed.name.startswith("explicit") else IMPLICIT
    with contextlib.suppress(InstanceRefused):
        facts = examine(data, syntax, CT, INSTANCE)
        assert InstanceFacts.from_json(facts.to_json()) == facts


def _meta(random: Random) -> None:
    _, data = _case(METAS, random)
    with contextlib.suppress(InstanceRefused):
        assert 132 < read_meta(data).offset <= len(data)


def _header(random: Random) -> None:
    _, data = _case(FILES, random)
    _FILE.write_bytes(data)
    with contextlib.suppress(InputRefused):
        assert read_headers(Extent(_FILE))


def _stream(random: Random) -> None:
    seed, data = _case(STREAMS, random)
    signed, syntax = random.random() < 0.5, random.choice((seed, seed, seed, *STREAMS)).name
    said = [random.choice((SIDE, SIDE, SIDE, SIDE, 0, 1, 0xFFFF)) for _ in range(2)]
    fault(data, Told(syntax, *said, samples=1, bits_allocated=16, bits_stored=12, signed=signed))
    if syntax == seed.name and not fault(data, Told(syntax, SIDE, SIDE, 1, 16, 12, signed)):
        other = Told(syntax, SIDE + 1, SIDE - 1, 1, 16, 12, signed)
        assert fault(data, other), "a stream of two sizes"


def _slice(random: Random) -> None:
    if random.random() < 0.3:
        _, data = _case(FILES, random)
        _FILE.write_bytes(data)
        with contextlib.suppress(InputRefused):
            for header in read_headers(Extent(_FILE)):
                _decode(header)
        return
    seed, data = _case(STREAMS, random)
    header = written(seed.name, data)
    if random.random() < 0.3:
        header = dataclasses.replace(header, **random.choice(_STRANGE))  # type: ignore[arg-type]
    _decode(header)


def written(syntax: str, stream: bytes) -> ImageHeader:
    """The header of a file that has this stream."""
    head, header = _HEADS[syntax]
    _FILE.write_bytes(head + encapsulate([stream.ljust(2, b"\0")]) + _NO_MORE_FRAGMENTS)
    return header


def _head(syntax: str) -> tuple[bytes, ImageHeader]:
    """A file up to the value of its Pixel Data, and its header."""
    ds = ct_slice(Rows=SIDE, Columns=SIDE)
    ds.PixelData = value = encapsulate([bytes(2)])
    ds["PixelData"].is_undefined_length = True
    content = part10(ds, syntax=syntax)
    _FILE.write_bytes(content)
    return content[: content.rindex(value)], read_header(Extent(_FILE))


def _decode(header: ImageHeader) -> None:
    with contextlib.suppress(InputRefused):
        hu = SliceDecoder()(header)
        assert (hu.shape, hu.dtype.name) == ((header.rows, header.columns), "int16")
        assert hu.min() >= AIR_HU


_STRANGE: tuple[dict[str, object], ...] = (
    *({"rows": rows, "columns": columns} for rows in (0, -1, 8, SIDE, 0xFFFF) for columns in (-SIDE, 1, 32, 0xFFFF)),
    *({"rescale_slope": slope} for slope in (0.0, -1e3, 5e-324, 1e308, None)),
    *({"rescale_intercept": intercept} for intercept in (0.5, -1e6, 1e18, 1e308, None)),
    *({"bits_stored": bits, "signed": True} for bits in (0, 1, 8, 12, 16, 17)),
    *({"padding": padding, "frames": frames} for padding in ((-(10**30), 0), (0, 10**30)) for frames in (-1, 1, 2)),
)
_FOLDER = tempfile.TemporaryDirectory(prefix="onescan-fuzz-")
_FILE = Path(_FOLDER.name) / "case.dcm"
_HEADS = {seed.name: _head(seed.name) for seed in STREAMS}
_NO_MORE_FRAGMENTS = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
_whole = Acceptor(RULES, lambda: None)
list(events(CONNECTIONS[0].data, _whole, Random(0)))
_CONTEXTS = _whole._contexts

TARGETS: dict[str, Callable[[Random], None]] = {
    "association": _association,
    "messages": _messages,
    "examine": _examine,
    "meta": _meta,
    "header": _header,
    "stream": _stream,
    "slice": _slice,
    "assembly": interleaving,
}
