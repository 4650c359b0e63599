"""Without a socket: what comes out does not depend on how bytes were cut; what is broken or too much is refused."""

from __future__ import annotations

import itertools
from http import HTTPStatus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.intake.stow.conversation import Conversation, Gone, StoreBegins, StoreEnds
from appliance.intake.stow.parts import Part, Parts
from appliance.intake.stow.request import RequestNotTaken, StowRequest, read_head
from tests.appliance.intake.stow.web import BOUNDARY, TYPE, chunked, head_of, multipart

MOST_PARTS, MOST_BYTES = 5, 300
NEAR_BOUNDARIES = [
    *(b"\r", b"\n", b"\r\n", b"--", b"\r\n--", b"\r\n--" + BOUNDARY.encode()[:-1], b"-", b"b"),
    *(BOUNDARY.encode(), b"--" + BOUNDARY.encode(), b"\r\n--" + BOUNDARY.encode()[:3], b"\0"),
]
FRAGMENTS = st.one_of(st.sampled_from(NEAR_BOUNDARIES), st.binary(max_size=20))
CONTENTS = st.lists(FRAGMENTS, max_size=8).map(b"".join).filter(lambda c: b"\r\n--" + BOUNDARY.encode() not in c)
CUTS = st.lists(st.integers(0, 4000), max_size=30)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def parts_of(data: bytes, cuts: list[int], boundary: str = BOUNDARY) -> tuple[list[bytes], str]:
    """What comes out of a body, and the refusal that ends it."""
    parts = Parts(boundary.encode(), max_part_bytes=MOST_BYTES, most_parts=MOST_PARTS)
    found: list[bytes] = []
    try:
        for piece in pieces(data, cuts):
            parts.feed(piece)
            while (part := parts.take()) is not None:
                found.append(bytes(part.content))
        parts.finish()
    except RequestNotTaken as refusal:
        return found, f"{refusal.status.value} {refusal}"
    return found, ""


@given(st.lists(CONTENTS, min_size=1, max_size=MOST_PARTS), CUTS)
def test_parts_come_out_as_they_went_in_wherever_they_are_cut(contents: list[bytes], cuts: list[int]) -> None:
    assert parts_of(multipart(contents), cuts) == (contents, "")


@given(st.lists(CONTENTS, min_size=1, max_size=MOST_PARTS), st.data())
def test_half_a_body_gives_its_whole_parts_and_is_broken(contents: list[bytes], data: st.DataObject) -> None:
    body = multipart(contents)
    at = data.draw(st.integers(0, len(body) - len("--\r\n") - 1))
    found, refusal = parts_of(body[:at], data.draw(CUTS))
    ends = [len(multipart(contents[:count])) - len("--") for count in range(1, len(contents))]
    assert found == contents[: sum(end <= at for end in ends)]
    assert refusal.startswith("400")


@given(st.lists(st.one_of(CONTENTS, st.just(bytes(MOST_BYTES + 1))), max_size=MOST_PARTS + 3), CUTS)
@example([bytes(MOST_BYTES)], [])
@example([bytes(MOST_BYTES + 1)], [])
def test_no_part_beyond_the_limits_comes_out_and_all_before_it_do(contents: list[bytes], cuts: list[int]) -> None:
    found, refusal = parts_of(multipart(contents), cuts)
    too_long = next((n for n, c in enumerate(contents) if len(c) > MOST_BYTES), len(contents))
    assert found == contents[: min(too_long, MOST_PARTS)]
    expected = "413" if found != contents else "" if contents else "400"
    assert refusal[:3] == expected


@given(st.binary(max_size=400), CUTS)
def test_any_bytes_end_in_parts_or_a_refusal_and_cuts_change_nothing(data: bytes, cuts: list[int]) -> None:
    assert parts_of(data, cuts, "b") == parts_of(data, [], "b")


@given(st.lists(st.sampled_from([*NEAR_BOUNDARIES, b"--b", b"\r\n--b", b"a: b"]), max_size=12), CUTS)
def test_nearly_right_bodies_end_so_too(fragments: list[bytes], cuts: list[int]) -> None:
    data = b"--b\r\n\r\n" + b"".join(fragments)
    assert parts_of(data, cuts, "b") == parts_of(data, [], "b")


@pytest.mark.parametrize("flood", [b"\r\n" * 80_000, multipart([b"x"]) + bytes(100_000)], ids=["before", "after"])
def test_what_lies_around_the_parts_is_bounded(flood: bytes) -> None:
    assert parts_of(flood, list(range(0, len(flood), 1000)))[1].startswith("400")


def test_headers_of_parts_are_bounded() -> None:
    for headers in (b"a: b\r\n" * 100, b"a: " + bytes(10_000), b"x" * 10_000):
        assert parts_of(f"--{BOUNDARY}\r\n".encode() + headers, [])[1].startswith("400")


