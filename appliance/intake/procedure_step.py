"""Modality Performed Procedure Step as SCP (PS3.4 F): a scanner says what it is doing, and what it made.

Nothing is kept of a step but its state, its studies and the instances that it lists: no patient, no operator.

    N-CREATE IN PROGRESS   the study is not complete, whatever its slices look like, until quiet says so
    N-SET COMPLETED        with the instances made: all here, and the study is complete at once
    N-SET DISCONTINUED     is told in the explanation; nothing is waited for

What may follow what is the table below; an answer out of turn is one of the statuses of PS3.4 F.7.2.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

from pydicom.dataset import Dataset

from appliance.intake.control import Asker, RequestRefused, Status, decode, readable
from appliance.intake.uids import is_uid
from appliance.intake.wire.acceptor import Context
from appliance.intake.wire.messages import (
    AFFECTED_SOP_INSTANCE,
    N_CREATE_RQ,
    N_SET_RQ,
    REQUESTED_SOP_INSTANCE,
    Message,
)
from appliance.ports import Clock

log = logging.getLogger(__name__)

PROCEDURE_STEP: Final = "1.2.840.10008.3.1.2.3.3"


class StepState(Enum):
    """Performed Procedure Step Status (0040,0252)."""

    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"


class Operation(Enum):
    """What a scanner does to a step."""

    CREATE = "N-CREATE"
    SET = "N-SET"


_IN, _OUT, _CUT = StepState.IN_PROGRESS, StepState.COMPLETED, StepState.DISCONTINUED
TABLE: Mapping[tuple[StepState | None, Operation, StepState | None], StepState | Status] = {
    # the step is   | what comes       | with status | what follows
    (None, Operation.CREATE, _IN): _IN,
    (None, Operation.CREATE, _OUT): Status.INVALID_ATTRIBUTE,
    (None, Operation.CREATE, _CUT): Status.INVALID_ATTRIBUTE,
    (None, Operation.CREATE, None): Status.MISSING_ATTRIBUTE,
    (None, Operation.SET, _IN): Status.NO_SUCH_INSTANCE,
    (None, Operation.SET, _OUT): Status.NO_SUCH_INSTANCE,
    (None, Operation.SET, _CUT): Status.NO_SUCH_INSTANCE,
    (None, Operation.SET, None): Status.NO_SUCH_INSTANCE,
    (_IN, Operation.CREATE, _IN): Status.DUPLICATE_INSTANCE,
    (_IN, Operation.CREATE, _OUT): Status.DUPLICATE_INSTANCE,
    (_IN, Operation.CREATE, _CUT): Status.DUPLICATE_INSTANCE,
    (_IN, Operation.CREATE, None): Status.DUPLICATE_INSTANCE,
    (_IN, Operation.SET, _IN): _IN,
    (_IN, Operation.SET, _OUT): _OUT,
    (_IN, Operation.SET, _CUT): _CUT,
    (_IN, Operation.SET, None): _IN,
    (_OUT, Operation.CREATE, _IN): Status.DUPLICATE_INSTANCE,
    (_OUT, Operation.CREATE, _OUT): Status.DUPLICATE_INSTANCE,
    (_OUT, Operation.CREATE, _CUT): Status.DUPLICATE_INSTANCE,
    (_OUT, Operation.CREATE, None): Status.DUPLICATE_INSTANCE,
    (_OUT, Operation.SET, _IN): Status.PROCESSING_FAILURE,
    (_OUT, Operation.SET, _OUT): Status.PROCESSING_FAILURE,
    (_OUT, Operation.SET, _CUT): Status.PROCESSING_FAILURE,
    (_OUT, Operation.SET, None): Status.PROCESSING_FAILURE,
    (_CUT, Operation.CREATE, _IN): Status.DUPLICATE_INSTANCE,
    (_CUT, Operation.CREATE, _OUT): Status.DUPLICATE_INSTANCE,
    (_CUT, Operation.CREATE, _CUT): Status.DUPLICATE_INSTANCE,
    (_CUT, Operation.CREATE, None): Status.DUPLICATE_INSTANCE,
    (_CUT, Operation.SET, _IN): Status.PROCESSING_FAILURE,
    (_CUT, Operation.SET, _OUT): Status.PROCESSING_FAILURE,
    (_CUT, Operation.SET, _CUT): Status.PROCESSING_FAILURE,
    (_CUT, Operation.SET, None): Status.PROCESSING_FAILURE,
}
_WORDS: Mapping[Status, str] = {
    Status.INVALID_ATTRIBUTE: "a procedure step that does not begin as IN PROGRESS",
    Status.MISSING_ATTRIBUTE: "a procedure step without status",
    Status.NO_SUCH_INSTANCE: "no such procedure step",
    Status.DUPLICATE_INSTANCE: "this procedure step is known already",
    Status.PROCESSING_FAILURE: "the procedure step may no longer be updated",  # PS3.4 table F.7.2-2
}


def after(state: StepState | None, operation: Operation, status: StepState | None) -> StepState:
    """The state that follows; RequestRefused with the standard's status where the table has none."""
    follows = TABLE[state, operation, status]
    if isinstance(follows, Status):
        raise RequestRefused(follows, _WORDS[follows])
    return follows


