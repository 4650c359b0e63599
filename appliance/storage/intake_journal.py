"""`intake.db`: instances, studies and hand-overs as the receiver writes them down; `intake_reader` is everybody else's.

Implements `appliance.intake.ledger.IntakeLedger`. A state changes only as `appliance.study` says.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import sqlite3
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from appliance.intake.facts import InstanceFacts
from appliance.intake.ledger import Arrival, KnownContent, OpenStudy, Place, SpooledStudy
from appliance.ports import CompleteBy, Handover
from appliance.storage.database import from_iso, iso, storage_errors
from appliance.storage.intake_reader import handovers, state_of
from appliance.storage.intake_tables import IntakeTables
from appliance.study import Event, State, after
from core.errors import StorageError

_MOST_BEHIND = 64


def handover_id(study_uid: str, contents: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> str:
    """The id of a hand-over: SHA-256 over the study UID and its sorted (SOP Instance UID, sha256), 32 hex digits."""
    lines = [study_uid, *(f"{uid} {sha256}" for uid, sha256 in sorted(contents))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


class IntakeJournal(IntakeTables):
    """The receiver's own ledger.

    What the spool can tell again is written some rows at a time and without waiting for the disk: rows are at most
    `_MOST_BEHIND` behind, and never behind anything else that is read or written here. Whatever follows them (a
    hand-over, a report) waits for both, because the log of a SQLite database is one file, written in order.
    """

    def __init__(self, path: Path, spool: Path | None = None) -> None:
        """Open or create `path`; `spool` is where the files are (by default the folder `spool` beside it)."""
        self._spool = (spool or path.parent / "spool").absolute()
        self._behind: list[Arrival] = []
        schema = resources.files(__package__).joinpath("intake_schema.sql").read_text("utf-8")
        super().__init__(path, schema, added=[("instance", "start", "INTEGER")])

    def close(self) -> None:
        """Write what is behind, and close the database."""
        with contextlib.suppress(StorageError):  # the spool tells it again
            self.flush()
        super().close()

    def contents_of(self, sop_instance_uid: str) -> list[KnownContent]:
        """Every content stored under this UID, first come first."""
        with self._lock, storage_errors(self._path):
            rows = self._db.execute(
                """SELECT study_uid, sha256, pruned_at IS NOT NULL, file, start, bytes FROM instance
                   WHERE sop_instance_uid = ? ORDER BY id""",
                (sop_instance_uid,),
            ).fetchall()
            behind = [a for a in self._behind if a.facts.sop_instance_uid == sop_instance_uid]
        written = [KnownContent(study, sha256, bool(pruned), Place(*place)) for study, sha256, pruned, *place in rows]
        return written + [KnownContent(a.facts.study_uid, a.sha256, False, a.place) for a in behind]

    def record(self, arrival: Arrival) -> None:
        """The row of an instance; its study is RECEIVING again, unless the row is evidence only."""
        with self._lock, storage_errors(self._path):
            if len(self._behind) >= _MOST_BEHIND:
                self._settle()
            self._behind.append(arrival)

    def restore(self, arrival: Arrival) -> None:
        """A pruned instance came again: it is back. The study's state stays: its content is what it was."""
        facts, place = arrival.facts, arrival.place
        with self._lock, storage_errors(self._path):
            self._settle()
            with self._swift_transaction() as db:
                db.execute(
                    """UPDATE instance SET pruned_at = NULL, file = ?, start = ?, bytes = ?
                       WHERE study_uid = ? AND sop_instance_uid = ? AND sha256 = ?""",
                    (place.file, place.start, place.size, facts.study_uid, facts.sop_instance_uid, arrival.sha256),
                )
                db.execute(
                    "UPDATE study SET last_at = ?, sender = ? WHERE study_uid = ?",
                    (iso(arrival.at), arrival.sender, facts.study_uid),
                )

    def flush(self) -> int:
        """Write the rows that are behind; how many there were."""
        with self._lock, storage_errors(self._path):
            count = len(self._behind)
            self._settle()
        return count

    def _settle(self) -> None:
        if self._behind:
            with self._swift_transaction() as db:
                for arrival in self._behind:
                    _insert(db, arrival)
            self._behind.clear()

    def recorded(self, file: str) -> int:
        """Bytes of a file of the spool, from its beginning, that rows tell of, pruned ones too."""
        rows = self._rows(
            "SELECT coalesce(start, 0) + bytes FROM instance WHERE file = ? ORDER BY start DESC LIMIT 1", (file,)
        )
        return rows[0][0] if rows else 0

    def needs(self, file: str) -> bool:
        """Whether an instance that is not pruned lies in it."""
        return bool(self._rows("SELECT 1 FROM instance WHERE file = ? AND pruned_at IS NULL LIMIT 1", (file,)))

    def report(self, kind: str, study_uid: str, code: str, at: dt.datetime) -> None:
        """Write down something that the central team may want to know."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO report (kind, study_uid, code, at) VALUES (?, ?, ?, ?)",
                (kind, study_uid, code, iso(at)),
            )

    def study(self, study_uid: str) -> OpenStudy:
        """What is known of a study, whatever its state; without facts if there is nothing."""
        with self._lock, storage_errors(self._path):
            self._settle()
            return _open_study(self._db, study_uid)

    def open_studies(self) -> list[OpenStudy]:
        """All studies that are RECEIVING."""
        with self._lock, storage_errors(self._path):
            self._settle()
            rows = self._db.execute("SELECT study_uid FROM study WHERE state = ?", (State.RECEIVING.value,)).fetchall()
            return [_open_study(self._db, study_uid) for (study_uid,) in rows]

    def note(self, study_uid: str, explanation: str) -> None:
        """Why a study is not complete yet."""
        with self.transaction() as db:
            db.execute("UPDATE study SET explanation = ? WHERE study_uid = ?", (explanation, study_uid))

    def hand_over(self, study_uid: str, by: CompleteBy, explanation: str, at: dt.datetime) -> Handover | None:
        """The study is complete: write the hand-over. None where the same content was handed over before."""
        with self.transaction() as db:
            state = after(state_of(db, study_uid) or State.RECEIVING, Event.JUDGED_COMPLETE)
            rows = db.execute(
                "SELECT id, sop_instance_uid, sha256 FROM instance WHERE study_uid = ? AND evidence = 0", (study_uid,)
            ).fetchall()
            name = handover_id(study_uid, [(uid, sha256) for _, uid, sha256 in rows])
            added = db.execute(
                """INSERT INTO handover (id, study_uid, generation, complete_by, explanation, received_at, complete_at)
                   SELECT ?, study_uid, generation + 1, ?, ?, first_at, ? FROM study WHERE study_uid = ?
                   ON CONFLICT DO NOTHING RETURNING cursor""",
                (name, by, explanation, iso(at), study_uid),
            ).fetchone()
            if added:
                db.executemany(
                    "INSERT INTO handover_instance VALUES (?, ?)", [(added[0], instance) for instance, _, _ in rows]
                )
            db.execute(
                "UPDATE study SET state = ?, explanation = ?, generation = generation + ? WHERE study_uid = ?",
                (state.value, explanation, int(bool(added)), study_uid),
            )
            return handovers(db, self._spool, added[0] - 1, 1)[0][1] if added else None

    def spooled(self) -> list[SpooledStudy]:
        """Studies with files in the spool, oldest first."""
        with self._lock, storage_errors(self._path):
            self._settle()
            rows = self._db.execute(
                """SELECT study_uid, sum(bytes), last_at, state FROM study JOIN instance USING (study_uid)
                   WHERE pruned_at IS NULL GROUP BY study_uid ORDER BY last_at, study_uid"""
            ).fetchall()
            handed: dict[str, set[str]] = {}
            for study_uid, name in self._db.execute("SELECT study_uid, id FROM handover"):
                handed.setdefault(study_uid, set()).add(name)
        return [
            SpooledStudy(uid, size, from_iso(last), state == State.COMPLETE, frozenset(handed.get(uid, ())))
            for uid, size, last, state in rows
        ]

    def mark_pruned(self, study_uid: str, at: dt.datetime) -> list[str]:
        """The study's files (returned, below the spool) are about to be removed."""
        with self.transaction() as db:
            rows = db.execute(
                "UPDATE instance SET pruned_at = ? WHERE study_uid = ? AND pruned_at IS NULL RETURNING file",
                (iso(at), study_uid),
            ).fetchall()
        return sorted({file for (file,) in rows})


