"""The worker's end of the MQTT broker (paho-mqtt 2, MQTT 5): takes messages, and acknowledges them when told to.

PUBACK follows the commit (`manual_ack`), so the broker keeps what the database does not have yet. The worker's client
id is fixed and its session outlives it: the broker keeps messages for a worker that is away. A message number is good
only within the connection that brought it: after a reconnect the broker sends everything unacknowledged again, and
acknowledgements for the old connection are dropped.
"""

from __future__ import annotations

import logging
import random
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from core import wire
from core.errors import DeliveryError, IdentityError
from registry import config
from registry.triage import STREAMS, WORDS

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arrival:
    """One message as the broker brought it."""

    topic: str
    payload: bytes
    number: int
    qos: int
    connection: int


def subscriptions(shared: bool) -> list[str]:
    """What a worker reads. Retained words are never shared: a shared subscription does not get what is retained."""
    prefix = "$share/ingest/" if shared else ""
    return [f"{prefix}{wire.topic('+', '+', leaf)}" for leaf in STREAMS] + [wire.topic("+", "+", w) for w in WORDS]


class BrokerLink:
    """A connection that comes back by itself. `take` and `confirm` belong to one thread, the ingest loop's."""

    def __init__(self, broker: config.Broker, ingest: config.Ingest) -> None:
        self._broker = broker
        self._ingest = ingest
        self._arrived: deque[Arrival] = deque()
        self._bell = threading.Condition()
        self._connection = 0
        self.connected = False
        self._client = self._make_client()

    def _make_client(self) -> Any:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"onescan-registry-{self._ingest.worker}",
            protocol=mqtt.MQTTv5,
            manual_ack=True,
        )
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.max_inflight_messages_set(1_000)  # our own acks on their way to devices
        client.max_queued_messages_set(100_000)
        # paho's backoff has no jitter of its own.
        client.reconnect_delay_set(min_delay=1, max_delay=random.randint(8, 15))
        if self._broker.tls is not None:
            client.tls_set_context(_tls_context(self._broker.tls))
        return client

    def start(self) -> None:
        """Connect in the background, now and whenever the connection is lost."""
        properties: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self._ingest.session_expiry_s
        properties.ReceiveMaximum = self._ingest.receive_maximum
        self._client.connect_async(
            self._broker.host, self._broker.port, self._broker.keepalive_s, clean_start=False, properties=properties
        )
        self._client.loop_start()

    def stop(self) -> None:
        """Leave; the broker keeps the session and what is unacknowledged in it."""
        self._client.disconnect()
        self._client.loop_stop()

    def check(self) -> None:
        """DeliveryError if paho's thread has died: the process must go, and its supervisor brings a new one."""
        thread = self._client._thread  # paho offers no other way to ask
        if thread is None or not thread.is_alive():
            raise DeliveryError("the MQTT network thread has ended", remedy="None needed: the worker is started again.")

    def take(self, size: int, linger_s: float, idle_s: float) -> list[Arrival]:
        """Up to `size` messages: waits `idle_s` for a first one, then `linger_s` for the batch to fill."""
        with self._bell:
            if not self._arrived:
                self._bell.wait(idle_s)
            full_by = time.monotonic() + linger_s
            while self._arrived and len(self._arrived) < size and (left := full_by - time.monotonic()) > 0:
                self._bell.wait(left)
            return [self._arrived.popleft() for _ in range(min(size, len(self._arrived)))]

    def confirm(self, arrivals: Iterable[Arrival]) -> None:
        """PUBACK what is committed, as far as it came over the present connection."""
        with self._bell:
            for arrival in arrivals:
                if arrival.qos and arrival.connection == self._connection:
                    self._client.ack(arrival.number, arrival.qos)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> Any:
        """Send at QoS 1; paho's handle tells when the broker has it. Acks unsent at an exit are lost: harmless."""
        return self._client.publish(topic, payload, qos=1, retain=retain)

    def _on_connect(self, client: Any, _user: object, flags: Any, reason: ReasonCode, _p: object) -> None:
        if reason.is_failure:
            _log.error("the broker refused this worker", extra={"reason": str(reason)})
            return
        client.subscribe([(name, SubscribeOptions(qos=1)) for name in subscriptions(self._ingest.shared)])
        _log.info("connected to the broker", extra={"session_present": bool(flags.session_present)})

    def _on_subscribe(self, _c: object, _user: object, _mid: int, reasons: list[ReasonCode], _p: object) -> None:
        if refused := [str(reason) for reason in reasons if reason.is_failure]:
            _log.error("the broker refused subscriptions", extra={"reasons": refused})
        else:
            self.connected = True

    def _on_disconnect(self, _c: object, _user: object, _f: object, reason: ReasonCode, _p: object) -> None:
        with self._bell:
            self._connection += 1
        self.connected = False
        _log.log(
            logging.WARNING if reason.is_failure else logging.INFO, "left the broker", extra={"reason": str(reason)}
        )

    def _on_message(self, _c: object, _user: object, message: Any) -> None:
        # Nothing here may raise: it would end paho's thread.
        with self._bell:
            if message.qos == 0 and len(self._arrived) >= 2 * self._ingest.receive_maximum:
                return  # the broker does not throttle QoS 0, which no device of ours uses for messages
            arrival = Arrival(message.topic, message.payload, message.mid, message.qos, self._connection)
            self._arrived.append(arrival)
            if len(self._arrived) == 1 or len(self._arrived) >= self._ingest.batch_size:
                self._bell.notify()


def _tls_context(tls: config.BrokerTls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(tls.ca))
        context.load_cert_chain(str(tls.certificate), str(tls.key))
    except (OSError, ssl.SSLError) as error:
        raise IdentityError(
            f"can't use the worker's certificate {tls.certificate}: {error}",
            remedy="Make one with `onescan-registry worker-cert`, and name its files under `broker.tls`.",
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
