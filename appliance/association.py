"""Associations of ours (PS3.8), as requestor: with the PACS, with sources, with senders, with our own receiver."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.presentation import PresentationContext

from core.errors import DeliveryError


@dataclass(frozen=True)
class Peer:
    """Who is called. tls: None for plain DICOM."""

    host: str
    port: int
    ae_title: str
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True)
class Timeouts:
    """Seconds: for the connection, for the answer to an association or its release, for a DIMSE response."""

    connect_s: float = 10.0
    association_s: float = 20.0
    response_s: float = 60.0


@contextmanager
def association(
    peer: Peer,
    calling: str,
    contexts: Sequence[PresentationContext],
    timeouts: Timeouts,
    *,
    who: str = "",
    roles: Sequence[Any] = (),
    remedy: str | None = None,
) -> Iterator[Any]:
    """An association, released at the end. DeliveryError, with this remedy, where there is none.

    calling: our AE title. who: what the error calls the peer. roles: pynetdicom's role selections. What pynetdicom
    raises later (RuntimeError where the association is gone, ValueError where no context serves, AttributeError for an
    answer that is none) is the caller's.
    """
    ae = AE(ae_title=calling)
    ae.connection_timeout, ae.acse_timeout = timeouts.connect_s, timeouts.association_s
    ae.dimse_timeout = ae.network_timeout = timeouts.response_s
    made = ae.associate(
        peer.host,
        peer.port,
        contexts=list(contexts),
        ae_title=peer.ae_title,
        ext_neg=list(roles),
        tls_args=(peer.tls, peer.host) if peer.tls else None,
        evt_handlers=[(evt.EVT_CONN_OPEN, _send_at_once)],
    )
    if not made.is_established:
        raise DeliveryError(f"{who}: {_why_not(made)}" if who else _why_not(made), remedy=remedy)
    try:
        yield made
    finally:
        if made.is_established:
            made.release()


def _why_not(made: Any) -> str:
    answer = made.acceptor.primitive
    if made.is_rejected:
        return f"association rejected: {answer.reason_str}" if answer is not None else "association rejected"
    if answer is not None:
        return "none of the presentation contexts offered is accepted"
    return "no connection"


def _send_at_once(event: Any) -> None:
    """Without this, small packets wait for the peer's delayed acknowledgement."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
