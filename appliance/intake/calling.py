"""Associations of ours to senders: the report of a storage commitment, as SCP of that service (PS3.7 D.3.3.4)."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pynetdicom import AE, build_role, evt

from appliance.intake.commitment import (
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    CommitmentReport,
    event_information,
    event_type,
)
from core.errors import DeliveryError

_SYNTAXES = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]
_REMEDY = (
    "Check the sender's address in receiver.commitment.peers, and that it knows ours; it is tried again by itself."
)


@dataclass(frozen=True)
class Peer:
    """Where a sender listens. tls: None for plain DICOM."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None


class PeerCaller:
    """Implements `commitments.Caller`. peers: by AE title; ae_title: ours."""

    def __init__(
        self, peers: Mapping[str, Peer], ae_title: str, connect_s: float = 10.0, answer_s: float = 30.0
    ) -> None:
        self._peers, self._ae_title = dict(peers), ae_title
        self._connect_s, self._answer_s = connect_s, answer_s

    def knows(self, ae_title: str) -> bool:
        """See `commitments.Caller`."""
        return ae_title in self._peers

    def report(self, ae_title: str, report: CommitmentReport) -> None:
        """See `commitments.Caller`."""
        association = self._associate(ae_title)
        try:
            status, _ = association.send_n_event_report(
                event_information(report), event_type(report), PUSH_MODEL, PUSH_MODEL_INSTANCE
            )
        except (RuntimeError, ValueError, AttributeError) as error:
            raise DeliveryError(f"the report was not sent: {type(error).__name__}", remedy=_REMEDY) from error
        finally:
            if association.is_established:
                association.release()
        code = status.get("Status")
        if code != 0x0000:
            why = "the association ended before the answer" if code is None else f"answered with status {code:04X}"
            raise DeliveryError(why, remedy=_REMEDY)

    def _associate(self, ae_title: str) -> Any:
        peer = self._peers[ae_title]
        ae = AE(ae_title=self._ae_title)
        ae.connection_timeout = ae.acse_timeout = self._connect_s
        ae.dimse_timeout = ae.network_timeout = self._answer_s
        ae.add_requested_context(PUSH_MODEL, _SYNTAXES)
        association = ae.associate(
            peer.host,
            peer.port,
            ae_title=ae_title,
            ext_neg=[build_role(PUSH_MODEL, scu_role=False, scp_role=True)],
            tls_args=(peer.tls, peer.host) if peer.tls else None,
            evt_handlers=[(evt.EVT_CONN_OPEN, _send_at_once)],
        )
        if not association.is_established:
            said = "refused our association" if association.is_rejected else "could not be reached, or takes no reports"
            raise DeliveryError(f"{ae_title} {said}", remedy=_REMEDY)
        return association


def _send_at_once(event: Any) -> None:
    """Without this, small packets wait for the peer's delayed acknowledgement."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
