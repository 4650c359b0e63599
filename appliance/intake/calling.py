"""Associations of ours to senders: the report of a storage commitment, as SCP of that service (PS3.7 D.3.3.4)."""

from __future__ import annotations

from collections.abc import Mapping

from pynetdicom import build_role
from pynetdicom.presentation import build_context

from appliance.association import Peer, Timeouts, association
from appliance.intake.commitment import (
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    CommitmentReport,
    event_information,
    event_type,
)
from appliance.intake.uids import UNCOMPRESSED
from core.errors import DeliveryError

_REMEDY = (
    "Check the sender's address in receiver.commitment.peers, and that it knows ours; it is tried again by itself."
)


class PeerCaller:
    """Implements `commitments.Caller`. peers: by AE title; ae_title: ours."""

    def __init__(self, peers: Mapping[str, Peer], ae_title: str, timeouts: Timeouts) -> None:
        self._peers, self._ae_title, self._timeouts = dict(peers), ae_title, timeouts

    def knows(self, ae_title: str) -> bool:
        """See `commitments.Caller`."""
        return ae_title in self._peers

    def report(self, ae_title: str, report: CommitmentReport) -> None:
        """See `commitments.Caller`."""
        context = build_context(PUSH_MODEL, list(UNCOMPRESSED))
        as_scp = build_role(PUSH_MODEL, scu_role=False, scp_role=True)
        peer = self._peers[ae_title]
        with association(
            peer, self._ae_title, [context], self._timeouts, who=ae_title, roles=[as_scp], remedy=_REMEDY
        ) as opened:
            try:
                status, _ = opened.send_n_event_report(
                    event_information(report), event_type(report), PUSH_MODEL, PUSH_MODEL_INSTANCE
                )
            except (RuntimeError, ValueError, AttributeError) as error:
                raise DeliveryError(f"the report was not sent: {type(error).__name__}", remedy=_REMEDY) from error
        code = status.get("Status")
        if code != 0x0000:
            why = "the association ended before the answer" if code is None else f"answered with status {code:04X}"
            raise DeliveryError(why, remedy=_REMEDY)
