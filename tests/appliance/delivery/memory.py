"""The delivery ports in memory, and clocks: implementations of the ports, not patches."""

from __future__ import annotations

import datetime as dt
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from appliance.ports import MessageItem, PacsItem
from core import wire

START = dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.timezone.utc)


class RealClock:
    """The system's time."""

    def now(self) -> dt.datetime:
        return dt.datetime.now(dt.timezone.utc)

    def monotonic(self) -> float:
        return time.monotonic()


class TurnedClock:
    """Time that moves only when it is told to."""

    def __init__(self) -> None:
        self._at = 0.0

    def now(self) -> dt.datetime:
        return START + dt.timedelta(seconds=self._at)

    def monotonic(self) -> float:
        return self._at

    def turn(self, seconds: float) -> None:
        self._at += seconds


@dataclass
class _PacsRow:
    item: PacsItem
    due: dt.datetime
    why: str = ""
    delivered_at: dt.datetime | None = None


class MemoryPacsOutbox:
    """`PacsOutbox`, and what a test wants to know about it."""

    def __init__(self) -> None:
        self._rows: dict[int, _PacsRow] = {}
        self.on_delivered: Callable[[PacsItem], object] = lambda item: None

    def add(self, destination: str, sop_class_uid: str, sop_instance_uid: str, path: Path) -> PacsItem:
        item = PacsItem(len(self._rows) + 1, "r", destination, sop_class_uid, sop_instance_uid, path, 0)
        self._rows[item.id] = _PacsRow(item, START)
        return item

    def due(self, now: dt.datetime, limit: int = 100) -> Sequence[PacsItem]:
        return [r.item for r in self._rows.values() if r.delivered_at is None and r.due <= now][:limit]

    def delivered(self, item: PacsItem, at: dt.datetime) -> None:
        self._rows[item.id].delivered_at = at
        self.on_delivered(item)

    def postponed(self, item: PacsItem, why: str, until: dt.datetime) -> None:
        row = self._rows[item.id]
        row.item, row.why, row.due = replace(row.item, attempts=row.item.attempts + 1), why, until

    def next_due(self) -> dt.datetime | None:
        return min((r.due for r in self._rows.values() if r.delivered_at is None), default=None)

    def undelivered(self) -> list[int]:
        return [r.item.id for r in self._rows.values() if r.delivered_at is None]

    def why(self, item: PacsItem) -> str:
        return self._rows[item.id].why

    def attempts(self, item: PacsItem) -> int:
        return self._rows[item.id].item.attempts


@dataclass
class MemoryMessageOutbox:
    """`MessageOutbox` for several threads: the test writes while the link reads."""

    device: str
    epoch: str = field(default_factory=lambda: uuid.uuid4().hex)
    _rows: dict[str, list[MessageItem]] = field(default_factory=dict)
    _acks: dict[str, int] = field(default_factory=dict)
    _registry_epoch: str | None = None
    rewinds: list[tuple[str, dict[str, int]]] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def write(self, stream: str, count: int = 1) -> None:
        """Append events or telemetry as a journal would: envelope and payload fixed now."""
        with self._lock:
            rows = self._rows.setdefault(stream, [])
            for _ in range(count):
                seq = len(rows) + 1
                rows.append(MessageItem(stream, seq, stream, self._envelope(stream, seq)))

    def _envelope(self, stream: str, seq: int) -> bytes:
        body: wire.EventBody | wire.TelemetryBody = wire.EventBody(kind="started", code=str(seq))
        if stream == "telemetry":
            body = wire.TelemetryBody(
                uptime_s=1, cpu_load=0, memory_used=0.1, disk_free_bytes=1, studies_today=0, outbox_pacs=0,
                outbox_registry=0,
            )  # fmt: skip
        return wire.Envelope(
            id=wire.message_id(self.device, self.epoch, stream, seq), device=self.device, epoch=self.epoch,
            stream=stream, seq=seq, boot_id=uuid.UUID(int=2), ts=START, mono_ns=1, clock_synced=True,
            type="telemetry" if stream == "telemetry" else "event", body=body,
        ).payload()  # fmt: skip

    def after(self, stream: str, seq: int, limit: int = 50) -> Sequence[MessageItem]:
        with self._lock:
            acked = self._acks.get(stream, 0)
            return [row for row in self._rows.get(stream, []) if row.seq > max(seq, acked)][:limit]

    def acknowledged_up_to(self, stream: str) -> int:
        with self._lock:
            return self._acks.get(stream, 0)

    def streams(self) -> Sequence[str]:
        with self._lock:
            return [s for s, rows in self._rows.items() if rows and rows[-1].seq > self._acks.get(s, 0)]

    def acknowledge(self, stream: str, seq: int, at: dt.datetime) -> None:
        with self._lock:
            self._acks[stream] = max(seq, self._acks.get(stream, 0))

    def registry_epoch(self) -> str | None:
        with self._lock:
            return self._registry_epoch

    def rewind(self, registry_epoch: str, acks: dict[str, int], at: dt.datetime) -> None:
        with self._lock:
            self._registry_epoch, self._acks = registry_epoch, dict(acks)
            self.rewinds.append((registry_epoch, dict(acks)))
