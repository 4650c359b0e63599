"""The worker between a real Mosquitto and a real PostgreSQL."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from core import wire
from deploy.embedded.mosquitto import MosquittoBroker
from deploy.embedded.postgres import PostgresCluster
from registry import migrations
from registry.config import RegistryConfig
from registry.statements import SQL
from registry.store import connect, reader, renew_epoch
from tests.registry import messages as m
from tests.registry.conftest import acked, enrol, wait_until
from tests.registry.device import Device

pytestmark = pytest.mark.integration
StartWorker = Callable[[RegistryConfig], Callable[[], None]]


@pytest.fixture(autouse=True)
def enrolled(database: str) -> None:
    with connect(database, "test") as connection:
        enrol(connection, m.SITE, m.DEVICE)


def count(dsn: str, what: str = "message") -> int:
    with connect(dsn, "test") as connection:
        row = connection.execute(f"SELECT count(*) FROM {what}".encode()).fetchone()
    return int(row[0]) if row else 0


def test_messages_are_stored_and_acknowledged(
    settings: RegistryConfig, device: Device, start_worker: StartWorker
) -> None:
    start_worker(settings)
    device.publish("birth", m.birth(1).model_dump_json())
    device.send(*m.results(range(1, 101)), m.envelope(m.telemetry(), 1))
    wait_until(lambda: acked(device) == 100 and acked(device, "telemetry") == 1)
    assert count(settings.database, "result") == 100
    assert len(set(device.registry_epochs)) == 1
    with reader(settings.database) as store:
        (row,) = store.devices()
    assert row["online"]
    assert row["software"] == "0.1.0"
    assert row["temperature_c"] == 47.5


def test_what_is_sent_while_the_worker_is_away_waits_at_the_broker(
    settings: RegistryConfig, device: Device, start_worker: StartWorker
) -> None:
    stop = start_worker(settings)
    device.send(*m.results(range(1, 3)))
    wait_until(lambda: acked(device) == 2)
    stop()
    device.send(*m.results(range(3, 401)))
    assert count(settings.database) == 2
    start_worker(settings)
    wait_until(lambda: acked(device) == 400)
    assert count(settings.database, "result") == 400


def test_a_malformed_message_holds_nobody_up(
    settings: RegistryConfig, device: Device, start_worker: StartWorker
) -> None:
    start_worker(settings)
    too_large = m.result(m.study(9)).model_copy(update={"slices": 2**70})
    for number, envelope in enumerate(m.results(range(1, 30))):
        device.send(envelope)
        device.publish("event", b'{"PatientName": "DOE^JANE"}' + b" " * number)
    device.publish("result", m.envelope(too_large, 30).payload())
    wait_until(lambda: acked(device) == 29 and count(settings.database, "quarantine") == 30)
    assert count(settings.database, "result") == 29
    device.send(*m.results(range(31, 33)))
    wait_until(lambda: count(settings.database, "result") == 31)
    assert acked(device) == 29


def test_the_database_goes_away_and_comes_back(
    tmp_path: Path, broker: MosquittoBroker, device: Device, start_worker: StartWorker
) -> None:
    cluster = PostgresCluster(tmp_path / "postgres")
    try:
        cluster.start()
        with connect(cluster.dsn, "test") as connection:
            migrations.apply(connection)
            enrol(connection, m.SITE, m.DEVICE)
        settings = RegistryConfig.model_validate(
            {"database": cluster.dsn, "broker": {"port": broker.port}, "ingest": {"batch_size": 20}}
        )
        start_worker(settings)
        device.send(*m.results(range(1, 51)))
        wait_until(lambda: acked(device) == 50)
        cluster.stop(signal.SIGQUIT)  # as a power cut
        device.send(*m.results(range(51, 301)))
        time.sleep(1.0)  # long enough for several tries
        assert acked(device) == 50
        cluster.start()
        wait_until(lambda: acked(device) == 300, 60)
        assert count(cluster.dsn) == count(cluster.dsn, "result") == 300
        with connect(cluster.dsn, "test") as connection:
            enrolled_epoch = connection.execute(SQL["epoch"]).fetchone()
        assert set(device.registry_epochs) == {enrolled_epoch[0] if enrolled_epoch else ""}
    finally:
        cluster.remove()


@pytest.fixture
def role(tmp_path: Path) -> Iterator[Callable[[RegistryConfig, str], subprocess.Popen[bytes]]]:
    """Starts roles of the registry as processes of their own; all are ended at the end."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(settings: RegistryConfig, name: str) -> subprocess.Popen[bytes]:
        file = tmp_path / "registry.yaml"
        file.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_none=True)))
        processes.append(subprocess.Popen([sys.executable, "-m", "registry.cli", "--config", str(file), name]))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_a_worker_that_is_killed_again_and_again_loses_and_repeats_nothing(
    settings: RegistryConfig, device: Device, role: Callable[[RegistryConfig, str], subprocess.Popen[bytes]]
) -> None:
    draw, kills = random.Random(20), 0
    changed = {"ingest": settings.ingest.model_copy(update={"batch_size": 7, "batch_ms": 2})}
    settings = settings.model_copy(update=changed)
    worker = role(settings, "ingest")
    wait_until(lambda: count(settings.database, "ingest_worker WHERE connected") == 1)
    device.send(*m.results(range(1, 2)))
    wait_until(lambda: acked(device) == 1)
    for start in range(2, 1502, 500):
        for handle in [device.publish("result", e.payload()) for e in m.results(range(start, start + 500))]:
            handle.wait_for_publish(60)
        before = count(settings.database)
        wait_until(lambda before=before: count(settings.database) > before)  # type: ignore[misc]
        time.sleep(draw.uniform(0, 0.1))  # anywhere in a batch
        if count(settings.database) < start + 499:
            kills += 1
        worker.kill()
        worker.wait()
        worker = role(settings, "ingest")
    wait_until(lambda: count(settings.database) == 1501, 60)
    device.send(*m.results(range(1502, 1503)))
    wait_until(lambda: acked(device) == 1502)
    assert count(settings.database, "result") == 1502
    assert count(settings.database, "answer") == 7 * 1502
    assert count(settings.database, "quarantine") == 0
    assert kills, "no kill hit a worker at work: this machine is too fast for the numbers above"
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0


