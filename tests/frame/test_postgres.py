"""The private PostgreSQL keeps what was committed, through a stop and through a crash, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from deploy.embedded import PostgresCluster

pytestmark = pytest.mark.integration


@pytest.fixture
def own(tmp_path: Path) -> Iterator[PostgresCluster]:
    cluster = PostgresCluster(tmp_path / "cluster")
    try:
        yield cluster.start()
    finally:
        cluster.remove()


def _one(dsn: str, query: str) -> object:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
        return row[0] if row else None


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["stop", "crash"])
def test_committed_rows_survive(own: PostgresCluster, how: signal.Signals) -> None:
    with psycopg.connect(own.dsn) as connection:
        connection.execute("create table result as select generate_series(1, 100) as seq")
    dsn = own.dsn
    own.stop(how)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn)
    own.start()
    assert own.dsn == dsn
    assert _one(dsn, "select count(*) from result") == 100


def test_commits_are_synchronous_and_only_this_machine_is_served(postgres: PostgresCluster) -> None:
    assert _one(postgres.dsn, "show synchronous_commit") == "on"
    assert _one(postgres.dsn, "show fsync") == "on"
    assert _one(postgres.dsn, "show listen_addresses") == "127.0.0.1"


def test_the_password_is_needed(postgres: PostgresCluster) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.dsn, password="guess")


def test_each_database_is_empty_and_apart(postgres: PostgresCluster) -> None:
    first, second = postgres.create_database(), postgres.create_database()
    with psycopg.connect(first) as connection:
        connection.execute("create table only_here (a int)")
    assert _one(second, "select count(*) from pg_tables where schemaname = 'public'") == 0


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A folder that the user postgres can't reach."""
    if os.geteuid() != 0:
        pytest.skip("only root has folders that the user postgres can't reach")
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o700)
    return folder


def test_a_folder_that_postgres_cannot_reach_is_served_from_elsewhere_until_the_block_ends(closed: Path) -> None:
    cluster = PostgresCluster(closed / "cluster")
    for _ in range(2):
        with cluster:
            place = Path((cluster.folder / "location").read_text())
            assert _one(cluster.dsn, "select 1") == 1
        assert not place.exists()


def test_make_clean_finds_a_cluster_that_lies_elsewhere(closed: Path) -> None:
    cluster = PostgresCluster(closed / "cluster").start()
    place = Path((cluster.folder / "location").read_text())
    cluster.stop()
    subprocess.run([sys.executable, "-m", "deploy.embedded.postgres", str(closed)], check=True)
    assert not place.exists()
