"""DICOM over TLS by the BCP 195 profile (PS3.15 B.12): TLS 1.2 and 1.3, forward secrecy, authenticated ciphers."""

from __future__ import annotations

import ssl
from pathlib import Path

from core.errors import ConfigError

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; those of TLS 1.3 are all of this kind."""


def server_context(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """For accepted connections. client_ca: the authorities whose certificates senders must show; None: none asked for.

    ConfigError where a file is missing, or certificate and key don't belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        context.load_cert_chain(certificate, key)
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cafile=client_ca)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        raise ConfigError(
            f"receiver.tls: {certificate.name}, {key.name} or the list of authorities can't be used: {reason}",
            remedy="Name PEM files that the receiver's user can read; the certificate must belong to the key.",
        ) from error
    return context


def client_context(ca: Path, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """For connections of ours. ca: the authorities of the peers' certificates. ConfigError as above."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    try:
        context.load_verify_locations(cafile=ca)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        raise ConfigError(
            f"the TLS files for a peer can't be used ({ca.name}): {reason}",
            remedy="Name PEM files that the receiver's user can read; the certificate must belong to the key.",
        ) from error
    return context
