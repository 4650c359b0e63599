"""Result objects on their way to the PACS: the outbox that `delivery.pacs` empties (implements `ports.PacsOutbox`)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from appliance.ports import PacsItem
from appliance.storage.database import Database, from_iso, iso


class PacsQueue:
    """The rows are written by `StudyJournal.commit_answers`; paths are stored relative to the state folder."""

    def __init__(self, database: Database, state: Path) -> None:
        self._database = database
        self._state = state

    def due(self, now: dt.datetime, limit: int = 100) -> Sequence[PacsItem]:
        """Undelivered items whose next attempt is due, oldest first."""
        return [
            PacsItem(
                id=row["id"],
                result_id=row["result_id"],
                destination=row["destination"],
                sop_class_uid=row["sop_class_uid"],
                sop_instance_uid=row["sop_instance_uid"],
                path=self._state / row["path"],
                attempts=row["attempts"],
            )
            for row in self._database.rows("due_pacs_items", {"now": iso(now), "limit": limit})
        ]

    def delivered(self, item: PacsItem, at: dt.datetime) -> None:
        """The PACS answered success. Idempotent."""
        self._database.run("pacs_item_delivered", {"id": item.id, "at": iso(at)})

    def postponed(self, item: PacsItem, why: str, until: dt.datetime) -> None:
        """It did not; try again from `until` on."""
        self._database.run("pacs_item_postponed", {"id": item.id, "why": why[:200], "until": iso(until)})

    def next_due(self) -> dt.datetime | None:
        """When the next undelivered item becomes due."""
        row = self._database.one("next_pacs_due")
        return from_iso(row["next_at"]) if row and row["next_at"] else None

    def waiting(self) -> int:
        """How many objects some PACS has not taken."""
        row = self._database.one("count_undelivered")
        return int(row["n"]) if row else 0
