"""One MQTT connection's life: connect, announce, feed the outbox, take acknowledgements, say goodbye.

    Connection.open   TCP, TLS, CONNECT with the will "offline"
    CONNACK           subscribe to ack, desired, cmd/#; then status "online" (retained), birth, reported (retained)
    turn              socket in and out; every stream: send what has room, send again what is overdue
    Connection.close  status "offline" (retained), DISCONNECT: the broker drops the will

paho-mqtt 2 is used as a codec with a socket, driven from one thread: a fresh client per connection, so that nothing
that paho would resend, reorder or drop by itself survives a connection. What is unacknowledged is in the outbox.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from appliance.delivery.broker import Broker, Device, Handlers, Pace
from appliance.delivery.outbox import Cursor, by_urgency
from appliance.ports import Clock, MessageOutbox
from core import wire
from core.errors import DeliveryError

_log = logging.getLogger(__name__)
_SUBSCRIBED = ("ack", "desired", "cmd/#")


class Connection:
    """One connection. `turn` is called again and again by one thread; DeliveryError says that it is over."""

    def __init__(
        self, broker: Broker, device: Device, session: int, outbox: MessageOutbox, clock: Clock, pace: Pace,
        handlers: Handlers,
    ) -> None:  # fmt: skip
        self._broker, self._device, self._session = broker, device, session
        self._outbox, self._clock, self._pace, self._handlers = outbox, clock, pace, handlers
        self._client = self._new_client()
        self._ended = ""
        self._receive_maximum = 65535
        self._unconfirmed: set[int] = set()  # packet identifiers without a PUBACK
        self._cursors: dict[str, Cursor] = {}
        self._reported: bytes | None = None
        self._next_scan = 0.0
        self.accepted = False

    def open(self) -> None:
        """Connect and send CONNECT. DeliveryError where that fails."""
        properties = _properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = self._pace.session_expiry_s
        try:
            if self._broker.tls is not None:
                tls = self._broker.tls
                self._client.tls_set(
                    str(tls.ca), str(tls.certificate), str(tls.key), tls_version=ssl.PROTOCOL_TLS_CLIENT
                )
            self._client.connect(
                self._broker.host, self._broker.port, self._pace.keepalive_s, clean_start=False, properties=properties
            )
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise DeliveryError(f"no connection to the broker: {error}") from error

    def scan_soon(self) -> None:
        """There may be something new in the outbox."""
        self._next_scan = 0.0

    def turn(self, doorbell: socket.socket) -> None:
        """Wait for the socket, the doorbell or the next scan; do what there is to do. DeliveryError ends it."""
        self._pump(max(min(self._next_scan - self._clock.monotonic(), 1.0), 0.0), doorbell)
        if self.accepted and self._clock.monotonic() >= self._next_scan:
            self._next_scan = self._clock.monotonic() + self._pace.rescan_s
            self._publish_reported()
            for stream in by_urgency({*self._outbox.streams(), *self._cursors}):
                self._feed(stream)

    def close(self) -> None:
        """Say goodbye, so that the broker drops the will. Never raises: the connection ends either way."""
        try:
            if self.accepted:
                self._publish("status", self._status(online=False), retain=True)
                deadline = time.monotonic() + self._pace.goodbye_s
                while self._unconfirmed and time.monotonic() < deadline:
                    self._pump(0.1)
            self._client.disconnect()
        except (DeliveryError, OSError, ValueError) as error:
            _log.info("goodbye to the broker not completed", extra={"why": str(error)})
        finally:
            self.drop()

    def drop(self) -> None:
        """Close the socket without a word."""
        held = self._client.socket()
        if held is not None:
            held.close()

    # ---- the socket

    def _pump(self, timeout_s: float, doorbell: socket.socket | None = None) -> None:
        sock = self._live_socket()
        waiting = bool(getattr(sock, "pending", lambda: 0)())  # decrypted bytes that select doesn't see
        reads = [sock] if doorbell is None else [sock, doorbell]
        writes = [sock] if self._client.want_write() else []
        readable, writable, _ = select.select(reads, writes, [], 0.0 if waiting else timeout_s)
        if doorbell is not None and doorbell in readable:
            doorbell.recv(4096)
            self.scan_soon()
        if waiting or sock in readable:
            self._check(self._client.loop_read())
        if writable:
            self._check(self._client.loop_write())
        self._check(self._client.loop_misc())  # keep-alive

    def _check(self, code: MQTTErrorCode) -> None:
        if code != paho.MQTT_ERR_SUCCESS:
            raise DeliveryError(self._ended or f"connection to the broker lost: {paho.error_string(code)}")
        self._live_socket()

    def _live_socket(self) -> Any:
        sock = self._client.socket()
        if self._ended or sock is None:
            raise DeliveryError(self._ended or "the broker closed the connection")
        return sock

    # ---- the outbox

    def _feed(self, stream: str) -> None:
        """Send what has room, in order; first send again what is overdue."""
        now = self._clock.monotonic()
        cursor = self._cursors.get(stream)
        if cursor is None:
            acked = self._outbox.acknowledged_up_to(stream)
            cursor = self._cursors[stream] = Cursor(acked, self._pace.resend)
        if cursor.is_overdue(now):
            _log.info("no ack for long, sending again", extra={"stream": stream, "messages": len(cursor.flying)})
            cursor.go_back()
        room = min(cursor.room(self._pace.window), self._receive_maximum - len(self._unconfirmed))
        if room <= 0:
            return
        for item in self._outbox.after(stream, cursor.position, limit=room):
            self._publish(item.leaf, item.payload)
            cursor.sent(item.seq, now)

    def _publish(self, leaf: str, payload: bytes, retain: bool = False) -> None:
        sent = self._client.publish(self._device.topic(leaf), payload, qos=1, retain=retain)
        self._check(sent.rc)
        self._unconfirmed.add(sent.mid)

    def _publish_reported(self) -> None:
        body = self._handlers.reported()
        payload = body.model_dump_json().encode() if body is not None else None
        if payload is not None and payload != self._reported:
            self._publish("reported", payload, retain=True)
            self._reported = payload

    def _take_ack(self, payload: bytes) -> None:
        ack = wire.AckBody.model_validate_json(payload)
        now = self._clock.now()
        ours: dict[str, int] = {one.stream: one.seq for one in ack.acks if one.epoch == self._outbox.epoch}
        ours = {stream: seq for stream, seq in ours.items() if self._is_plausible(stream, seq)}
        before = self._outbox.registry_epoch()
        if ack.registry_epoch != before:
            self._outbox.rewind(ack.registry_epoch, ours, now)
            if before is not None:  # with the very first ack nothing is lost, and what flies may go on
                _log.warning("the registry's database is another one: sending again what it lacks")
                self._cursors.clear()
        for stream, seq in ours.items():
            self._outbox.acknowledge(stream, seq, now)
            if stream in self._cursors:
                self._cursors[stream].acknowledged(seq, self._clock.monotonic())
        self.scan_soon()

    def _is_plausible(self, stream: str, seq: int) -> bool:
        """An ack for messages that were never written would mark future ones as delivered."""
        known = seq <= self._outbox.acknowledged_up_to(stream) or bool(self._outbox.after(stream, seq - 1, limit=1))
        if not known:
            _log.error("ack for messages that don't exist, ignored", extra={"stream": stream, "seq": seq})
        return known

    # ---- paho's callbacks

    def _new_client(self) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2, self._device.client_id, protocol=paho.MQTTv5, reconnect_on_failure=False
        )
        client.connect_timeout = self._pace.connect_s
        client.max_inflight_messages_set(65535)  # the window and the receive maximum are kept here
        client.max_queued_messages_set(0)
        client.on_connect = self._guarded(self._on_connect)
        client.on_disconnect = self._guarded(self._on_disconnect)
        client.on_message = self._guarded(self._on_message)
        client.on_publish = self._guarded(self._on_publish)
        client.on_subscribe = self._guarded(self._on_subscribe)
        delay = _properties(PacketTypes.WILLMESSAGE)
        delay.WillDelayInterval = self._pace.will_delay_s
        will = self._status(online=False)
        client.will_set(self._device.topic("status"), will, qos=1, retain=True, properties=delay)
        return client

    def _guarded(self, callback: Callable[..., None]) -> Callable[..., None]:
        """An exception in a callback would end paho's loop: it is logged here, and the thread lives on."""

        def guarded(*arguments: Any) -> None:
            try:
                callback(*arguments)
            except DeliveryError as error:
                self._ended = str(error)
            except Exception:
                _log.exception("a message from the broker could not be handled")

        return guarded

    def _status(self, online: bool) -> bytes:
        body = wire.StatusBody(
            online=online, device=self._device.name, epoch=self._outbox.epoch, boot_id=self._device.boot_id,
            session=self._session, ts=self._clock.now(),
        )  # fmt: skip
        return body.model_dump_json().encode()

    def _on_connect(self, client: paho.Client, _: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._ended = f"the broker refused the connection: {reason}"
            return
        self._receive_maximum = int(getattr(properties, "ReceiveMaximum", 65535))
        client.subscribe([(self._device.topic(leaf), SubscribeOptions(qos=1)) for leaf in _SUBSCRIBED])
        self._publish("status", self._status(online=True), retain=True)
        self._publish("birth", self._handlers.birth(self._session).model_dump_json().encode())
        self.accepted = True
        self.scan_soon()

    def _on_disconnect(self, client: paho.Client, _: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._ended = f"the broker ended the connection: {reason}"

    def _on_publish(self, client: paho.Client, _: Any, mid: int, reason: Any, properties: Any) -> None:
        self._unconfirmed.discard(mid)
        if reason.is_failure:
            _log.error("the broker refused a message", extra={"why": str(reason)})
        self.scan_soon()

    def _on_subscribe(self, client: paho.Client, _: Any, mid: int, reasons: Any, properties: Any) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            _log.error("the broker refused a subscription", extra={"why": ", ".join(refused)})

    def _on_message(self, client: paho.Client, _: Any, message: Any) -> None:
        leaf = wire.parse_topic(message.topic)[2]
        if leaf == "ack":
            self._take_ack(message.payload)
        elif leaf == "desired" and message.payload:
            self._handlers.on_desired(wire.DesiredBody.model_validate_json(message.payload))
        elif leaf.startswith("cmd/"):
            self._handlers.on_command(leaf.removeprefix("cmd/"), message.payload)


def _properties(packet_type: int) -> Any:
    return Properties(packet_type)  # type: ignore[no-untyped-call]