def converse(data: bytes, cuts: list[int]) -> list[object]:
    """Everything that a connection with these bytes gives, each request answered; ends with a status or Gone."""
    conversation = Conversation(max_part_bytes=MOST_BYTES, most_parts=MOST_PARTS)
    told: list[object] = []
    try:
        for piece in [*pieces(data, cuts), b""]:
            conversation.received(piece)
            while (event := conversation.next_event()) is not None:
                match event:
                    case StoreBegins(request):
                        told.append(request.study_uid)
                    case Part(kind, content):
                        told.append((kind, bytes(content)))
                    case StoreEnds():
                        told.append("end")
                        assert conversation.answer(HTTPStatus.OK, b"{}")
                    case Gone():
                        return [*told, "gone"]
    except RequestNotTaken as refusal:
        return [*told, refusal.status.value]
    raise AssertionError("neither gone nor refused")


@given(st.lists(st.tuples(st.lists(CONTENTS, min_size=1, max_size=3), st.booleans()), max_size=3), CUTS)
def test_requests_on_one_connection_in_both_encodings(
    requests: list[tuple[list[bytes], bool]], cuts: list[int]
) -> None:
    data, expected = b"", []
    for number, (contents, as_chunks) in enumerate(requests):
        body = multipart(contents)
        data += head_of(None if as_chunks else len(body), f"/studies/1.{number}")
        data += chunked(body, 7) if as_chunks else body
        expected += [f"1.{number}", *(("application/dicom", content) for content in contents), "end"]
    assert converse(data, cuts) == [*expected, "gone"]


@given(st.integers(1, 5000), st.booleans())
def test_a_client_that_goes_in_the_middle_is_refused(at: int, as_chunks: bool) -> None:
    body = multipart([b"x" * 200, b"y"])
    whole = head_of(None if as_chunks else len(body)) + (chunked(body, 50) if as_chunks else body)
    at %= len(whole)
    assert converse(whole[:at], [])[-1] == (400 if at else "gone")
    assert "end" not in converse(whole[:at], [])


@given(st.binary(min_size=1, max_size=300), CUTS)
def test_any_bytes_are_refused(data: bytes, cuts: list[int]) -> None:
    assert converse(data, cuts)[-1] in (400, "gone")  # "gone": blank lines only


def test_a_head_without_end_is_refused() -> None:
    assert converse(b"POST /studies HTTP/1.1\r\n" + b"a: b\r\n" * 20_000, list(range(0, 100_000, 1000))) == [431]


def heads(**changes: str) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]]:
    told = {"target": "/studies", "method": "POST", "content-type": TYPE, **changes}
    method, target = told.pop("method").encode(), told.pop("target").encode()
    return method, target, [(n.encode(), v.encode("latin-1")) for n, v in told.items() if v]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"method": "GET"}, 405),
        ({"method": "PUT"}, 405),
        ({"target": "/"}, 404),
        ({"target": "/studies/1.2/series"}, 404),
        ({"target": "/studies/../etc"}, 404),
        ({"target": "/studies/abc"}, 400),
        ({"target": "/studies/"}, 400),
        ({"target": "/studies/1." + "2" * 70}, 400),
        ({"accept": "application/dicom+xml"}, 406),
        ({"content-type": ""}, 415),
        ({"content-type": "application/dicom"}, 415),
        ({"content-type": "multipart/related; boundary=x"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({"content-type": 'multipart/related; type="application/dicom+json"; boundary=x'}, 415),
        ({"content-type": 'multipart/related; type="application/dicom"'}, 400),
        ({"content-type": 'multipart/related; type="application/dicom"; boundary=""'}, 400),
        ({"content-type": 'multipart/related; type="application/dicom"; boundary="' + "x" * 201 + '"'}, 400),
        ({"content-type": 'multipart/related; type="application/dicom"; boundary="\xe4"'}, 400),
        ({"content-encoding": "gzip"}, 415),
    ],
)
def test_what_is_not_taken_is_said_by_its_status(changes: dict[str, str], status: int) -> None:
    with pytest.raises(RequestNotTaken) as refused:
        read_head(*heads(**changes))
    assert refused.value.status == status
    assert refused.value.remedy()
    assert ("Allow" in refused.value.headers) == (status == 405)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, StowRequest("", BOUNDARY.encode())),
        ({"target": "/studies/1.2.3?x=y"}, StowRequest("1.2.3", BOUNDARY.encode())),
        ({"target": "http://box:8043/studies"}, StowRequest("", BOUNDARY.encode())),
        ({"accept": "application/dicom+xml, */*;q=0.1"}, StowRequest("", BOUNDARY.encode())),
        ({"content-type": "Multipart/Related;TYPE=application/dicom;Boundary=x-1"}, StowRequest("", b"x-1")),
        (
            {"content-type": 'multipart/related; type="application/dicom"; transfer-syntax=1.2.4; boundary=x'},
            StowRequest("", b"x", "1.2.4"),
        ),
    ],
)
def test_what_is_taken_is_read(changes: dict[str, str], expected: StowRequest) -> None:
    assert read_head(*heads(**changes)) == expected
