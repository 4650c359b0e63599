"""The link to the registry: one thread that keeps a connection to the broker and feeds it from the outbox.

    start ──▶ connect ──▶ serve until it is lost ──▶ wait (growing, jittered) ──▶ connect ...
                                └── stop: say goodbye, end

At-least-once by the outbox, not by MQTT: a PUBACK only frees room, a message is delivered when the registry's
cumulative ack covers it. clean_start is 0 with a session expiry of days, so that acks, wishes and commands that the
registry sends while the device is away wait for it at the broker.
"""

from __future__ import annotations

import logging
import random
import socket
import threading
import uuid
from collections.abc import Callable

from appliance.delivery.broker import Broker, Device, Handlers, Pace
from appliance.delivery.connection import Connection
from appliance.ports import Clock, MessageOutbox
from core import wire
from core.errors import DeliveryError

_log = logging.getLogger(__name__)


def _no_command(name: str, payload: bytes) -> None:
    _log.warning("a command came and nobody here takes commands", extra={"command": name})


class RegistryLink:
    """Keeps the registry supplied. `start` and `stop` from the courier; everything else happens on its thread.

    next_session: the number of this connection within the journal's epoch, 1, 2, 3 ..., durable before it returns.
    birth: what this device is, for that session. on_desired: the registry wants this bundle. on_command: its name and
    payload. Outbox and callables are used on the link's thread alone; what a callable raises is logged, and the link
    lives on.
    """

    def __init__(
        self,
        broker: Broker,
        site: str,
        device: str,
        boot_id: uuid.UUID,
        outbox: MessageOutbox,
        clock: Clock,
        next_session: Callable[[], int],
        birth: Callable[[int], wire.BirthBody],
        on_desired: Callable[[wire.DesiredBody], None],
        on_command: Callable[[str, bytes], None] = _no_command,
        pace: Pace = Pace(),  # noqa: B008  # frozen
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._broker, self._outbox, self._clock, self._pace, self._draw = broker, outbox, clock, pace, draw
        self._device = Device(site, device, boot_id)
        self._next_session = next_session
        self._handlers = Handlers(birth, lambda: self._reported, on_desired, on_command)
        self._reported: wire.ReportedBody | None = None
        self._ear, self._bell = socket.socketpair()
        self._ear.setblocking(False)
        self._bell.setblocking(False)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._last_turn = clock.monotonic()
        self.connected = False
        self.why_not = "not started"

    @property
    def alive(self) -> bool:
        """True while the thread runs. The courier looks at this and calls `start` again where it is False."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def idle_s(self) -> float:
        """Seconds since the thread last came round: large means stuck, whatever `alive` says."""
        return self._clock.monotonic() - self._last_turn

    def start(self) -> None:
        """Start the thread. No effect while it runs."""
        if self.alive:
            return
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="registry-link", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Publish "offline", disconnect cleanly, end the thread. What is not delivered stays in the outbox."""
        self._stopping.set()
        self.ring()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def ring(self) -> None:
        """Look at the outbox now. From any thread; never blocks, never raises."""
        try:
            self._bell.send(b"\0")
        except OSError:
            pass  # full: it is rung already; closed: nobody listens any more

    def report(self, body: wire.ReportedBody) -> None:
        """What this device runs; published (retained) when it changes and at every connection."""
        self._reported = body
        self.ring()

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            connection: Connection | None = None
            try:
                connection = self._connect()
                self._serve(connection)
                connection.close()
                self.why_not = "stopped"
            except DeliveryError as error:
                self.why_not = str(error)
                _log.warning("no link to the registry", extra={"why": str(error)})
            except Exception as error:  # the edge of the thread: the journal, a handler, a defect; try again, visibly
                self.why_not = f"{type(error).__name__}: {error}"
                _log.exception("the registry link failed")
            finally:
                self.connected = False
                if connection is not None:
                    connection.drop()
            failures = 1 if connection is not None and connection.accepted else failures + 1
            self._rest(self._pace.reconnect.delay_s(failures, self._draw()))

    def _connect(self) -> Connection:
        session = self._next_session()
        connection = Connection(
            self._broker, self._device, session, self._outbox, self._clock, self._pace, self._handlers
        )
        connection.open()
        return connection

    def _serve(self, connection: Connection) -> None:
        deadline = self._clock.monotonic() + self._pace.connect_s
        while not self._stopping.is_set():
            connection.turn(self._ear)
            self._last_turn = self._clock.monotonic()
            if connection.accepted and not self.connected:
                self.connected, self.why_not = True, ""
                _log.info("connected to the broker")
            if not connection.accepted and self._last_turn > deadline:
                raise DeliveryError("the broker took the connection but never answered")

    def _rest(self, seconds: float) -> None:
        """Wait before the next attempt; only `stop` shortens it."""
        until = self._clock.monotonic() + seconds
        while not self._stopping.is_set() and self._clock.monotonic() < until:
            self._last_turn = self._clock.monotonic()
            self._stopping.wait(min(1.0, max(until - self._clock.monotonic(), 0.01)))
