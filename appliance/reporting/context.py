"""What a report is made from, and what comes out: plain values."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from appliance.reporting.failure import ReportFailed
from appliance.reporting.source import SourceSeries, ranked, telling
from core.extent import Extent
from core.finding import Answer, Cancer, Lesion, Mode, Verdict

Kind = Literal["sr", "seg", "keyimage"]
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://onescan.example/objects/v1")


@dataclass(frozen=True)
class Model:
    """The model bundle that answered. label: what people call it; udi: its unique device identifier, if it has one."""

    name: str
    version: str
    digest: str  # SHA-256 of its manifest, hex
    label: str
    synthetic: bool  # evidence is synthetic only: never clinical
    udi: str | None = None


@dataclass(frozen=True)
class Equipment:
    """The appliance that made the objects, and where it stands."""

    serial: str
    software_version: str
    institution: str = ""
    manufacturer: str = "OneScan"
    model: str = "OneScan appliance"


@dataclass(frozen=True)
class ReportContext:
    """Everything that the objects of one result say.

    answers: all seven, in the order of `Cancer`, with the site's modes. series: those that were analysed, each for the
    cancers that it serves; empty where nothing was analysable: then `evidence` names any instances of the study.
    supersedes: the earlier result of this study whose report is in the PACS. answered_at: aware; in the site's time
    zone, because DICOM's dates and times of a study are local.
    """

    result_id: uuid.UUID
    revision: int
    supersedes: uuid.UUID | None
    answered_at: dt.datetime
    answers: tuple[Answer, ...]
    model: Model | None
    equipment: Equipment
    series: Sequence[SourceSeries] = ()
    evidence: Sequence[Extent] = ()

    def __post_init__(self) -> None:
        if [answer.cancer for answer in self.answers] != list(Cancer):
            raise ReportFailed("a report needs the seven answers in their order")
        if self.answered_at.utcoffset() is None:
            raise ReportFailed("answered_at has no time zone")
        if not (self.series or self.evidence):
            raise ReportFailed("a report needs at least one instance of its study")
        served = [cancer for series in self.series for cancer in series.cancers]
        if len(served) > len({*served}):
            raise ReportFailed("two series answer for one cancer")

    @property
    def shown(self) -> tuple[Answer, ...]:
        """The answers that a clinician may see: silent ones only where they say "not analysed"."""
        return tuple(a for a in self.answers if a.mode is not Mode.SILENT or a.verdict is Verdict.NOT_ANALYSED)

    @property
    def withheld(self) -> tuple[Answer, ...]:
        """The answers that stay out of the PACS."""
        return tuple(a for a in self.answers if a not in self.shown)


@dataclass(frozen=True)
class ResultObject:
    """One Part 10 file, durable."""

    kind: Kind
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    path: Path


def object_uid(result_id: uuid.UUID, kind: str, key: str = "") -> str:
    """The UID of one thing within a result (PS3.5 B.2: 2.25 and a UUID as an integer); the same every time."""
    return f"2.25.{uuid.uuid5(result_id, f'{kind}/{key}').int}"


def device_uid(kind: str, key: str) -> str:
    """The UID of an appliance (by serial number) or of a model (by its digest: a new model is a new device)."""
    return f"2.25.{uuid.uuid5(NAMESPACE, f'{kind}/{key}').int}"


def findings(context: ReportContext) -> tuple[tuple[Answer, tuple[Lesion, ...]], ...]:
    """Shown answers that are positive or indeterminate, each with its lesions, highest score first."""
    return tuple((answer, ranked(answer)) for answer in context.shown if telling(answer))


def caution(context: ReportContext, answers: Sequence[Answer]) -> str:
    """What has to stand on everything that shows these answers. ASCII, so that any character set can hold it."""
    if context.model is not None and context.model.synthetic:
        return "RESEARCH ONLY - synthetic reference model, never for clinical use"
    if any(answer.mode is not Mode.CLINICAL for answer in answers):
        return "RESEARCH ONLY - not for clinical use"
    return "Found by software - to be confirmed by a radiologist"
