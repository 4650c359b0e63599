"""The device's own key and certificate, and TLS with them.

    device.key   EC P-256, PKCS#8 PEM, 0600; made on the device, never leaves it
    device.csr   PKCS#10 DER; kept, so that a repeated enrolment sends the very same request
    device.crt   what the registry's CA answered, PEM
    ca.crt       the registry's CA, PEM; pinned by fingerprint before anything was sent to it

P-256 because every TLS stack, TPM and smart card speaks it (RFC 5480, FIPS 186-5).
"""

from __future__ import annotations

import datetime as dt
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from core import durable
from core.errors import IdentityError

KEY_MODE = 0o600
FOLDER_MODE = 0o700
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True)
class IdentityFolder:
    """Where each part of an identity lies."""

    folder: Path

    @property
    def device_key(self) -> Path:
        """EC P-256 private key."""
        return self.folder / "device.key"

    @property
    def request(self) -> Path:
        """The certificate signing request that goes with the key."""
        return self.folder / "device.csr"

    @property
    def certificate(self) -> Path:
        """The device's certificate."""
        return self.folder / "device.crt"

    @property
    def ca(self) -> Path:
        """The registry's CA certificate."""
        return self.folder / "ca.crt"

    @property
    def site_key(self) -> Path:
        """32 bytes from which pseudonyms are made; shared by the devices of a site."""
        return self.folder / "site.key"


def common_name(site: str, device: str) -> str:
    """The certificate's common name, which is also the MQTT user name. Slugs contain no dots, so it can be split."""
    return f"{site}.{device}"


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER form, 64 lower-case hex digits: what a site plan pins."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def ensure_device_key(identity: IdentityFolder) -> ec.EllipticCurvePrivateKey:
    """The device's key; made, durably, if there is none yet. Never replaces one that is there."""
    durable.make_folder(identity.folder, FOLDER_MODE)
    if not identity.device_key.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        durable.write_bytes(identity.device_key, pem, KEY_MODE)
    return load_device_key(identity)


def load_device_key(identity: IdentityFolder) -> ec.EllipticCurvePrivateKey:
    """The key, if it is an EC P-256 key that only its owner can read. IdentityError otherwise."""
    content = read_private(identity.device_key)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as error:
        raise IdentityError(f"{identity.device_key} is not a private key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError(f"{identity.device_key} is not an EC P-256 key")
    return key


def read_private(path: Path) -> bytes:
    """The content of a secret file, refused if anybody but its owner could read it too."""
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except OSError as error:
        raise IdentityError(f"can't read {path}: {error.strerror}") from error
    if mode & _OTHERS:
        remedy = f"If nobody else can have read it: chmod 600 {path}. If in doubt: provision this appliance anew."
        raise IdentityError(f"{path} can be read by others (mode {stat.S_IMODE(mode):04o})", remedy=remedy)
    return content


def ensure_request(identity: IdentityFolder, site: str, device: str) -> bytes:
    """The signing request (PKCS#10, DER) for this key and name; the same bytes every time it is asked for."""
    key = load_device_key(identity)
    if identity.request.exists():
        kept = identity.request.read_bytes()
        if _is_for(kept, key, common_name(site, device)):
            return kept
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, site),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, device),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name(site, device)),
        ]
    )
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    encoded = request.public_bytes(serialization.Encoding.DER)
    durable.write_bytes(identity.request, encoded, KEY_MODE)
    return encoded


def store_ca(identity: IdentityFolder, certificate: x509.Certificate) -> None:
    """Keep the registry's CA, whose fingerprint the caller has compared."""
    durable.write_bytes(identity.ca, certificate.public_bytes(serialization.Encoding.PEM))


def store_certificate(identity: IdentityFolder, certificate: x509.Certificate) -> None:
    """Keep the device's certificate, which the caller has checked with `check_certificate`."""
    durable.write_bytes(identity.certificate, certificate.public_bytes(serialization.Encoding.PEM))


def load_certificate(path: Path) -> x509.Certificate:
    """A certificate from a PEM file. IdentityError if there is none."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise IdentityError(f"can't read {path}: {error.strerror}") from error
    except ValueError as error:
        raise IdentityError(f"{path} is not a certificate: {error}") from error


def check_certificate(
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    name: str,
    now: dt.datetime,
) -> None:
    """IdentityError unless this certificate makes this key `name` in the eyes of this CA, now.

    1. it holds our public key; 2. our CA signed it; 3. its common name is `name`; 4. it is valid now.
    """
    if _spki(certificate.public_key()) != _spki(key.public_key()):  # 1
        raise IdentityError("the certificate belongs to another key than this device's")
    try:
        certificate.verify_directly_issued_by(ca)  # 2
    except (ValueError, TypeError, InvalidSignature) as error:
        raise IdentityError(f"the certificate was not issued by the registry's CA ({error})") from error
    if subject_name(certificate) != name:  # 3
        raise IdentityError(f"the certificate names '{subject_name(certificate)}', not '{name}'")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:  # 4
        raise IdentityError(
            f"the certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; this box's clock says {now:%Y-%m-%d %H:%M}",
            remedy="Set the clock if it is wrong; else ask for a new token and run `onescan-provision apply` again.",
        )


def subject_name(certificate: x509.Certificate) -> str:
    """The common name, "" if there is none."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def days_left(certificate: x509.Certificate, now: dt.datetime) -> float:
    """Days until the certificate expires; negative after that."""
    return (certificate.not_valid_after_utc - now).total_seconds() / 86400


def renewal_due(certificate: x509.Certificate, now: dt.datetime) -> bool:
    """True in the last third of the certificate's life: early enough to survive weeks without a link."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return now >= certificate.not_valid_after_utc - life / 3


def tls_context(identity: IdentityFolder) -> ssl.SSLContext:
    """TLS 1.2 or newer as this device: only the registry's CA trusted, host name checked, our certificate shown."""
    read_private(identity.device_key)
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(identity.ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(str(identity.certificate), str(identity.device_key))
    except (OSError, ssl.SSLError) as error:
        raise IdentityError(f"the identity in {identity.folder} can't be used for TLS: {error}") from error
    return context


def _is_for(request: bytes, key: ec.EllipticCurvePrivateKey, name: str) -> bool:
    try:
        parsed = x509.load_der_x509_csr(request)
    except ValueError:
        return False
    names = parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return _spki(parsed.public_key()) == _spki(key.public_key()) and [n.value for n in names] == [name]


def _spki(key: object) -> bytes:
    encoded: bytes = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded
