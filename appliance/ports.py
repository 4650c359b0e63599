"""What the stages need from outside, as Protocols, and the plain values that travel between them.

Stages depend on these, never on each other, on SQLite or on a configuration. The real ones live in
`appliance.storage`; tests may implement the same Protocol in memory.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from core.extent import Extent

CompleteBy = Literal["geometry", "count", "quiet"]


class Clock(Protocol):
    """Time, so that tests can turn it."""

    def now(self) -> dt.datetime:
        """Wall clock, UTC, aware."""

    def monotonic(self) -> float:
        """Seconds that never jump."""


class Doorbell(Protocol):
    """Wakes another role. May be lost: every role also looks by itself every few seconds."""

    def ring(self, role: str) -> None:
        """Never raises, never blocks."""


@dataclass(frozen=True)
class StoredInstance:
    """One DICOM instance that is durable in the spool."""

    sop_instance_uid: str
    sop_class_uid: str
    series_uid: str
    sha256: str
    extent: Extent  # a DICOM Part 10 file


@dataclass(frozen=True)
class Handover:
    """A study judged complete, as the receiver hands it to the analyser.

    id: derived from the study UID and the set of (SOP instance UID, sha256): the same content always has the same id.
    generation: 1, 2, 3 ... per study UID. explanation: one sentence for the receipt, no patient identity.
    """

    id: str
    study_uid: str
    generation: int
    complete_by: CompleteBy
    explanation: str
    received_at: dt.datetime  # first instance durable
    complete_at: dt.datetime
    instances: tuple[StoredInstance, ...]


@dataclass(frozen=True)
class PacsItem:
    """One result object that a PACS has not taken yet."""

    id: int
    result_id: str
    destination: str
    sop_class_uid: str
    sop_instance_uid: str
    path: Path  # absolute; a DICOM Part 10 file, never changed once written
    attempts: int


class PacsOutbox(Protocol):
    """Result objects on their way to the PACS. Rows appear in the transaction that commits the answers."""

    def due(self, now: dt.datetime, limit: int = 100) -> Sequence[PacsItem]:
        """Undelivered items whose next attempt is due, oldest first."""

    def delivered(self, item: PacsItem, at: dt.datetime) -> None:
        """The PACS answered success. Idempotent."""

    def postponed(self, item: PacsItem, why: str, until: dt.datetime) -> None:
        """It did not: count the attempt, note the DICOM status or the network error, try again from `until` on."""

    def next_due(self) -> dt.datetime | None:
        """When the next undelivered item becomes due; None if there is none."""


@dataclass(frozen=True)
class MessageItem:
    """One message for the registry: the payload bytes were fixed when its row was written."""

    stream: str
    seq: int
    leaf: str  # topic leaf: result, event, telemetry
    payload: bytes


class MessageOutbox(Protocol):
    """Messages on their way to the registry. A row is delivered when the registry's cumulative ack covers it."""

    @property
    def epoch(self) -> str:
        """Random name of this journal, 32 hex digits."""

    def after(self, stream: str, seq: int, limit: int = 50) -> Sequence[MessageItem]:
        """Unacknowledged messages of a stream with a sequence number greater than `seq`, in order."""

    def acknowledged_up_to(self, stream: str) -> int:
        """The highest cumulative ack seen for the stream in the current registry epoch; 0 before the first."""

    def streams(self) -> Sequence[str]:
        """Streams with unacknowledged messages."""

    def acknowledge(self, stream: str, seq: int, at: dt.datetime) -> None:
        """Rows up to and including `seq` are committed at the registry. Lower than before changes nothing."""

    def registry_epoch(self) -> str | None:
        """The registry epoch of the last ack, None before the first."""

    def rewind(self, registry_epoch: str, acks: dict[str, int], at: dt.datetime) -> None:
        """The registry's database is another one: forget all acks but these, so that the rest is sent again."""


@dataclass(frozen=True)
class BundleRow:
    """A model bundle on this device and where it is in its life (states: `appliance.update.activation`)."""

    digest: str  # SHA-256 of its manifest.json; its folder is <bundles>/<digest>
    name: str
    version: str
    state: str
    code: str  # why it was refused, "" otherwise
    at: dt.datetime


class BundleShelf(Protocol):
    """Which bundles are here, which is active, which is desired. One row change is the atomic switch."""

    def bundles(self) -> Sequence[BundleRow]:
        """All bundles ever seen, newest change first."""

    def active(self) -> BundleRow | None:
        """The bundle that the analyser uses."""

    def put(self, row: BundleRow) -> None:
        """Write a row. state "active" retires the bundle that was active, in the same transaction; activation and
        refusal also put their event message into the outbox there."""

    def desired(self) -> tuple[str, str] | None:
        """(name, version) that the registry wants, None before the first wish."""

    def wish(self, name: str, version: str, at: dt.datetime) -> None:
        """Record what the registry wants."""
