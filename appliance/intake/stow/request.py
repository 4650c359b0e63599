"""What the head of a STOW-RS request asks for, or why it is not taken (PS3.18 10.5.1). Pure.

1. the path is /studies or /studies/{Study Instance UID}
2. the method is POST
3. the client takes DICOM JSON as an answer
4. the body is multipart/related of application/dicom, not compressed, with a boundary
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from python_multipart.multipart import parse_options_header

from appliance.intake.uids import is_uid
from core.errors import OneScanError

ANSWER_TYPE: Final = "application/dicom+json"
RETRY_AFTER_S: Final = 60
_ANSWERS_IN = frozenset({ANSWER_TYPE, "application/json", "application/*", "*/*"})
_BOUNDARY = re.compile(rb"[ -~]{0,199}[!-~]")
"""RFC 2046 allows 70 characters and few of them special; this is what can't be confused with a line's end."""

Headers = Sequence[tuple[bytes, bytes]]


class RequestNotTaken(OneScanError):
    """A request is answered with `status`, and the connection is closed: the rest of its body is not wanted."""

    default_remedy = "Check the sending system's DICOMweb settings against docs/other-ways-in.md."

    def __init__(
        self, status: HTTPStatus, what: str, *, remedy: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(what, remedy=remedy)
        self.status, self.headers = status, dict(headers or {})


def later(what: str, remedy: str) -> RequestNotTaken:
    """503: the same request may be taken in a while."""
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return RequestNotTaken(HTTPStatus.SERVICE_UNAVAILABLE, what, remedy=remedy, headers=headers)


@dataclass(frozen=True)
class StowRequest:
    """study_uid, transfer_syntax: what all instances of it have to be; "" where it does not say."""

    study_uid: str
    boundary: bytes = field(repr=False)
    transfer_syntax: str = ""


def read_head(method: bytes, target: bytes, headers: Headers) -> StowRequest:
    """The request of a head. RequestNotTaken: 400, 404, 405, 406 or 415."""
    study_uid = _study(target)  # 1
    if method != b"POST":  # 2
        raise RequestNotTaken(
            HTTPStatus.METHOD_NOT_ALLOWED, "a request other than POST", headers={"Allow": "POST"},
            remedy="Nothing is served here: the box only takes instances.",
        )  # fmt: skip
    if (accepted := _values(headers, b"accept")) and not _takes_json(accepted):  # 3
        raise RequestNotTaken(HTTPStatus.NOT_ACCEPTABLE, f"a client that does not accept {ANSWER_TYPE}")
    boundary, syntax = _body_type(headers)  # 4
    return StowRequest(study_uid, boundary, syntax)


def media_type(value: str) -> tuple[str, dict[str, str]]:
    """A Content-Type's type and parameters; type and names in small letters."""
    kind, parameters = parse_options_header(value)
    told = {name.decode("latin-1"): told.decode("latin-1") for name, told in parameters.items()}
    return kind.decode("latin-1").lower(), told  # 0.0.32 leaves the type as it is


def _study(target: bytes) -> str:
    try:
        path = urlsplit(target.decode("ascii")).path
    except ValueError as error:
        raise RequestNotTaken(HTTPStatus.BAD_REQUEST, "a path that is none") from error
    match path.split("/"):
        case ["", "studies"]:
            return ""
        case ["", "studies", uid] if is_uid(uid):
            return uid
        case ["", "studies", _]:
            raise RequestNotTaken(HTTPStatus.BAD_REQUEST, "a study in the path whose UID is none")
    raise RequestNotTaken(
        HTTPStatus.NOT_FOUND, "a path that is not served",
        remedy="Give the sending system the base URL without a path: it adds /studies.",
    )  # fmt: skip


def _takes_json(accepted: Sequence[str]) -> bool:
    return any(media_type(one)[0] in _ANSWERS_IN for value in accepted for one in value.split(","))


def _body_type(headers: Headers) -> tuple[bytes, str]:
    kinds = _values(headers, b"content-type")
    kind, parameters = media_type(kinds[0]) if len(kinds) == 1 else ("", {})
    if kind != "multipart/related" or parameters.get("type", "").lower() != "application/dicom":
        raise RequestNotTaken(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a body that is not multipart/related of application/dicom",
            remedy="Have it send whole DICOM files: neither metadata and bulk data apart, nor rendered images.",
        )  # fmt: skip
    if any(value.strip().lower() != "identity" for value in _values(headers, b"content-encoding")):
        raise RequestNotTaken(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a body that is compressed as a whole")
    boundary = parameters.get("boundary", "").encode("latin-1")
    if not _BOUNDARY.fullmatch(boundary):
        raise RequestNotTaken(HTTPStatus.BAD_REQUEST, "a multipart body without a boundary, or with a strange one")
    return boundary, parameters.get("transfer-syntax", "")


def _values(headers: Headers, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key.lower() == name]
