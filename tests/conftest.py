"""Shared servers and data. Each pytest worker starts a server when a test first asks for it.

Tests that use a server get the marker `integration` by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from deploy.embedded import MosquittoBroker, OrthancPacs, PostgresCluster, StoragePacs, find_chromium

_ROOT = Path(__file__).resolve().parent.parent
_REAL_DATA = _ROOT.parent / "shared" / "data"
_SERVERS = {"postgres", "database", "broker", "orthanc", "chromium"}

hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")  # a busy machine is slow, which no test may take for a fault


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _SERVERS & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresCluster]:
    """A PostgreSQL cluster. Use `database` for an empty database; restart only a cluster of your own."""
    cluster = PostgresCluster(tmp_path_factory.mktemp("postgres"))
    try:
        yield cluster.start()
    finally:
        cluster.remove()


@pytest.fixture
def database(postgres: PostgresCluster) -> str:
    """The address of an empty database of the shared cluster."""
    return postgres.create_database()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MosquittoBroker]:
    """A Mosquitto without TLS, shared: use topics or client ids of your own; restart only a broker of your own."""
    with MosquittoBroker.insecure(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancPacs]:
    """Debian's Orthanc, shared: look only for your own study."""
    with OrthancPacs(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[StoragePacs]:
    """A storage SCP of this test's own."""
    with StoragePacs(tmp_path / "pacs") as running:
        yield running


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium that runs."""
    found = find_chromium()
    if found is None:
        pytest.skip("no Chromium that runs here (apt-get install chromium, or snap install chromium)")
    return found


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real CTs that lies beside the checkout; see its SOURCES.md."""
    if not _REAL_DATA.is_dir():
        pytest.skip("no real CTs here: ../shared/data is missing")
    return _REAL_DATA
