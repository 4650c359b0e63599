"""The link to the registry through a real Mosquitto."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.delivery import Backoff, Broker, ClientCertificate, Pace, RegistryLink
from core import wire
from deploy.embedded import MosquittoBroker
from tests.appliance.delivery.memory import START, MemoryMessageOutbox, RealClock
from tests.appliance.delivery.registry_double import RegistryDouble
from tests.frame.certificates import TestAuthority

SITE = "clinic"
FAST = Pace(
    window=20,
    resend=Backoff(first_s=0.5, ceiling_s=2.0),
    reconnect=Backoff(first_s=0.1, ceiling_s=0.4),
    rescan_s=0.2,
    keepalive_s=5,
    will_delay_s=0,
    connect_s=3,
)
BOOT = uuid.UUID(int=2)


def unique_device() -> str:
    """The broker is shared: every test is another device."""
    return f"box-{uuid.uuid4().hex[:10]}"


def birth(device: str, epoch: str, session: int) -> wire.BirthBody:
    return wire.BirthBody(
        device=device, epoch=epoch, boot_id=BOOT, session=session, ts=START, software="0.1.0", hardware="test",
        runtime="onnx",
    )  # fmt: skip


class Bench:
    """A device's outbox and link, and what the link told."""

    def __init__(self, broker: MosquittoBroker, device: str, pace: Pace = FAST) -> None:
        self.device = device
        self.outbox = MemoryMessageOutbox(device)
        self.desired: list[wire.DesiredBody] = []
        self.commands: list[tuple[str, bytes]] = []
        self.sessions = 0
        self.link = self.new_link(Broker(broker.host, broker.port), pace)

    def new_link(self, broker: Broker, pace: Pace = FAST) -> RegistryLink:
        return RegistryLink(
            broker, SITE, self.device, BOOT, self.outbox, RealClock(), self._next_session,
            lambda session: birth(self.device, self.outbox.epoch, session), self.desired.append,
            lambda name, payload: self.commands.append((name, payload)), pace=pace,
        )  # fmt: skip

    def _next_session(self) -> int:
        self.sessions += 1
        return self.sessions


@pytest.fixture
def bench(broker: MosquittoBroker) -> Iterator[Bench]:
    made = Bench(broker, unique_device())
    yield made
    made.link.stop()
    assert not made.link.alive


@pytest.fixture
def registry(broker: MosquittoBroker, bench: Bench) -> Iterator[RegistryDouble]:
    with RegistryDouble(broker.host, broker.port, SITE, bench.device) as double:
        yield double


def delivered(bench: Bench, stream: str, count: int) -> Callable[[], bool]:
    return lambda: bench.outbox.acknowledged_up_to(stream) == count


def test_everything_is_delivered_in_order_and_acknowledged(bench: Bench, registry: RegistryDouble) -> None:
    bench.outbox.write("event", 130)
    bench.outbox.write("telemetry", 70)
    bench.link.start()
    registry.wait_until(lambda: bench.outbox.streams() == [])
    assert registry.seqs("event") == list(range(1, 131))
    assert registry.seqs("telemetry") == list(range(1, 71))
    assert [k[3] for k in registry.order if k[2] == "event"] == list(range(1, 131))
    assert set(registry.copies.values()) == {1}


def test_ring_sends_at_once(bench: Bench, registry: RegistryDouble) -> None:
    bench.link = bench.new_link(Broker(*registry._address), dataclasses.replace(FAST, rescan_s=3600))
    bench.link.start()
    registry.wait_until(lambda: bench.link.connected)
    bench.outbox.write("event")
    bench.link.ring()
    registry.wait_until(delivered(bench, "event", 1))


def test_a_puback_is_not_delivery(bench: Bench, registry: RegistryDouble) -> None:
    registry.acking = False
    bench.outbox.write("event", 3)
    bench.link.start()
    registry.wait_until(lambda: registry.seqs("event") == [1, 2, 3])
    assert bench.outbox.acknowledged_up_to("event") == 0
    assert bench.outbox.streams() == ["event"]


def test_no_more_than_the_window_flies(bench: Bench, registry: RegistryDouble) -> None:
    registry.acking = False
    bench.outbox.write("event", 100)
    bench.link.start()
    registry.wait_until(lambda: bool(registry.copies) and max(registry.copies.values()) >= 2)  # one resend later
    assert registry.seqs("event") == list(range(1, FAST.window + 1))


def test_lost_acks_lead_to_repeats_of_the_same_bytes(bench: Bench, registry: RegistryDouble) -> None:
    registry.acking = False
    bench.outbox.write("event", 5)
    bench.link.start()
    registry.wait_until(lambda: bool(registry.copies) and min(registry.copies.values()) >= 2)
    assert registry.conflicts == []
    registry.acking = True
    registry.ack()
    registry.wait_until(delivered(bench, "event", 5))


