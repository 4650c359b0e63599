"""Which model bundles are on this device, which is active, which is desired (implements `ports.BundleShelf`)."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from sqlite3 import Row

from appliance.ports import BundleRow
from appliance.storage.database import Database, from_iso, iso
from appliance.storage.messages import MessageQueue
from core.wire import EventBody


class Shelf:
    """One row change is the atomic switch: a unique index keeps it to one active bundle."""

    def __init__(self, database: Database, messages: MessageQueue) -> None:
        self._database = database
        self._messages = messages

    def bundles(self) -> Sequence[BundleRow]:
        """All bundles ever seen, newest change first."""
        return [_bundle(row) for row in self._database.rows("bundles")]

    def active(self) -> BundleRow | None:
        """The bundle that the analyser uses."""
        row = self._database.one("active_bundle")
        return _bundle(row) if row else None

    def put(self, row: BundleRow) -> None:
        """Write a row. "active" retires the active one before it, in the same transaction, with the event message."""
        with self._database.transaction():
            before = self._database.one("bundle", {"digest": row.digest})
            if row.state == "active":
                self._database.run("retire_active", {"digest": row.digest, "at": iso(row.at)})
            self._database.run("put_bundle", {**row.__dict__, "at": iso(row.at)})
            if before is None or before["state"] != row.state:
                self._tell(row)

    def _tell(self, row: BundleRow) -> None:
        subject = f"{row.name} {row.version}"
        if row.state == "active":
            self._messages.post("event", EventBody(kind="bundle_activated", subject=subject))
        elif row.state == "refused":
            self._messages.post("event", EventBody(kind="bundle_refused", subject=subject, code=row.code))

    def desired(self) -> tuple[str, str] | None:
        """(name, version) that the registry wants."""
        row = self._database.one("get_meta", {"key": "desired"})
        if row is None:
            return None
        name, version = json.loads(row["value"])
        return name, version

    def wish(self, name: str, version: str, at: dt.datetime) -> None:
        """Record what the registry wants."""
        self._database.run("put_meta", {"key": "desired", "value": json.dumps([name, version])})


def _bundle(row: Row) -> BundleRow:
    return BundleRow(row["digest"], row["name"], row["version"], row["state"], row["code"], from_iso(row["at"]))
