"""Enrolment: a single-use token against a certificate, in one transaction.

1. The token is known, for this site and this device.
2. It has not expired.
3. It has not been used; or it was used with this very request, whose response was lost: then the same certificate
   is given again.
4. The request's key is EC P-256 and signed the request.
5. Certificate, device and token are recorded; the certificate is not handed out before that is committed.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from pydantic import TypeAdapter

from core.errors import EnrolmentRefused
from core.wire import Slug
from registry.authority import RESERVED_SITE, Authority
from registry.statements import SQL
from registry.store import Connection, translated

_SLUG: TypeAdapter[str] = TypeAdapter(Slug)


def make_token(connection: Connection, site: str, device: str, now: dt.datetime, life: dt.timedelta) -> str:
    """A new token for one device: 256 random bits, kept here only as SHA-256. EnrolmentRefused for a bad name."""
    _check_name(site)
    _check_name(device)
    token = secrets.token_urlsafe(32)
    values = {"token_hash": _hash(token), "site": site, "device": device, "expires_at": now + life}
    with translated():
        connection.execute(SQL["token_insert"], values)
    return token


def enrol(
    connection: Connection,
    authority: Authority,
    site: str,
    device: str,
    token: str,
    request: x509.CertificateSigningRequest,
    now: dt.datetime,
    days: int,
) -> x509.Certificate:
    """The device's certificate (steps above). EnrolmentRefused says which step failed."""
    where = {"site": site, "device": device}
    csr_digest = hashlib.sha256(request.public_bytes(serialization.Encoding.DER)).hexdigest()
    with translated(), connection.transaction():
        row = connection.execute(SQL["token_lock"], {"token_hash": _hash(token), **where}).fetchone()
        if row is None:  # 1
            raise EnrolmentRefused("this token is not one for this site and device")
        expires_at, used_at, used_with, serial = row
        if now >= expires_at:  # 2
            raise EnrolmentRefused("this token has expired")
        if used_at is not None:  # 3
            if used_with != csr_digest:
                raise EnrolmentRefused("this token has been used")
            (pem,) = connection.execute(SQL["certificate_pem"], {"serial": serial}).fetchone() or ("",)
            return x509.load_pem_x509_certificate(pem.encode())
        issued = authority.device(site, device, request, now, days)  # 4
        ends = issued.certificate.not_valid_after_utc
        record = {**where, "now": now, "serial": issued.serial, "fingerprint": issued.fingerprint, "ends_at": ends}
        connection.execute(SQL["certificate_replace"], record)  # 5
        connection.execute(SQL["certificate_insert"], {**record, "pem": issued.pem.decode()})
        connection.execute(SQL["device_enrol"], record)
        connection.execute(SQL["token_use"], {**record, "token_hash": _hash(token), "csr_digest": csr_digest})
    return issued.certificate


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _check_name(name: str) -> None:
    try:
        _SLUG.validate_python(name)
    except ValueError as error:
        raise EnrolmentRefused(
            f"{name!r} can't be the name of a site or device",
            remedy="Use 1 to 63 lower-case letters, digits and hyphens, not starting or ending with a hyphen.",
        ) from error
    if name == RESERVED_SITE:
        raise EnrolmentRefused(f"{name!r} is reserved for the registry itself", remedy="Choose another name.")