def test_broker_down_while_messages_are_written(tmp_path: Path) -> None:
    own = MosquittoBroker.insecure(tmp_path / "broker")
    bench = Bench(own, unique_device())
    bench.outbox.write("event", 10)
    bench.link.start()
    with own, RegistryDouble(own.host, own.port, SITE, bench.device) as registry:
        registry.wait_until(delivered(bench, "event", 10))
        own.stop()
        registry.wait_until(lambda: not bench.link.connected)
        assert bench.link.why_not
        bench.outbox.write("event", 30)
        bench.link.ring()
        own.start()
        registry.wait_until(delivered(bench, "event", 40))
        assert registry.seqs("event") == list(range(1, 41))
        assert registry.conflicts == []
        bench.link.stop()
    assert bench.sessions >= 2


def test_new_registry_epoch_rewinds(bench: Bench, registry: RegistryDouble) -> None:
    bench.outbox.write("event", 30)
    bench.link.start()
    registry.wait_until(delivered(bench, "event", 30))
    assert [epoch for epoch, _ in bench.outbox.rewinds] == [registry.registry_epoch]
    registry.forget()
    registry.ack()
    registry.wait_until(lambda: registry.seqs("event") == list(range(1, 31)))
    registry.wait_until(delivered(bench, "event", 30))
    assert [epoch for epoch, _ in bench.outbox.rewinds][-1] == registry.registry_epoch
    assert registry.conflicts == []


def test_restored_registry_says_from_where(bench: Bench, registry: RegistryDouble) -> None:
    bench.outbox.write("event", 30)
    bench.link.start()
    registry.wait_until(delivered(bench, "event", 30))
    registry.copies.clear()
    registry.acking = False
    acks = [{"epoch": bench.outbox.epoch, "stream": "event", "seq": 25}]
    registry.ack(registry_epoch=uuid.uuid4().hex, acks=acks)
    registry.wait_until(lambda: len(registry.copies) == 5)
    assert sorted(key[3] for key in registry.copies) == [26, 27, 28, 29, 30]


def test_acks_of_another_journal_or_for_nothing_sent_are_ignored(bench: Bench, registry: RegistryDouble) -> None:
    registry.acking = False
    bench.outbox.write("event", 3)
    bench.link.start()
    registry.wait_until(lambda: registry.seqs("event") == [1, 2, 3])
    registry.ack(acks=[{"epoch": "ab" * 16, "stream": "event", "seq": 3}])
    registry.ack(acks=[{"epoch": bench.outbox.epoch, "stream": "event", "seq": 900}])
    registry.ack(acks=[{"epoch": bench.outbox.epoch, "stream": "event", "seq": 2}])
    registry.wait_until(delivered(bench, "event", 2))


def test_garbage_and_raising_callbacks_do_not_end_the_link(bench: Bench, registry: RegistryDouble) -> None:
    bench.link.start()
    registry.wait_until(lambda: bench.link.connected)
    wish = wire.DesiredBody(issued_at=START, bundle="reference", version="2").model_dump_json().encode()
    for leaf, payload in (
        ("ack", b"\xff{"),
        ("ack", b""),
        ("desired", b"[]"),
        ("cmd/reboot", b"{}"),
        ("desired", wish),
    ):
        registry.send(leaf, payload)
    bench.outbox.write("event")
    bench.link.ring()
    registry.wait_until(delivered(bench, "event", 1))
    registry.wait_until(lambda: bool(bench.desired))
    assert bench.desired[0].version == "2"
    assert bench.commands == [("reboot", b"{}")]
    assert bench.sessions == 1


def test_what_waits_at_the_broker_arrives_after_the_device_was_away(bench: Bench, registry: RegistryDouble) -> None:
    bench.link.start()
    registry.wait_until(lambda: bench.link.connected)
    bench.link.stop()
    registry.send("cmd/collect-logs", b'{"n": 1}')
    bench.link.start()
    registry.wait_until(lambda: bench.commands == [("collect-logs", b'{"n": 1}')])


def _status(registry: RegistryDouble) -> list[tuple[bool, int]]:
    bodies = [wire.StatusBody.model_validate_json(p) for p in registry.others.get("status", [])]
    return [(body.online, body.session) for body in bodies]


def test_status_and_birth_count_sessions_and_stop_says_goodbye(bench: Bench, registry: RegistryDouble) -> None:
    for session in (1, 2):
        bench.link.start()
        registry.wait_until(lambda n=session: (True, n) in _status(registry))  # type: ignore[misc]
        bench.link.stop()
        registry.wait_until(lambda n=session: (False, n) in _status(registry))  # type: ignore[misc]
    assert _status(registry) == [(True, 1), (False, 1), (True, 2), (False, 2)]
    assert [wire.BirthBody.model_validate_json(p).session for p in registry.others["birth"]] == [1, 2]


def test_reported_is_retained_and_sent_when_it_changes(bench: Bench, registry: RegistryDouble) -> None:
    body = wire.ReportedBody(device=bench.device, ts=START, active=None, state="idle")
    bench.link.report(body)
    bench.link.start()
    registry.wait_until(lambda: len(registry.others.get("reported", [])) == 1)
    bench.link.report(body)
    bench.link.report(body.model_copy(update={"state": "fetching"}))
    registry.wait_until(lambda: len(registry.others["reported"]) == 2)
    assert json.loads(registry.others["reported"][1])["state"] == "fetching"


