"""One batch of messages, one transaction: everything in it is stored, or nothing.

 1. Devices that were never enrolled are refused.
 2. Of two messages under one key in this batch the first counts; the other is a repeat, or contradicts it.
 3. Messages go to a temporary table by binary COPY, and from there into `message` where they are new.
 4. What was there already under another digest is a contradiction: quarantine, and an alert for two machines with one
    identity.
 5. New messages, and only they, become results, answers, events and telemetry.
 6. Presence: statuses and births, judged by (epoch, session).
 7. Refusals go to quarantine and raise alerts.
 8. Each stream that was touched advances its contiguous number; the rows are locked last, so that two workers wait for
    each other only over the commit itself.

Doing a batch twice changes nothing, which is what makes "acknowledge after commit" safe.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from core import wire
from registry import presence, projections
from registry.contiguity import Held, Span
from registry.statements import SQL
from registry.store import Connection, held_epoch, translated
from registry.triage import STREAMS, DeviceWord, Key, QuarantineReason, Refused, StreamMessage

StreamKey = tuple[str, str, str, str]
"""Site, device, epoch, stream."""
Believed = StreamMessage | DeviceWord | Refused
_MESSAGE_TYPES = ("text", "text", "text", "text", "int8", "text", "text", "text", "timestamptz")


@dataclass(frozen=True)
class Committed:
    """What a batch came to. `acks`: for each (site, device), what it may now forget."""

    acks: dict[tuple[str, str], wire.AckBody]
    stored: int
    repeated: int
    refused: int


@dataclass
class _Batch:
    """A batch on its way through the steps."""

    now: dt.datetime
    messages: dict[Key, StreamMessage] = field(default_factory=dict)
    words: list[DeviceWord] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    touched: dict[StreamKey, list[Span]] = field(default_factory=lambda: defaultdict(list))
    born: set[tuple[str, str, str]] = field(default_factory=set)
    repeated: int = 0


def commit(connection: Connection, items: Sequence[Believed], now: dt.datetime) -> Committed:
    """Store a batch. StoreUnavailable: nothing happened, try again. Unstorable: some value can't be stored."""
    batch = _Batch(now)
    with translated(), connection.transaction():
        _sort(batch, items, _enrolled(connection, items))  # 1, 2
        fresh = _store(connection, batch)  # 3, 4
        batch.refused += projections.project(connection, [batch.messages[key] for key in fresh], now)  # 5
        _hear(connection, batch)  # 6
        _quarantine(connection, batch)  # 7
        acks = _advance(connection, batch)  # 8
        epoch = held_epoch(connection)  # read here: a copy held by a worker would outlive a restore
    bodies = {device: wire.AckBody(registry_epoch=epoch, acks=tuple(streams)) for device, streams in acks.items()}
    return Committed(bodies, len(fresh), batch.repeated, len(batch.refused))


def _enrolled(connection: Connection, items: Iterable[Believed]) -> set[tuple[str, str]]:
    asked = {(i.site, _device(i)) for i in items if not isinstance(i, Refused)}
    if not asked:
        return set()
    values = {"sites": [site for site, _ in asked], "devices": [device for _, device in asked]}
    return {(row[0], row[1]) for row in connection.execute(SQL["devices_known"], values)}


def _device(item: StreamMessage | DeviceWord) -> str:
    return item.envelope.device if isinstance(item, StreamMessage) else item.device


def _sort(batch: _Batch, items: Iterable[Believed], enrolled: set[tuple[str, str]]) -> None:
    for item in items:
        if isinstance(item, Refused):
            batch.refused.append(item)
        elif (item.site, _device(item)) not in enrolled:
            batch.refused.append(_refusal(item, "unknown_device", "never enrolled here"))
        elif isinstance(item, DeviceWord):
            batch.words.append(item)
        else:
            _sort_message(batch, item)


def _sort_message(batch: _Batch, message: StreamMessage) -> None:
    first = batch.messages.setdefault(message.key, message)
    batch.touched[message.key[:4]] += [(message.envelope.seq, message.envelope.seq), message.span]
    if first is not message:
        batch.repeated += 1
        if first.digest != message.digest:
            batch.refused.append(_contradiction(message))


