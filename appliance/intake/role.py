"""The receiver role: DICOM service, spool, ledger and assembly together, from `start` to `stop`.

Threads: one listener and one per connection (`wire.gate`), and one here that lets time pass for assembly, hands
complete studies over and prunes finished ones. All state is in the ledger: after a crash, `start` goes on from there.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Callable, Collection, Hashable, Sequence
from pathlib import Path

from appliance.intake.assembly import Assembly, Complete, Waiting
from appliance.intake.control_services import CommitmentService, ControlServices, StepService
from appliance.intake.door import Door
from appliance.intake.ledger import IntakeLedger
from appliance.intake.pacing import Pace, PaceBook, Sender
from appliance.intake.receiver import SOP_CLASSES, TRANSFER_SYNTAXES, Receiver
from appliance.intake.recovery import recover
from appliance.intake.reserve import Interrupted
from appliance.intake.senders import Senders
from appliance.intake.side_doors import SideDoors, SideDoorSettings
from appliance.intake.spool import Spool, prunable
from appliance.intake.storing import Storing
from appliance.intake.wire.bounds import Limits
from appliance.intake.wire.gate import Listener
from appliance.intake.wire.messages import CONTROL_LIMIT
from appliance.ports import Clock, Doorbell
from appliance.worker import Worker
from core.errors import OneScanError, StorageError

log = logging.getLogger(__name__)

_LOOK_S = 5.0  # how often the thread looks without being woken
_FLUSH_S = 1.0  # the same while something is coming in
_PRUNE_S = 60.0
_REFILL_S, _REFILL_AFTER_ERROR_S = 30.0, 600.0
_HEADROOM = 1.25  # pruning for room aims at this many times the watermark


class ReceiverRole:
    """Receives studies and hands them over. Plain values in; `port` is known after `start`."""

    def __init__(
        self,
        *,
        listeners: Sequence[Listener],
        ae_title: str,
        calling_ae_titles: Sequence[str],
        limits: Limits,
        spool: Path,
        ledger: IntakeLedger,
        quiet_seconds: float | None,
        min_free_bytes: int,
        clock: Clock,
        doorbell: Doorbell,
        pseudonym: Callable[[str], str],
        max_dataset_bytes: int = 2 << 30,
        max_request_bytes: int = CONTROL_LIMIT,
        reserve_bytes: int = 0,
        keep_studies: dt.timedelta = dt.timedelta(days=30),
        finished: Callable[[], Collection[str]] = frozenset,
        duplicate_content: Callable[[str], None] = lambda study: None,
        senders_file: Path | None = None,
        paces: PaceBook | None = None,
        commitment: CommitmentService | None = None,
        steps: StepService | None = None,
        side_doors: SideDoorSettings | None = None,
    ) -> None:
        """finished: ids of hand-overs that are delivered or superseded (only their studies may be pruned).

        pseudonym: of a study UID, for log lines. duplicate_content: called with the pseudonym of a study in which
        another content came under a known SOP Instance UID (also in the ledger's reports). senders_file: where to
        write what is known of the senders (`senders.py`). quiet_seconds: None where it is to be learned. paces: where
        what is learned of the senders' gaps is kept. max_request_bytes: of a data set that is not stored.
        reserve_bytes: of the spool, written ahead (`reserve.py`). commitment, steps: None where storage commitment or
        MPPS is not offered. side_doors: ways in beside the DICOM port.
        """
        self._spool = Spool(spool, reserve_bytes)
        self._ledger, self._clock, self._doorbell, self._pseudonym = ledger, clock, doorbell, pseudonym
        self._min_free_bytes, self._keep_studies, self._finished = min_free_bytes, keep_studies, finished
        self._paces = paces
        self._assembly = Assembly(quiet_seconds, paces.paces() if paces else None)
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._next_prune = self._next_fill = float("-inf")
        storing = Storing(
            spool=self._spool,
            ledger=ledger,
            assembly=self._assembly,
            lock=self._lock,
            clock=clock,
            min_free_bytes=min_free_bytes,
            pseudonym=pseudonym,
            duplicate_content=duplicate_content,
            began=self._began,
        )
        self._senders, self._senders_file = Senders(clock.now), senders_file
        self._control = ControlServices(
            commitment,
            steps,
            clock=clock,
            has_room=self._has_room,
            settle=ledger.flush,
            announced=self._announced,
            given_up=lambda sender: ledger.report("delivery_stalled", "", sender, clock.now()),
        )
        self._receiver = Receiver(
            listeners=listeners,
            ae_title=ae_title,
            calling_ae_titles=calling_ae_titles,
            limits=limits,
            max_dataset_bytes=max_dataset_bytes,
            max_request_bytes=max_request_bytes,
            senders=self._senders,
            has_room=self._has_room,
            store=storing.store,
            commitments=self._control.commitments,
            steps=self._control.steps,
            opened=self._association_opened,
            closed=self._association_closed,
        )
        door = Door(
            store=storing.store,
            opened=self._association_opened,
            closed=self._association_closed,
            knows=self._knows,
            has_room=self._has_room,
            senders=self._senders,
            sop_classes=SOP_CLASSES,
            transfer_syntaxes=TRANSFER_SYNTAXES,
        )
        self._side_doors = SideDoors(side_doors or SideDoorSettings(), door, clock, max_dataset_bytes)
        self._worker = Worker("assembly", self._step, self._wake)

    @property
    def ports(self) -> tuple[int, ...]:
        """The TCP ports that are listened on, in the order of the listeners."""
        return self._receiver.ports

    @property
    def stow_port(self) -> int | None:
        """The TCP port of STOW-RS; None where it is not listened for."""
        return self._side_doors.stow.port if self._side_doors.stow is not None else None

    @property
    def alive(self) -> bool:
        """True while both the service and the assembly thread work: what a watchdog asks."""
        parts = (self._worker, self._receiver, self._control, self._side_doors)
        return all(part.alive for part in parts) and not self._worker.stopping

    def start(self) -> None:
        """Take up the studies that were being received, then listen."""
        recovered = recover(self._spool, self._ledger)
        now = self._clock.monotonic()
        open_studies = self._ledger.open_studies()
        for study in open_studies:
            self._assembly.restore(study.study_uid, study.facts, now, study.pruned)
            self._announce(study.study_uid)
        self._receiver.start()
        self._worker.start()
        self._control.start()
        self._side_doors.start()
        log.info(
            "receiving on port %s; %d studies taken up again, %d instances told again by the spool",
            *(" and ".join(map(str, self.ports)), len(open_studies), recovered),
        )

    def stop(self) -> None:
        """Finish the instances in flight, end the associations, stop the thread. The ledger stays open."""
        self._receiver.stop()
        self._side_doors.stop()
        self._control.stop()
        self._worker.stop()
        self._flush()
        self._spool.close()
        self._write_senders()

    def _knows(self, sop_instance_uid: str, sha256: str) -> bool:
        contents = self._ledger.contents_of(sop_instance_uid)
        return any(known.sha256 == sha256 and not known.pruned for known in contents)

    def _has_room(self) -> bool:
        return self._spool.free_bytes(at_least=self._min_free_bytes) >= self._min_free_bytes

    def _began(self, study_uid: str) -> None:
        self._announce(study_uid)
        self._doorbell.ring("analyser")
        self._wake.set()

    def _announced(self, study_uids: Collection[str]) -> None:
        """Somebody said what belongs to these studies."""
        with self._lock:
            for study_uid in study_uids:
                self._announce(study_uid)
        self._wake.set()

    def _announce(self, study_uid: str) -> None:
        if self._assembly.knows(study_uid):
            self._assembly.announced(study_uid, self._control.announcement(study_uid))

    def _association_opened(self, association: Hashable, sender: str, address: str) -> None:
        with self._lock:
            self._assembly.association_opened(association, sender, address)

    def _association_closed(self, association: Hashable, released: bool) -> None:
        with self._lock:
            self._assembly.association_closed(association, released, self._clock.monotonic())
        self._wake.set()

    def _step(self) -> float:
        """Decide what can be decided; returns the seconds until time alone can decide something more."""
        behind = self._flush()
        with self._lock:
            for decision in self._assembly.tick(self._clock.monotonic()):
                if isinstance(decision, Complete):
                    self._hand_over(decision)
                else:
                    self._note(decision)
            now, deadline = self._clock.monotonic(), self._assembly.next_deadline()
            learned = self._assembly.pacing.changed()
        self._keep_paces(learned)
        self._write_senders()
        if now >= self._next_prune:
            self._next_prune = now + _PRUNE_S
            self._prune()
        if self._fill_reserve():
            return 0.0
        soon = _FLUSH_S if behind else _LOOK_S
        return soon if deadline is None else min(soon, max(0.01, deadline - now))

    def _flush(self) -> int:
        try:
            return self._ledger.flush()
        except StorageError as error:  # nothing is lost by it: the spool has them
            log.warning("the ledger is behind: %s; %s", error, error.remedy())
            return 1

    def _fill_reserve(self) -> bool:
        now = self._clock.monotonic()
        if self._busy() or now < self._next_fill:
            return False
        try:
            return self._spool.fill_reserve(2 * self._min_free_bytes, self._busy)
        except Interrupted:  # by somebody who asks every second, say: the disk must not write zeros without end
            self._next_fill = now + _REFILL_S
        except StorageError as error:  # what comes is appended to new files then
            self._next_fill = now + _REFILL_AFTER_ERROR_S
            log.warning("the spool's reserve could not be written: %s; %s", error, error.remedy())
        return False

    def _busy(self) -> bool:
        """Whether somebody is connected, or a study is coming in."""
        return self._receiver.connected or self._assembly.studies > 0 or self._worker.stopping

    def _keep_paces(self, learned: Sequence[tuple[Sender, Pace]]) -> None:
        if self._paces is None:
            return
        for sender, pace in learned:
            try:
                self._paces.keep(sender, pace)
            except OneScanError as error:  # what was learned is a convenience: no study waits for it
                log.warning("what was learned of a sender could not be kept: %s", error)

    def _write_senders(self) -> None:
        if self._senders_file is not None:
            try:
                self._senders.owe(self._control.owed())
                self._senders.write(self._senders_file)
            except OneScanError as error:  # a full disk must not keep studies from being handed over
                log.warning("what is known of the senders could not be written: %s", error)

    def _hand_over(self, decision: Complete) -> None:
        handover = self._ledger.hand_over(decision.study_uid, decision.by, decision.explanation, self._clock.now())
        self._assembly.forget(decision.study_uid)  # only now: if that failed, it is tried again at the next look
        study = self._pseudonym(decision.study_uid)
        if handover is None:
            log.info("study complete, nothing new in it", extra={"study": study, "complete_by": decision.by})
            return
        log.info(
            "study complete: %s",
            decision.explanation,
            extra={
                "study": study,
                "complete_by": decision.by,
                "generation": handover.generation,
                "instances": len(handover.instances),
            },
        )
        self._doorbell.ring("analyser")

    def _note(self, decision: Waiting) -> None:
        self._ledger.note(decision.study_uid, decision.explanation)

    def _prune(self) -> None:
        """Remove finished studies that are old, or that stand in the way of new ones."""
        wanted = int(_HEADROOM * self._min_free_bytes)
        wanted -= self._spool.free_bytes(at_least=wanted)
        studies = self._ledger.spooled()
        older_than = self._clock.now() - self._keep_studies
        if wanted <= 0 and not any(s.last_at < older_than for s in studies):
            return
        for study in prunable(studies, self._finished(), older_than, wanted):
            with self._lock:
                if not self._assembly.knows(study.study_uid):  # it was reopened a moment ago
                    self._spool.remove(self._ledger.mark_pruned(study.study_uid, self._clock.now()))
            log.info("finished study pruned", extra={"study": self._pseudonym(study.study_uid), "bytes": study.bytes})
