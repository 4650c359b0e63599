"""The private Mosquitto: who may connect, what a device may say, what it keeps. Also the facts behind ADR 0003."""

from __future__ import annotations

import queue
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from deploy.embedded import MosquittoBroker
from tests.frame.certificates import TestAuthority

pytestmark = pytest.mark.integration

REGISTRY = "user registry\ntopic readwrite onescan/#\n\n"
PER_DEVICE = "pattern write onescan/v1/%u/#\npattern read onescan/v1/%u/ack\n"
WAIT_S = 10.0
UNSPECIFIED_ERROR = 0x80  # also what paho says where the TLS handshake fails
NOT_AUTHORISED = 0x87


class Client:
    """A blocking MQTT 5 client: each call returns the broker's answer."""

    def __init__(self, broker: MosquittoBroker, client_id: str, tls: tuple[Path, Path, Path] | None = None) -> None:
        self.received: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._answers: queue.Queue[int] = queue.Queue()
        self.mqtt = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id, protocol=mqtt.MQTTv5)
        if tls is not None:
            authority, certificate, key = tls
            self.mqtt.tls_set(str(authority), str(certificate), str(key), tls_version=ssl.PROTOCOL_TLS_CLIENT)
        self.mqtt.on_connect = lambda _c, _u, _f, code, _p: self._answers.put(code.value)
        self.mqtt.on_disconnect = lambda _c, _u, _f, code, _p: self._answers.put(code.value)
        self.mqtt.on_publish = lambda _c, _u, _m, code, _p: self._answers.put(code.value)
        self.mqtt.on_subscribe = lambda _c, _u, _m, codes, _p: self._answers.put(codes[0].value)
        self.mqtt.on_message = lambda _c, _u, message: self.received.put((message.topic, message.payload))
        self._broker = broker

    def connect(self, keep_s: int = 0, clean: bool = True) -> int:
        session = Properties(PacketTypes.CONNECT)
        session.SessionExpiryInterval = keep_s
        self.mqtt.connect(self._broker.host, self._broker.port, clean_start=clean, properties=session)
        self.mqtt.loop_start()
        return self._answers.get(timeout=WAIT_S)

    def publish(self, topic: str, payload: bytes = b"x") -> int:
        self.mqtt.publish(topic, payload, qos=1)
        return self._answers.get(timeout=WAIT_S)

    def subscribe(self, topic: str) -> int:
        self.mqtt.subscribe(topic, qos=1)
        return self._answers.get(timeout=WAIT_S)

    def close(self) -> None:
        self.mqtt.disconnect()
        self.mqtt.loop_stop()


@pytest.fixture
def authority(tmp_path: Path) -> TestAuthority:
    (tmp_path / "authority").mkdir()
    return TestAuthority(tmp_path / "authority")


@pytest.fixture
def secure(tmp_path: Path, authority: TestAuthority) -> Iterator[MosquittoBroker]:
    certificate, key = authority.issue("broker")
    folder = tmp_path / "broker"
    with MosquittoBroker(folder, authority.certificate, certificate, key, REGISTRY + PER_DEVICE) as broker:
        yield broker


@pytest.fixture
def connected(secure: MosquittoBroker, authority: TestAuthority) -> Iterator[Callable[[str], Client]]:
    """Connects a client that shows a certificate with the given common name."""
    clients: list[Client] = []

    def connect(common_name: str) -> Client:
        tls = (authority.certificate, *authority.issue(common_name))
        clients.append(Client(secure, f"{common_name}-{len(clients)}", tls))
        assert clients[-1].connect() == 0
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def test_a_pattern_holds_a_device_to_its_own_topics_with_a_slash_in_its_name(
    connected: Callable[[str], Client],
) -> None:
    registry, device = connected("registry"), connected("north/ct1")
    assert registry.subscribe("onescan/v1/+/+/result") < NOT_AUTHORISED
    assert device.publish("onescan/v1/north/ct2/result", b"as another device") == NOT_AUTHORISED
    assert device.publish("onescan/v1/south/ct1/result", b"as another site") == NOT_AUTHORISED
    assert device.publish("onescan/v1/north/ct1/result", b"as itself") < NOT_AUTHORISED
    assert registry.received.get(timeout=WAIT_S) == ("onescan/v1/north/ct1/result", b"as itself")
    assert registry.received.empty()


