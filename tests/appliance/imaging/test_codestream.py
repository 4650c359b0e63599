"""No decoder sees a stream that says something else than its header, or that is not whole."""

from __future__ import annotations

import dataclasses
import io
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydicom.encaps import encapsulate

from appliance.imaging import decode
from appliance.imaging.codestream import COMPRESSED, RLE, Told, fault
from appliance.imaging.decode import decode_slice
from appliance.imaging.header import read_header
from core.errors import InputRefused
from core.extent import Extent
from core.finding import Reason
from tests.appliance.dicom_samples import ct_slice, part10
from tests.appliance.fuzz.make_corpus import CORPUS, SIDE, picture

EXTENDED, LOSSLESS, FIRST_ORDER = (f"1.2.840.10008.1.2.4.{n}" for n in (51, 57, 70))
JPEG_LS, NEAR_LOSSLESS, J2K_LOSSLESS, J2K = (f"1.2.840.10008.1.2.4.{n}" for n in (80, 81, 90, 91))
STREAMS = {path.stem: path.read_bytes() for path in sorted(CORPUS.glob("*.stream"))}
JPEGS = (EXTENDED, LOSSLESS, FIRST_ORDER, JPEG_LS, NEAR_LOSSLESS)
COUNTED = (LOSSLESS, FIRST_ORDER)
SOF = {EXTENDED: 0xC1, LOSSLESS: 0xC3, FIRST_ORDER: 0xC3, JPEG_LS: 0xF7, NEAR_LOSSLESS: 0xF7}


def told(syntax: str, **changes: Any) -> Told:
    said = Told(syntax, SIDE, SIDE, samples=1, bits_allocated=16, bits_stored=12, signed=False)
    return dataclasses.replace(said, **changes)


def wrong(syntax: str, stream: bytes, **changes: Any) -> str:
    return fault(stream, told(syntax, **changes))


def segment(stream: bytes, marker: int) -> int:
    """Where the marker stands."""
    return stream.index(bytes((0xFF, marker)))


def put(stream: bytes, at: int, value: bytes) -> bytes:
    return stream[:at] + value + stream[at + len(value) :]


def packed(folder: Path, syntax: str, stream: bytes, **changes: Any) -> Path:
    ds = ct_slice(Rows=SIDE, Columns=SIDE, SeriesNumber=4, InstanceNumber=17)
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].is_undefined_length = True
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    path = folder / "packed.dcm"
    path.write_bytes(part10(ds, syntax=syntax))
    return path


def test_there_is_a_stream_for_each_syntax_that_a_receiver_takes() -> None:
    assert STREAMS.keys() == {*JPEGS, J2K_LOSSLESS, J2K, RLE}
    assert STREAMS.keys() < COMPRESSED


@pytest.mark.parametrize("syntax", STREAMS)
def test_what_agrees_with_its_header_may_be_decoded(syntax: str) -> None:
    stream = STREAMS[syntax]
    assert not wrong(syntax, stream)
    assert not wrong(syntax, stream + b"\0")  # fragments have even length (PS3.5 A.4)


@pytest.mark.parametrize("syntax", STREAMS)
@pytest.mark.parametrize("changes", [{"rows": SIDE - 1}, {"columns": SIDE + 1}, {"rows": 8, "columns": 31}])
def test_another_size_than_the_headers(syntax: str, changes: dict[str, int]) -> None:
    assert ("pixels" if syntax == RLE else "rows") in wrong(syntax, STREAMS[syntax], **changes)


@pytest.mark.parametrize("syntax", STREAMS)
@pytest.mark.parametrize("changes", [{"samples": 3}, {"bits_allocated": 8, "bits_stored": 8}, {"bits_allocated": 32}])
def test_other_samples_or_bits_than_the_headers(syntax: str, changes: dict[str, int]) -> None:
    assert wrong(syntax, STREAMS[syntax], **changes)


@pytest.mark.parametrize("syntax", STREAMS)
def test_every_cut_is_seen(syntax: str) -> None:
    stream = STREAMS[syntax]
    seen = len(stream.rstrip(b"\0"))
    if syntax in (J2K, J2K_LOSSLESS):
        seen -= 2  # of which only the end marker may lack
    assert [kept for kept in range(seen) if not wrong(syntax, stream[:kept])] == []


@pytest.mark.parametrize("syntax", JPEGS)
@pytest.mark.parametrize("other", [0xC0, 0xC2, 0xC3, 0xC5, 0xC9, 0xCB, 0xF7])
def test_another_process_than_the_transfer_syntax_says(syntax: str, other: int) -> None:
    stream = STREAMS[syntax]
    if other in (SOF[syntax], 0xC0):
        return  # a baseline stream is an extended one too
    assert "process" in wrong(syntax, put(stream, segment(stream, SOF[syntax]) + 1, bytes((other,))))


