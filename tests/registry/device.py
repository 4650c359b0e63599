"""A device's end of the wire, as narrow as these tests need it: publishes, and remembers what was acknowledged."""

from __future__ import annotations

import ssl
import threading
import uuid
from types import TracebackType
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from core import wire
from tests.registry.messages import DEVICE, SITE


class Device:
    """Connected to 127.0.0.1:`port`, with a certificate where `tls` is given."""

    def __init__(self, port: int, site: str = SITE, device: str = DEVICE, tls: ssl.SSLContext | None = None) -> None:
        self.site, self.device = site, device
        self.acks: dict[tuple[str, str], int] = {}
        self.registry_epochs: list[str] = []
        self.heard: list[tuple[str, bytes]] = []
        self._port = port
        self._ready = threading.Event()
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=f"test-{uuid.uuid4()}", protocol=mqtt.MQTTv5
        )  # fmt: skip
        if tls is not None:
            self.client.tls_set_context(tls)
        self.client.max_inflight_messages_set(100)
        self.client.on_connect = lambda client, *_: client.subscribe(self.topic("#"), qos=1)
        self.client.on_subscribe = lambda *_: self._ready.set()
        self.client.on_disconnect = lambda *_: self._ready.clear()
        self.client.on_message = self._on_message

    def __enter__(self) -> Device:
        self.client.connect("127.0.0.1", self._port)
        self.client.loop_start()
        assert self._ready.wait(20), "the broker did not let the device in"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    @property
    def listens(self) -> bool:
        """Connected and subscribed: an acknowledgement that is sent now will be heard."""
        return self._ready.is_set()

    def topic(self, leaf: str) -> str:
        """One of its topics."""
        return wire.topic(self.site, self.device, leaf)

    def send(self, *envelopes: wire.Envelope) -> None:
        """Publish messages of streams, and wait until the broker has them."""
        for handle in [self.publish(e.stream, e.payload()) for e in envelopes]:
            handle.wait_for_publish(30)
            assert handle.is_published(), "the broker did not take a message"

    def publish(self, leaf: str, payload: bytes | str, retain: bool = False) -> Any:
        """Publish anything to one of its topics."""
        return self.client.publish(self.topic(leaf), payload, qos=1, retain=retain)

    def _on_message(self, _client: object, _user: object, message: Any) -> None:
        leaf = message.topic.rsplit("/", 1)[-1]
        if leaf == "ack":
            body = wire.AckBody.model_validate_json(message.payload)
            self.registry_epochs.append(body.registry_epoch)
            for ack in body.acks:
                self.acks[ack.epoch, ack.stream] = ack.seq
        elif leaf in wire.REGISTRY_TOPICS:
            self.heard.append((leaf, message.payload))
