"""The registry's schema: numbered SQL files, applied in order, each once.

One transaction holds an advisory lock and applies all that are missing, so two registries that start together do it
once, and a failing file leaves the database as it was.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

import psycopg
from psycopg.rows import TupleRow

from core.errors import OneScanError

_LOCK = 0x6F6E657363616E  # "onescan": any fixed number, the same in every registry process
_BOOK = b"""
CREATE TABLE IF NOT EXISTS schema_migration (
    name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now()
)"""


class MigrationRefused(OneScanError):
    """The database's schema is not one that this release can work with."""

    default_remedy = "Run the release that made this database, or restore it from a backup of this release."


@dataclass(frozen=True)
class Migration:
    """One numbered file: its name, text and digest."""

    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Tells an applied file from one that was edited afterwards."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def known() -> tuple[Migration, ...]:
    """The migrations of this release, in order."""
    files = sorted((f for f in resources.files(__name__).iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    return tuple(Migration(f.name.removesuffix(".sql"), f.read_text(encoding="utf-8")) for f in files)


def apply(connection: psycopg.Connection[TupleRow]) -> tuple[str, ...]:
    """Bring the database to this release's schema; returns the names of what was applied now."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        connection.execute(_BOOK)
        applied: dict[str, str] = dict(connection.execute("SELECT name, sha256 FROM schema_migration").fetchall())
        fresh = _missing(applied)
        for migration in fresh:
            connection.execute(migration.sql.encode())
            connection.execute(
                "INSERT INTO schema_migration (name, sha256) VALUES (%s, %s)", (migration.name, migration.sha256)
            )
    return tuple(m.name for m in fresh)


def _missing(applied: dict[str, str]) -> tuple[Migration, ...]:
    ours = known()
    edited = [m.name for m in ours if applied.get(m.name, m.sha256) != m.sha256]
    if edited:
        raise MigrationRefused(f"migration {edited[0]} was applied with another text than this release's")
    newer = sorted(set(applied) - {m.name for m in ours})
    if newer:
        raise MigrationRefused(f"the database is newer than this release: it has migration {newer[-1]}")
    return tuple(m for m in ours if m.name not in applied)
