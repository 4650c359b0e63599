"""The parts of a multipart body (RFC 2046 5.1), one whole part after the other. Sans-IO; bounded.

`feed` takes bytes as they come, `take` gives what is whole; a fault comes out after the parts that were whole before
it, wherever the bytes were cut. One unfinished part is kept, and the small ones that came with the same bytes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from appliance.intake.stow.request import RequestNotTaken

_HEADERS: Final = 16
_HEADER_BYTES: Final = 4096
_AROUND: Final = 64 * 1024
"""Bytes before the first and after the last boundary; a real body has two or four."""


@dataclass(frozen=True)
class Part:
    """content_type: as it is written; "" where there is none."""

    content_type: str
    content: bytearray


class Parts:
    """max_part_bytes: of one part's content. most_parts: of the body."""

    def __init__(self, boundary: bytes, *, max_part_bytes: int, most_parts: int) -> None:
        self._max_part_bytes, self._most_parts = max_part_bytes, most_parts
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._name,
                "on_header_value": self._value,
                "on_header_end": self._header_end,
                "on_part_data": self._data,
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
            max_header_count=_HEADERS,
            max_header_size=_HEADER_BYTES,
        )
        self._done: deque[Part] = deque()
        self._fault: RequestNotTaken | None = None
        self._begun, self._around, self._ended = 0, 0, False
        self._field, self._header, self._content_type = bytearray(), bytearray(), ""
        self._content = bytearray()

    def feed(self, data: bytes) -> None:
        """Some more of the body."""
        if self._fault is not None:
            return
        outside = self._ended or not self._begun
        try:
            self._parser.write(data)
        except RequestNotTaken as fault:
            self._fault = fault
        except FormParserError:
            self._fault = _broken("it is no multipart body with the boundary of its head")
        if outside and (self._ended or not self._begun):
            self._around += len(data)
            if self._around > _AROUND and self._fault is None:
                self._fault = _broken("too much lies before its first or after its last boundary")

    def take(self) -> Part | None:
        """The next part; None until more is fed. RequestNotTaken where nothing more can come."""
        if self._done:
            return self._done.popleft()
        if self._fault is not None:
            raise self._fault
        return None

    def finish(self) -> None:
        """The body is over, and all of it was taken. RequestNotTaken where it was cut, or nothing was in it."""
        if not self._ended:
            raise _broken("it ends before its last boundary")
        if not self._begun:
            raise _broken("no part is in it")

    def _begin(self) -> None:
        self._begun += 1
        self._content_type, self._content = "", bytearray()
        if self._begun > self._most_parts:
            raise RequestNotTaken(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body of more than {self._most_parts} parts",
                remedy="Have it send fewer instances in one request, or raise receiver.stow.max_parts.",
            )  # fmt: skip

    def _name(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _value(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_end(self) -> None:
        if self._field.lower() == b"content-type":
            self._content_type = self._header.decode("latin-1").strip()
        self._field.clear()
        self._header.clear()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if len(self._content) + end - start > self._max_part_bytes:
            raise RequestNotTaken(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"an instance of more than {self._max_part_bytes} bytes",
                remedy="Raise receiver.stow.max_part_bytes if such instances are real.",
            )  # fmt: skip
        self._content += memoryview(data)[start:end]

    def _part_end(self) -> None:
        self._done.append(Part(self._content_type, self._content))
        self._content = bytearray()

    def _end(self) -> None:
        self._ended = True


def _broken(how: str) -> RequestNotTaken:
    return RequestNotTaken(HTTPStatus.BAD_REQUEST, f"the body is broken: {how}")
