"""The ingest worker: broker → database → acknowledgements. Loses nothing, repeats nothing.

take a batch ─▶ triage ─▶ commit ─▶ PUBACK to the broker ─▶ cumulative ack to each device
                            │ database down: hold everything, wait, try again
                            └ a value can't be stored: halve the batch until the culprit is alone; quarantine it
"""

from __future__ import annotations

import datetime as dt
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence

from core import wire
from registry import triage
from registry.broker import Arrival, BrokerLink
from registry.clock import utc_now
from registry.commit import Believed, Committed, commit, unstorable
from registry.config import RegistryConfig
from registry.statements import SQL
from registry.store import Connection, StoreUnavailable, Unstorable, connect, settle_epoch, translated

_log = logging.getLogger(__name__)
_HEARTBEAT_S = 5.0
_IDLE_S = 0.2
_LONGEST_WAIT_S = 5.0


class Stopped(Exception):
    """The worker was told to stop while it held a batch; the broker keeps it."""


class IngestWorker:
    """One worker: one MQTT session, one database connection, one thread of its own (paho has another)."""

    def __init__(self, settings: RegistryConfig, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._settings = settings
        self._clock = clock
        self._link = BrokerLink(settings.broker, settings.ingest)
        self._connection: Connection | None = None
        self._started_at = clock()
        self._next_heartbeat = 0.0
        self._told_connected = False
        self.stored = 0

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set. DeliveryError: the MQTT thread died, start again."""
        ingest = self._settings.ingest
        self._link.start()
        try:
            while not stop.is_set():
                self._link.check()
                batch = self._link.take(ingest.batch_size, ingest.batch_ms / 1e3, _IDLE_S)
                if batch:
                    self._settle(batch, stop)
                if time.monotonic() >= self._next_heartbeat or self._link.connected != self._told_connected:
                    self._heartbeat()
        except Stopped:
            pass
        finally:
            self._link.stop()
            self._link.connected = False
            self._heartbeat()
            self._disconnect()

    def _settle(self, batch: Sequence[Arrival], stop: threading.Event) -> None:
        believed = [item for a in batch if (item := triage.sort(a.topic, a.payload)) is not None]
        for committed in self._commit(believed, stop):
            self.stored += committed.stored
            if committed.refused:
                _log.warning("messages refused", extra={"count": committed.refused})
            for (site, device), body in committed.acks.items():
                self._link.publish(wire.topic(site, device, "ack"), body.model_dump_json().encode())
        self._link.confirm(batch)

    def _commit(self, items: Sequence[Believed], stop: threading.Event) -> list[Committed]:
        """Commit until it is done; a batch with a value that can't be stored is halved."""
        wait_s = 0.1
        while items:
            try:
                return [commit(self._connected(), items, self._clock())]
            except StoreUnavailable as error:
                _log.warning("holding messages", extra={"count": len(items), "reason": str(error)})
                self._disconnect()
                if stop.wait(wait_s * random.uniform(0.5, 1.5)):
                    raise Stopped from error
                wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
            except Unstorable:
                if len(items) == 1:
                    items = [unstorable(items[0])]
                else:
                    half = len(items) // 2
                    return self._commit(items[:half], stop) + self._commit(items[half:], stop)
        return []

    def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed:
            connection = connect(self._settings.database, f"onescan-{self._settings.ingest.worker}")
            self._connection = connection
            settle_epoch(connection)
            with translated():
                connection.execute(SQL["incoming_tables"])
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _heartbeat(self) -> None:
        """Say that this worker lives, and publish what is newly desired. A database that is down stops neither."""
        self._next_heartbeat = time.monotonic() + _HEARTBEAT_S
        try:
            connected = self._link.connected
            connection = self._connected()
            settle_epoch(connection)
            with translated():
                values = {"started_at": self._started_at, "connected": connected, "messages": self.stored}
                connection.execute(SQL["worker_heard"], {"worker": self._settings.ingest.worker, **values})
                if connected:
                    self._publish_desired(connection)
            self._told_connected = connected
        except StoreUnavailable as error:
            _log.warning("no heartbeat", extra={"reason": str(error)})
            self._disconnect()

    def _publish_desired(self, connection: Connection) -> None:
        """Persist, publish, persist: what is recorded and not yet published goes out, retained."""
        for site, device, bundle, version, issued_at in connection.execute(SQL["desired_pending"]).fetchall():
            body = wire.DesiredBody(issued_at=issued_at, bundle=bundle, version=version)
            handle = self._link.publish(
                wire.topic(site, device, "desired"), body.model_dump_json().encode(), retain=True
            )
            handle.wait_for_publish(timeout=2.0)
            if handle.is_published():
                where = {"site": site, "device": device, "issued_at": issued_at}
                connection.execute(SQL["desired_published"], where)
