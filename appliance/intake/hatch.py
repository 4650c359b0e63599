"""The hatch: a Unix socket through which `onescan-appliance import` hands files to the running receiver.

Who may open the socket's file may hand in; no port, no AE title. A connection is one visit:

    client  Greeting                       one line of JSON each, at most 4 KiB
    client  Offer   →  server  Answer      "go": the data set follows; "known": it is here; else it is not wanted
    client  bytes   →  server  Answer      "stored", or why not
    client  Offer "end": released; a connection that just ends is an association that broke off
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from appliance.intake import uids
from appliance.intake.door import Door, Visit
from appliance.intake.part10 import FileMeta
from appliance.intake.refusal import OUT_OF_RESOURCES, InstanceRefused
from core.errors import StorageError

log = logging.getLogger(__name__)

SOCKET_NAME: Final = "receiver.import"
SENDER: Final = "IMPORT"
LONGEST_LINE: Final = 4096
_VISITS = 4
_IDLE_S = 60.0
_Uid = Field(pattern=uids.PATTERN, max_length=uids.LONGEST)


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_AnyLine = TypeVar("_AnyLine", bound=_Line)


class Greeting(_Line):
    """The first line. source: what the person named, for `onescan-appliance senders`."""

    source: str = Field(max_length=64)


class Offer(_Line):
    """An object that the client has. length: of its data set in bytes; sha256: of the same bytes."""

    kind: Literal["object"] = "object"
    sop_class_uid: str = _Uid
    sop_instance_uid: str = _Uid
    transfer_syntax: str = _Uid
    length: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class End(_Line):
    """The last line."""

    kind: Literal["end"] = "end"


class Answer(_Line):
    """not_wanted: of a kind that is never taken. refused: something is wrong with it. later: no room."""

    outcome: Literal["go", "known", "stored", "not_wanted", "refused", "later"]
    why: str = ""
    remedy: str = ""


class _BrokenOff(Exception):  # noqa: N818 -- no error of ours: the client's end
    """The client does not speak as it should, or went."""


class Hatch:
    """Serves the socket in `run`, from `start` to `stop`."""

    def __init__(self, run: Path, door: Door, max_dataset_bytes: int, stopping: Callable[[], bool]) -> None:
        self._run, self._door, self._max_bytes, self._stopping = run, door, max_dataset_bytes, stopping
        self._visits: set[threading.Thread] = set()
        self._listener: socket.socket | None = None
        self._thread = threading.Thread(target=self._listen, name="hatch", daemon=True)

    @property
    def alive(self) -> bool:
        """True while visits are taken."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Make the socket and listen."""
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with short_path(self._run) as address:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(address)
            self._listener.bind(address)
            os.chmod(address, 0o660)
        self._listener.listen(_VISITS)
        self._thread.start()

    def stop(self) -> None:
        """Take no more visits; those that are open end after the object that is being stored."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._thread.join()
            self._listener.close()
        for visit in list(self._visits):
            visit.join(timeout=10.0)

    def _listen(self) -> None:
        assert self._listener is not None
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # stopped
                return
            self._visits = {one for one in self._visits if one.is_alive()}
            if len(self._visits) >= _VISITS:
                connection.close()
                log.warning("an import was turned away: %d are running; start it again when one is through", _VISITS)
                continue
            thread = threading.Thread(target=self._serve, args=(connection,), name="import", daemon=True)
            self._visits.add(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(_IDLE_S)
                with connection.makefile("rb") as lines:
                    self._visit(connection, lines)
        except (_BrokenOff, OSError) as error:
            log.warning("an import broke off: %s; start it again, what is here stays", error)
        except Exception:
            # The edge of this thread: the person hears that the connection ended, and may start again.
            log.exception("an import was ended by an unforeseen error")

    def _visit(self, connection: socket.socket, lines: io.BufferedReader) -> None:
        greeting = _parsed(_line(lines), Greeting)
        with self._door.visit(SENDER, greeting.source) as visit:
            while True:
                line = _line(lines)
                with contextlib.suppress(ValidationError):
                    End.model_validate_json(line)
                    return
                _say(connection, self._take(connection, lines, visit, _parsed(line, Offer)))
                if self._stopping():
                    raise _BrokenOff("the appliance is stopping")

    def _take(self, connection: socket.socket, lines: io.BufferedReader, visit: Visit, offer: Offer) -> Answer:
        meta = FileMeta(offer.sop_class_uid, offer.sop_instance_uid, offer.transfer_syntax, 0)
        try:
            self._door.check(meta)
        except InstanceRefused as error:
            return Answer(outcome="not_wanted", why=str(error), remedy=error.remedy())
        if self._door.knows(offer.sop_instance_uid, offer.sha256):
            return Answer(outcome="known")
        if offer.length > self._max_bytes:
            return Answer(outcome="refused", why=f"its data set has more than {self._max_bytes} bytes")
        if not self._door.has_room():
            return Answer(outcome="later", why="no room on the disk", remedy="See `onescan-appliance status`.")
        _say(connection, Answer(outcome="go"))
        return _stored(visit, meta, _content(lines, offer.length))


class Handing:
    """The client's side of a visit. OSError or EOFError where the receiver is not there, or went."""

    def __init__(self, run: Path, source: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_IDLE_S)
        with short_path(run) as address:
            self._socket.connect(address)
        self._lines = self._socket.makefile("rb")
        _say(self._socket, Greeting(source=source))

    def offer(self, offer: Offer, dataset: memoryview) -> Answer:
        """Hand one object in, unless it is known or not wanted."""
        _say(self._socket, offer)
        answer = self._answer()
        if answer.outcome == "go":
            self._socket.sendall(dataset)
            answer = self._answer()
        return answer

    def end(self) -> None:
        """All is handed in."""
        _say(self._socket, End())

    def close(self) -> None:
        """Go."""
        self._lines.close()
        self._socket.close()

    def _answer(self) -> Answer:
        line = self._lines.readline(16 * LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise EOFError("the receiver ended the import")
        return Answer.model_validate_json(line)


@contextlib.contextmanager
def short_path(run: Path) -> Iterator[str]:
    """The socket's address through its folder's descriptor: a Unix socket's path may have 107 bytes only."""
    folder = os.open(run, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET_NAME}"
    finally:
        os.close(folder)


def _stored(visit: Visit, meta: FileMeta, content: bytearray) -> Answer:
    try:
        visit.store(meta, memoryview(content))
    except InstanceRefused as error:
        outcome: Literal["later", "refused"] = "later" if error.status == OUT_OF_RESOURCES else "refused"
        return Answer(outcome=outcome, why=str(error), remedy=error.remedy())
    except StorageError as error:
        return Answer(outcome="later", why=str(error), remedy=error.remedy())
    return Answer(outcome="stored")


def _content(lines: io.BufferedReader, length: int) -> bytearray:
    content = bytearray(length)
    view, at = memoryview(content), 0
    while at < length:
        count = lines.readinto(view[at:])
        if not count:
            raise _BrokenOff("it went in the middle of an object")
        at += count
    return content


def _line(lines: io.BufferedReader) -> bytes:
    line = lines.readline(LONGEST_LINE)
    if not line.endswith(b"\n"):
        raise _BrokenOff("it went without a word" if not line else "a line that is too long")
    return line


def _parsed(line: bytes, kind: type[_AnyLine]) -> _AnyLine:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        raise _BrokenOff("a line that is none of the protocol's") from error


def _say(connection: socket.socket, line: _Line) -> None:
    connection.sendall(line.model_dump_json().encode() + b"\n")
