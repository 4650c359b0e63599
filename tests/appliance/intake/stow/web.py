"""A STOW-RS client that says what it is told to say, byte by byte if need be."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from appliance.intake.side_doors import SideDoorSettings
from appliance.intake.stow.service import StowSettings
from appliance.intake.wire.gate import Listener
from tests.appliance.intake.stand import Stand, running

BOUNDARY = "boundary of parts"
TYPE = f'multipart/related; type="application/dicom"; boundary="{BOUNDARY}"'
PART_TYPE = "application/dicom"


def multipart(contents: Sequence[bytes], part_type: str = PART_TYPE, boundary: str = BOUNDARY) -> bytes:
    """A body."""
    kind = f"Content-Type: {part_type}\r\n" if part_type else ""
    head = f"\r\n--{boundary}\r\n{kind}\r\n".encode()
    return b"".join(head + content for content in contents) + f"\r\n--{boundary}--\r\n".encode()


def head_of(length: int | None, path: str = "/studies", kind: str = TYPE, **more: str) -> bytes:
    """A request's head. length: None for chunked encoding."""
    told = {"Host": "box", "Content-Type": kind, "Accept": "application/dicom+json", **more}
    told.update({"Transfer-Encoding": "chunked"} if length is None else {"Content-Length": str(length)})
    return f"POST {path} HTTP/1.1\r\n{''.join(f'{n}: {v}' + chr(13) + chr(10) for n, v in told.items())}\r\n".encode()


def chunked(data: bytes, size: int = 10_000) -> bytes:
    """Chunked encoding."""
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@contextlib.contextmanager
def box(
    folder: Path, tls: Any = None, port: int = 0, settings: dict[str, Any] | None = None, **changes: Any
) -> Iterator[Stand]:
    """A receiver that listens for STOW-RS; its requests' pause is short."""
    stow = StowSettings(Listener("127.0.0.1", port, tls), **{"pause_s": 0.2, **(settings or {})})
    told = {"side_doors": SideDoorSettings(stow=stow), "senders_file": folder / "senders.json"}
    with running(folder, **told, **changes) as stand:
        yield stand


def port(stand: Stand) -> int:
    """Where STOW-RS is listened for."""
    found = stand.role.stow_port
    assert found
    return found


def connect(stand: Stand) -> socket.socket:
    """A raw connection."""
    return socket.create_connection(("127.0.0.1", port(stand)), timeout=60)


def said(connection: socket.socket) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers (names in small letters) and module of the next answer."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    body = response.read()
    return response.status, {n.lower(): v for n, v in response.getheaders()}, json.loads(body or b"{}")


def post(
    box: Stand | int, body: bytes | Iterable[bytes], path: str = "/studies", kind: str = TYPE, **headers: str
) -> tuple[int, dict[str, str], dict[str, Any]]:
    """One request on a connection of its own; an iterable is sent in chunks. box: or its port."""
    client = http.client.HTTPConnection("127.0.0.1", box if isinstance(box, int) else port(box), timeout=60)
    try:
        client.request("POST", path, body, {"Content-Type": kind, **headers})
        response = client.getresponse()
        told = {n.lower(): v for n, v in response.getheaders()}
        return response.status, told, json.loads(response.read() or b"{}")
    finally:
        client.close()


def instances(module: dict[str, Any], tag: str = "00081199") -> list[str]:
    """SOP Instance UIDs of a sequence of the module, stored ones by default."""
    return [item["00081155"]["Value"][0] for item in module.get(tag, {}).get("Value", [])]


def reasons(module: dict[str, Any], tag: str = "00081198") -> list[int]:
    """Failure Reasons of a sequence."""
    return [item["00081197"]["Value"][0] for item in module.get(tag, {}).get("Value", [])]
