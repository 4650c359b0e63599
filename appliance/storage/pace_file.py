"""What was learned of the senders' gaps, in a table of its own in `intake.db`, and why studies were called complete.

`PaceFile` implements `appliance.intake.pacing.PaceBook`. It opens the file for each call: the receiver writes one row a
completed study. A file or table that is not there yet reads as empty.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from appliance.intake.pacing import MOST_SENDERS, Pace, Sender
from appliance.storage.database import from_iso
from appliance.storage.intake_tables import IntakeTables, reading

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
        with reading(self._path, "pace") as db:
            rows = db.execute("SELECT ae_title, address, learned FROM pace ORDER BY number").fetchall() if db else []
        return {Sender(title, address): Pace.from_json(text) for title, address, text in rows}

    def keep(self, sender: Sender, pace: Pace) -> None:
        """Write a sender's pace down; durable when it returns."""
        with contextlib.closing(IntakeTables(self._path, _SCHEMA)) as tables, tables.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO pace (ae_title, address, learned) VALUES (?, ?, ?)", (*sender, pace.to_json())
            )
            db.execute(
                "DELETE FROM pace WHERE number NOT IN (SELECT number FROM pace ORDER BY number DESC LIMIT ?)",
                (MOST_SENDERS,),
            )

    def completions(self, limit: int) -> list[Completion]:
        """Hand-overs and studies that still wait, newest first."""
        with reading(self._path, "handover") as db:
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
