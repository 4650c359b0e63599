"""The MQTT contract: topics, the envelope, and the bodies of every message. JSON, MQTT 5, QoS 1.

    onescan/v1/{site}/{device}/...   device → registry: status birth result event telemetry reported followup image
                                     registry → device: ack desired case cmd/#

No patient identity crosses this border: studies and patients are pseudonyms (`appliance.identity.pseudonyms`), ages
are whole years, dates are days, and no field takes free text.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import uuid
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from core.finding import Cancer, Mode, Reason, Verdict

ROOT = "onescan/v1"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://onescan.example/wire/v1")

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$")]
"""A site's or device's name: what may stand in a topic, a certificate and a host name."""
Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,64}$")]
Token = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 _.+/:-]{0,64}$")]
"""A short machine-made word (model name, version, kernel): too narrow for free text, checked on both sides."""

_NOT_IN_TOKENS = re.compile(r"[^A-Za-z0-9 _.+/:-]")

DEVICE_TOPICS = ("status", "birth", "result", "event", "telemetry", "reported", "followup", "image")
REGISTRY_TOPICS = ("ack", "desired", "case", "cmd")
Stream = Literal["result", "event", "telemetry"]


def as_token(text: str) -> str:
    """Any text as a `Token`: header fields and AE titles are typed by people and may hold anything."""
    return _NOT_IN_TOKENS.sub("_", text)[:64]


def topic(site: str, device: str, leaf: str) -> str:
    """The topic of one kind of message of one device."""
    return f"{ROOT}/{site}/{device}/{leaf}"


def parse_topic(name: str) -> tuple[str, str, str]:
    """(site, device, leaf) of a topic; ValueError if it is none of ours."""
    parts = name.split("/", 4)
    if len(parts) != 5 or "/".join(parts[:2]) != ROOT:
        raise ValueError(f"not a OneScan topic: {name}")
    return parts[2], parts[3], parts[4]


def message_id(device: str, epoch: str, stream: str, seq: int) -> uuid.UUID:
    """The id of a message: the same row always has the same id."""
    return uuid.uuid5(NAMESPACE, f"message/{device}/{epoch}/{stream}/{seq}")


def result_id(study: str, series: str, bundle_digest: str, revision: int) -> uuid.UUID:
    """The id of a result, from the pseudonyms of study and series: repeating an analysis gives the same id.

    series: of several, in the order in which they were read, joined by "+".
    """
    return uuid.uuid5(NAMESPACE, f"result/{study}/{series}/{bundle_digest}/{revision}")


def digest(payload: bytes) -> str:
    """SHA-256 of a payload, hex: tells a repeat from a different message under the same key."""
    return hashlib.sha256(payload).hexdigest()


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Scanner(_Wire):
    """What made the images."""

    manufacturer: Token = ""
    model: Token = ""
    kernel: Token = ""


class BundleRef(_Wire):
    """Which model bundle answered."""

    name: Token
    version: Token
    digest: Hex
    synthetic: bool


class LesionBody(_Wire):
    """One lesion, without its place in the patient."""

    score: float = Field(ge=0, le=1)
    diameter_mm: float = Field(ge=0)
    volume_mm3: float = Field(ge=0)
    subtype: Token | None = None
    subtype_score: float | None = Field(default=None, ge=0, le=1)


class AnswerBody(_Wire):
    """The answer for one cancer."""

    cancer: Cancer
    verdict: Verdict
    mode: Mode
    score: float | None = Field(default=None, ge=0, le=1)
    reason: Reason | None = None
    lesions: tuple[LesionBody, ...] = ()
    series: Hex | None = Field(
        default=None, description="the series that it comes from; absent where one was read for all cancers"
    )


class ResultBody(_Wire):
    """One analysed study: seven answers."""

    result_id: uuid.UUID
    revision: int = Field(ge=1)
    supersedes: uuid.UUID | None = None
    study: Hex
    patient: Hex | None = Field(default=None, description="absent where the PatientID was blank or a placeholder")
    age_years: int | None = Field(default=None, ge=0, le=130)
    sex: Literal["F", "M", "O", None] = None
    study_date: dt.date | None = None
    scanner: Scanner
    bundle: BundleRef | None = Field(default=None, description="absent where no bundle was active")
    complete_by: Literal["geometry", "count", "quiet"]
    slices: int = Field(ge=0, description="of all series that were read")
    answers: tuple[AnswerBody, ...] = Field(min_length=7, max_length=7)
    received_at: dt.datetime
    complete_at: dt.datetime
    answered_at: dt.datetime


class EventBody(_Wire):
    """Something that the central team may want to know: bundle activated or refused, disk low, start after crash."""

    kind: Literal[
        "started",
        "bundle_activated",
        "bundle_refused",
        "disk_low",
        "study_failed",
        "result_superseded",
        "duplicate_content",
        "delivery_stalled",
    ]
    subject: Token = ""
    code: Token = ""


class DayBody(_Wire):
    """How many studies of one day; None where nobody has told the device."""

    day: dt.date
    performed: int | None = Field(default=None, ge=0, description="by PACS or scanner, asked after the day ended")
    received: int = Field(ge=0)
    analysed: int = Field(ge=0)
    delivered: int = Field(ge=0)
    reviewed: int | None = Field(default=None, ge=0)
    missing: int = Field(ge=0, description="known to be missed and not fetched yet")


class TelemetryBody(_Wire):
    """How the device is."""

    uptime_s: float = Field(ge=0)
    cpu_load: float = Field(ge=0, description="1-minute load average per core")
    memory_used: float = Field(ge=0, le=1)
    disk_free_bytes: int = Field(ge=0)
    temperature_c: float | None = None
    studies_today: int = Field(ge=0)
    outbox_pacs: int = Field(ge=0)
    outbox_registry: int = Field(ge=0)
    last_instance_at: dt.datetime | None = Field(default=None, description="when the scanner last sent anything")
    days: tuple[DayBody, ...] | None = Field(default=None, max_length=31, description="sent when one of them changed")


class SkipBody(_Wire):
    """Sequence numbers that will never come: coalesced on the device, not lost."""

    first: int = Field(ge=1)
    last: int = Field(ge=1)


Body = ResultBody | EventBody | TelemetryBody | SkipBody
BODY_OF: dict[str, type[ResultBody] | type[EventBody] | type[TelemetryBody] | type[SkipBody]] = {
    "result": ResultBody,
    "event": EventBody,
    "telemetry": TelemetryBody,
    "skip": SkipBody,
}


class Envelope(_Wire):
    """What is around every message of a stream. `(device, epoch, stream, seq)` is its unique key.

    epoch: random per journal. seq: 1, 2, 3 ... per stream. mono_ns: monotonic clock within boot_id.
    """

    id: uuid.UUID
    device: Slug
    epoch: Hex
    stream: Stream
    seq: int = Field(ge=1)
    boot_id: uuid.UUID
    ts: dt.datetime
    mono_ns: int = Field(ge=0)
    clock_synced: bool
    type: Literal["result", "event", "telemetry", "skip"]
    v: Literal[1] = 1
    body: ResultBody | EventBody | TelemetryBody | SkipBody

    def payload(self) -> bytes:
        """The message as it goes over the wire and into the outbox: the same bytes every time."""
        return self.model_dump_json(exclude_none=True).encode()


def open_envelope(payload: bytes) -> Envelope:
    """Parse and check a message; the body is checked as the type it claims. ValueError (pydantic's) if it is wrong."""
    envelope = Envelope.model_validate_json(payload)
    if not isinstance(envelope.body, BODY_OF[envelope.type]):
        raise ValueError(f"the body of a {envelope.type} message is a {type(envelope.body).__name__}")
    return envelope


class StatusBody(_Wire):
    """Retained on `status`; the offline form is also the will. Compare `(boot_id, session)`, never arrival order."""

    online: bool
    device: Slug
    epoch: Hex
    boot_id: uuid.UUID
    session: int = Field(ge=1, description="counts this device's connections within its epoch")
    ts: dt.datetime


class BirthBody(_Wire):
    """Sent once a connection: what this device is."""

    device: Slug
    epoch: Hex
    boot_id: uuid.UUID
    session: int = Field(ge=1)
    ts: dt.datetime
    software: Token
    hardware: Token
    runtime: Token
    bundle: BundleRef | None = None


class ReportedBody(_Wire):
    """Retained on `reported`: which bundle is active, and what became of the desired one."""

    device: Slug
    ts: dt.datetime
    active: BundleRef | None
    desired_version: Token | None = None
    state: Literal["idle", "fetching", "verifying", "trial", "active", "refused"]
    code: Token = ""


class DesiredBody(_Wire):
    """Retained on `desired`: which bundle the registry wants this device to run."""

    issued_at: dt.datetime
    bundle: Token
    version: Token


class StreamAck(_Wire):
    """Everything up to and including `seq` of this stream is committed at the registry."""

    epoch: Hex
    stream: Stream
    seq: int = Field(ge=0)


class AckBody(_Wire):
    """Sent on `ack`. A `registry_epoch` that the device has not seen means a restored database: rewind to the acks."""

    registry_epoch: Hex
    acks: tuple[StreamAck, ...]
