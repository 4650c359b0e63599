"""TLS by the BCP 195 profile (PS3.15 B.12): versions 1.2 and 1.3, forward secrecy, authenticated ciphers."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import ConfigError

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; those of TLS 1.3 are all of this kind."""


def server_context(
    certificate: Path, key: Path, client_ca: Path | None, setting: str = "receiver.tls"
) -> ssl.SSLContext:
    """For accepted connections. client_ca: the authorities whose certificates senders must show; None: none asked for.

    setting: where the files are named. ConfigError where one is missing, or certificate and key don't belong together.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    with _files(f"{setting}: {certificate.name}, {key.name} or the list of authorities"):
        context.load_cert_chain(certificate, key)
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cafile=client_ca)
    return context


def client_context(ca: Path, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """For connections of ours. ca: the authorities of the peers' certificates. ConfigError as above."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)  # verifies, and checks the host name
    with _files(f"the TLS files for a peer ({ca.name})"):
        context.load_verify_locations(cafile=ca)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    return context


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    return context


@contextmanager
def _files(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        raise ConfigError(
            f"{what} can't be used: {reason}",
            remedy="Name PEM files that this role's user can read; the certificate must belong to the key.",
        ) from error
