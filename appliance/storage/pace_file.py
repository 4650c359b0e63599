"""What was learned of the senders' gaps, in a table of its own in `intake.db`, and why studies were called complete.

`PaceFile` implements `appliance.intake.pacing.PaceBook`. It opens the file for each call: the receiver writes one row a
completed study. Reading makes nothing: a file or table that is not there yet reads as empty.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.intake.pacing import MOST_SENDERS, Pace, Sender
from appliance.storage.database import from_iso, storage_errors

_BUSY_S = 10.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS pace (      -- one row a sender; never more than appliance.intake.pacing.MOST_SENDERS
    number   INTEGER PRIMARY KEY AUTOINCREMENT,  -- grows with every writing: the lowest was heard of longest ago
    ae_title TEXT NOT NULL,
    address  TEXT NOT NULL,
    learned  TEXT NOT NULL,            -- JSON, appliance.intake.pacing.Pace
    UNIQUE (ae_title, address)
) STRICT"""


@dataclass(frozen=True)
class Completion:
    """One study, and why it was called complete or is not yet (`by` None)."""

    study_uid: str
    sender: str
    generation: int
    by: str | None
    explanation: str
    at: dt.datetime


class PaceFile:
    """The table `pace` of `intake.db`."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()

    def paces(self) -> dict[Sender, Pace]:
        """Every sender's pace, the one that was written down last at the end."""
        with self._reading("pace") as db:
            rows = db.execute("SELECT ae_title, address, learned FROM pace ORDER BY number").fetchall() if db else []
        return {Sender(title, address): Pace.from_json(text) for title, address, text in rows}

    def keep(self, sender: Sender, pace: Pace) -> None:
        """Write a sender's pace down; durable when it returns."""
        with storage_errors(self._path), contextlib.closing(self._open("rwc")) as db:
            db.execute("PRAGMA synchronous=FULL")
            db.execute("BEGIN IMMEDIATE")
            db.execute(_SCHEMA)
            db.execute(
                "INSERT OR REPLACE INTO pace (ae_title, address, learned) VALUES (?, ?, ?)", (*sender, pace.to_json())
            )
            db.execute(
                "DELETE FROM pace WHERE number NOT IN (SELECT number FROM pace ORDER BY number DESC LIMIT ?)",
                (MOST_SENDERS,),
            )
            db.execute("COMMIT")

    def completions(self, limit: int) -> list[Completion]:
        """Hand-overs and studies that still wait, newest first."""
        with self._reading("handover") as db:
            if db is None:
                return []
            rows = db.execute(
                """SELECT study_uid, sender, h.generation, complete_by, h.explanation, complete_at
                   FROM handover h JOIN study USING (study_uid)
                   UNION ALL
                   SELECT study_uid, sender, generation + 1, NULL, explanation, last_at
                   FROM study WHERE state = 'receiving'
                   ORDER BY 6 DESC, 1 LIMIT ?""",
                (limit,),
            ).fetchall()
        return [Completion(uid, who, number, by, why, from_iso(at)) for uid, who, number, by, why, at in rows]

    @contextlib.contextmanager
    def _reading(self, table: str) -> Iterator[sqlite3.Connection | None]:
        if not self._path.exists():
            yield None
            return
        with storage_errors(self._path), contextlib.closing(self._open("ro")) as db:
            there = db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone()
            yield db if there else None

    def _open(self, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(f"{self._path.as_uri()}?mode={mode}", uri=True, timeout=_BUSY_S, isolation_level=None)
