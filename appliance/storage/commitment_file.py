"""Storage commitments in tables of their own in `intake.db`: implements `intake.commitments.CommitmentLedger`.

A request is judged and written in one transaction, so that no pruning comes between. What was reported is kept for two
days, for the counts that completeness asks for, and then forgotten.
"""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Collection, Container, Sequence
from pathlib import Path

from appliance.intake.commitment import (
    CommitmentReport,
    CommitmentRequest,
    Failure,
    Held,
    Judged,
    Owed,
    Reference,
    judge,
)
from appliance.intake.control import Asker
from appliance.storage.database import from_iso, iso
from appliance.storage.intake_tables import IntakeTables

_KEEP = dt.timedelta(days=2)
_AT_ONCE = 500  # SQLite's older limit on variables is 999
_SCHEMA = """
CREATE TABLE IF NOT EXISTS commitment (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    transaction_uid TEXT NOT NULL,
    sender          TEXT NOT NULL,              -- calling AE title
    address         TEXT NOT NULL,
    digest          TEXT NOT NULL,              -- of the references
    asked_at        TEXT NOT NULL,
    attempts        INTEGER NOT NULL DEFAULT 0,
    due_at          TEXT,                       -- NULL: no report is owed
    why             TEXT NOT NULL DEFAULT '',   -- the latest attempt was in vain
    settled_at      TEXT                        -- reported or given up
) STRICT;
CREATE INDEX IF NOT EXISTS commitment_due ON commitment (due_at) WHERE due_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS commitment_reference (
    commitment       INTEGER NOT NULL,
    number           INTEGER NOT NULL,
    sop_class_uid    TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    study_uid        TEXT NOT NULL,             -- '' where nothing tells it
    failure          INTEGER,                   -- PS3.3 C.14.1.1; NULL: committed
    PRIMARY KEY (commitment, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS commitment_by_study ON commitment_reference (study_uid) WHERE study_uid <> '';
"""
_OWED = "SELECT id, transaction_uid, sender, address, attempts FROM commitment WHERE due_at IS NOT NULL"


