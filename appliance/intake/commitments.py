"""The queue of storage commitments: what was asked is written down before the success, and told until it is heard.

    1. judged and in the ledger   in one transaction; only then does N-ACTION get its success
    2. same association           as soon as the sender pauses on it, or on its next one from the same address
    3. an association of ours     to the sender's address, if the configuration has it; again and again, later and later
    4. given up                   after `Patience.report_for`: an error in the log and a report for the central team

A crash at any point repeats a report at most: a sender that had it already gets the same again.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from appliance.intake.commitment import (
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    REQUEST_COMMITMENT,
    CommitmentReport,
    CommitmentRequest,
    Owed,
    read_request,
)
from appliance.intake.control import Asker, RequestRefused, Status, decode
from appliance.intake.wire.acceptor import Context
from appliance.intake.wire.messages import ACTION_TYPE, N_ACTION_RQ, REQUESTED_SOP_INSTANCE, Message
from appliance.intake.wire.pdus import UNEXPECTED_PDU, PeerFault
from appliance.ports import Clock
from core.errors import DeliveryError

log = logging.getLogger(__name__)
_LOOK_S = 5.0
_BATCH = 50
_ROOM = "See `onescan-appliance status`; the sender keeps its images meanwhile."
_OWED = "The sender takes none of its reports: check receiver.commitment.peers, then the sender."


class CommitmentLedger(Protocol):
    """Where commitments are written down. Durable when a call returns; may be called from any thread."""

    def add(
        self, request: CommitmentRequest, asker: Asker, supported: Container[str], at: dt.datetime, due: dt.datetime
    ) -> tuple[Owed, CommitmentReport]:
        """Judge a request by the instances that are durable at this moment, and owe its report from now on.

        The same request under the same transaction UID takes the place of the earlier one; another request under a
        transaction UID whose report is still owed fails as a duplicate. due: when to call the sender.
        """

    def report(self, owed: Owed) -> CommitmentReport | None:
        """What is to be reported; None where it was meanwhile, or another request took its place."""

    def owed_to(self, asker: Asker, limit: int) -> Sequence[Owed]:
        """Reports that this sender, from this address, has not taken, oldest first."""

    def due(self, now: dt.datetime, limit: int) -> Sequence[Owed]:
        """Reports to call a sender for, oldest first."""

    def next_due(self) -> dt.datetime | None:
        """When the next report is due; None where none is owed."""

    def delivered(self, owed: Owed, at: dt.datetime) -> None:
        """The sender took it."""

    def postponed(self, owed: Owed, why: str, until: dt.datetime) -> None:
        """It did not: count the attempt, try again from `until` on."""

    def owed(self) -> Mapping[tuple[str, str], tuple[int, str]]:
        """Reports that are owed: by AE title and address how many, and what stood in the way of one."""

    def requested(self, study_uid: str) -> frozenset[str]:
        """SOP Instance UIDs of a study that senders asked commitment for, lately."""

    def give_up(self, before: dt.datetime, at: dt.datetime) -> Sequence[Owed]:
        """Owe no longer what was asked for before then; what it was."""


class Caller(Protocol):
    """Opens an association to a sender and hands a report over."""

    def knows(self, ae_title: str) -> bool:
        """Whether the configuration has an address for it."""

    def report(self, ae_title: str, report: CommitmentReport) -> None:
        """Returns when the sender answered with success; DeliveryError otherwise."""


@dataclass(frozen=True)
class Patience:
    """same_association: how long a report is left to the sender's own association before it is called. first, longest:
    between two calls, doubled from one to the other. report_for: after that the report is given up."""

    same_association: dt.timedelta = dt.timedelta(seconds=3)
    first: dt.timedelta = dt.timedelta(seconds=10)
    longest: dt.timedelta = dt.timedelta(minutes=15)
    report_for: dt.timedelta = dt.timedelta(days=7)

    def after(self, attempts: int) -> dt.timedelta:
        """How long to wait after that many attempts in vain."""
        return min(self.longest, self.first * float(2 ** min(attempts - 1, 30)))


@dataclass
class _Conversation:
    """An association on which reports may be sent, and those that wait for its pause."""

    asker: Asker
    waiting: deque[Owed] = field(default_factory=deque)
    flying: Owed | None = None
    message_id: int = 0


class Commitments:
    """Answers N-ACTION and sends the reports. Called from the associations' threads; `step` from one of its own."""

    def __init__(
        self,
        *,
        ledger: CommitmentLedger,
        caller: Caller,
        clock: Clock,
        supported: Collection[str],
        most_references: int,
        most_owed: int,
        has_room: Callable[[], bool],
        settle: Callable[[], object],
        announced: Callable[[Collection[str]], None],
        given_up: Callable[[str], None],
        patience: Patience = Patience(),  # frozen
    ) -> None:
        """most_owed: reports to one sender at a time; more requests are refused. has_room: whether there is disk for
        more. settle: lets the ledger see what was stored. announced: told the study UIDs of a request's
        instances. given_up: told the AE title of who took none.
        """
        self._ledger, self._caller, self._clock = ledger, caller, clock
        self._supported, self._most_references = frozenset(supported), most_references
        self._most_owed, self._has_room = most_owed, has_room
        self._settle, self._announced, self._given_up, self._patience = settle, announced, given_up, patience
        self._lock = threading.Lock()
        self._conversations: dict[Hashable, _Conversation] = {}
        self._calling: set[int] = set()  # reports that are on their way on an association of ours
        self.owes = threading.Event()
        """Set where a report was added: whoever calls `step` need not wait."""

    # ---- on the sender's associations

    def opened(self, association: Hashable, asker: Asker, contexts: Collection[Context]) -> None:
        """An association was established: what its sender is owed can be told on it."""
        if all(context.sop_class_uid != PUSH_MODEL for context in contexts):
            return
        owed = self._ledger.owed_to(asker, _BATCH)
        with self._lock:
            self._conversations[association] = _Conversation(asker, deque(owed))

    def closed(self, association: Hashable) -> None:
        """An association ended; what it left unanswered is told in another way."""
        with self._lock:
            self._conversations.pop(association, None)
        self.owes.set()

    def request(self, association: Hashable, asker: Asker, message: Message, context: Context) -> None:
        """An N-ACTION. Returns when its transaction is durable; RequestRefused or StorageError where it is not."""
        if message.command != N_ACTION_RQ:
            raise RequestRefused(Status.UNRECOGNISED_OPERATION, "storage commitment knows N-ACTION only")
        if message.uid(REQUESTED_SOP_INSTANCE) != PUSH_MODEL_INSTANCE:
            raise RequestRefused(
                Status.NO_SUCH_INSTANCE, "a commitment request that is not for the well-known instance"
            )
        if message.number(ACTION_TYPE) != REQUEST_COMMITMENT:
            raise RequestRefused(Status.NO_SUCH_ACTION, "storage commitment knows action type 1 only")
        if not self._has_room():
            raise RequestRefused(Status.RESOURCE_LIMITATION, "no room for more", remedy=_ROOM)
        if len(self._ledger.owed_to(asker, self._most_owed)) >= self._most_owed:
            raise RequestRefused(Status.RESOURCE_LIMITATION, "too many reports are owed", remedy=_OWED)
        request = read_request(decode(message, context.transfer_syntax), self._most_references)
        now = self._clock.now()
        self._settle()
        owed, report = self._ledger.add(request, asker, self._supported, now, now + self._patience.same_association)
        with self._lock:
            self._conversations.setdefault(association, _Conversation(asker)).waiting.append(owed)
        log.info(
            "storage commitment asked for",
            extra={"sender": asker.ae_title, "instances": len(report.judged), "not_committed": report.failed},
        )
        self._announced({one.study_uid for one in report.judged if one.study_uid})
        self.owes.set()

    def speaks(self, association: Hashable) -> bool:
        """See `wire.link.Answers`."""
        with self._lock:
            conversation = self._conversations.get(association)
            return conversation is not None and conversation.flying is None and bool(conversation.waiting)

    def next_report(self, association: Hashable) -> tuple[int, CommitmentReport] | None:
        """The report to send on this association now, and the Message ID to send it with."""
        while (owed := self._take(association)) is not None:
            report = self._ledger.report(owed)
            with self._lock:
                conversation = self._conversations[association]
                if report is not None:
                    conversation.message_id = conversation.message_id % 0xFFFF + 1
                    return conversation.message_id, report
                conversation.flying = None
        return None

    def _take(self, association: Hashable) -> Owed | None:
        """Nobody else sends what this returns until the association ends or its peer answers.

        What is on its way elsewhere keeps its place: that way may turn out to lead nowhere.
        """
        with self._lock:
            conversation = self._conversations[association]
            owed = next((one for one in conversation.waiting if not self._is_on_its_way(one)), None)
            if owed is not None:
                conversation.waiting.remove(owed)
                conversation.flying = owed
            return owed

    def answered(self, association: Hashable, message: Message) -> None:
        """The sender's answer to a report. PeerFault where none was sent."""
        with self._lock:
            conversation = self._conversations.get(association)
            owed = conversation.flying if conversation else None
            if conversation is None or owed is None or message.responded_to != conversation.message_id:
                raise PeerFault("an answer to a request that was not made", UNEXPECTED_PDU)
        try:
            if message.status == Status.SUCCESS:
                self._delivered(owed)
            else:
                self._postpone(owed, f"answered with status {message.status:04X}")
        finally:
            with self._lock:
                conversation.flying = None
            self.owes.set()

    # ---- on associations of ours

    def step(self) -> float:
        """Call senders that are owed a report; returns the seconds that it is content to wait."""
        now = self._clock.now()
        for owed in self._ledger.give_up(now - self._patience.report_for, now):
            log.error(
                "a storage commitment's report is given up: the sender took none; check receiver.commitment.peers",
                extra={"sender": owed.sender, "attempts": owed.attempts},
            )
            self._given_up(owed.sender)
        for owed in self._ledger.due(now, _BATCH):
            if self._claim(owed):
                try:
                    self._call(owed)
                finally:
                    with self._lock:
                        self._calling.discard(owed.id)
        due = self._ledger.next_due()
        return _LOOK_S if due is None else min(_LOOK_S, max(0.05, (due - self._clock.now()).total_seconds()))

    def _call(self, owed: Owed) -> None:
        if not self._caller.knows(owed.sender):
            why = f"no address of {owed.sender} is known: add it to receiver.commitment.peers"
            self._postpone(owed, f"{why}; the report waits for its next association")
            return
        report = self._ledger.report(owed)
        if report is None:
            return
        try:
            self._caller.report(owed.sender, report)
        except DeliveryError as error:
            self._postpone(owed, str(error))
        else:
            self._delivered(owed)

    def _claim(self, owed: Owed) -> bool:
        with self._lock:
            free = not self._is_on_its_way(owed)
            if free:
                self._calling.add(owed.id)
            return free

    def _is_on_its_way(self, owed: Owed) -> bool:
        flying = (c.flying.id for c in self._conversations.values() if c.flying is not None)
        return owed.id in self._calling or owed.id in flying

    def _delivered(self, owed: Owed) -> None:
        self._ledger.delivered(owed, self._clock.now())
        log.info("storage commitment reported", extra={"sender": owed.sender, "attempts": owed.attempts + 1})

    def _postpone(self, owed: Owed, why: str) -> None:
        until = self._clock.now() + self._patience.after(owed.attempts + 1)
        self._ledger.postponed(owed, why, until)
        log.warning("storage commitment not reported yet: %s", why, extra={"sender": owed.sender})
