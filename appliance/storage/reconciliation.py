"""The courier's list of what was performed and what was missed, in tables of its own in `journal.db`.

Implements `MissedList` and `ReviewedList` of `appliance.reconciliation`. SQL stands in `reconciliation.sql`.
"""

from __future__ import annotations

import datetime as dt
import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from appliance.reconciliation.comparison import Performed, PerformedSeries
from appliance.reconciliation.reconciler import Missed
from appliance.reconciliation.schedule import Asked
from appliance.storage.database import Database, from_iso, iso

_KEPT = dt.timedelta(days=400)
_AGAIN_AFTER_A_CRASH = dt.timedelta(minutes=10)


class ReconciliationList:
    """A connection of its own to `journal.db`; every method is one short transaction."""

    def __init__(self, path: Path) -> None:
        """path: `journal.db`, which is there."""
        self._database = Database(path, None, queries="reconciliation.sql")
        with self._database.transaction():
            for table in ("performed", "missed", "ask", "meta", "reviewed"):
                self._database.run(f"create_{table}")

    def close(self) -> None:
        """Close the connection; what was committed stays."""
        self._database.close()

    # ---- the box

    def alive_at(self) -> dt.datetime | None:
        """When the box was last known to run."""
        return self._moment("get_moment", key="alive")

    def alive(self, at: dt.datetime) -> None:
        """It runs."""
        self._run("put_moment", key="alive", at=iso(at))

    # ---- asking

    def asked(self, source: str) -> Asked:
        """What is known of earlier asks."""
        failures = int(self._rows("failures_in_a_row", source=source)[0]["n"])
        return Asked(self._moment("last_success", source=source), self._moment("last_try", source=source), failures)

    def answered(
        self, source: str, at: dt.datetime, why: str, performed: Sequence[Performed], missed: Sequence[Missed]
    ) -> None:
        """A source answered: all of it in one transaction."""
        today = _day(at)
        with self._database.transaction():
            for study in performed:
                day = study.study_date.isoformat() if study.study_date else today
                self._run("add_performed", study_uid=study.study_uid, source=source, day=day)
            for one in missed:
                self._run(
                    "add_missed",
                    study_uid=one.study_uid,
                    source=source,
                    day=one.study_date.isoformat() if one.study_date else today,
                    whole=int(one.whole),
                    series=json.dumps([[s.series_uid, s.instances] for s in one.series]),
                    at=iso(at),
                )
            counts = {"performed": len(performed), "missed": len(missed)}
            self._run("add_ask", source=source, at=iso(at), why=why, reason="", **counts)
            self._run("prune_performed", before=_day(at - _KEPT))
            self._run("prune_missed", before=_day(at - _KEPT))
            self._run("prune_asks", before=iso(at - _KEPT))
            self._run("prune_reviewed", before=iso(at - _KEPT))

    def unanswered(self, source: str, at: dt.datetime, why: str, reason: str) -> None:
        """A source did not answer."""
        self._run("add_ask", source=source, at=iso(at), why=why, performed=None, missed=None, reason=reason)

    # ---- fetching

    def next(self, now: dt.datetime) -> Missed | None:
        """What to fetch now."""
        return next(map(_missed, self._rows("next_missed", now=iso(now))), None)

    def waiting(self) -> list[Missed]:
        """All that is wanted and not here."""
        return [_missed(row) for row in self._rows("wanted")]

    def last_fetch(self) -> dt.datetime | None:
        """When the last fetch began."""
        return self._moment("get_moment", key="fetch")

    def begin(self, study_uid: str, at: dt.datetime) -> None:
        """An attempt begins: it counts from now on; if we die in it, it is tried again after ten minutes."""
        with self._database.transaction():
            self._run("put_moment", key="fetch", at=iso(at))
            self._run("begin_fetch", study_uid=study_uid, next=iso(at + _AGAIN_AFTER_A_CRASH))

    def fetched(self, study_uid: str, at: dt.datetime, by_us: bool) -> None:
        """All of it is here."""
        self._run("end_fetch", study_uid=study_uid, state="fetched" if by_us else "pushed", at=iso(at))

    def postponed(self, study_uid: str, reason: str, until: dt.datetime | None) -> None:
        """It is not."""
        self._run("postpone_fetch", study_uid=study_uid, reason=reason, until=iso(until) if until else None)

    # ---- reviews

    def unreviewed(self, since: dt.date) -> list[str]:
        """Studies that a source told of, that we delivered, and of which no review is known; newest first."""
        return [row["study_uid"] for row in self._rows("unreviewed", since=since.isoformat())]

    def ours(self, sop_instance_uids: Collection[str]) -> set[str]:
        """Those of these objects that this box wrote."""
        return {uid for uid in sop_instance_uids if self._rows("is_ours", sop_instance_uid=uid)}

    def reviewed(self, study_uid: str, source: str, at: dt.datetime) -> None:
        """Somebody reviewed it."""
        self._run("add_reviewed", study_uid=study_uid, source=source, at=iso(at))

    # ---- showing

    def reviewed_studies(self) -> set[str]:
        """All that are known to be reviewed."""
        return {row["study_uid"] for row in self._rows("all_reviewed")}

    def performed_days(self, since: dt.date) -> dict[str, dt.date]:
        """The day of every study that a source told of, from `since` on, by its UID."""
        rows = self._rows("performed_days", since=since.isoformat())
        return {row["study_uid"]: dt.date.fromisoformat(row["day"]) for row in rows}

    def missed_since(self, since: dt.date) -> list[Mapping[str, Any]]:
        """Missed studies from `since` on, and every one that is still wanted."""
        return [dict(row) for row in self._rows("missed_since", since=since.isoformat())]

    def last_asks(self) -> list[Mapping[str, Any]]:
        """The last ask of each source."""
        return [dict(row) for row in self._rows("last_asks")]

    def studies_since(self, since: dt.datetime) -> list[Mapping[str, Any]]:
        """Every study handed over since then: when it came, whether it was analysed and delivered."""
        return [dict(row) for row in self._rows("studies_since", since=iso(since))]

    # ---- inside

    def _run(self, name: str, **parameters: Any) -> None:
        self._database.run(name, parameters)

    def _rows(self, name: str, **parameters: Any) -> list[sqlite3.Row]:
        return self._database.rows(name, parameters)

    def _moment(self, name: str, **parameters: Any) -> dt.datetime | None:
        return next((from_iso(row["at"]) for row in self._rows(name, **parameters)), None)


def _day(at: dt.datetime) -> str:
    return at.astimezone().date().isoformat()


def _missed(row: sqlite3.Row) -> Missed:
    return Missed(
        study_uid=row["study_uid"],
        source=row["source"],
        study_date=dt.date.fromisoformat(row["day"]),
        whole=bool(row["whole"]),
        series=tuple(PerformedSeries(uid, "CT", count) for uid, count in json.loads(row["series"])),
        attempts=row["attempts"],
    )