@dataclass(frozen=True)
class Change:
    """What an N-CREATE or N-SET says. None: it does not say.

    studies: Study Instance UIDs of the scheduled steps. instances: SOP Instance UIDs of all performed series, of SOP
    classes that are taken.
    """

    step_uid: str
    operation: Operation
    status: StepState | None
    studies: frozenset[str] | None
    instances: frozenset[str] | None


@dataclass(frozen=True)
class Performed:
    """What the steps of a study say together. completed: instances of completed steps."""

    completed: frozenset[str] = frozenset()
    in_progress: int = 0
    discontinued: int = 0


class StepLedger(Protocol):
    """Where procedure steps are written down. Durable when a call returns; may be called from any thread."""

    def apply(self, change: Change, asker: Asker, at: dt.datetime, most_open: int) -> tuple[StepState, frozenset[str]]:
        """The step's new state and its studies. RequestRefused where the table has none, or the sender has too many
        steps in progress."""

    def performed(self, study_uid: str) -> Performed:
        """What is known of a study's steps."""


class ProcedureSteps:
    """Answers N-CREATE and N-SET. Called from the associations' threads."""

    def __init__(
        self,
        *,
        ledger: StepLedger,
        clock: Clock,
        supported: Collection[str],
        most_references: int,
        most_open: int,
        has_room: Callable[[], bool],
        announced: Callable[[Collection[str]], None],
    ) -> None:
        """supported: SOP classes that are waited for. most_references: instances of a step. most_open: steps in
        progress of one sender. has_room: whether there is disk for more. announced: told the study UIDs of a step."""
        self._ledger, self._clock, self._supported = ledger, clock, frozenset(supported)
        self._most_references, self._most_open = most_references, most_open
        self._has_room, self._announced = has_room, announced

    def request(self, association: Hashable, asker: Asker, message: Message, context: Context) -> None:
        """Returns when the change is durable; RequestRefused or StorageError where it is not."""
        operation = {N_CREATE_RQ: Operation.CREATE, N_SET_RQ: Operation.SET}.get(message.command)
        if operation is None:
            raise RequestRefused(Status.UNRECOGNISED_OPERATION, "procedure steps know N-CREATE and N-SET only")
        if not self._has_room():
            raise RequestRefused(Status.RESOURCE_LIMITATION, "no room for more")
        uid = message.uid(AFFECTED_SOP_INSTANCE if operation is Operation.CREATE else REQUESTED_SOP_INSTANCE)
        if not is_uid(uid):
            raise RequestRefused(Status.INVALID_INSTANCE, "a procedure step without a SOP Instance UID")
        change = read_change(
            uid, operation, decode(message, context.transfer_syntax), self._supported, self._most_references
        )
        state, studies = self._ledger.apply(change, asker, self._clock.now(), self._most_open)
        log.info(
            "procedure step %s",
            state.value.lower(),
            extra={"sender": asker.ae_title, "instances": len(change.instances or ())},
        )
        self._announced(studies)


def read_change(
    step_uid: str, operation: Operation, dataset: Dataset, supported: Collection[str], most_references: int
) -> Change:
    """What a data set says of a step. RequestRefused where it is not what PS3.4 table F.7.2-1 says, or too much."""
    with readable():
        status = _status(dataset)
        studies = None
        if operation is Operation.CREATE:
            steps = dataset.get("ScheduledStepAttributesSequence") or ()
            studies = frozenset(_uid(item.get("StudyInstanceUID"), "Study Instance UID") for item in steps)
            if not studies:
                raise RequestRefused(Status.MISSING_ATTRIBUTE, "a procedure step without Scheduled Step Attributes")
        instances = None
        if (series := dataset.get("PerformedSeriesSequence")) is not None:
            listed = _listed(series)
            if len(listed) > most_references:
                raise RequestRefused(
                    Status.RESOURCE_LIMITATION,
                    f"a procedure step of {len(listed)} instances; {most_references} are taken",
                )
            instances = frozenset(uid for uid, sop_class in listed.items() if sop_class in supported)
    return Change(step_uid, operation, status, studies, instances)


def _status(dataset: Dataset) -> StepState | None:
    text = str(dataset.get("PerformedProcedureStepStatus") or "").strip()
    if not text:
        return None
    try:
        return StepState(text)
    except ValueError:
        raise RequestRefused(Status.INVALID_ATTRIBUTE, "a status that procedure steps don't have") from None


def _listed(series: Collection[Any]) -> dict[str, str]:
    """SOP class by SOP Instance UID of all instances of these series."""
    return {
        _uid(item.get("ReferencedSOPInstanceUID"), "Referenced SOP Instance UID"): _uid(
            item.get("ReferencedSOPClassUID"), "Referenced SOP Class UID"
        )
        for one in series
        for sequence in ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence")
        for item in one.get(sequence) or ()
    }


def _uid(value: object, name: str) -> str:
    text = str(value or "")
    if not text:
        raise RequestRefused(Status.MISSING_ATTRIBUTE, f"a procedure step without {name}")
    if not is_uid(text):
        raise RequestRefused(Status.INVALID_ATTRIBUTE, f"a procedure step whose {name} is no UID")
    return text
