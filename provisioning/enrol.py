"""Get a certificate from the registry: the client side of EST (RFC 7030), trusting nothing but a fingerprint.

1. GET cacerts over TLS without trust: anybody may answer, nothing is sent that could help them.
2. Among the answered certificates take the one whose SHA-256 fingerprint stands in the site plan; there must be one.
3. From here on TLS trusts this CA alone, with the host name checked.
4. POST the signing request with the single-use token; take the certificate for our key out of the answer.
5. Check it as every peer will: our key, this CA, our name, valid now.

The token goes over step 3's connection only. The request is the very same bytes at every try, so the registry can give
the same certificate again where its answer was lost, instead of refusing a used token.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import http.client
import ssl
import urllib.parse
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from appliance.identity.keys import check_certificate, common_name, fingerprint
from core.errors import EnrolmentRefused, OneScanError

_TIMEOUT_S = 30.0
_LARGEST_ANSWER = 256 * 1024  # bytes
_PATH = "/.well-known/est"
_CA_REMEDY = (
    "Compare the fingerprint in the plan with the central team, by telephone. If it is right, somebody stands between "
    "this box and the registry: don't go on."
)


class RegistryUnreachable(OneScanError):
    """The enrolment server does not answer, or answers nonsense. Nothing was used up."""

    default_remedy = "Check network, DNS and the plan's registry.enrol_url, then run the same command again."


@dataclass(frozen=True)
class EstClient:
    """One enrolment server. url: base, https. pin: SHA-256 fingerprint of its CA."""

    url: str
    pin: str

    def fetch_ca(self) -> x509.Certificate:
        """The CA whose fingerprint is the pinned one (steps 1 and 2). EnrolmentRefused if the server has another."""
        blind = ssl.create_default_context()
        blind.check_hostname = False
        blind.verify_mode = ssl.CERT_NONE
        status, body = self._ask("GET", "/cacerts", blind)
        if status != 200:
            raise RegistryUnreachable(f"{self.url} answered {status} to the question for its CA")
        offered = _certificates(body)
        for certificate in offered:
            if fingerprint(certificate) == self.pin:
                return certificate
        seen = ", ".join(fingerprint(certificate) for certificate in offered) or "none"
        raise EnrolmentRefused(
            f"the registry's CA is not the one in the plan: expected {self.pin}, got {seen}", remedy=_CA_REMEDY
        )

    def enrol(
        self, ca: x509.Certificate, request: bytes, site: str, device: str, token: str
    ) -> tuple[x509.Certificate, ...]:
        """What the registry signed for this request (steps 3 and 4). EnrolmentRefused with its words if it refuses."""
        if fingerprint(ca) != self.pin:
            raise EnrolmentRefused("the CA kept on this box is not the one in the plan", remedy=_CA_REMEDY)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies, and checks the host name
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cadata=ca.public_bytes(Encoding.PEM).decode())
        credentials = base64.b64encode(f"{site}/{device}:{token}".encode()).decode()
        headers = {
            "Authorization": f"Basic {credentials}",
            "Content-Type": "application/pkcs10",
            "Content-Transfer-Encoding": "base64",
        }
        status, body = self._ask("POST", "/simpleenroll", context, base64.encodebytes(request), headers)
        if status == 200:
            return _certificates(body)
        words = _printable(body)
        if status in (400, 401, 403, 409):
            raise EnrolmentRefused(f"the registry refused to enrol {site}/{device}: {words or status}")
        raise RegistryUnreachable(f"the registry answered {status} to the enrolment: {words}")

    def _ask(
        self,
        method: str,
        path: str,
        context: ssl.SSLContext,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        parts = urllib.parse.urlsplit(self.url)
        connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port or 443, timeout=_TIMEOUT_S, context=context
        )
        try:
            connection.request(method, parts.path.rstrip("/") + _PATH + path, body, headers or {})
            answer = connection.getresponse()
            content = answer.read(_LARGEST_ANSWER + 1)
        except ssl.SSLCertVerificationError as error:
            raise EnrolmentRefused(
                f"{self.url} can't prove with the pinned CA that it is the registry: {error.verify_message}",
                remedy="Check this box's clock and the host name in registry.enrol_url; else don't go on.",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise RegistryUnreachable(f"{self.url} can't be reached: {error}") from error
        finally:
            connection.close()
        if len(content) > _LARGEST_ANSWER:
            raise RegistryUnreachable(f"{self.url} answered more than {_LARGEST_ANSWER} bytes")
        return answer.status, content


def own_certificate(
    answered: tuple[x509.Certificate, ...],
    key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    site: str,
    device: str,
    now: dt.datetime,
) -> x509.Certificate:
    """The certificate of our key among those answered, checked (step 5). IdentityError says what is wrong with it."""
    ours = [c for c in answered if c.public_key() == key.public_key()]
    if not ours:
        raise EnrolmentRefused("the registry's answer holds no certificate for this device's key")
    check_certificate(ours[0], key, ca, common_name(site, device), now)
    return ours[0]


def _certificates(body: bytes) -> tuple[x509.Certificate, ...]:
    """A base64 PKCS#7 certs-only answer (RFC 7030 4.1.3, 4.2.3)."""
    try:
        return tuple(pkcs7.load_der_pkcs7_certificates(base64.b64decode(body)))
    except (ValueError, binascii.Error) as error:
        raise RegistryUnreachable(f"the registry's answer is not a list of certificates: {error}") from error


def _printable(body: bytes) -> str:
    """The first line or two of an error page, without anything that could play with a terminal."""
    text = body[:300].decode("utf-8", "replace")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
