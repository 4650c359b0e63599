"""What the pages show, as plain values; where it comes from is the composition root's business."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from core.wire import DayBody


@dataclass(frozen=True)
class AnswerView:
    """One cancer's answer. verdict "withheld": computed in silent mode, shown to no clinician.

    detail: why an indeterminate answer is not a plain one, in the rules' words (nothing of a header is in them).
    series: Series Number that it comes from, where several series were read.
    """

    cancer: str
    verdict: str
    mode: str
    score: float | None
    reason: str
    lesions: int
    detail: str = ""
    series: int | None = None


@dataclass(frozen=True)
class StudyView:
    """One study. state: where it is, in words. answers: empty before it is answered."""

    id: str
    pseudonym: str
    came_at: dt.datetime
    instances: int
    state: str
    explanation: str
    revision: int | None
    answers: Sequence[AnswerView]
    objects_waiting: int
    acknowledged: bool


@dataclass(frozen=True)
class StepView:
    """One line of a study's history."""

    at: dt.datetime
    event: str
    state: str


@dataclass(frozen=True)
class ObjectView:
    """One result object and where it stands with each PACS."""

    kind: str
    sop_instance_uid: str
    delivery: str


@dataclass(frozen=True)
class BoxView:
    """The box itself. last_instance_at: when the scanner last sent anything."""

    site: str
    device: str
    software: str
    ae_title: str
    port: int
    bundle: str
    synthetic: bool
    bundle_trouble: str
    objects_waiting: int
    messages_waiting: int
    disk_free_gb: float
    disk_low: bool
    cpu_load: float
    memory_used: float
    temperature_c: float | None
    last_instance_at: dt.datetime | None


@dataclass(frozen=True)
class AskView:
    """The last time that a source was asked what was performed. reason: why it did not answer."""

    source: str
    at: dt.datetime
    answered: bool
    performed: int
    missed: int
    reason: str


@dataclass(frozen=True)
class MissedView:
    """A study that was performed and did not come. state: where it is now, in words; reason: of the last attempt."""

    pseudonym: str
    day: str
    source: str
    state: str
    attempts: int
    reason: str


class Overview(Protocol):
    """Where the pages get their values."""

    def box(self) -> BoxView:
        """The box now."""

    def studies(self, limit: int) -> Sequence[StudyView]:
        """Studies that came last, newest first, those still being received included."""

    def study(self, identifier: str) -> StudyView | None:
        """One study."""

    def steps(self, identifier: str) -> Sequence[StepView]:
        """What happened to it."""

    def days(self, limit: int) -> Sequence[DayBody]:
        """The last days, newest first."""

    def asks(self) -> Sequence[AskView]:
        """The last ask of each configured source."""

    def missed(self, days: int) -> Sequence[MissedView]:
        """Studies that were missed in the last days, or are still to be fetched."""

    def objects(self, identifier: str) -> Sequence[ObjectView]:
        """What it gave."""
