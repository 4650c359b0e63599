"""The analyser's loop: take over hand-overs, read one study after the other, commit what came out.

A study is tried `max_attempts` times, a crash of the process counts; then it is answered as failed, visibly. A full
disk or a stop is not the study's fault and does not count. What reads (`appliance.reading`) is made when the first
slices of a study are here; while the others arrive it opens its model, and reads those ahead that are here, one a step,
so that nothing waits for them.

Reading ahead is no attempt, and must cost no study: it is noted in the journal before the first image is decoded, and
the note taken back when it is over. A note that a process finds there says that one before it was ended meanwhile, by a
decoder perhaps: that study is read after its hand-over only, where a crash counts.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from appliance.log import about
from appliance.ports import Clock, Doorbell, StoredInstance
from appliance.storage.intake_reader import IntakeReader
from appliance.storage.journal import Journal, StudyRow
from core.errors import DeviceLost, StorageError
from core.finding import Reason
from core.wire import EventBody

if TYPE_CHECKING:
    from appliance.pipeline import Reading
    from appliance.reading import StudyReader

log = logging.getLogger(__name__)

STORAGE_PAUSE_S = 5.0
ARRIVING = dt.timedelta(minutes=1)  # a study whose last slice is older is not on its way
ABANDONED = dt.timedelta(minutes=15)  # and here nobody waits for it any more
PREPARE_AGAIN_S = 5.0
LOOK_AGAIN_S = 0.5  # for slices of a study that is on its way: the receiver writes their rows a second late


class Analyser:
    """One step reads at most one study."""

    def __init__(
        self,
        journal: Journal,
        intake: IntakeReader,
        reader: Callable[[], StudyReader],
        pseudonym: Callable[[str], str],
        clock: Clock,
        bells: Doorbell,
        destinations: Sequence[str],
        max_attempts: int,
    ) -> None:
        self._journal = journal
        self._intake = intake
        self._make_reader = reader
        self._reader: StudyReader | None = None
        self._pseudonym = pseudonym
        self._clock = clock
        self._bells = bells
        self._destinations = destinations
        self._max_attempts = max_attempts
        self._prepared = float("-inf")
        self._coming: deque[StoredInstance] = deque()
        self._of, self._looked_up_to = "", 0  # study UID, id of its last instance that was put there
        self._noted = False  # whether the journal has it that `_of` is being read ahead

    def step(self) -> float:
        """Read the next study if there is one; returns the seconds that it is content to wait."""
        self.take_over()
        row = self._journal.next()
        if row is None:
            return self._read_ahead()
        self._forget_coming()
        try:
            with about(row.pseudonym):
                return self._read(row)
        except StorageError as error:
            self._journal.refund_attempt(row.handover_id)
            log.error("study waits: nothing can be written", exc_info=error, extra={"study": row.pseudonym})
            return STORAGE_PAUSE_S

    @property
    def reader(self) -> StudyReader:
        """What reads studies, made when it is first asked for."""
        if self._reader is None:
            self._reader = self._make_reader()
        return self._reader

    def stop(self) -> None:
        """Nothing more is read ahead: a clean stop is no reason to leave a study's images for later."""
        self._forget_coming()

    def rest(self) -> bool:
        """Let go of the model after long idleness; True if that was done just now."""
        return self._reader is not None and self._reader.rest()

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

    def _read_ahead(self) -> float:
        """Of a study that is on its way: its model, and at most one image."""
        if not self._coming:
            now = self._clock.now()
            study_uid = self._intake.oldest_arriving(since=now - ARRIVING)
            if study_uid is None:
                if self._of and not self._intake.arriving(since=now - ABANDONED):
                    self.reader.early.forget()
                    self._forget_coming()
                return float("inf")
            self._prepare()
            if study_uid != self._of:
                self._turn_to(study_uid)
            self._look_for_more()
        if not self._coming:
            return LOOK_AGAIN_S
        self.reader.early.take(self._of, self._coming.popleft())
        return 0.0

    def _prepare(self) -> None:
        if self._clock.monotonic() - self._prepared >= PREPARE_AGAIN_S:
            self.reader.prepare()
            self._prepared = self._clock.monotonic()

    def _turn_to(self, study_uid: str) -> None:
        """Read this study ahead from now on, unless that has ended a process before."""
        self._forget_coming()
        self._of = study_uid
        try:
            self._noted = self._journal.begin_reading_ahead(study_uid, self._clock.now())
        except StorageError as error:
            log.warning("a study is not read ahead: it can't be noted", exc_info=error)
            return
        if not self._noted:
            log.warning(
                "a study is not read ahead: the analyser was ended while it did that before",
                extra={"study": self._pseudonym(study_uid)},
            )

    def _look_for_more(self) -> None:
        if not self._noted:
            return
        for number, instance in self._intake.arrived(self._of, self._looked_up_to):
            self._coming.append(instance)
            self._looked_up_to = number

    def _forget_coming(self) -> None:
        self._coming.clear()
        of, noted = self._of, self._noted
        self._of, self._looked_up_to, self._noted = "", 0, False
        if noted:
            self._end_note(of)

    def _end_note(self, study_uid: str) -> None:
        try:
            self._journal.end_reading_ahead(study_uid)
        except StorageError as error:  # it costs the time that reading ahead saves, nothing else
            log.warning("a study may not be read ahead again: its note can't be taken back", exc_info=error)

    def _read(self, row: StudyRow) -> float:
        instances = self._instances(row)
        exhausted = row.attempts >= self._max_attempts
        row = self._journal.start(row, self._clock.now())
        began = time.monotonic()
        try:
            reading = self.reader.give_up(row, instances) if exhausted else self.reader.read(row, instances)
        except (StorageError, MemoryError, DeviceLost):  # the last: this process must end; the attempt counts
            raise
        except Exception as error:  # the edge: whatever a study does, the next one must be read
            log.error("analysis failed", exc_info=error, extra={"study": row.pseudonym, "attempt": row.attempts})
            return min(row.attempts, 5.0)
        if reading is None:
            self._journal.refund_attempt(row.handover_id)
            return 0.0
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
        done = self._journal.commit_answers(
            row, reading.body, reading.answers, reading.objects, self._destinations, reading.read_in
        )
        self._end_note(row.study_uid)
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
