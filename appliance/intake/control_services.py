"""What senders may ask besides storing: Storage Commitment and MPPS, put together, from `start` to `stop`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from appliance.intake.announcement import Announcement
from appliance.intake.commitments import Caller, CommitmentLedger, Commitments, Patience
from appliance.intake.procedure_step import Performed, ProcedureSteps, StepLedger
from appliance.intake.receiver import SOP_CLASSES
from appliance.ports import Clock
from appliance.worker import Worker


@dataclass(frozen=True)
class CommitmentService:
    """Storage Commitment as SCP. most_references: of one request. most_owed: reports to one sender at a time."""

    ledger: CommitmentLedger
    caller: Caller
    most_references: int = 20_000
    most_owed: int = 1000
    patience: Patience = Patience()  # noqa: RUF009  # frozen


@dataclass(frozen=True)
class StepService:
    """MPPS as SCP. most_references: instances of one step. most_open: steps in progress of one sender."""

    ledger: StepLedger
    most_references: int = 20_000
    most_open: int = 1000


class ControlServices:
    """The services that are offered; None for one that is not."""

    def __init__(
        self,
        commitment: CommitmentService | None,
        steps: StepService | None,
        *,
        clock: Clock,
        has_room: Callable[[], bool],
        settle: Callable[[], object],
        announced: Callable[[Collection[str]], None],
        given_up: Callable[[str], None],
    ) -> None:
        """has_room: whether there is disk for more. announced: told of which studies something was said. given_up: told
        the AE title of who took no report of a commitment."""
        self._commitment, self._steps = commitment, steps
        self.commitments = self.steps = self._reporter = None
        if commitment is not None:
            self.commitments = Commitments(
                ledger=commitment.ledger,
                caller=commitment.caller,
                clock=clock,
                supported=SOP_CLASSES,
                most_references=commitment.most_references,
                most_owed=commitment.most_owed,
                has_room=has_room,
                settle=settle,
                announced=announced,
                given_up=given_up,
                patience=commitment.patience,
            )
            self._reporter = Worker("commitments", self.commitments.step, self.commitments.owes)
        if steps is not None:
            self.steps = ProcedureSteps(
                ledger=steps.ledger,
                clock=clock,
                supported=SOP_CLASSES,
                most_references=steps.most_references,
                most_open=steps.most_open,
                has_room=has_room,
                announced=announced,
            )

    @property
    def alive(self) -> bool:
        """True while reports are sent, where they are offered."""
        return self._reporter is None or self._reporter.alive

    def start(self) -> None:
        """Begin to send reports."""
        if self._reporter is not None:
            self._reporter.start()

    def stop(self) -> None:
        """End after the report that is being sent."""
        if self._reporter is not None:
            self._reporter.stop()

    def announcement(self, study_uid: str) -> Announcement:
        """What was said of a study so far."""
        requested = self._commitment.ledger.requested(study_uid) if self._commitment else frozenset()
        steps = self._steps.ledger.performed(study_uid) if self._steps else Performed()
        return Announcement(requested, steps.completed, steps.in_progress, steps.discontinued)

    def owed(self) -> dict[tuple[str, str], tuple[int, str]]:
        """Reports that are owed: by AE title and address how many, and what stood in the way of one."""
        return dict(self._commitment.ledger.owed()) if self._commitment else {}
