"""One SQLite file with the rules of the house: WAL, synchronous FULL, BEGIN IMMEDIATE, short transactions.

SQL stands in `queries.sql`, named and commented; code calls it by name.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.resources
import os
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core.errors import StorageError, StorageFull

_BUSY_MS = 15_000
_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)
Parameters = Mapping[str, Any]


def named_queries(text: str) -> dict[str, str]:
    """The statements of a queries file by name: each begins with a line `-- name: NAME`."""
    parts = _NAME.split(text)
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def iso(at: dt.datetime) -> str:
    """A time as it stands in the database: UTC, microseconds, always the same length, so that texts sort as times."""
    return at.astimezone(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def from_iso(text: str) -> dt.datetime:
    """The inverse of `iso`."""
    return dt.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=dt.timezone.utc)


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """SQLite's complaints about `path` as ours: StorageFull where the disk is full, StorageError otherwise."""
    try:
        yield
    except sqlite3.Error as error:
        full = getattr(error, "sqlite_errorname", "") == "SQLITE_FULL" or "disk is full" in str(error)
        raise (StorageFull if full else StorageError)(f"{path}: {error}") from error


class Database:
    """A connection that threads may share (one statement at a time) and processes may not.

    `schema` runs once on an empty file; `version` is stored as user_version. A file of a newer version opens: schema
    changes are additive.
    """

    def __init__(self, path: Path, schema: str | None, version: int = 0, queries: str = "queries.sql") -> None:
        """schema: None where the file is another's. queries: the file of this package with the statements."""
        self.path = path
        self._lock = threading.RLock()
        self._queries = named_queries((importlib.resources.files(__package__) / queries).read_text("utf-8"))
        with self._storage_errors():
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._connection.row_factory = sqlite3.Row
            self._configure()
            if schema is not None:
                self._create(schema, version)

    def _configure(self) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={_BUSY_MS}", "foreign_keys=ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        with contextlib.suppress(PermissionError):  # another role's user made the file already
            os.chmod(self.path, 0o660)

    def _create(self, schema: str, version: int) -> None:
        with self.transaction():
            if self._connection.execute("PRAGMA user_version").fetchone()[0]:
                return
            for statement in filter(str.strip, re.sub(r"--[^\n]*", "", schema).split(";")):
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version={version}")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is committed together, or not at all. Nests: the outermost block commits."""
        with self._lock, self._storage_errors():
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def run(self, name: str, parameters: Parameters | None = None) -> int:
        """Run a named statement; returns the number of rows it changed."""
        with self.transaction():
            return self._connection.execute(self._queries[name], parameters or {}).rowcount

    def rows(self, name: str, parameters: Parameters | None = None) -> list[sqlite3.Row]:
        """All rows of a named query."""
        with self._lock, self._storage_errors():
            return self._connection.execute(self._queries[name], parameters or {}).fetchall()

    def one(self, name: str, parameters: Parameters | None = None) -> sqlite3.Row | None:
        """The first row of a named query, or None."""
        rows = self.rows(name, parameters)
        return rows[0] if rows else None

    def close(self) -> None:
        """Close the connection; what was committed stays."""
        with self._lock:
            self._connection.close()

    def _storage_errors(self) -> contextlib.AbstractContextManager[None]:
        return storage_errors(self.path)
