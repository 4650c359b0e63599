"""The registry's small certificate authority: EC P-256 throughout, one root that signs leaves directly (path length 0).

    server certificate   CN the first name, SAN all names, serverAuth            broker and enrolment server
    worker certificate   CN registry.<worker>, clientAuth                        the registry's own MQTT clients
    device certificate   CN <site>.<device>, O site, OU device, clientAuth       made from a PKCS#10 request

A slug has no dots, so no device can be called `registry.x`; the site `registry` is refused. Profiles follow RFC 5280
section 4.2 (key usage, extended key usage, key identifiers), which strict verifiers insist on.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from core import durable
from core.errors import EnrolmentRefused, IdentityError

RESERVED_SITE = "registry"
_ROOT_DAYS = 20 * 365
_LEAF_DAYS = 825
_BACKDATED = dt.timedelta(days=1)  # devices' clocks are a little wrong


@dataclass(frozen=True)
class Issued:
    """A certificate that was just signed."""

    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        """PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def serial(self) -> str:
        """Serial number, hex."""
        return f"{self.certificate.serial_number:x}"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the DER form, hex."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()


class Authority:
    """The root certificate and its key, from the files `ca.crt` and `ca.key` of a folder."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self._key = key

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the root's DER form, hex: what a site plan pins."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    def server(self, names: Sequence[str], public: ec.EllipticCurvePublicKey, now: dt.datetime) -> Issued:
        """A certificate for servers reached under `names` (host names and IP addresses)."""
        alternatives = [_general_name(name) for name in names]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        return self._sign(subject, public, usage, now, _LEAF_DAYS, x509.SubjectAlternativeName(alternatives))

    def worker(self, name: str, public: ec.EllipticCurvePublicKey, now: dt.datetime) -> Issued:
        """A client certificate for one of the registry's own MQTT clients."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{RESERVED_SITE}.{name}")])
        return self._sign(subject, public, ExtendedKeyUsageOID.CLIENT_AUTH, now, _LEAF_DAYS)

    def device(
        self, site: str, device: str, request: x509.CertificateSigningRequest, now: dt.datetime, days: int
    ) -> Issued:
        """A device's client certificate. Of the request only the public key is used."""
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, site),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, device),
                x509.NameAttribute(NameOID.COMMON_NAME, f"{site}.{device}"),
            ]
        )
        return self._sign(subject, checked_key(request), ExtendedKeyUsageOID.CLIENT_AUTH, now, days)

    def _sign(
        self,
        subject: x509.Name,
        public: ec.EllipticCurvePublicKey,
        usage: ObjectIdentifier,
        now: dt.datetime,
        days: int,
        alternatives: x509.SubjectAlternativeName | None = None,
    ) -> Issued:
        ends = min(now + dt.timedelta(days=days), self.certificate.not_valid_after_utc)
        builder = (
            _builder(subject, self.certificate.subject, public, now, ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if alternatives is not None:
            builder = builder.add_extension(alternatives, critical=False)
        return Issued(builder.sign(self._key, hashes.SHA256()))


def checked_key(request: x509.CertificateSigningRequest) -> ec.EllipticCurvePublicKey:
    """The public key of a request: on P-256, and held by whoever made the request. EnrolmentRefused otherwise."""
    public = request.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise EnrolmentRefused("the request's key is not EC P-256", remedy="Make an EC P-256 key and ask again.")
    try:
        valid = request.is_signature_valid
    except (InvalidSignature, ValueError) as error:
        raise EnrolmentRefused(f"the request's signature can't be checked: {error}") from error
    if not valid:
        raise EnrolmentRefused("the request is not signed by its own key")
    return public


def create(folder: Path, name: str, now: dt.datetime) -> Authority:
    """Make a new root in `folder`: key first, then certificate. IdentityError if there is one already."""
    if (folder / "ca.crt").exists() or (folder / "ca.key").exists():
        raise IdentityError(f"{folder} holds an authority already", remedy="Use it, or name another folder.")
    durable.make_folder(folder, 0o700)
    key = new_key(folder / "ca.key")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(subject, subject, key.public_key(), now, now + dt.timedelta(days=_ROOT_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    durable.write_bytes(folder / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    return Authority(certificate, key)


def open_authority(folder: Path) -> Authority:
    """The authority in `folder`. IdentityError if it is missing, broken, or its key is open to others."""
    try:
        certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
        key_file = folder / "ca.key"
        if key_file.stat().st_mode & 0o077:
            raise IdentityError(f"{key_file} is readable by others", remedy=f"chmod 600 {key_file}")
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    except (OSError, ValueError) as error:
        raise IdentityError(
            f"can't open the authority in {folder}: {error}", remedy="Make one with `onescan-registry init-ca`."
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise IdentityError(f"the key in {folder} is not the certificate's")
    return Authority(certificate, key)


def new_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A new P-256 key, kept unencrypted in `path` with mode 0600."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    durable.write_bytes(path, pem, 0o600)
    return key


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: dt.datetime, ends: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
