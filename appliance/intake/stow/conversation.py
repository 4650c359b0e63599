"""The HTTP/1.1 of one connection (RFC 9112, by h11) around multipart bodies. Sans-IO; an event at a time:

    StoreBegins  Part  Part ...  StoreEnds      a request; `answer` lets the next one follow
    Gone                                        the client closed between two requests
    None                                        `received` has to bring more bytes first

RequestNotTaken where a request can't go on; `answer` it, then close.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import h11

from appliance.intake.stow.parts import Part, Parts
from appliance.intake.stow.request import ANSWER_TYPE, RequestNotTaken, StowRequest, read_head

_LONGEST_HEAD: Final = 16 * 1024


@dataclass(frozen=True)
class StoreBegins:
    """The head of a request is here."""

    request: StowRequest


class StoreEnds:
    """All of its body is here."""


class Gone:
    """Nothing more comes."""


Event = StoreBegins | Part | StoreEnds | Gone


class Conversation:
    """max_part_bytes, most_parts: of a request's body."""

    def __init__(self, *, max_part_bytes: int, most_parts: int) -> None:
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_LONGEST_HEAD)
        self._max_part_bytes, self._most_parts = max_part_bytes, most_parts
        self._parts: Parts | None = None
        self._over = False

    @property
    def idle(self) -> bool:
        """True while nothing of a request is here."""
        return self._http.their_state is h11.IDLE and not self._http.trailing_data[0]

    def received(self, data: bytes) -> None:
        """Bytes from the client; none where it closed."""
        try:
            self._http.receive_data(data)
        except h11.RemoteProtocolError as error:  # bytes after it closed: TLS only
            raise _not_http(error) from error

    def next_event(self) -> Event | None:
        """See above."""
        while True:
            if self._parts is not None and (part := self._parts.take()) is not None:
                return part
            if self._over and self._parts is not None:
                self._parts.finish()
                return StoreEnds()
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                raise _not_http(error) from error
            match event:
                case h11.Request():
                    request = read_head(event.method, event.target, event.headers)
                    self._parts = Parts(
                        request.boundary, max_part_bytes=self._max_part_bytes, most_parts=self._most_parts
                    )
                    return StoreBegins(request)
                case h11.Data():
                    assert self._parts is not None
                    self._parts.feed(bytes(event.data))
                case h11.EndOfMessage():
                    self._over = True
                case h11.ConnectionClosed():
                    return Gone()
                case _:  # NEED_DATA, or PAUSED until the answer
                    return None

    def go_on(self) -> bytes:
        """What to say before the body comes, to a client that waits for it (Expect: 100-continue)."""
        if not self._http.they_are_waiting_for_100_continue:
            return b""
        return self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b""

    def answer(
        self, status: HTTPStatus, body: bytes, headers: Mapping[str, str] | None = None, *, close: bool = False
    ) -> bytes:
        """The answer to the request; b"" where one was begun already. close: no other may follow."""
        if not self._unanswered():
            return b""
        told = {"Content-Type": ANSWER_TYPE, "Content-Length": str(len(body)), **(headers or {})}
        if close:
            told["Connection"] = "close"
        head = h11.Response(status_code=status.value, reason=status.phrase, headers=list(told.items()))
        said = (self._http.send(head) or b"") + (self._http.send(h11.Data(data=body)) or b"")
        said += self._http.send(h11.EndOfMessage()) or b""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self._parts, self._over = None, False
        return said

    @property
    def may_go_on(self) -> bool:
        """Whether another request may follow the one that was answered."""
        return self._http.our_state is h11.IDLE

    def _unanswered(self) -> bool:
        return self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE)


def _not_http(error: h11.RemoteProtocolError) -> RequestNotTaken:
    try:
        status = HTTPStatus(error.error_status_hint)
    except ValueError:
        status = HTTPStatus.BAD_REQUEST
    return RequestNotTaken(
        status, "it does not speak HTTP/1.1, or went in the middle of a request",
        remedy="Check what program connects here, and the network between.",
    )  # fmt: skip