def test_a_device_hears_only_its_own_acks(connected: Callable[[str], Client]) -> None:
    registry, first, second = connected("registry"), connected("north/ct1"), connected("north/ct2")
    for device in (first, second):
        device.subscribe("onescan/v1/north/ct1/ack")
        device.subscribe("onescan/v1/north/ct2/ack")
    registry.publish("onescan/v1/north/ct2/ack", b"2")
    registry.publish("onescan/v1/north/ct1/ack", b"1")
    assert first.received.get(timeout=WAIT_S) == ("onescan/v1/north/ct1/ack", b"1")
    assert second.received.get(timeout=WAIT_S) == ("onescan/v1/north/ct2/ack", b"2")
    assert first.received.empty()
    assert second.received.empty()


def test_a_name_that_is_only_a_site_would_own_all_its_devices(connected: Callable[[str], Client]) -> None:
    """Why the authority must never sign a common name without exactly one slash (ADR 0003)."""
    assert connected("north").publish("onescan/v1/north/ct1/result") < NOT_AUTHORISED


@pytest.mark.parametrize("name", ["+/+", "#", "north/+"])
def test_a_name_with_a_wildcard_may_do_nothing(connected: Callable[[str], Client], name: str) -> None:
    client = connected(name)
    assert client.publish("onescan/v1/north/ct1/result") == NOT_AUTHORISED


def test_a_changed_acl_holds_for_those_who_are_connected(
    secure: MosquittoBroker, connected: Callable[[str], Client]
) -> None:
    device = connected("north/ct1")
    assert device.publish("onescan/v1/north/ct1/result") < NOT_AUTHORISED
    secure.set_acl(REGISTRY)
    assert device.publish("onescan/v1/north/ct1/result") == NOT_AUTHORISED


def test_without_a_certificate_nobody_connects(secure: MosquittoBroker, authority: TestAuthority) -> None:
    client = Client(secure, "bare")
    client.mqtt.tls_set_context(ssl.create_default_context(cafile=str(authority.certificate)))
    assert client.connect() >= UNSPECIFIED_ERROR
    client.close()


def test_a_certificate_of_another_authority_is_refused(
    secure: MosquittoBroker, authority: TestAuthority, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    stranger = TestAuthority(tmp_path / "other").issue("registry")
    client = Client(secure, "stranger", (authority.certificate, *stranger))
    assert client.connect() >= UNSPECIFIED_ERROR
    client.close()


def test_a_revoked_certificate_is_refused_and_others_are_not(tmp_path: Path, authority: TestAuthority) -> None:
    stolen, kept = authority.issue("north/ct1"), authority.issue("north/ct2")
    broker = MosquittoBroker(
        tmp_path / "broker",
        authority.certificate,
        *authority.issue("broker"),
        acl=PER_DEVICE,
        crlfile=authority.revoke(stolen[0]),
    )
    with broker:
        first, second = (Client(broker, "1", (authority.certificate, *one)) for one in (stolen, kept))
        assert first.connect() >= UNSPECIFIED_ERROR
        assert second.connect() == 0
        first.close()
        second.close()


def test_a_retained_message_and_a_waiting_session_outlive_a_restart(tmp_path: Path) -> None:
    with MosquittoBroker.insecure(tmp_path / "broker") as broker:
        ingest = Client(broker, "ingest-1")
        assert ingest.connect(keep_s=3600, clean=False) == 0
        ingest.subscribe("onescan/v1/+/+/result")
        ingest.close()
        device = Client(broker, "device")
        device.connect()
        for number in range(50):  # more than the default of 20 in flight
            device.publish("onescan/v1/north/ct1/result", str(number).encode())
        device.close()
        broker.stop()
        broker.start()
        again = Client(broker, "ingest-1")
        assert again.connect(keep_s=3600, clean=False) == 0
        got = [again.received.get(timeout=WAIT_S)[1] for _ in range(50)]
        again.close()
    assert got == [str(number).encode() for number in range(50)]


def test_a_revocation_holds_from_the_next_connection_after_a_reload(tmp_path: Path, authority: TestAuthority) -> None:
    stolen = authority.issue("north/ct1")
    tls = (authority.certificate, *stolen)
    listed = authority.revoke()
    certificate, key = authority.issue("broker")
    folder = tmp_path / "broker"
    with MosquittoBroker(folder, authority.certificate, certificate, key, PER_DEVICE, listed) as broker:
        early = Client(broker, "early", tls)
        assert early.connect() == 0
        authority.revoke(stolen[0])
        broker.reload()
        late = Client(broker, "late", tls)
        assert late.connect() >= UNSPECIFIED_ERROR
        assert early.publish("onescan/v1/north/ct1/result") < NOT_AUTHORISED  # who is connected stays (ADR 0003)
        early.close()
        late.close()
