"""The port through which intake writes down what it has: instances, studies, hand-overs.

`appliance.storage.intake_journal.IntakeJournal` is the real one. Every method that changes something is one short
transaction, durable when it returns; all may be called from any thread. The exceptions are `record` and `restore`: what
they write is ordered before every later transaction and seen by every later call here, but others see it only after
`flush`, and a crash may take it back: then the spool tells it again.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from appliance.intake.facts import InstanceFacts
from appliance.ports import CompleteBy, Handover


@dataclass(frozen=True)
class Place:
    """Where an object lies: a file below the spool (posix form), and `size` bytes of it from `start` on.

    start: None where the file is nothing but the object, as the first release wrote them.
    """

    file: str
    start: int | None
    size: int


@dataclass(frozen=True)
class KnownContent:
    """A content of a SOP Instance UID that was stored before."""

    study_uid: str
    sha256: str
    pruned: bool  # its bytes were removed after its study was reported
    place: Place


@dataclass(frozen=True)
class Arrival:
    """An instance that is durable in the spool.

    sha256: of the data set as received, without file meta. place: of the Part 10 object. sender: calling AE title.
    evidence: another content of a SOP Instance UID of the same study came first; kept, but never analysed.
    """

    facts: InstanceFacts
    sha256: str
    place: Place
    transfer_syntax: str
    sender: str
    at: dt.datetime
    evidence: bool = False


@dataclass(frozen=True)
class OpenStudy:
    """A study that was not complete when it was last written down: what assembly needs to go on after a restart."""

    study_uid: str
    facts: tuple[InstanceFacts, ...]
    pruned: frozenset[str]  # SOP Instance UIDs whose files are gone


@dataclass(frozen=True)
class SpooledStudy:
    """A study as pruning sees it."""

    study_uid: str
    bytes: int
    last_at: dt.datetime
    complete: bool  # no instance came after its last hand-over
    handovers: frozenset[str]


class IntakeLedger(Protocol):
    """Where intake writes down what it has."""

    def contents_of(self, sop_instance_uid: str) -> Sequence[KnownContent]:
        """Every content stored under this UID, first come first."""

    def record(self, arrival: Arrival) -> None:
        """Write the row of an instance; its study is RECEIVING again, unless the row is evidence only."""

    def restore(self, arrival: Arrival) -> None:
        """An instance whose bytes were gone (pruned, as a rule) came again: they are back."""

    def recorded(self, file: str) -> int:
        """Bytes of a file of the spool, from its beginning, that rows tell of, pruned ones too."""

    def needs(self, file: str) -> bool:
        """Whether an instance that is not pruned lies in it."""

    def flush(self) -> int:
        """Let others see what was recorded; how many rows they did not see yet."""

    def report(self, kind: str, study_uid: str, code: str, at: dt.datetime) -> None:
        """Write down something that the central team may want to know."""

    def study(self, study_uid: str) -> OpenStudy:
        """What is known of a study, whatever its state; without facts if there is nothing."""

    def open_studies(self) -> Sequence[OpenStudy]:
        """All studies that are RECEIVING."""

    def note(self, study_uid: str, explanation: str) -> None:
        """Why a study is not complete yet."""

    def hand_over(self, study_uid: str, by: CompleteBy, explanation: str, at: dt.datetime) -> Handover | None:
        """The study is complete: write the hand-over. None where the same content was handed over before."""

    def spooled(self) -> Sequence[SpooledStudy]:
        """Studies with files in the spool, oldest first."""

    def mark_pruned(self, study_uid: str, at: dt.datetime) -> Sequence[str]:
        """The study's files (returned, below the spool, each once) are about to be removed."""
