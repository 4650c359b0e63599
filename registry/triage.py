"""One message, believed or not. Pure: topic and bytes in, a value out.

 1. The topic is one of ours and one that a device may publish to.
 2. The payload is no longer than a message of ours can be, and UTF-8.
 3. It is what the topic says: an envelope of that stream, or a status, birth or report, checked field by field; a
    result answers each of the seven cancers once.
 4. Its device is the topic's device (the broker's access list ties the topic to the certificate).

What fails is refused with a reason and, of the payload, only the place of the fault: never a value from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from core import wire
from core.finding import Cancer, Verdict
from registry.contiguity import Span

MAX_PAYLOAD = 256 * 1024
STREAMS = ("result", "event", "telemetry")
WORDS: Mapping[str, type[wire.StatusBody] | type[wire.BirthBody] | type[wire.ReportedBody]] = {
    "status": wire.StatusBody,
    "birth": wire.BirthBody,
    "reported": wire.ReportedBody,
}
QuarantineReason = Literal[
    "foreign_topic",
    "too_long",
    "malformed",
    "foreign_identity",
    "unknown_device",
    "duplicate_identity",
    "result_conflict",
    "unstorable",
]
Key = tuple[str, str, str, str, int]
"""Site, device, epoch, stream, seq."""

_NAME = re.compile(r"[^A-Za-z0-9_.]+")
_SLUG: TypeAdapter[str] = TypeAdapter(wire.Slug)


@dataclass(frozen=True)
class StreamMessage:
    """An enveloped message that is what it claims to be."""

    site: str
    envelope: wire.Envelope
    payload: str
    digest: str

    @property
    def key(self) -> Key:
        """What makes it unique."""
        e = self.envelope
        return (self.site, e.device, e.epoch, e.stream, e.seq)

    @property
    def span(self) -> Span:
        """The sequence numbers that it accounts for besides its own."""
        body = self.envelope.body
        return (body.first, body.last) if isinstance(body, wire.SkipBody) else (self.envelope.seq, self.envelope.seq)


@dataclass(frozen=True)
class DeviceWord:
    """A status, birth or report."""

    site: str
    device: str
    body: wire.StatusBody | wire.BirthBody | wire.ReportedBody
    topic: str
    payload: bytes


@dataclass(frozen=True)
class Refused:
    """What could not be believed, and why."""

    topic: str
    reason: QuarantineReason
    detail: str
    payload: bytes
    site: str | None = None
    device: str | None = None


def sort(topic: str, payload: bytes) -> StreamMessage | DeviceWord | Refused | None:
    """The checks above, in order. None: an empty payload, which is how a retained message is removed in MQTT."""
    if not payload:
        return None
    try:  # 1
        site, device, leaf = wire.parse_topic(topic)
        _SLUG.validate_python(site)
        _SLUG.validate_python(device)
    except ValueError:
        return Refused(topic, "foreign_topic", "not a topic of a device", payload)
    if leaf not in STREAMS and leaf not in WORDS:
        return Refused(topic, "foreign_topic", "not a topic that the registry reads", payload, site, device)
    if len(payload) > MAX_PAYLOAD:  # 2
        return Refused(topic, "too_long", f"{len(payload)} bytes", payload[:MAX_PAYLOAD], site, device)
    try:  # 3
        text = payload.decode()
        body = WORDS[leaf].model_validate_json(payload) if leaf in WORDS else wire.open_envelope(payload)
    except ValueError as error:
        return Refused(topic, "malformed", _place(error), payload, site, device)
    if isinstance(body, wire.Envelope) and body.stream != leaf:
        return Refused(topic, "malformed", f"stream {body.stream} on topic {leaf}", payload, site, device)
    if isinstance(body, wire.Envelope) and not _seven_answers(body):
        return Refused(topic, "malformed", "body.answers", payload, site, device)
    if body.device != device:  # 4
        return Refused(topic, "foreign_identity", "the message names another device", payload, site, device)
    if isinstance(body, wire.Envelope):
        return StreamMessage(site, body, text, wire.digest(payload))
    return DeviceWord(site, device, body, topic, payload)


def _seven_answers(envelope: wire.Envelope) -> bool:
    """Each cancer once; a reason with not_analysed and only there; a score with every other verdict."""
    if not isinstance(envelope.body, wire.ResultBody):
        return True
    answers = envelope.body.answers
    return {a.cancer for a in answers} == set(Cancer) and all(
        (a.verdict is Verdict.NOT_ANALYSED) == (a.reason is not None)
        and (a.verdict is Verdict.NOT_ANALYSED or a.score is not None)
        for a in answers
    )


def _place(error: ValueError) -> str:
    """Where the first fault is and of which kind; nothing of what stands there."""
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        # The name of a field that we don't know comes from the sender: leave it out.
        place = first["loc"][:-1] if first["type"] == "extra_forbidden" else first["loc"]
        return _NAME.sub("_", ".".join(map(str, (*place, first["type"]))))[:120]
    return "not UTF-8" if isinstance(error, UnicodeDecodeError) else "body does not fit the type"
