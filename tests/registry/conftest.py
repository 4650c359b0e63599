"""A real PostgreSQL for the package's tests, and a real Mosquitto for those that need one."""

from __future__ import annotations

import shutil
import tempfile
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
from registry.store import Connection, connect
from tests.registry import messages
from tests.registry.device import Device

Wait = Callable[[Callable[[], object]], None]


def wait_until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Return when the condition holds; fail when it never does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def cluster() -> Iterator[PostgresCluster]:
    """One PostgreSQL for all tests of this process."""
    folder = Path(tempfile.mkdtemp(prefix="onescan-test-"))
    folder.chmod(0o755)
    made = PostgresCluster(folder / "postgres")
    try:
        with made:
            yield made
    finally:
        made.remove()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database(cluster: PostgresCluster) -> str:
    """An empty database with the registry's schema."""
    dsn = cluster.create_database()
    with connect(dsn, "test") as connection:
        migrations.apply(connection)
    return dsn


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    """A connection to it, with the device of `messages` enrolled."""
    with connect(database, "test") as opened:
        enrol(opened, messages.SITE, messages.DEVICE)
        opened.execute(SQL["incoming_tables"])
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
        stop = threading.Event()
        thread = threading.Thread(target=IngestWorker(settings).run, args=(stop,))
        thread.start()

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
