"""Tables of their own in `intake.db`, beside those of `IntakeJournal`: one connection behind a lock, the same rules."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from appliance.storage.database import storage_errors

_BUSY_S = 10.0


class IntakeTables:
    """Opens the file, which `IntakeJournal` has made, and adds tables where they are missing. The receiver's alone."""

    def __init__(self, path: Path, schema: str) -> None:
        self._path, self._lock = path, threading.Lock()
        with storage_errors(path):
            self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            self._db.executescript(f"PRAGMA synchronous=FULL; {schema}")

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def _rows(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        with self._lock, storage_errors(self._path):
            return self._db.execute(sql, parameters).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, storage_errors(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
