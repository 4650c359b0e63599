"""The analyser's loop: take over hand-overs, read one study after the other, commit what came out.

A study is tried `max_attempts` times, a crash of the process counts; then it is answered as failed, visibly. A full
disk or a stop is not the study's fault and does not count.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from appliance.log import about
from appliance.pipeline import Desk, Reading, read_study, read_without_analysis
from appliance.ports import Clock, Doorbell, StoredInstance
from appliance.storage.intake_journal import IntakeReader
from appliance.storage.journal import Journal, StudyRow
from core.errors import DeviceLost, StorageError
from core.finding import Reason
from core.wire import EventBody
from engines.cascade import Cancelled

log = logging.getLogger(__name__)

STORAGE_PAUSE_S = 5.0


class Analyser:
    """One step reads at most one study. `desk` is asked for each study, so that a new bundle serves the next one."""

    def __init__(
        self,
        journal: Journal,
        intake: IntakeReader,
        desk: Callable[[], Desk],
        pseudonym: Callable[[str], str],
        clock: Clock,
        bells: Doorbell,
        destinations: Sequence[str],
        max_attempts: int,
    ) -> None:
        self._journal = journal
        self._intake = intake
        self._desk = desk
        self._pseudonym = pseudonym
        self._clock = clock
        self._bells = bells
        self._destinations = destinations
        self._max_attempts = max_attempts

    def step(self) -> float:
        """Read the next study if there is one; returns the seconds that it is content to wait."""
        self.take_over()
        row = self._journal.next()
        if row is None:
            return float("inf")
        try:
            with about(row.pseudonym):
                return self._read(row)
        except StorageError as error:
            self._journal.refund_attempt(row.handover_id)
            log.error("study waits: nothing can be written", exc_info=error, extra={"study": row.pseudonym})
            return STORAGE_PAUSE_S

    def take_over(self) -> None:
        """Copy new hand-overs of the receiver into the journal; the same one twice is one."""
        for cursor, handover in self._intake.handovers_after(self._journal.cursor()):
            pseudonym = self._pseudonym(handover.study_uid)
            if self._journal.queue(cursor, handover, pseudonym):
                log.info(
                    "study queued",
                    extra={
                        "study": pseudonym,
                        "generation": handover.generation,
                        "instances": len(handover.instances),
                        "complete_by": handover.complete_by,
                        "because": handover.explanation,
                    },
                )

    def _read(self, row: StudyRow) -> float:
        instances = self._instances(row)
        exhausted = row.attempts >= self._max_attempts
        row = self._journal.start(row, self._clock.now())
        desk = self._desk()
        began = time.monotonic()
        try:
            reading = read_without_analysis(desk, row, instances) if exhausted else read_study(desk, row, instances)
        except (StorageError, MemoryError, DeviceLost):  # the last: this process must end; the attempt counts
            raise
        except Cancelled:
            self._journal.refund_attempt(row.handover_id)
            return 0.0
        except Exception as error:  # the edge: whatever a study does, the next one must be read
            log.error("analysis failed", exc_info=error, extra={"study": row.pseudonym, "attempt": row.attempts})
            return min(row.attempts, 5.0)
        self._commit(row, reading, exhausted, time.monotonic() - began)
        return 0.0

    def _instances(self, row: StudyRow) -> tuple[StoredInstance, ...]:
        found = dict(self._intake.handovers_after(row.cursor - 1, limit=1)).get(row.cursor)
        if found is None or found.id != row.handover_id:
            raise StorageError(
                f"intake.db has no hand-over {row.cursor} any more",
                remedy="It was restored from an older copy: push the study again.",
            )
        return found.instances

    def _commit(self, row: StudyRow, reading: Reading, failed: bool, seconds: float) -> None:
        done = self._journal.commit_answers(row, reading.body, reading.answers, reading.objects, self._destinations)
        if not done:
            log.info("study was superseded while it was read", extra={"study": row.pseudonym})
            return
        if failed:
            self._journal.tell(EventBody(kind="study_failed", subject=row.pseudonym[:32], code=Reason.FAILED.value))
        self._bells.ring("courier")
        log.info(
            "study answered",
            extra={
                "study": row.pseudonym,
                "result": str(reading.body.result_id),
                "revision": reading.body.revision,
                "seconds": round(seconds, 3),
                "timings_s": {key: round(value, 3) for key, value in reading.timings_s.items()},
                "answers": {a.cancer.value: a.verdict.value for a in reading.answers if a.mode.value != "silent"},
            },
        )