def _insert(db: sqlite3.Connection, arrival: Arrival) -> None:
    facts, place, at = arrival.facts, arrival.place, iso(arrival.at)
    before = state_of(db, facts.study_uid)
    state = before if before and arrival.evidence else after(before or State.RECEIVING, Event.INSTANCE_STORED)
    db.execute(
        """INSERT INTO study (study_uid, state, sender, first_at, last_at) VALUES (?, ?, ?, ?, ?)
           ON CONFLICT DO UPDATE SET state = excluded.state, sender = excluded.sender, last_at = excluded.last_at""",
        (facts.study_uid, state.value, arrival.sender, at, at),
    )
    db.execute(
        """INSERT INTO instance (study_uid, series_uid, sop_instance_uid, sop_class_uid, sha256, file, start, bytes,
                                 transfer_syntax, sender, stored_at, facts, evidence)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        (
            *(facts.study_uid, facts.series_uid, facts.sop_instance_uid, facts.sop_class_uid),
            *(arrival.sha256, place.file, place.start, place.size, arrival.transfer_syntax, arrival.sender),
            *(at, facts.to_json(), int(arrival.evidence)),
        ),
    )


def _open_study(db: sqlite3.Connection, study_uid: str) -> OpenStudy:
    rows = db.execute(
        """SELECT facts, sop_instance_uid, pruned_at IS NOT NULL FROM instance
           WHERE study_uid = ? AND evidence = 0 ORDER BY id""",
        (study_uid,),
    ).fetchall()
    facts = tuple(InstanceFacts.from_json(text) for text, _, _ in rows)
    return OpenStudy(study_uid, facts, frozenset(uid for _, uid, pruned in rows if pruned))
