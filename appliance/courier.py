"""The courier's loop: objects to the PACS, messages to the registry, telemetry, and what the receiver reported.

step: pass on the receiver's reports → events
      send what the PACS has not taken        (delivery.pacs, on this thread)
      wake the registry link                  (delivery.mqtt, on its own thread)
      mark studies that both have as delivered
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from appliance.delivery import PacsSender, RegistryLink
from appliance.health import vitals
from appliance.ports import Clock, PacsItem
from appliance.storage.intake_reader import IntakeReader
from appliance.storage.journal import Journal
from core.wire import DayBody, EventBody, ReportedBody, TelemetryBody, as_token

log = logging.getLogger(__name__)

TELEMETRY_S = 60.0
PRUNE_S = 3600.0
_DISK_LOW_AGAIN = 1.2  # free space must exceed the limit by this before "low" can be said again


class Courier:
    """`step` is called again and again; what was done stands in the journal."""

    def __init__(
        self,
        journal: Journal,
        intake: IntakeReader,
        sender: PacsSender,
        link: RegistryLink,
        clock: Clock,
        pseudonym: Callable[[str], str],
        state: Path,
        disk_low_bytes: int,
        days: Callable[[], Sequence[DayBody]],
    ) -> None:
        self._journal = journal
        self._intake = intake
        self._sender = sender
        self._link = link
        self._clock = clock
        self._pseudonym = pseudonym
        self._state = state
        self._disk_low_bytes = disk_low_bytes
        self._disk_is_low = False
        self._days = days
        self._said_days: tuple[DayBody, ...] | None = None
        self._next_telemetry = self._next_prune = clock.monotonic()
        self._reported: str | None = None

    def step(self) -> float:
        """One round; returns the seconds that it is content to wait."""
        self._pass_on_reports()
        wait = self._sender.step()
        self._look_after_link()
        now = self._clock.monotonic()
        if now >= self._next_telemetry:
            self._next_telemetry = now + TELEMETRY_S
            self._measure()
        if now >= self._next_prune:
            self._next_prune = now + PRUNE_S
            self._journal.messages.prune(self._clock.now())
        self._link.ring()
        self._journal.settle(self._clock.now())
        return wait

    def _pass_on_reports(self) -> None:
        for cursor, report in self._intake.reports_after(self._journal.report_cursor()):
            subject = self._pseudonym(report.study_uid) if report.study_uid else ""
            body = EventBody.model_validate({"kind": report.kind, "subject": subject, "code": as_token(report.code)})
            self._journal.pass_on(cursor, body)

    def _look_after_link(self) -> None:
        if not self._link.alive:
            log.error("the registry link ended; starting it again", extra={"why": self._link.why_not})
            self._link.start()
        reported = self._journal.reported()
        if reported is not None and reported != self._reported:
            self._reported = reported
            self._link.report(ReportedBody.model_validate_json(reported))

    def _measure(self) -> None:
        now = self._clock.now()
        vital = vitals.look(self._state)
        days = tuple(self._days())
        latest = next(iter(self._intake.studies(limit=1)), None)
        body = TelemetryBody(
            uptime_s=vital.uptime_s,
            cpu_load=vital.cpu_load,
            memory_used=vital.memory_used,
            disk_free_bytes=vital.disk_free_bytes,
            temperature_c=vital.temperature_c,
            studies_today=self._journal.answered_since(_midnight(now)),
            outbox_pacs=self._journal.pacs.waiting(),
            outbox_registry=self._journal.messages.waiting(),
            last_instance_at=latest.last_at if latest else None,
            days=days if days != self._said_days else None,
        )
        self._said_days = days
        self._journal.messages.post("telemetry", body)
        self._watch_disk(vital.disk_free_bytes)

    def _watch_disk(self, free: int) -> None:
        if free < self._disk_low_bytes and not self._disk_is_low:
            self._disk_is_low = True
            log.error("the disk is nearly full", extra={"free_bytes": free, "limit_bytes": self._disk_low_bytes})
            self._journal.tell(EventBody(kind="disk_low"))
        elif free > self._disk_low_bytes * _DISK_LOW_AGAIN:
            self._disk_is_low = False


def stalled_event(journal: Journal) -> Callable[[PacsItem, str], None]:
    """Tells the registry that a PACS has not taken an object for hours."""

    def tell(item: PacsItem, why: str) -> None:
        log.error("a PACS does not take an object", extra={"destination": item.destination, "why": why})
        journal.tell(EventBody(kind="delivery_stalled", subject=item.destination))

    return tell


def _midnight(now: dt.datetime) -> dt.datetime:
    """The start of the local day."""
    return now.astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