@pytest.mark.parametrize("syntax", JPEGS)
def test_fewer_bits_are_the_same_numbers_unless_there_is_a_sign(syntax: str) -> None:
    stream = STREAMS[syntax]
    twelve = put(stream, segment(stream, SOF[syntax]) + 4, b"\x0c")
    if syntax == JPEG_LS:
        twelve = put(twelve, segment(twelve, 0xF8) + 5, b"\x0f\xff")  # its largest value
    assert not wrong(syntax, twelve, bits_stored=16)
    assert "with sign" in wrong(syntax, twelve, bits_stored=16, signed=True)
    assert not wrong(syntax, twelve, bits_stored=12, signed=True)


@pytest.mark.parametrize("syntax", JPEGS)
@pytest.mark.parametrize("bits", [0, 1, 8, 17, 255])
def test_samples_of_an_impossible_size(syntax: str, bits: int) -> None:
    stream = STREAMS[syntax]
    assert wrong(syntax, put(stream, segment(stream, SOF[syntax]) + 4, bytes((bits,))))


@pytest.mark.parametrize("syntax", [J2K, J2K_LOSSLESS])
@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (8, 2**31, "tiles, at most"),  # Xsiz: a decoder would make room for it
        (12, 2 * SIDE, "1 of 2 tiles"),
        (8, 0, "cover"),
        (16, 1, "offset"),
        (24, 0, "cover"),
        (24, 1, ""),  # 16 tiles of a column each, of which the stream has one
        (32, 4, "cover"),
    ],
)
def test_a_false_size_of_jpeg_2000(syntax: str, at: int, value: int, said: str) -> None:
    found = wrong(syntax, put(STREAMS[syntax], at, struct.pack(">L", value)))
    assert found
    assert said in found


def test_more_tiles_than_any_image_needs() -> None:
    stream = put(STREAMS[J2K], 8, struct.pack(">LLLLLL", 65535, 65535, 0, 0, 1, 1))
    assert "tiles, at most" in wrong(J2K, stream, rows=65535, columns=65535)


def test_signed_samples_of_jpeg_2000_where_the_header_says_unsigned() -> None:
    signed = put(STREAMS[J2K], 42, b"\x8f")
    assert "sign" in wrong(J2K, signed)
    assert not wrong(J2K, signed, signed=True, bits_stored=16)


def test_a_jp2_file_in_place_of_its_codestream_is_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, "JPEG2000", irreversible=False)
    content = buffer.getvalue()
    assert content[4:8] == b"jP  "
    assert not wrong(J2K_LOSSLESS, content)
    decoded = decode_slice(read_header(Extent(packed(tmp_path, J2K_LOSSLESS, content))))
    assert (decoded == picture().astype(int) - 1024).all()
    assert "rows" in wrong(J2K_LOSSLESS, content, rows=SIDE + 1)
    at = content.index(b"jp2c") - 4
    assert "JP2 box" in wrong(J2K_LOSSLESS, put(content, at, struct.pack(">L", 3)))
    assert "ends" in wrong(J2K_LOSSLESS, put(content, at, struct.pack(">L", 2**31)))


@pytest.mark.parametrize("syntax", COUNTED)
@pytest.mark.parametrize("counts", [(3,), (1, 3), (0, 5), ()], ids=str)  # of codes of one bit, of two bits
def test_codes_that_can_not_be_told_apart(syntax: str, counts: tuple[int, ...]) -> None:
    stream = STREAMS[syntax]
    at = segment(stream, 0xC4)
    size = int.from_bytes(stream[at + 2 : at + 4], "big")
    table = b"\0" + bytes(counts).ljust(16, b"\0") + bytes(range(sum(counts)))
    changed = stream[: at + 2] + struct.pack(">H", 2 + len(table)) + table + stream[at + 2 + size :]
    assert "can't be one" in wrong(syntax, changed)


@pytest.mark.parametrize("syntax", COUNTED)
@pytest.mark.parametrize(
    ("offset", "value", "said"),
    [
        (4, b"\x41", "can't be one"),  # Huffman table 4 of 0 .. 3
        (4, b"\x01", "not there"),  # table 1, and the scan names 0
        (21, b"\x11", "differences of 17 bits"),
    ],
)
def test_a_huffman_table_that_the_scan_can_not_use(syntax: str, offset: int, value: bytes, said: str) -> None:
    stream = STREAMS[syntax]
    assert said in wrong(syntax, put(stream, segment(stream, 0xC4) + offset, value))


@pytest.mark.parametrize("syntax", COUNTED)
@pytest.mark.parametrize(
    ("offset", "value", "said"),
    [
        (5, b"\2", "other components"),
        (7, b"\0", "predictor 0"),
        (7, b"\x08", "predictor 8"),
        (8, b"\1", "predictor"),
        (9, b"\x10", "predictor"),
    ],
)
def test_scan_parameters_of_no_lossless_process(syntax: str, offset: int, value: bytes, said: str) -> None:
    stream = STREAMS[syntax]
    assert said in wrong(syntax, put(stream, segment(stream, 0xDA) + offset, value))


@pytest.mark.parametrize("syntax", COUNTED)
def test_an_end_before_its_time_is_no_image(syntax: str) -> None:
    stream = STREAMS[syntax]
    begin = segment(stream, 0xDA) + 10
    assert "too few" in wrong(syntax, stream[: begin + 20] + b"\xff\xd9")
    assert "ends at" in wrong(syntax, stream[: begin + 20] + b"\xff\xd9" + stream[begin + 22 :])


