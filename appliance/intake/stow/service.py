"""Listens for STOW-RS. One thread lets in (`wire.gate`) and ends visits after a pause, one serves each connection."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

from appliance.intake.door import Door
from appliance.intake.stow.client import Client
from appliance.intake.stow.request import RequestNotTaken
from appliance.intake.stow.visits import Visits
from appliance.intake.wire.bounds import Networks
from appliance.intake.wire.gate import Admission, Gate, Listener, can_not_listen

log = logging.getLogger(__name__)

_LOOK_S = 0.5
_STOP_S = 10.0


@dataclass(frozen=True)
class StowSettings:
    """sender: under which name clients are known. idle_s, pause_s: see `client.py` and `visits.py`.

    connections: at a time. most_parts: of one request. addresses, connections_per_minute: as for DICOM.
    """

    listener: Listener
    sender: str = "STOW-RS"
    connections: int = 16
    idle_s: float = 60.0
    pause_s: float = 10.0
    max_part_bytes: int = 1 << 30
    most_parts: int = 10_000
    connections_per_minute: float = 3000.0
    addresses: Networks = ()


class StowService:
    """From `start` to `stop`; `port` is known after `start`."""

    def __init__(self, settings: StowSettings, door: Door, monotonic: Callable[[], float]) -> None:
        self.settings, self._door = settings, door
        tls = settings.listener.tls is not None
        self.visits = Visits(door, settings.sender, tls, settings.pause_s, monotonic)
        self.port = 0
        self.stopping = False
        admission = Admission(
            *(settings.connections, "receiver.stow.connections", settings.connections_per_minute, settings.addresses)
        )
        self._gate = Gate("STOW-RS", admission, self._client, self._end_finished, _LOOK_S)
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it would log bytes of what clients sent

    @property
    def alive(self) -> bool:
        """True while connections are accepted."""
        return self._gate.alive

    def start(self) -> None:
        """Listen. ConfigError where the port is taken or may not be used."""
        try:
            self._gate.open(self.settings.listener)
        except OSError as error:
            raise can_not_listen(error, "receiver.stow") from error
        (self.port,) = self._gate.ports

    def stop(self) -> None:
        """Take no more; instances that are being stored are finished, requests that are under way are refused."""
        self.stopping = True
        self._gate.close()
        clients = self.clients()
        for client in clients:
            client.cut()
        until = time.monotonic() + _STOP_S
        for client in clients:
            client.thread.join(timeout=max(0.0, until - time.monotonic()))
        self.visits.stop()

    def clients(self) -> tuple[Client, ...]:
        """The connections that are open."""
        return self._gate.inside()

    def has_room(self) -> bool:
        """Whether more may be taken."""
        return self._door.has_room()

    def refused(self, peer: str, refusal: RequestNotTaken) -> None:
        """A request was not taken, or not to its end."""
        self._door.senders.refused(self.settings.sender, peer, f"request refused ({refusal.status.value}): {refusal}")
        log.warning("STOW-RS request refused: %s; %s", refusal, refusal.remedy(),
                    extra={"peer": peer, "http_status": refusal.status.value})  # fmt: skip

    def forget(self, client: Client) -> None:
        """A connection is over."""
        self._gate.left(client)

    def _client(self, connection: socket.socket, peer: str, _tls: ssl.SSLContext | None) -> Client:
        return Client(self, connection, peer)

    def _end_finished(self) -> None:
        try:
            self.visits.end_finished()
        except Exception:
            # The edge of the listening thread: without it nobody would be let in any more.
            log.exception("STOW-RS listener: unforeseen error")
