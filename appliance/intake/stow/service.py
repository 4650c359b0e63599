"""Listens for STOW-RS. One thread listens and ends visits whose pause is over, one serves each connection."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from appliance.intake.door import Door
from appliance.intake.stow.client import Client
from appliance.intake.stow.request import RequestNotTaken
from appliance.intake.stow.visits import Visits
from appliance.intake.wire.bounds import Networks, RateLimiter, may_connect
from appliance.intake.wire.service import Listener, open_listener
from core.errors import ConfigError

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
        self._clients: set[Client] = set()
        self._lock = threading.Lock()
        self._rate = RateLimiter(settings.connections_per_minute)
        self._woken, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._listen, name="stow-listener", daemon=True)
        self._listening: socket.socket | None = None
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it would log bytes of what clients sent

    @property
    def alive(self) -> bool:
        """True while connections are accepted."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Listen. ConfigError where the port is taken or may not be used."""
        try:
            self._listening = open_listener(self.settings.listener)
        except OSError as error:
            remedy = (
                "End the other program on this port, or give receiver.stow.host and receiver.stow.port other values."
            )
            raise ConfigError(f"can't listen on {error.filename}: {error.strerror}", remedy=remedy) from error
        self.port = int(self._listening.getsockname()[1])
        self._thread.start()

    def stop(self) -> None:
        """Take no more; instances that are being stored are finished, requests that are under way are refused."""
        self.stopping = True
        if self._listening is not None:
            self._wake.send(b"!")
            self._thread.join()
            self._listening.close()
            self._listening = None
        clients = self.clients()
        for client in clients:
            client.cut()
        until = time.monotonic() + _STOP_S
        for client in clients:
            client.thread.join(timeout=max(0.0, until - time.monotonic()))
        self.visits.stop()
        for waker in (self._woken, self._wake):
            waker.close()

    def clients(self) -> tuple[Client, ...]:
        """The connections that are open."""
        with self._lock:
            return tuple(self._clients)

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
        with self._lock:
            self._clients.discard(client)

    def _listen(self) -> None:
        assert self._listening is not None
        while True:
            ready = select.select([self._listening, self._woken], [], [], _LOOK_S)[0]
            if self._woken in ready:
                return
            try:
                if ready:
                    self._accept(self._listening)
                self.visits.end_finished()
            except Exception:
                # The edge of this thread: without it nobody would be let in any more.
                log.exception("STOW-RS listener: unforeseen error")

    def _accept(self, listening: socket.socket) -> None:
        try:
            connection, address = listening.accept()
        except OSError as error:  # gone again, or no descriptor left
            log.warning("a connection could not be accepted: %s", error.strerror)
            time.sleep(0.1)
            return
        peer = str(address[0])
        if refusal := self._refusal(peer):
            connection.close()
            log.warning("STOW-RS connection refused: %s", refusal, extra={"peer": peer})
            return
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Client(self, connection, peer)
        with self._lock:
            self._clients.add(client)
        client.thread.start()

    def _refusal(self, peer: str) -> str:
        """Why a connection is not served; "" where it is."""
        if not may_connect(peer, self.settings.addresses):
            return "its address is not in the list: add it to receiver.addresses if it is a sender"
        if len(self.clients()) >= self.settings.connections:
            return f"{self.settings.connections} are open; raise receiver.stow.connections if they are all wanted"
        if not self._rate.allows(peer, time.monotonic()):
            return "too many a minute from there: check the sender, or raise receiver.connections_per_minute"
        return ""