@pytest.mark.parametrize("syntax", JPEGS)
def test_markers_within_the_coded_data(syntax: str) -> None:
    stream = STREAMS[syntax]
    begin = segment(stream, 0xDA) + 10
    for marker in (0xD0, 0xDA, 0xC4, 0xF7):
        assert "within" in wrong(syntax, put(stream, begin + 8, bytes((0xFF, marker))))


def test_restart_markers_come_in_turn() -> None:
    stream = STREAMS[FIRST_ORDER]
    at = segment(stream, 0xDA)
    announced = stream[:at] + b"\xff\xdd\0\4\0\x80" + stream[at:]
    assert not wrong(FIRST_ORDER, announced)
    end = announced.rindex(b"\xff\xd9")
    for markers, taken in ((b"\xff\xd0\xff\xd1", True), (b"\xff\xd1", False), (b"\xff\xd0\xff\xd0", False)):
        said = wrong(FIRST_ORDER, announced[:end] + markers + announced[end:])
        assert (not said) is taken, said


@pytest.mark.parametrize(
    ("field", "value"), [(5, 0x1_0000 - 1), (13, 1), (13, 2), (7, 0xFFFF), (11, 1)], ids=str
)  # MAXVAL beyond 12 bits, RESET, thresholds out of order
def test_coding_parameters_that_jpeg_ls_can_not_have(field: int, value: int) -> None:
    stream = STREAMS[JPEG_LS]
    twelve = put(stream, segment(stream, 0xF7) + 4, b"\x0c")
    at = segment(twelve, 0xF8)
    valid = put(twelve, at + 5, b"\x0f\xff")
    assert not wrong(JPEG_LS, valid)
    assert "coding parameters" in wrong(JPEG_LS, put(valid, at + field, struct.pack(">H", value)))


def test_jpeg_ls_can_not_say_another_size_beside_its_frame_header() -> None:
    stream = STREAMS[JPEG_LS]
    assert "kind 4" in wrong(JPEG_LS, put(stream, segment(stream, 0xF8) + 4, b"\4"))


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (0, 1, "segments"), (0, 3, "segments"), (0, 2**32 - 1, "segments"),
        (4, 62, "behind"), (4, 2**31, "behind"), (8, 63, "behind"), (8, 2**31, "behind"), (8, 64, "a byte for each"),
    ],
)  # fmt: skip
def test_an_rle_header_that_can_not_be(at: int, value: int, said: str) -> None:
    assert said in wrong(RLE, put(STREAMS[RLE], at, struct.pack("<L", value)))


def test_an_rle_segment_that_would_unfold_beyond_the_image() -> None:
    assert "a byte for each of 256 pixels" in wrong(RLE, STREAMS[RLE] + b"\x81\0" * SIDE * SIDE)  # a pair is 128 bytes


@pytest.mark.parametrize(
    ("segment", "taken"),
    [
        (b"\x81\7" * 2, True),
        (b"\x80\x81\7\x80\x81\7", True),  # 0x80 says nothing
        (b"\x81\7" * 2 + b"\0\0\0", True),  # padding
        (b"\x7f" + bytes(128) + b"\x81\7", True),
        (b"\x81\7" * 2 + b"\x81", False),
        (b"\x81\7\x82\7", False),
        (b"\x81\7\x82\7\xff\7", False),
        (b"\x81\7\x7f" + bytes(127), False),
    ],
)
def test_an_rle_segment_holds_a_byte_for_each_pixel(segment: bytes, taken: bool) -> None:
    whole = b"\x81\0" * 2
    for first, second in ((segment, whole), (whole, segment)):
        stream = struct.pack("<3L", 2, 64, 64 + len(first)).ljust(64, b"\0") + first + second
        assert (not wrong(RLE, stream)) is taken


@pytest.mark.parametrize("syntax", STREAMS)
def test_a_stream_far_longer_than_its_image_is_not_gone_through(syntax: str) -> None:
    assert "bytes for an image" in wrong(syntax, STREAMS[syntax] + bytes(2 << 20))


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.55", "1.2.3"])
def test_of_other_syntaxes_nothing_is_decoded(syntax: str) -> None:
    assert "transfer syntax" in wrong(syntax, STREAMS[FIRST_ORDER])


def test_the_refusal_names_the_image_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_by_dicomsdl", lambda content: pytest.fail("a decoder saw it"))
    monkeypatch.setattr(decode, "_by_pydicom", lambda content: pytest.fail("a decoder saw it"))
    for syntax, stream in STREAMS.items():
        with pytest.raises(InputRefused) as refused:
            decode_slice(read_header(Extent(packed(tmp_path, syntax, stream, Rows=4))))
        assert refused.value.reason is Reason.UNREADABLE
        assert "series 4, image 17: " in str(refused.value)
        assert "sent again" in refused.value.remedy()
        assert "2.25" not in str(refused.value)
