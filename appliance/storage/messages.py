"""Messages for the registry: the outbox that `delivery.mqtt` empties (implements `ports.MessageOutbox`).

`post` writes the envelope's bytes inside the caller's transaction, so that a state change and the message that tells
of it are committed together. A row is delivered when the registry's cumulative ack covers it, and stays 30 days after
that, so that a registry restored from an older backup can be given it again.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable, Sequence

from appliance.clock import Stamp
from appliance.ports import MessageItem
from appliance.storage.database import Database, iso
from core.wire import Envelope, EventBody, ResultBody, Stream, TelemetryBody, message_id

KEEP_ACKED = dt.timedelta(days=30)
_LEAF: dict[str, str] = {"result": "result", "event": "event", "telemetry": "telemetry"}


class MessageQueue:
    """The message rows of one journal. `epoch` is random per journal: a new disk can't be taken for the old one."""

    def __init__(self, database: Database, device: str, stamp: Callable[[], Stamp]) -> None:
        self._database = database
        self._device = device
        self._stamp = stamp
        self.on_acknowledged: Callable[[], None] = lambda: None
        database.run("put_meta_once", {"key": "epoch", "value": secrets.token_hex(16)})
        self._epoch = self._meta("epoch") or ""

    @property
    def epoch(self) -> str:
        """32 hex digits, made with the journal."""
        return self._epoch

    def post(self, stream: Stream, body: ResultBody | EventBody | TelemetryBody) -> int:
        """Put a message into the outbox; returns its sequence number. Joins the transaction that is open."""
        stamp = self._stamp()
        with self._database.transaction():
            row = self._database.one("next_seq", {"stream": stream})
            assert row is not None  # INSERT ... RETURNING always gives a row
            seq = int(row["last_seq"])
            envelope = Envelope(
                id=message_id(self._device, self._epoch, stream, seq),
                device=self._device,
                epoch=self._epoch,
                stream=stream,
                seq=seq,
                boot_id=stamp.boot_id,
                ts=stamp.ts,
                mono_ns=stamp.mono_ns,
                clock_synced=stamp.clock_synced,
                type=stream,
                body=body,
            )
            self._database.run(
                "add_message",
                {
                    "stream": stream,
                    "seq": seq,
                    "type": stream,
                    "payload": envelope.payload(),
                    "at": iso(stamp.ts),
                },
            )
        return seq

    def after(self, stream: str, seq: int, limit: int = 50) -> Sequence[MessageItem]:
        """Unacknowledged messages of `stream` beyond `seq`, in order."""
        rows = self._database.rows("messages_after", {"stream": stream, "seq": seq, "limit": limit})
        return [MessageItem(stream, row["seq"], _LEAF[row["type"]], bytes(row["payload"])) for row in rows]

    def acknowledged_up_to(self, stream: str) -> int:
        """The highest ack seen in the current registry epoch; 0 before the first."""
        row = self._database.one("stream_acked", {"stream": stream})
        return int(row["acked"]) if row else 0

    def streams(self) -> Sequence[str]:
        """Streams with unacknowledged messages."""
        return [row["stream"] for row in self._database.rows("unacked_streams")]

    def acknowledge(self, stream: str, seq: int, at: dt.datetime) -> None:
        """The registry has everything up to `seq`."""
        with self._database.transaction():
            self._database.run("set_stream_acked", {"stream": stream, "seq": seq})
            self._database.run("ack_messages", {"stream": stream, "seq": seq, "at": iso(at)})
        self.on_acknowledged()

    def registry_epoch(self) -> str | None:
        """The registry database that acked last, None before the first ack."""
        return self._meta("registry_epoch")

    def rewind(self, registry_epoch: str, acks: dict[str, int], at: dt.datetime) -> None:
        """Another registry database answers: only what it acks now counts; the rest becomes unsent again."""
        with self._database.transaction():
            for row in self._database.rows("all_streams"):
                seq = acks.get(row["name"], 0)
                self._database.run("rewind_stream", {"stream": row["name"], "seq": seq})
                self._database.run("unack_messages", {"stream": row["name"], "seq": seq})
                self._database.run("ack_messages", {"stream": row["name"], "seq": seq, "at": iso(at)})
            self._database.run("put_meta", {"key": "registry_epoch", "value": registry_epoch})

    def next_session(self) -> int:
        """Counts connections to the broker within this epoch: 1, 2, 3 ..."""
        with self._database.transaction():
            session = int(self._meta("session") or 0) + 1
            self._database.run("put_meta", {"key": "session", "value": str(session)})
        return session

    def waiting(self) -> int:
        """How many messages the registry has not acknowledged."""
        row = self._database.one("count_unacked")
        return int(row["n"]) if row else 0

    def prune(self, now: dt.datetime) -> int:
        """Drop messages acknowledged more than 30 days ago."""
        return self._database.run("prune_messages", {"before": iso(now - KEEP_ACKED)})

    def _meta(self, key: str) -> str | None:
        row = self._database.one("get_meta", {"key": key})
        return row["value"] if row else None
