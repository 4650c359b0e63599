"""The registry's database: connecting, which database it is, and the transactions that are not a batch of messages.

Statements stand in `queries.sql`. psycopg's exceptions become ours: `StoreUnavailable` passes by itself or when the
database is back, `Unstorable` belongs to the values that were offered.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from psycopg import errors
from psycopg.rows import dict_row, tuple_row
from psycopg_pool import ConnectionPool, PoolTimeout

from core.errors import OneScanError
from registry.statements import SQL

Connection = psycopg.Connection[tuple[Any, ...]]
Row = dict[str, Any]

_TRANSIENT = (
    psycopg.OperationalError,  # includes deadlock, serialization failure, shutdown, cannot connect, disk full
    psycopg.InterfaceError,
    errors.ReadOnlySqlTransaction,
    PoolTimeout,
)
_CONNECT: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}


class StoreUnavailable(OneScanError):
    """The registry's database does not answer. What was not committed is held and tried again."""

    default_remedy = (
        "Start PostgreSQL, or correct `database` in the registry's configuration; ingest goes on by itself."
    )


class Unstorable(OneScanError):
    """The database refused the values themselves: trying again would not help."""

    default_remedy = "Nothing to do at once: the message is in quarantine and its device still holds it."


class SchemaMissing(OneScanError):
    """The database has no registry tables, or those of another release."""

    default_remedy = "Run `onescan-registry migrate` with this configuration, once per release."


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn psycopg's exceptions into ours. Messages of PostgreSQL name values: only its condition's name is kept."""
    try:
        yield
    except _TRANSIENT as error:
        raise StoreUnavailable(f"the database does not answer: {_condition(error)}") from error
    except (errors.UndefinedTable, errors.UndefinedColumn) as error:
        raise SchemaMissing(f"the database has another schema than this release: {_condition(error)}") from error
    except (psycopg.DataError, psycopg.IntegrityError, OverflowError) as error:
        raise Unstorable(f"the database refused a value: {_condition(error)}") from error


def _condition(error: BaseException) -> str:
    if isinstance(error, psycopg.Error) and error.sqlstate:
        return f"{type(error).__name__} ({error.sqlstate})"
    return type(error).__name__


def connect(conninfo: str, application: str) -> Connection:
    """An autocommit connection; transactions are opened explicitly."""
    with translated():
        return psycopg.connect(
            conninfo, autocommit=True, application_name=application, row_factory=tuple_row, **_CONNECT
        )


@contextlib.contextmanager
def reader(conninfo: str) -> Iterator[Reader]:
    """A small pool for the pages and the API; it connects when first asked and reconnects by itself."""
    with ConnectionPool(
        conninfo, min_size=0, max_size=4, timeout=3, open=True, kwargs={"autocommit": True, **_CONNECT},
        check=ConnectionPool.check_connection,
    ) as pool:  # fmt: skip
        yield Reader(pool)


class Reader:
    """What the pages, the API and the commands read. Rows are dictionaries by column name."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    def rows(self, name: str, **values: object) -> list[Row]:
        """All rows of the statement `name`."""
        with translated(), self._pool.connection() as connection:
            return connection.cursor(row_factory=dict_row).execute(SQL[name], values).fetchall()

    def execute(self, name: str, **values: object) -> int:
        """Run one statement that changes something; returns how many rows it changed."""
        with translated(), self._pool.connection() as connection:
            return connection.execute(SQL[name], values).rowcount

    def devices(self, site: str | None = None, device: str | None = None) -> list[Row]:
        """Devices with presence, bundle and latest telemetry."""
        return self.rows("devices", site=site, device=device)

    def results(
        self,
        *,
        site: str | None = None,
        device: str | None = None,
        study: str | None = None,
        result_id: object = None,
        since: dt.datetime | None = None,
        everything: bool = False,
        limit: int = 200,
    ) -> list[Row]:
        """Results, newest first, each with its `answers` by cancer."""
        found = self.rows(
            "results", site=site, device=device, study=study, result_id=result_id, since=since,
            everything=everything, limit=limit,
        )  # fmt: skip
        by_key: dict[tuple[str, str, object], dict[str, Row]] = {
            (row["site"], row["device"], row["result_id"]): {} for row in found
        }
        if by_key:
            sites, devices, ids = (list(column) for column in zip(*by_key, strict=True))
            for answer in self.rows("answers", sites=sites, devices=devices, result_ids=ids):
                key = (answer.pop("site"), answer.pop("device"), answer.pop("result_id"))
                by_key[key][answer["cancer"]] = answer
        for row in found:
            row["answers"] = by_key[row["site"], row["device"], row["result_id"]]
        return found


def settle_epoch(connection: Connection) -> str:
    """This database's epoch, hex; drawn anew where the cluster is not the one that the last epoch was drawn in."""
    return _epoch(connection, always=False)


def renew_epoch(connection: Connection) -> str:
    """Draw a new epoch: after a restore that PostgreSQL can't tell from a restart (a disk snapshot)."""
    return _epoch(connection, always=True)


def held_epoch(connection: Connection) -> str:
    """The epoch that stands, within the caller's transaction."""
    return str(_one(connection, "epoch")[0])


def _epoch(connection: Connection, always: bool) -> str:
    with translated(), connection.transaction():
        (cluster,) = _one(connection, "cluster_identity")
        held = connection.execute(SQL["epoch"]).fetchone()
        if always or held is None or held[1] != cluster:
            values = {"epoch": secrets.token_hex(16), "cluster": cluster, "was": held[0] if held else None}
            connection.execute(SQL["epoch_draw"], values)
        return held_epoch(connection)


def _one(connection: Connection, name: str) -> Sequence[Any]:
    row = connection.execute(SQL[name]).fetchone()
    if row is None:
        raise SchemaMissing(f"statement {name} found nothing")
    return row
