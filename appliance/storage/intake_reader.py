"""`intake.db` as everybody but the receiver sees it: read-only."""

from __future__ import annotations

import contextlib
import datetime as dt
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from appliance.ports import Handover, StoredInstance
from appliance.reconciliation.comparison import Held
from appliance.storage.database import from_iso, iso
from appliance.storage.intake_tables import reading
from appliance.study import State
from core.extent import Extent


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
        self._path = path
        self._spool = (spool or path.parent / "spool").absolute()

    def _reading(self) -> contextlib.AbstractContextManager[sqlite3.Connection | None]:
        return reading(self._path, "report")  # the last one that the receiver creates

    def handovers_after(self, cursor: int, limit: int = 100) -> list[tuple[int, Handover]]:
        """Hand-overs with a cursor greater than `cursor`, in order, each with its own cursor."""
        with self._reading() as db:
            return handovers(db, self._spool, cursor, limit) if db else []

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

    def oldest_arriving(self, since: dt.datetime) -> str | None:
        """The study that began first among those that are not complete and of which slices came after `since`."""
        with self._reading() as db:
            if db is None:
                return None
            sql = "SELECT study_uid FROM study WHERE state = ? AND last_at > ? ORDER BY first_at, study_uid LIMIT 1"
            row = db.execute(sql, (State.RECEIVING.value, iso(since))).fetchone()
            return str(row[0]) if row else None

    def arrived(self, study_uid: str, after: int, limit: int = 64) -> list[tuple[int, StoredInstance]]:
        """What is here of a study while it is not complete, with ids greater than `after`, in the order it came."""
        with self._reading() as db:
            if db is None:
                return []
            rows = db.execute(
                """SELECT instance.id, sop_instance_uid, sop_class_uid, series_uid, sha256, file, start, bytes
                   FROM instance JOIN study USING (study_uid)
                   WHERE study_uid = ? AND state = ? AND instance.id > ? AND evidence = 0 AND pruned_at IS NULL
                   ORDER BY instance.id LIMIT ?""",
                (study_uid, State.RECEIVING.value, after, limit),
            ).fetchall()
        return [(number, _stored(self._spool, *row)) for number, *row in rows]

    def held(self, study_uids: Collection[str]) -> dict[str, Held]:
        """What is here of these studies: instances by series, pruned ones included, evidence not."""
        with self._reading() as db:
            if db is None:
                return {}
            found: dict[str, Held] = {}
            for uid in study_uids:
                state = state_of(db, uid)
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


def state_of(db: sqlite3.Connection, study_uid: str) -> State | None:
    """A study's state; None where nothing is known of it."""
    row = db.execute("SELECT state FROM study WHERE study_uid = ?", (study_uid,)).fetchone()
    return State(row[0]) if row else None


def handovers(db: sqlite3.Connection, spool: Path, cursor: int, limit: int) -> list[tuple[int, Handover]]:
    """Hand-overs with a cursor greater than `cursor`, in order, each with its own. spool: where the files are."""
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
        """SELECT sop_instance_uid, sop_class_uid, series_uid, sha256, file, start, bytes
           FROM handover_instance JOIN instance ON instance = instance.id WHERE handover = ? ORDER BY instance""",
        (cursor,),
    )
    return tuple(_stored(spool, *row) for row in rows)


def _stored(
    spool: Path, uid: str, sop_class: str, series: str, sha256: str, file: str, start: int | None, size: int
) -> StoredInstance:
    """start: None where the first release wrote a file of its own."""
    path = spool / file
    return StoredInstance(uid, sop_class, series, sha256, Extent(path) if start is None else Extent(path, start, size))
