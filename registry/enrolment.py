"""The enrolment server: EST (RFC 7030), the two operations that a new device needs.

    GET  /.well-known/est/cacerts        the root, base64 PKCS#7 certs-only (section 4.1)
    POST /.well-known/est/simpleenroll   base64 PKCS#10 in, base64 PKCS#7 certs-only out (section 4.2);
                                         HTTP Basic: user <site>/<device>, password = single-use token

A device that is enrolled may speak to the broker when the response reaches it: the access list is rewritten first.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable
from typing import Annotated

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from fastapi import Depends, FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from core.errors import DeliveryError, EnrolmentRefused, OneScanError, StorageError
from registry import acl, tokens
from registry.authority import Authority
from registry.clock import utc_now
from registry.config import RegistryConfig
from registry.store import StoreUnavailable, connect

_log = logging.getLogger(__name__)
_MAX_REQUEST = 16 * 1024  # base64 of a P-256 request is under 1 KB
_CERTS_ONLY = {"Content-Transfer-Encoding": "base64"}
_basic = HTTPBasic(realm="OneScan enrolment")


def enrolment_app(settings: RegistryConfig, authority: Authority) -> FastAPI:
    """The ASGI application; serve it over HTTPS only."""
    app = FastAPI(title="OneScan enrolment", openapi_url=None)

    @app.get("/.well-known/est/cacerts")
    def cacerts() -> Response:
        return _certs_only(authority.certificate)

    @app.post("/.well-known/est/simpleenroll")
    def simpleenroll(
        credentials: Annotated[HTTPBasicCredentials, Depends(_basic)],
        body: Annotated[bytes, Depends(_bounded_body)],
    ) -> Response:
        site, _, device = credentials.username.partition("/")
        request = parse_request(body)
        # One connection per enrolment: it happens once in a device's life.
        with connect(settings.database, "onescan-enrolment") as connection:
            certificate = tokens.enrol(
                connection, authority, site, device, credentials.password, request, utc_now(),
                settings.authority.device_days,
            )  # fmt: skip
            acl.refresh(connection, settings.acl)
        _log.info("enrolled", extra={"site": site, "device": device})
        return _certs_only(certificate)

    for kind, status in _STATUS.items():
        app.add_exception_handler(kind, _refusal(status))
    return app


def parse_request(body: bytes) -> x509.CertificateSigningRequest:
    """A PKCS#10 request from its base64 form (RFC 7030 section 4.2.1; line breaks allowed)."""
    try:
        return x509.load_der_x509_csr(base64.b64decode(b"".join(body.split()), validate=True))
    except (binascii.Error, ValueError) as error:
        raise MalformedRequest("the body is not a base64 PKCS#10 request") from error


class MalformedRequest(EnrolmentRefused):
    """What was posted is not a certificate request."""

    default_remedy = "Post a DER PKCS#10 request in base64, as `onescan-provision` does."


async def _bounded_body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_REQUEST:
            raise MalformedRequest("the request is too long")
    return body


def _certs_only(certificate: x509.Certificate) -> Response:
    der = pkcs7.serialize_certificates([certificate], Encoding.DER)
    return Response(
        base64.encodebytes(der), media_type="application/pkcs7-mime; smime-type=certs-only", headers=_CERTS_ONLY
    )


# The certificate may be recorded already where a 503 is given: the device asks again and gets the same one.
_STATUS: dict[type[Exception], int] = {
    MalformedRequest: 400,
    EnrolmentRefused: 401,
    StoreUnavailable: 503,
    StorageError: 503,
    DeliveryError: 503,
}


def _refusal(status: int) -> Callable[[Request, Exception], Response]:
    def respond(_request: Request, error: Exception) -> Response:
        _log.warning("enrolment refused", extra={"status": status, "reason": str(error)})
        remedy = error.remedy() if isinstance(error, OneScanError) else ""
        headers = {401: {"WWW-Authenticate": 'Basic realm="OneScan enrolment"'}, 503: {"Retry-After": "5"}}
        return PlainTextResponse(f"{error}\n{remedy}\n", status, headers=headers.get(status))

    return respond
