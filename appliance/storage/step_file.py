"""Performed procedure steps in tables of their own in `intake.db`: implements `intake.procedure_step.StepLedger`.

No patient stands here: a step's state, its studies and the instances that it lists. Forgotten after 30 days.
"""

from __future__ import annotations

import datetime as dt
import sqlite3
from pathlib import Path

from appliance.intake.control import Asker, RequestRefused, Status
from appliance.intake.procedure_step import Change, Operation, Performed, StepState, after
from appliance.storage.database import iso
from appliance.storage.intake_tables import IntakeTables

_KEEP = dt.timedelta(days=30)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS procedure_step (
    id         INTEGER PRIMARY KEY,
    uid        TEXT NOT NULL UNIQUE,           -- its SOP Instance UID
    sender     TEXT NOT NULL,                  -- calling AE title that made it
    state      TEXT NOT NULL,                  -- Performed Procedure Step Status
    changed_at TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS procedure_step_age ON procedure_step (changed_at);
CREATE TABLE IF NOT EXISTS procedure_step_study (
    study_uid TEXT NOT NULL,
    step      INTEGER NOT NULL,
    PRIMARY KEY (study_uid, step)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS procedure_step_studies ON procedure_step_study (step);
CREATE TABLE IF NOT EXISTS procedure_step_instance (
    step             INTEGER NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    PRIMARY KEY (step, sop_instance_uid)
) STRICT, WITHOUT ROWID;
"""


class StepFile(IntakeTables):
    """See `IntakeTables`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SCHEMA)

    def apply(self, change: Change, asker: Asker, at: dt.datetime, most_open: int) -> tuple[StepState, frozenset[str]]:
        """See `StepLedger`."""
        with self.transaction() as db:
            _forget(db, at)
            row = db.execute("SELECT id, state FROM procedure_step WHERE uid = ?", (change.step_uid,)).fetchone()
            state = after(StepState(row[1]) if row else None, change.operation, change.status)
            if change.operation is Operation.CREATE:
                _check_open(db, asker, most_open)
            step = row[0] if row else _create(db, change, asker, at)
            sql = "UPDATE procedure_step SET state = ?, changed_at = ? WHERE id = ?"
            db.execute(sql, (state.value, iso(at), step))
            if change.instances is not None:
                db.execute("DELETE FROM procedure_step_instance WHERE step = ?", (step,))
                rows = [(step, uid) for uid in change.instances]
                db.executemany("INSERT INTO procedure_step_instance VALUES (?, ?)", rows)
            return state, _studies(db, step)

    def performed(self, study_uid: str) -> Performed:
        """See `StepLedger`."""
        with self.transaction() as db:
            steps = db.execute(
                """SELECT id, state FROM procedure_step JOIN procedure_step_study ON step = id WHERE study_uid = ?""",
                (study_uid,),
            ).fetchall()
            of = {state: [step for step, its in steps if its == state.value] for state in StepState}
            alone = [step for step in of[StepState.COMPLETED] if len(_studies(db, step)) == 1]
            completed = frozenset(uid for step in alone for uid in _instances(db, step))
        return Performed(completed, len(of[StepState.IN_PROGRESS]), len(of[StepState.DISCONTINUED]))


def _create(db: sqlite3.Connection, change: Change, asker: Asker, at: dt.datetime) -> int:
    (step,) = db.execute(
        "INSERT INTO procedure_step (uid, sender, state, changed_at) VALUES (?, ?, '', ?) RETURNING id",
        (change.step_uid, asker.ae_title, iso(at)),
    ).fetchone()
    rows = [(study, step) for study in change.studies or ()]
    db.executemany("INSERT INTO procedure_step_study VALUES (?, ?)", rows)
    return int(step)


def _check_open(db: sqlite3.Connection, asker: Asker, most: int) -> None:
    sql = "SELECT count(*) FROM procedure_step WHERE sender = ? AND state = ?"
    (count,) = db.execute(sql, (asker.ae_title, StepState.IN_PROGRESS.value)).fetchone()
    if count >= most:
        raise RequestRefused(
            Status.RESOURCE_LIMITATION,
            f"{count} procedure steps of this sender are in progress",
            remedy="The scanner completes none of its steps: have its service look, or raise receiver.mpps.max_open.",
        )


def _studies(db: sqlite3.Connection, step: int) -> frozenset[str]:
    return frozenset(uid for (uid,) in db.execute("SELECT study_uid FROM procedure_step_study WHERE step = ?", (step,)))


def _instances(db: sqlite3.Connection, step: int) -> list[str]:
    sql = "SELECT sop_instance_uid FROM procedure_step_instance WHERE step = ?"
    return [uid for (uid,) in db.execute(sql, (step,))]


def _forget(db: sqlite3.Connection, at: dt.datetime) -> None:
    old = db.execute("SELECT id FROM procedure_step WHERE changed_at < ?", (iso(at - _KEEP),)).fetchall()
    for table, column in (
        ("procedure_step_study", "step"),
        ("procedure_step_instance", "step"),
        ("procedure_step", "id"),
    ):
        db.executemany(f"DELETE FROM {table} WHERE {column} = ?", old)
