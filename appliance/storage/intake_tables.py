"""Tables in `intake.db`: their writer behind a lock (WAL; `synchronous` FULL, or NORMAL if asked for), and readers."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from appliance.storage.database import storage_errors

BUSY_S = 10.0
SCHEMA_VERSION = 1


class IntakeTables:
    """Opens or creates the file and adds the tables of `schema` where they are missing. The receiver's alone."""

    def __init__(self, path: Path, schema: str, added: Sequence[tuple[str, str, str]] = ()) -> None:
        """added: columns that files of older releases lack: table, name and type of each."""
        self._path, self._lock = path, threading.Lock()
        with storage_errors(path):
            self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            path.chmod(0o660)  # the other roles read it; SQLite gives -wal and -shm the same mode
            self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;")
            for table, column, kind in added:
                there = {row[1] for row in self._db.execute(f"PRAGMA table_info({table})")}
                if there and column not in there:
                    self._db.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
            self._db.executescript(schema)
            if self._db.execute("PRAGMA user_version").fetchone()[0] < SCHEMA_VERSION:
                self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            self._swift = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self._swift.executescript("PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;")

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._swift.close()
            self._db.close()

    def _settle(self) -> None:
        """Called with the lock held before anything is read or written."""

    def _rows(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        with self._lock, storage_errors(self._path):
            self._settle()
            return self._db.execute(sql, parameters).fetchall()

    def transaction(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """Everything inside is committed together, or not at all; durable afterwards."""
        return self._transaction(self._db)

    def _swift_transaction(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """The same with the lock held already; a power cut may take it back, until one that is durable follows."""
        return _together(self._swift)

    @contextlib.contextmanager
    def _transaction(self, db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
        with self._lock, storage_errors(self._path):
            self._settle()
            with _together(db):
                yield db


@contextlib.contextmanager
def _together(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def reading(path: Path, table: str) -> Iterator[sqlite3.Connection | None]:
    """A read-only connection; None while the file or this table of it is not there. Reading makes nothing."""
    path = path.absolute()
    if not path.exists():
        yield None
        return
    with storage_errors(path):
        uri = f"{path.as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)) as db:
            there = db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone()
            yield db if there else None
