"""Associations of ours (PS3.8), as requestor: with the PACS, with sources, with senders, with our own receiver."""

from __future__ import annotations

import socket
import ssl
import threading
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
    keep_responses(made)
    try:
        yield made
    finally:
        if made.is_established:
            made.release()


def keep_responses(made: Any) -> None:
    """Right after `AE.associate`: keep an association's own thread off the responses that its `send_*` wait for.

    pynetdicom 3.0.4 stops that thread by an event and a flag, and the flag still says "stopped" for a moment after it
    went on. A request that is sent in that moment may lose its response to it: seen once in some 2,000 C-STOREs of a
    busy machine, after a minute's wait for what had come at once; a C-FIND would miss a study.
    """
    gate = made._reactor_checkpoint = _Gate()
    take = made.dimse.get_msg

    def take_in_turn(block: bool = False) -> Any:
        if block:  # a `send_*`, which has shut the gate
            return take(block=True)
        with gate.turn:
            return take(block=False) if gate.is_set() else (None, None)

    made.dimse.get_msg = take_in_turn


class _Gate(threading.Event):
    """Open at first. Once `clear` has returned, nobody who looked before still acts on what was seen under `turn`."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = threading.Lock()
        self.set()

    def clear(self) -> None:
        with self.turn:
            super().clear()


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
