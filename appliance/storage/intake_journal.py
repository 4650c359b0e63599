"""`intake.db`: instances, studies and hand-overs as the receiver wrote them down.

`IntakeJournal` is the receiver's (it implements `appliance.intake.ledger.IntakeLedger`), `IntakeReader` everybody
else's. WAL, `synchronous=FULL`, `BEGIN IMMEDIATE`, short transactions; a state changes only as `appliance.study` says.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import sqlite3
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from appliance.intake.facts import InstanceFacts
from appliance.intake.ledger import Arrival, KnownContent, OpenStudy, SpooledStudy
from appliance.ports import CompleteBy, Handover, StoredInstance
from appliance.reconciliation.comparison import Held
from appliance.storage.database import from_iso, iso, storage_errors
from appliance.study import Event, State, after

SCHEMA_VERSION = 1
_BUSY_S = 10.0


def handover_id(study_uid: str, contents: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> str:
    """The id of a hand-over: SHA-256 over the study UID and its sorted (SOP Instance UID, sha256), 32 hex digits."""
    lines = [study_uid, *(f"{uid} {sha256}" for uid, sha256 in sorted(contents))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


class IntakeJournal:
    """The receiver's own ledger. One connection behind a lock: its transactions are far shorter than a fsync."""

    def __init__(self, path: Path, spool: Path | None = None) -> None:
        """Open or create `path`; `spool` is where the files are (by default the folder `spool` beside it)."""
        self._spool = (spool or path.parent / "spool").absolute()
        self._lock = threading.Lock()
        with storage_errors(path):
            self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            path.chmod(0o660)  # the other roles read it; SQLite gives -wal and -shm the same mode
            self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;")
            self._db.executescript(resources.files(__package__).joinpath("intake_schema.sql").read_text("utf-8"))
            if self._db.execute("PRAGMA user_version").fetchone()[0] < SCHEMA_VERSION:
                self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self._path = path

    def close(self) -> None:
        """Close the database; the journal can't be used any more."""
        with self._lock:
            self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, storage_errors(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._commit()

    def _commit(self) -> None:
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def contents_of(self, sop_instance_uid: str) -> list[KnownContent]:
        """Every content stored under this UID, first come first."""
        with self._lock, storage_errors(self._path):
            rows = self._db.execute(
                "SELECT study_uid, sha256, pruned_at IS NOT NULL FROM instance WHERE sop_instance_uid = ? ORDER BY id",
                (sop_instance_uid,),
            ).fetchall()
        return [KnownContent(study, sha256, bool(pruned)) for study, sha256, pruned in rows]

    def record(self, arrival: Arrival) -> None:
        """Write the row of an instance; its study is RECEIVING again, unless the row is evidence only."""
        facts, at = arrival.facts, iso(arrival.at)
        with self._transaction() as db:
            before = _state(db, facts.study_uid)
            state = before if before and arrival.evidence else after(before or State.RECEIVING, Event.INSTANCE_STORED)
            db.execute(
                """INSERT INTO study (study_uid, state, sender, first_at, last_at) VALUES (?, ?, ?, ?, ?)
                   ON CONFLICT DO UPDATE SET state = excluded.state, sender = excluded.sender,
                                             last_at = excluded.last_at""",
                (facts.study_uid, state.value, arrival.sender, at, at),
            )
            db.execute(
                """INSERT INTO instance (study_uid, series_uid, sop_instance_uid, sop_class_uid, sha256, file, bytes,
                                         transfer_syntax, sender, stored_at, facts, evidence)
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
                (
                    *(facts.study_uid, facts.series_uid, facts.sop_instance_uid, facts.sop_class_uid),
                    *(arrival.sha256, arrival.file, arrival.size, arrival.transfer_syntax, arrival.sender),
                    *(at, facts.to_json(), int(arrival.evidence)),
                ),
            )

    def restore(self, arrival: Arrival) -> None:
        """A pruned instance came again: its file is back. The study's state stays: its content is what it was."""
        with self._transaction() as db:
            db.execute(
                """UPDATE instance SET pruned_at = NULL, file = ?
                   WHERE study_uid = ? AND sop_instance_uid = ? AND sha256 = ?""",
                (arrival.file, arrival.facts.study_uid, arrival.facts.sop_instance_uid, arrival.sha256),
            )
            db.execute(
                "UPDATE study SET last_at = ?, sender = ? WHERE study_uid = ?",
                (iso(arrival.at), arrival.sender, arrival.facts.study_uid),
            )

    def report(self, kind: str, study_uid: str, code: str, at: dt.datetime) -> None:
        """Write down something that the central team may want to know."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO report (kind, study_uid, code, at) VALUES (?, ?, ?, ?)",
                (kind, study_uid, code, iso(at)),
            )

    def study(self, study_uid: str) -> OpenStudy:
        """What is known of a study, whatever its state; without facts if there is nothing."""
        with self._lock, storage_errors(self._path):
            return _open_study(self._db, study_uid)

    def open_studies(self) -> list[OpenStudy]:
        """All studies that are RECEIVING."""
        with self._lock, storage_errors(self._path):
            rows = self._db.execute("SELECT study_uid FROM study WHERE state = ?", (State.RECEIVING.value,)).fetchall()
            return [_open_study(self._db, study_uid) for (study_uid,) in rows]

    def note(self, study_uid: str, explanation: str) -> None:
        """Why a study is not complete yet."""
        with self._transaction() as db:
            db.execute("UPDATE study SET explanation = ? WHERE study_uid = ?", (explanation, study_uid))

    def hand_over(self, study_uid: str, by: CompleteBy, explanation: str, at: dt.datetime) -> Handover | None:
        """The study is complete: write the hand-over. None where the same content was handed over before."""
        with self._transaction() as db:
            state = after(_state(db, study_uid) or State.RECEIVING, Event.JUDGED_COMPLETE)
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
            return _handovers(db, self._spool, added[0] - 1, 1)[0][1] if added else None

    def spooled(self) -> list[SpooledStudy]:
        """Studies with files in the spool, oldest first."""
        with self._lock, storage_errors(self._path):
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
        with self._transaction() as db:
            rows = db.execute(
                "UPDATE instance SET pruned_at = ? WHERE study_uid = ? AND pruned_at IS NULL RETURNING file",
                (iso(at), study_uid),
            ).fetchall()
        return [file for (file,) in rows]


@dataclass(frozen=True)
class StudyOverview:
    """One row of the page: no patient identity but the study UID, which stays inside the hospital."""

    study_uid: str
    state: State
    instances: int
    first_at: dt.datetime
    last_at: dt.datetime
    sender: str
    explanation: str
    generation: int


@dataclass(frozen=True)
class IntakeReport:
    """Something for the registry's event stream (kind: one of `core.wire.EventBody`)."""

    kind: str
    study_uid: str
    code: str
    at: dt.datetime


class IntakeReader:
    """Read-only view for the analyser and the console. A file that is not there yet reads as empty: nothing came."""

    def __init__(self, path: Path, spool: Path | None = None) -> None:
        """`spool` as for `IntakeJournal`."""
        self._path = path.absolute()
        self._spool = (spool or path.parent / "spool").absolute()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        if not self._path.exists():
            yield None
            return
        with storage_errors(self._path):
            db = sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)
            try:
                ready = db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'report'").fetchone()[0]
                yield db if ready else None  # the receiver is creating it at this moment
            finally:
                db.close()

    def handovers_after(self, cursor: int, limit: int = 100) -> list[tuple[int, Handover]]:
        """Hand-overs with a cursor greater than `cursor`, in order, each with its own cursor."""
        with self._reading() as db:
            return _handovers(db, self._spool, cursor, limit) if db else []

    def reports_after(self, cursor: int, limit: int = 100) -> list[tuple[int, IntakeReport]]:
        """Reports with a cursor greater than `cursor`, in order, each with its own cursor."""
        with self._reading() as db:
            if db is None:
                return []
            rows = db.execute(
                "SELECT cursor, kind, study_uid, code, at FROM report WHERE cursor > ? ORDER BY cursor LIMIT ?",
                (cursor, limit),
            ).fetchall()
        return [(at, IntakeReport(kind, uid, code, from_iso(t))) for at, kind, uid, code, t in rows]

    def arriving(self, since: dt.datetime) -> bool:
        """True if slices of a study that is not complete came after `since`."""
        with self._reading() as db:
            if db is None:
                return False
            sql = "SELECT 1 FROM study WHERE state = ? AND last_at > ? LIMIT 1"
            return db.execute(sql, (State.RECEIVING.value, iso(since))).fetchone() is not None

    def held(self, study_uids: Collection[str]) -> dict[str, Held]:
        """What is here of these studies: instances by series, pruned ones included, evidence not."""
        with self._reading() as db:
            if db is None:
                return {}
            found: dict[str, Held] = {}
            for uid in study_uids:
                state = _state(db, uid)
                if state is not None:
                    sql = """SELECT series_uid, count(*) FROM instance WHERE study_uid = ? AND evidence = 0
                             GROUP BY series_uid"""
                    found[uid] = Held(dict(db.execute(sql, (uid,)).fetchall()), state is State.RECEIVING)
            return found

    def received_since(self, since: dt.datetime) -> dict[str, dt.datetime]:
        """When the first slice of every study that came since then was here, by its UID."""
        with self._reading() as db:
            if db is None:
                return {}
            rows = db.execute("SELECT study_uid, first_at FROM study WHERE first_at >= ?", (iso(since),))
            return {uid: from_iso(at) for uid, at in rows}

    def studies(self, limit: int = 200) -> list[StudyOverview]:
        """The studies that were touched last, newest first."""
        with self._reading() as db:
            if db is None:
                return []
            rows = db.execute(
                """SELECT study_uid, state, (SELECT count(*) FROM instance i WHERE i.study_uid = s.study_uid
                                             AND evidence = 0), first_at, last_at, sender, explanation, generation
                   FROM study s ORDER BY last_at DESC, study_uid LIMIT ?""",
                (limit,),
            ).fetchall()
            return [
                StudyOverview(uid, State(state), n, from_iso(first), from_iso(last), sender, why, generation)
                for uid, state, n, first, last, sender, why, generation in rows
            ]


def _state(db: sqlite3.Connection, study_uid: str) -> State | None:
    row = db.execute("SELECT state FROM study WHERE study_uid = ?", (study_uid,)).fetchone()
    return State(row[0]) if row else None


def _open_study(db: sqlite3.Connection, study_uid: str) -> OpenStudy:
    rows = db.execute(
        """SELECT facts, sop_instance_uid, pruned_at IS NOT NULL FROM instance
           WHERE study_uid = ? AND evidence = 0 ORDER BY id""",
        (study_uid,),
    ).fetchall()
    facts = tuple(InstanceFacts.from_json(text) for text, _, _ in rows)
    return OpenStudy(study_uid, facts, frozenset(uid for _, uid, pruned in rows if pruned))


def _handovers(db: sqlite3.Connection, spool: Path, cursor: int, limit: int) -> list[tuple[int, Handover]]:
    rows = db.execute(
        """SELECT cursor, id, study_uid, generation, complete_by, explanation, received_at, complete_at
           FROM handover WHERE cursor > ? ORDER BY cursor LIMIT ?""",
        (cursor, limit),
    ).fetchall()
    return [
        (
            at,
            Handover(name, uid, generation, by, why, from_iso(received), from_iso(complete), _instances(db, spool, at)),
        )
        for at, name, uid, generation, by, why, received, complete in rows
    ]


def _instances(db: sqlite3.Connection, spool: Path, cursor: int) -> tuple[StoredInstance, ...]:
    rows = db.execute(
        """SELECT sop_instance_uid, sop_class_uid, series_uid, sha256, file
           FROM handover_instance JOIN instance ON instance = instance.id WHERE handover = ? ORDER BY instance""",
        (cursor,),
    )
    return tuple(
        StoredInstance(uid, sop_class, series, sha256, spool / file) for uid, sop_class, series, sha256, file in rows
    )
