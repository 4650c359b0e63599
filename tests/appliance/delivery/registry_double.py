"""The registry's side of the wire, through a real broker: takes messages, keeps them by key, acks cumulatively."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from appliance.delivery import ClientCertificate
from core import wire

Key = tuple[str, str, str, int]  # device, epoch, stream, seq
STREAMS = ("result", "event", "telemetry")


class RegistryDouble:
    """Subscribes as a worker with a persistent session. `acking` off: takes messages, says nothing."""

    def __init__(self, host: str, port: int, site: str, device: str, tls: ClientCertificate | None = None) -> None:
        self._site, self._device = site, device
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self.registry_epoch = uuid.uuid4().hex
        self.acking = True
        self.rows: dict[Key, bytes] = {}
        self.copies: Counter[Key] = Counter()
        self.conflicts: list[Key] = []
        self.order: list[Key] = []
        self.others: dict[str, list[bytes]] = {}
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, f"registry.{device}", protocol=paho.MQTTv5, reconnect_on_failure=True
        )
        self._client.reconnect_delay_set(1, 1)
        if tls is not None:
            self._client.tls_set(str(tls.ca), str(tls.certificate), str(tls.key))
        self._client.on_connect = self._subscribe
        self._client.on_message = self._take
        self._client.on_subscribe = self._subscribed
        self._granted = 0
        self._address = (host, port)

    def __enter__(self) -> RegistryDouble:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 3600
        self._client.connect(*self._address, clean_start=False, properties=properties)
        self._client.loop_start()
        # What is published before the SUBACK, and not retained, is lost.
        self.wait_until(lambda: self._granted >= len(wire.DEVICE_TOPICS))
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _subscribed(self, *_: Any) -> None:
        self._granted += 1

    def forget(self) -> None:
        """Another database: everything gone, a new epoch."""
        with self._changed:
            self.rows.clear()
            self.registry_epoch = uuid.uuid4().hex

    def ack(self, **changes: Any) -> None:
        """Publish what is committed; `changes` replace fields."""
        with self._lock:
            body = {"registry_epoch": self.registry_epoch, "acks": self._acks()} | changes
        self._publish("ack", wire.AckBody.model_validate(body).model_dump_json().encode())

    def send(self, leaf: str, payload: bytes, retain: bool = False) -> None:
        """Publish anything to the device."""
        self._publish(leaf, payload, retain)

    def seqs(self, stream: str) -> list[int]:
        """The sequence numbers that are committed, in order."""
        with self._lock:
            return sorted(key[3] for key in self.rows if key[2] == stream)

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Wait for something that this double or anybody else brings about."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "what was awaited did not happen"
            with self._changed:
                self._changed.wait(0.05)

    def _publish(self, leaf: str, payload: bytes, retain: bool = False) -> None:
        self._client.publish(wire.topic(self._site, self._device, leaf), payload, qos=1, retain=retain)

    def _subscribe(self, client: paho.Client, *_: Any) -> None:
        for leaf in wire.DEVICE_TOPICS:
            client.subscribe(wire.topic(self._site, self._device, leaf), qos=1)

    def _take(self, _: paho.Client, __: Any, message: Any) -> None:
        leaf = wire.parse_topic(message.topic)[2]
        with self._changed:
            if leaf in STREAMS:
                self._commit(message.payload)
            else:
                self.others.setdefault(leaf, []).append(message.payload)
            self._changed.notify_all()
        if leaf in STREAMS and self.acking:
            self.ack()

    def _commit(self, payload: bytes) -> None:
        envelope = wire.open_envelope(payload)
        key = (envelope.device, envelope.epoch, envelope.stream, envelope.seq)
        self.copies[key] += 1
        self.order.append(key)
        if self.rows.setdefault(key, payload) != payload:
            self.conflicts.append(key)

    def _acks(self) -> list[dict[str, Any]]:
        """Cumulative: the end of the unbroken run from 1, per epoch and stream."""
        acks = []
        for (epoch, stream), keys in itertools.groupby(
            sorted(self.rows, key=lambda k: (k[1], k[2], k[3])), key=lambda k: (k[1], k[2])
        ):
            run = 0
            with contextlib.suppress(StopIteration):
                run = next(n for n, key in enumerate([*keys, None]) if key is None or key[3] != n + 1)
            acks.append({"epoch": epoch, "stream": stream, "seq": run})
        return acks
