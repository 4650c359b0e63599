"""New messages as rows that people ask for: results with their answers, events, telemetry."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any

from core import wire
from registry.statements import SQL
from registry.store import Connection
from registry.triage import Refused, StreamMessage

_RESULT_TYPES = (
    "text", "text", "uuid", "text", "int8", "int8", "uuid", "text", "text", "int4", "text", "date", "text", "text",
    "text", "text", "text", "text", "bool", "text", "int8", "timestamptz", "timestamptz", "timestamptz", "timestamptz",
)  # fmt: skip
_ANSWER_TYPES = ("text", "text", "uuid", "text", "text", "text", "float8", "text", "int4", "float8")
_EVENT_TYPES = ("text", "text", "text", "int8", "timestamptz", "text", "text", "text", "timestamptz")
_TELEMETRY_TYPES = (
    "text", "text", "text", "int8", "timestamptz", "float8", "float8", "float8", "int8", "float8", "int8", "int8",
    "int8", "timestamptz", "timestamptz",
)  # fmt: skip
ResultKey = tuple[str, str, uuid.UUID]


def project(connection: Connection, fresh: Sequence[StreamMessage], now: dt.datetime) -> list[Refused]:
    """Store the projections of messages that are new; returns results that contradict one of the same id."""
    results: list[tuple[StreamMessage, wire.ResultBody]] = []
    events: list[tuple[Any, ...]] = []
    telemetry: list[tuple[Any, ...]] = []
    for message in fresh:
        body = message.envelope.body
        if isinstance(body, wire.ResultBody):
            results.append((message, body))
        elif isinstance(body, wire.EventBody):
            events.append((*_key(message), utc(message.envelope.ts), body.kind, body.subject, body.code, now))
        elif isinstance(body, wire.TelemetryBody):
            telemetry.append((*_key(message), utc(message.envelope.ts), *_telemetry(body), now))
    _copy(connection, b"COPY event FROM STDIN (FORMAT BINARY)", _EVENT_TYPES, events)
    _copy(connection, b"COPY telemetry FROM STDIN (FORMAT BINARY)", _TELEMETRY_TYPES, telemetry)
    for message in fresh:
        _days(connection, message)
    return _results(connection, results, now)


def _days(connection: Connection, message: StreamMessage) -> None:
    body = message.envelope.body
    for one in (body.days or ()) if isinstance(body, wire.TelemetryBody) else ():
        said = {"site": message.site, "device": message.envelope.device, "ts": utc(message.envelope.ts)}
        connection.execute(SQL["day_said"], {**said, **one.model_dump()})


def _results(
    connection: Connection, results: Sequence[tuple[StreamMessage, wire.ResultBody]], now: dt.datetime
) -> list[Refused]:
    """A result id that is there already is a repeat from another journal; if it says something else, it is refused."""
    offered: dict[ResultKey, wire.ResultBody] = {}
    rows: list[tuple[Any, ...]] = []
    repeats: list[tuple[StreamMessage, wire.ResultBody]] = []
    for message, body in results:
        key = (message.site, message.envelope.device, body.result_id)
        if key in offered:
            repeats.append((message, body))
        else:
            offered[key] = body
            rows.append(_result(message, body, now))
    if not rows:
        return []
    _copy(connection, b"COPY incoming_result FROM STDIN (FORMAT BINARY)", _RESULT_TYPES, rows)
    new = {(row[0], row[1], row[2]) for row in connection.execute(SQL["result_insert"])}
    answers = [row for key in offered if key in new for row in _answers(key, offered[key])]
    _copy(connection, b"COPY answer FROM STDIN (FORMAT BINARY)", _ANSWER_TYPES, answers)
    repeats += [
        (m, b) for m, b in results if offered.get((m.site, m.envelope.device, b.result_id)) is b
        and (m.site, m.envelope.device, b.result_id) not in new
    ]  # fmt: skip
    return [refusal for message, body in repeats if (refusal := _contradiction(connection, message, body))]


def _contradiction(connection: Connection, message: StreamMessage, body: wire.ResultBody) -> Refused | None:
    where = {"site": message.site, "device": message.envelope.device, "result_id": body.result_id}
    row = connection.execute(SQL["result_payload"], where).fetchone()
    first = wire.open_envelope(row[0].encode()).body if row else None
    if isinstance(first, wire.ResultBody) and _substance(first) == _substance(body):
        return None
    name = wire.topic(message.site, message.envelope.device, message.envelope.stream)
    detail = "another result under a result id that is there already"
    return Refused(
        name, "result_conflict", detail, message.payload.encode(), message.site, message.envelope.device
    )  # fmt: skip


def _substance(body: wire.ResultBody) -> tuple[object, ...]:
    """What must not differ between two results of one id; times may, where a journal was lost."""
    return (body.study, body.revision, body.bundle, body.slices, body.answers)


def _result(message: StreamMessage, body: wire.ResultBody, now: dt.datetime) -> tuple[Any, ...]:
    e, bundle = message.envelope, body.bundle
    return (
        message.site, e.device, body.result_id, e.epoch, e.seq, body.revision, body.supersedes, body.study,
        body.patient, body.age_years, body.sex, body.study_date, body.scanner.manufacturer, body.scanner.model,
        body.scanner.kernel, bundle and bundle.name, bundle and bundle.version, bundle and bundle.digest,
        bundle and bundle.synthetic, body.complete_by, body.slices, utc(body.received_at), utc(body.complete_at),
        utc(body.answered_at), now,
    )  # fmt: skip


def _answers(key: ResultKey, body: wire.ResultBody) -> list[tuple[Any, ...]]:
    return [
        (
            *key, a.cancer.value, a.verdict.value, a.mode.value, a.score, a.reason.value if a.reason else None,
            len(a.lesions), max((lesion.diameter_mm for lesion in a.lesions), default=None),
        )
        for a in body.answers
    ]  # fmt: skip


def _telemetry(body: wire.TelemetryBody) -> tuple[Any, ...]:
    return (
        body.uptime_s, body.cpu_load, body.memory_used, body.disk_free_bytes, body.temperature_c, body.studies_today,
        body.outbox_pacs, body.outbox_registry, utc(body.last_instance_at) if body.last_instance_at else None,
    )  # fmt: skip


def _key(message: StreamMessage) -> tuple[str, str, str, int]:
    e = message.envelope
    return (message.site, e.device, e.epoch, e.seq)


def _copy(connection: Connection, statement: bytes, types: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    if not rows:
        return
    with connection.cursor().copy(statement) as copy:
        copy.set_types(types)
        for row in rows:
            copy.write_row(row)


def bundle_columns(bundle: wire.BundleRef | None) -> dict[str, object]:
    """A bundle as the four columns of `device`."""
    return {
        "bundle_name": bundle and bundle.name,
        "bundle_version": bundle and bundle.version,
        "bundle_digest": bundle and bundle.digest,
        "bundle_synthetic": bundle and bundle.synthetic,
    }


def utc(moment: dt.datetime) -> dt.datetime:
    """With a time zone: a device's time without one is UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.timezone.utc)