def _store(connection: Connection, batch: _Batch) -> list[Key]:
    """The keys that are new, in the order in which the batch has them."""
    if not batch.messages:
        return []
    cursor = connection.cursor()
    with cursor.copy("COPY incoming_message FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(_MESSAGE_TYPES)
        for key, message in batch.messages.items():
            copy.write_row((*key, message.digest, message.envelope.type, message.payload, batch.now))
    new = {tuple(row) for row in cursor.execute(SQL["message_insert"])}
    if len(new) < len(batch.messages):
        batch.repeated += len(batch.messages) - len(new)
        for row in cursor.execute(SQL["message_contradicted"]).fetchall():
            batch.refused.append(_contradiction(batch.messages[row[0], row[1], row[2], row[3], row[4]]))
    return [key for key in batch.messages if key in new]


def _hear(connection: Connection, batch: _Batch) -> None:
    """Presence (see `presence`) and what devices are. What the broker says in a device's name is no sign of life."""
    alive = {key[:2] for key in batch.messages}
    for word in sorted(batch.words, key=lambda w: (w.site, w.device)):
        if isinstance(word.body, wire.ReportedBody):
            values = projections.bundle_columns(word.body.active) | word.body.model_dump(exclude={"active", "device"})
            values["ts"] = projections.utc(word.body.ts)
            connection.execute(SQL["device_reported"], {"site": word.site, "device": word.device, **values})
        elif _hear_presence(connection, batch, word, word.body):
            alive.add((word.site, word.device))
    if alive:
        sites, devices = (list(column) for column in zip(*sorted(alive), strict=True))
        connection.execute(SQL["device_seen"], {"now": batch.now, "sites": sites, "devices": devices})


def _hear_presence(
    connection: Connection, batch: _Batch, word: DeviceWord, body: wire.StatusBody | wire.BirthBody
) -> bool:
    """True where it shows that the device has just connected."""
    where = {"site": word.site, "device": word.device}
    row = connection.execute(SQL["device_lock"], where).fetchone()
    if row is None:
        return False  # removed since step 1
    known = presence.Known(tuple(row[0]), row[1], row[2], row[3])
    said = presence.Said(body.epoch, body.boot_id, body.session, getattr(body, "online", True))
    verdict = presence.judge(known, said)
    if verdict is presence.Verdict.CONFLICT:
        batch.refused.append(_refusal(word, "duplicate_identity", "two boots claim one session"))
    if verdict in (presence.Verdict.CONFLICT, presence.Verdict.OLDER):
        return False
    if verdict is presence.Verdict.NEWER:
        now = presence.adopt(known, said)
        values = {"epochs": list(now.epochs), "boot_id": now.boot_id, "session": now.session, "online": now.online}
        connection.execute(SQL["device_presence"], {**where, **values})
    if isinstance(body, wire.BirthBody):
        columns = projections.bundle_columns(body.bundle) | body.model_dump(include=_BIRTH)
        connection.execute(SQL["device_birth"], {**where, **columns})
    batch.born.add((word.site, word.device, body.epoch))
    return verdict is presence.Verdict.NEWER and said.online


_BIRTH = {"software", "hardware", "runtime"}


def _quarantine(connection: Connection, batch: _Batch) -> None:
    alerts: dict[tuple[str, str, str], str] = {}
    for refused in sorted(batch.refused, key=lambda r: (r.topic, r.reason)):
        values = {
            "now": batch.now, "topic": refused.topic.replace("\0", "?"), "site": refused.site,
            "device": refused.device, "reason": refused.reason, "detail": refused.detail,
            "digest": wire.digest(refused.payload), "size": len(refused.payload), "payload": refused.payload,
        }  # fmt: skip
        connection.execute(SQL["quarantine_insert"], values)
        alerts[refused.reason, refused.site or "", refused.device or ""] = refused.detail
    for (kind, site, device), detail in sorted(alerts.items()):
        values = {"kind": kind, "site": site, "device": device, "detail": detail, "now": batch.now}
        connection.execute(SQL["alert_raise"], values)


def _advance(connection: Connection, batch: _Batch) -> dict[tuple[str, str], list[wire.StreamAck]]:
    """Advance every stream that was touched; a device that has just connected hears about all of its streams."""
    touched = {**batch.touched}
    for site, device, epoch in batch.born:
        for stream in STREAMS:
            touched.setdefault((site, device, epoch, stream), [])
    if not touched:
        return {}
    keys = sorted(touched)
    columns = dict(zip(("sites", "devices", "epochs", "streams"), map(list, zip(*keys, strict=True)), strict=True))
    connection.execute(SQL["ack_rows"], columns)
    acks: dict[tuple[str, str], list[wire.StreamAck]] = defaultdict(list)
    for site, device, epoch, stream, contiguous, beyond in connection.execute(SQL["ack_lock"], columns).fetchall():
        was = Held.from_row(contiguous, beyond)
        held = was.plus(touched[site, device, epoch, stream])
        if held != was:
            number, flat = held.row()
            where = {"site": site, "device": device, "epoch": epoch, "stream": stream}
            connection.execute(SQL["ack_update"], {**where, "contiguous": number, "beyond": flat})
        acks[site, device].append(wire.StreamAck(epoch=epoch, stream=stream, seq=held.contiguous))
    return acks


def _contradiction(message: StreamMessage) -> Refused:
    return _refusal(message, "duplicate_identity", f"another message under {message.envelope.stream} number again")


def _refusal(item: StreamMessage | DeviceWord, reason: QuarantineReason, detail: str) -> Refused:
    if isinstance(item, DeviceWord):
        return Refused(item.topic, reason, detail, item.payload, item.site, item.device)
    device = item.envelope.device
    name = wire.topic(item.site, device, item.envelope.stream)
    return Refused(name, reason, detail, item.payload.encode(), item.site, device)


def unstorable(item: Believed) -> Refused:
    """What a message becomes whose values the database refused."""
    if isinstance(item, Refused):  # its topic is the only text in it that we did not write
        return replace(item, topic=item.topic.encode("ascii", "replace").decode(), payload=b"")
    return _refusal(item, "unstorable", "a value is too large for its column")