class CommitmentFile(IntakeTables):
    """See `IntakeTables`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SCHEMA)

    def add(
        self, request: CommitmentRequest, asker: Asker, supported: Container[str], at: dt.datetime, due: dt.datetime
    ) -> tuple[Owed, CommitmentReport]:
        """See `CommitmentLedger`."""
        digest = request.digest()
        with self.transaction() as db:
            self._forget(db, at)
            judged = judge(request.references, _held(db, request.references), supported)
            known = db.execute(
                "SELECT id, digest, due_at IS NOT NULL FROM commitment WHERE sender = ? AND transaction_uid = ?",
                (asker.ae_title, request.transaction_uid),
            ).fetchall()
            for number, earlier, owed in known:
                if earlier == digest:
                    _remove(db, [number])
                elif owed:
                    judged = tuple(Judged(j.reference, Failure.DUPLICATE_TRANSACTION, "") for j in judged)
            added = db.execute(
                """INSERT INTO commitment (transaction_uid, sender, address, digest, asked_at, due_at)
                   VALUES (?, ?, ?, ?, ?, ?) RETURNING id""",
                (request.transaction_uid, asker.ae_title, asker.address, digest, iso(at), iso(due)),
            ).fetchone()[0]
            db.executemany(
                "INSERT INTO commitment_reference VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (added, n, j.reference.sop_class_uid, j.reference.sop_instance_uid, j.study_uid, j.failure)
                    for n, j in enumerate(judged)
                ],
            )
        owed = Owed(added, request.transaction_uid, asker.ae_title, asker.address)
        return owed, CommitmentReport(request.transaction_uid, judged)

    def report(self, owed: Owed) -> CommitmentReport | None:
        """See `CommitmentLedger`."""
        rows = self._rows(
            """SELECT sop_class_uid, sop_instance_uid, failure, study_uid
               FROM commitment_reference JOIN commitment ON commitment.id = commitment_reference.commitment
               WHERE commitment = ? AND due_at IS NOT NULL ORDER BY number""",
            (owed.id,),
        )
        judged = (
            Judged(Reference(sop_class, uid), None if failure is None else Failure(failure), study)
            for sop_class, uid, failure, study in rows
        )
        return CommitmentReport(owed.transaction_uid, tuple(judged)) if rows else None

    def owed_to(self, asker: Asker, limit: int) -> Sequence[Owed]:
        """See `CommitmentLedger`."""
        return self._owed(
            f"{_OWED} AND sender = ? AND address = ? ORDER BY id LIMIT ?", (asker.ae_title, asker.address, limit)
        )

    def due(self, now: dt.datetime, limit: int) -> Sequence[Owed]:
        """See `CommitmentLedger`."""
        return self._owed(f"{_OWED} AND due_at <= ? ORDER BY due_at, id LIMIT ?", (iso(now), limit))

    def next_due(self) -> dt.datetime | None:
        """See `CommitmentLedger`."""
        ((due,),) = self._rows("SELECT min(due_at) FROM commitment WHERE due_at IS NOT NULL")
        return from_iso(due) if due else None

    def delivered(self, owed: Owed, at: dt.datetime) -> None:
        """See `CommitmentLedger`."""
        with self.transaction() as db:
            db.execute("UPDATE commitment SET due_at = NULL, settled_at = ? WHERE id = ?", (iso(at), owed.id))

    def postponed(self, owed: Owed, why: str, until: dt.datetime) -> None:
        """See `CommitmentLedger`."""
        with self.transaction() as db:
            db.execute(
                """UPDATE commitment SET attempts = attempts + 1, why = ?, due_at = ?
                   WHERE id = ? AND due_at IS NOT NULL""",
                (why, iso(until), owed.id),
            )

    def give_up(self, before: dt.datetime, at: dt.datetime) -> Sequence[Owed]:
        """See `CommitmentLedger`."""
        reports = self._owed(f"{_OWED} AND asked_at < ? ORDER BY id LIMIT 100", (iso(before),))
        if reports:
            with self.transaction() as db:
                db.executemany(
                    "UPDATE commitment SET due_at = NULL, settled_at = ? WHERE id = ?",
                    [(iso(at), r.id) for r in reports],
                )
        return reports

    def owed(self) -> dict[tuple[str, str], tuple[int, str]]:
        """See `CommitmentLedger`."""
        rows = self._rows(
            """SELECT sender, address, count(*), max(why) FROM commitment WHERE due_at IS NOT NULL
               GROUP BY sender, address ORDER BY max(id) LIMIT 100"""
        )
        return {(sender, address): (count, why) for sender, address, count, why in rows}

    def requested(self, study_uid: str) -> frozenset[str]:
        """SOP Instance UIDs of a study that senders asked commitment for, lately."""
        sql = "SELECT DISTINCT sop_instance_uid FROM commitment_reference WHERE study_uid = ?"
        rows = self._rows(sql, (study_uid,))
        return frozenset(uid for (uid,) in rows)

    def _owed(self, sql: str, parameters: tuple[object, ...]) -> list[Owed]:
        return [Owed(*row) for row in self._rows(sql, parameters)]

    def _forget(self, db: sqlite3.Connection, at: dt.datetime) -> None:
        rows = db.execute("SELECT id FROM commitment WHERE settled_at < ?", (iso(at - _KEEP),)).fetchall()
        _remove(db, [number for (number,) in rows])


def _remove(db: sqlite3.Connection, numbers: Sequence[int]) -> None:
    for table, column in (("commitment_reference", "commitment"), ("commitment", "id")):
        db.executemany(f"DELETE FROM {table} WHERE {column} = ?", [(number,) for number in numbers])


def _held(db: sqlite3.Connection, references: Collection[Reference]) -> dict[str, list[Held]]:
    found: dict[str, list[Held]] = {}
    uids = [r.sop_instance_uid for r in references]
    for at in range(0, len(uids), _AT_ONCE):
        some = uids[at : at + _AT_ONCE]
        rows = db.execute(
            f"""SELECT sop_instance_uid, sop_class_uid, study_uid FROM instance
                WHERE pruned_at IS NULL AND sop_instance_uid IN ({",".join("?" * len(some))}) ORDER BY id""",
            some,
        )
        for uid, sop_class, study in rows:
            found.setdefault(uid, []).append(Held(sop_class, study))
    return found