def test_the_broker_restarts_and_the_worker_is_back(
    settings: RegistryConfig, broker: MosquittoBroker, device: Device, start_worker: StartWorker
) -> None:
    start_worker(settings)
    device.send(*m.results(range(1, 11)))
    wait_until(lambda: acked(device) == 10)
    broker.stop()
    wait_until(lambda: not device.listens)
    broker.start()
    wait_until(lambda: device.listens, 60)
    device.send(*m.results(range(11, 21)))
    wait_until(lambda: acked(device) == 20, 60)
    assert count(settings.database) == 20


def test_two_workers_share_the_load_and_every_device_is_acknowledged(
    settings: RegistryConfig, device: Device, start_worker: StartWorker
) -> None:
    for worker in ("one", "two"):
        shared = {"worker": worker, "shared": True, "batch_size": 5, "batch_ms": 2}
        start_worker(settings.model_copy(update={"ingest": settings.ingest.model_copy(update=shared)}))
    device.send(*m.results(range(1, 601)))
    wait_until(lambda: count(settings.database) == 600)
    device.publish("birth", m.birth(1).model_dump_json())
    wait_until(lambda: acked(device) == 600)
    with reader(settings.database) as store:
        shares = [row["messages"] for row in store.rows("workers")]
    assert len(shares) == 2
    assert count(settings.database, "result") == 600


def test_a_restored_database_is_told_to_the_devices(
    settings: RegistryConfig, device: Device, start_worker: StartWorker
) -> None:
    start_worker(settings)
    device.send(*m.results(range(1, 11)))
    wait_until(lambda: acked(device) == 10)
    (first,) = set(device.registry_epochs)
    with connect(settings.database, "test") as connection, connection.transaction():
        # As after a restore of an older copy: the last six messages are gone.
        connection.execute("DELETE FROM answer WHERE result_id IN (SELECT result_id FROM result WHERE seq > 4)")
        for table in ("message", "result"):
            connection.execute(f"DELETE FROM {table} WHERE seq > 4".encode())
        connection.execute("UPDATE ack_state SET contiguous = 4")
        second = renew_epoch(connection)
    device.publish("birth", m.birth(2).model_dump_json())
    wait_until(lambda: acked(device) == 4)
    wait_until(lambda: device.registry_epochs[-1] == second)
    assert first != second
    device.send(*m.results(range(5, 11)))
    wait_until(lambda: acked(device) == 10)
    assert count(settings.database, "result") == 10


def test_what_is_desired_is_published_once_and_kept_for_the_device(
    settings: RegistryConfig, device: Device, start_worker: StartWorker
) -> None:
    wish: dict[str, Any] = {"issued_at": m.WHEN, "bundle": "reference", "version": "1.3.0"}
    with reader(settings.database) as store:
        store.execute("desired_record", site=m.SITE, device=m.DEVICE, **wish)
        start_worker(settings)
        wait_until(lambda: store.rows("desired_of", site=m.SITE, device=m.DEVICE)[0]["published_at"])
    body = wire.DesiredBody(**wish)
    wait_until(lambda: ("desired", body.model_dump_json().encode()) in device.heard)
    with Device(settings.broker.port) as later:
        wait_until(lambda: later.heard == [("desired", body.model_dump_json().encode())])


def test_a_will_marks_the_device_offline(
    settings: RegistryConfig, broker: MosquittoBroker, start_worker: StartWorker
) -> None:
    start_worker(settings)
    dying = Device(broker.port)
    dying.client.will_set(dying.topic("status"), m.status(1, online=False).model_dump_json(), qos=1, retain=True)
    with dying:
        dying.publish("status", m.status(1).model_dump_json(), retain=True)
        wait_until(lambda: count(settings.database, "device WHERE online") == 1)
        sock = dying.client.socket()
        assert sock is not None
        dying.client.loop_stop()
        sock.close()  # no DISCONNECT: the broker publishes the will
        wait_until(lambda: count(settings.database, "device WHERE NOT online") == 1)