_CHILD = """
    import sys, time, uuid
    from appliance.delivery import Broker, RegistryLink
    from tests.appliance.delivery.memory import MemoryMessageOutbox, RealClock
    from tests.appliance.delivery.test_mqtt import FAST, BOOT, SITE, birth
    host, port, device = sys.argv[1:]
    outbox = MemoryMessageOutbox(device, epoch="ab" * 16)
    link = RegistryLink(Broker(host, int(port)), SITE, device, BOOT, outbox, RealClock(), lambda: 7,
                        lambda session: birth(device, outbox.epoch, session), print, pace=FAST)
    link.start()
    time.sleep(600)
"""


def test_killed_device_is_reported_offline_by_its_will(broker: MosquittoBroker) -> None:
    device = unique_device()
    with RegistryDouble(broker.host, broker.port, SITE, device) as registry:
        command = [sys.executable, "-c", textwrap.dedent(_CHILD), broker.host, str(broker.port), device]
        child = subprocess.Popen(command, cwd=Path(__file__).parents[3])
        try:
            registry.wait_until(lambda: _status(registry) == [(True, 7)], timeout_s=60)
            os.kill(child.pid, signal.SIGKILL)
            registry.wait_until(lambda: _status(registry) == [(True, 7), (False, 7)])
        finally:
            child.kill()
            child.wait()


def test_outbox_that_fails_is_tried_again(bench: Bench, registry: RegistryDouble) -> None:
    failures = iter([True, True])
    read = bench.outbox.streams

    def failing() -> object:
        if next(failures, False):
            raise RuntimeError("database is locked")
        return read()

    bench.outbox.streams = failing  # type: ignore[method-assign, assignment]
    bench.outbox.write("event")
    bench.link.start()
    registry.wait_until(delivered(bench, "event", 1))
    assert bench.link.alive


def test_link_started_before_its_broker_finds_it(tmp_path: Path) -> None:
    own = MosquittoBroker.insecure(tmp_path / "broker")
    bench = Bench(own, unique_device())
    bench.link.start()
    waited = threading.Event()
    waited.wait(0.5)
    assert bench.link.alive
    assert not bench.link.connected
    assert "no connection to the broker" in bench.link.why_not
    with own, RegistryDouble(own.host, own.port, SITE, bench.device) as registry:
        registry.wait_until(lambda: bench.link.connected)
        assert bench.link.idle_s < 10
        bench.link.stop()


def test_broker_with_a_small_receive_maximum_is_respected(tmp_path: Path) -> None:
    own = _SmallBroker.insecure(tmp_path / "broker")
    bench = Bench(own, unique_device())
    bench.outbox.write("event", 60)
    with own, RegistryDouble(own.host, own.port, SITE, bench.device) as registry:
        bench.link.start()
        registry.wait_until(delivered(bench, "event", 60))
        bench.link.stop()
    assert bench.sessions == 1  # a broker disconnects who exceeds it (MQTT 5, 3.3.4)


class _SmallBroker(MosquittoBroker):
    """Takes at most 4 unacknowledged messages from a client."""

    def _configuration(self) -> list[str]:
        lines = super()._configuration()
        return [*lines, "max_inflight_messages 4"]


def test_mutual_tls_with_the_certificate_as_user_name(tmp_path: Path) -> None:
    authority = TestAuthority(tmp_path)
    device = unique_device()
    root = f"{wire.ROOT}/{SITE}/{device}"
    acl = (
        "user registry.worker\ntopic readwrite onescan/v1/#\n"
        f"user {SITE}.{device}\ntopic write {root}/status\ntopic write {root}/birth\ntopic write {root}/event\n"
        f"topic read {root}/ack\ntopic read {root}/desired\ntopic read {root}/cmd/#\n"
    )
    own = MosquittoBroker(tmp_path / "broker", authority.certificate, *authority.issue("localhost"), acl)
    bench = Bench(own, device)
    device_tls = ClientCertificate(authority.certificate, *authority.issue(f"{SITE}.{device}"))
    worker_tls = ClientCertificate(authority.certificate, *authority.issue("registry.worker"))
    bench.outbox.write("event", 60)
    with own, RegistryDouble(own.host, own.port, SITE, device, worker_tls) as registry:
        bench.link = bench.new_link(Broker(own.host, own.port, device_tls))
        bench.link.start()
        registry.wait_until(delivered(bench, "event", 60))
        bench.link.stop()


def test_stranger_without_a_certificate_is_told_why(tmp_path: Path) -> None:
    authority = TestAuthority(tmp_path)
    server_certificate, server_key = authority.issue("localhost")
    own = MosquittoBroker(tmp_path / "broker", authority.certificate, server_certificate, server_key, "")
    device = unique_device()
    bench = Bench(own, device)
    missing = ClientCertificate(authority.certificate, tmp_path / "none.crt", tmp_path / "none.key")
    with own:
        bench.link = bench.new_link(Broker(own.host, own.port, missing))
        bench.link.start()
        threading.Event().wait(1.0)
        assert "No such file" in bench.link.why_not
        assert bench.link.alive
        bench.link.stop()
