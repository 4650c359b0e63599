"""A real PostgreSQL for the package's tests, and a real Mosquitto for those that need one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core import wire
from deploy.embedded.mosquitto import MosquittoBroker
from deploy.embedded.postgres import PostgresCluster
from registry import migrations
from registry.config import RegistryConfig
from registry.ingest import IngestWorker
from registry.statements import SQL
from registry.store import Connection, connect, reader, settle_epoch
from tests.registry import messages
from tests.registry.device import Device

Wait = Callable[[Callable[[], object]], None]


def wait_until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Return when the condition holds; fail when it never does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def registry_database(postgres: PostgresCluster) -> str:
    """A database with the registry's schema, made once: making one costs a second, emptying it nothing."""
    dsn = postgres.create_database()
    with connect(dsn, "test") as connection:
        migrations.apply(connection)
    return dsn


@pytest.fixture
def database(registry_database: str) -> str:
    """The registry's schema, without a row."""
    with connect(registry_database, "test") as connection:
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'schema_migration'"
        ).fetchall()
        with connection.transaction():
            for (table,) in sorted(tables, key=lambda row: row[0] == "certificate"):
                connection.execute(f"DELETE FROM {table}".encode())
    return registry_database


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    """A connection to it, with the device of `messages` enrolled."""
    with connect(database, "test") as opened:
        enrol(opened, messages.SITE, messages.DEVICE)
        opened.execute(SQL["incoming_tables"])
        settle_epoch(opened)
        yield opened


def enrol(connection: Connection, site: str, device: str) -> None:
    """A device, as enrolment records it."""
    values = {"site": site, "device": device, "serial": f"{site}{device}", "fingerprint": "00" * 32}
    connection.execute(SQL["device_enrol"], {**values, "now": messages.WHEN, "ends_at": "2099-01-01"})


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MosquittoBroker]:
    """A broker without TLS: for what is above the transport."""
    with MosquittoBroker.insecure(tmp_path / "broker") as started:
        yield started


@pytest.fixture
def settings(database: str, broker: MosquittoBroker) -> RegistryConfig:
    """Both of them, as configuration."""
    return RegistryConfig.model_validate(
        {"database": database, "broker": {"host": broker.host, "port": broker.port}, "ingest": {"batch_size": 50}}
    )


@pytest.fixture
def start_worker() -> Iterator[Callable[[RegistryConfig], Callable[[], None]]]:
    """Starts ingest workers in threads; what it returns stops one. All are stopped at the end."""
    running: list[Callable[[], None]] = []

    def start(settings: RegistryConfig) -> Callable[[], None]:
        stop, name = threading.Event(), settings.ingest.worker
        thread = threading.Thread(target=IngestWorker(settings).run, args=(stop,))
        thread.start()
        with reader(settings.database) as store:
            wait_until(lambda: any(w["connected"] for w in store.rows("workers") if w["worker"] == name))

        def end() -> None:
            stop.set()
            thread.join(30)
            assert not thread.is_alive(), "the worker did not stop"

        running.append(end)
        return end

    yield start
    for end in running:
        end()


@pytest.fixture
def device(broker: MosquittoBroker) -> Iterator[Device]:
    """The device of `messages`, on the wire."""
    with Device(broker.port) as connected:
        yield connected


def acked(device: Device, stream: wire.Stream = "result", epoch: str = messages.EPOCH) -> int:
    """Up to where the device may forget."""
    return device.acks.get((epoch, stream), -1)
