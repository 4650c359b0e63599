"""Storage Commitment Push Model as SCP (PS3.4 J): what is asked for, what is promised, and how that is reported. Pure.

request  N-ACTION: a transaction UID and the instances that the sender wants to delete on its side
promise  an instance is committed where its row is in the ledger, hence its file durable, and its SOP class is the
         one that was named. What was promised stays promised: pruning a finished study later revokes nothing
report   N-EVENT-REPORT: the instances that are committed, and those that are not, each with its reason
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pydicom.dataset import Dataset

from appliance.intake.control import RequestRefused, Status, encode, readable
from appliance.intake.uids import is_uid

PUSH_MODEL: Final = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
REQUEST_COMMITMENT: Final = 1
"""Action Type ID (PS3.4 table J.3.1-1)."""
_ALL_COMMITTED, _FAILURES_EXIST = 1, 2
"""Event Type IDs (PS3.4 table J.3.3-1)."""


class Failure(IntEnum):
    """Failure Reason (PS3.3 C.14.1.1)."""

    NO_SUCH_INSTANCE = 0x0112
    CLASS_CONFLICT = 0x0119
    CLASS_NOT_SUPPORTED = 0x0122
    DUPLICATE_TRANSACTION = 0x0131


@dataclass(frozen=True)
class Reference:
    """An instance as the sender names it."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class CommitmentRequest:
    """An N-ACTION's content."""

    transaction_uid: str
    references: tuple[Reference, ...]

    def digest(self) -> str:
        """The same for the same references in any order: a repeat is told from a new request under an old UID."""
        lines = sorted(f"{r.sop_class_uid} {r.sop_instance_uid}" for r in self.references)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class Held:
    """A durable instance: its SOP class and study."""

    sop_class_uid: str
    study_uid: str


@dataclass(frozen=True)
class Judged:
    """What became of a reference. failure: None where it is committed. study_uid: "" where nothing tells it."""

    reference: Reference
    failure: Failure | None
    study_uid: str


@dataclass(frozen=True)
class Owed:
    """A report that a sender has not taken yet. attempts: calls that failed so far."""

    id: int
    transaction_uid: str
    sender: str
    address: str
    attempts: int = 0


@dataclass(frozen=True)
class CommitmentReport:
    """What a report says."""

    transaction_uid: str
    judged: tuple[Judged, ...]

    @property
    def failed(self) -> int:
        """How many references are not committed."""
        return sum(one.failure is not None for one in self.judged)


def read_request(dataset: Dataset, most_references: int) -> CommitmentRequest:
    """What an N-ACTION asks for. RequestRefused where it is not what PS3.4 table J.3.2-1 says, or too much."""
    with readable():
        transaction = _uid(dataset.get("TransactionUID"), "Transaction UID")
        items = dataset.get("ReferencedSOPSequence")
        if not items:
            raise RequestRefused(Status.NO_SUCH_ARGUMENT, "a commitment request without Referenced SOP Sequence")
        if len(items) > most_references:
            raise RequestRefused(
                Status.RESOURCE_LIMITATION,
                f"a commitment request for {len(items)} instances; {most_references} are taken",
                remedy="Have the sender ask for less at a time, or raise receiver.commitment.max_references.",
            )
        references = {
            Reference(
                _uid(item.get("ReferencedSOPClassUID"), "Referenced SOP Class UID"),
                _uid(item.get("ReferencedSOPInstanceUID"), "Referenced SOP Instance UID"),
            ): None
            for item in items
        }
    return CommitmentRequest(transaction, tuple(references))


def judge(
    references: Sequence[Reference], held: Mapping[str, Collection[Held]], supported: Container[str]
) -> tuple[Judged, ...]:
    """Which references are committed. held: durable instances by SOP Instance UID. supported: SOP classes we take.

    Missing instances are taken to belong to the study of the others, if that is one.
    """
    studies = Counter(one.study_uid for r in references for one in held.get(r.sop_instance_uid, ()))
    common = next(iter(studies)) if len(studies) == 1 else ""
    return tuple(_judge(r, held.get(r.sop_instance_uid, ()), supported, common) for r in references)


def _judge(reference: Reference, held: Collection[Held], supported: Container[str], common: str) -> Judged:
    for one in held:
        if one.sop_class_uid == reference.sop_class_uid:
            return Judged(reference, None, one.study_uid)
    if held:
        return Judged(reference, Failure.CLASS_CONFLICT, next(iter(held)).study_uid)
    if reference.sop_class_uid not in supported:
        return Judged(reference, Failure.CLASS_NOT_SUPPORTED, "")  # will never be here: nothing to wait for
    return Judged(reference, Failure.NO_SUCH_INSTANCE, common)


def event_type(report: CommitmentReport) -> int:
    """Event Type ID of a report."""
    return _FAILURES_EXIST if report.failed else _ALL_COMMITTED


def event_information(report: CommitmentReport) -> Dataset:
    """The data set of a report (PS3.4 table J.3.3-1)."""
    dataset = Dataset()
    dataset.TransactionUID = report.transaction_uid
    committed = [_item(one) for one in report.judged if one.failure is None]
    failed = [_item(one) for one in report.judged if one.failure is not None]
    if failed:
        dataset.FailedSOPSequence = failed
    if committed:
        dataset.ReferencedSOPSequence = committed
    return dataset


def encoded_report(report: CommitmentReport, transfer_syntax: str) -> bytes:
    """`event_information` as it travels."""
    return encode(event_information(report), transfer_syntax)


def _item(judged: Judged) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = judged.reference.sop_class_uid
    item.ReferencedSOPInstanceUID = judged.reference.sop_instance_uid
    if judged.failure is not None:
        item.FailureReason = int(judged.failure)
    return item


def _uid(value: object, name: str) -> str:
    text = str(value or "")
    if not text:
        raise RequestRefused(Status.NO_SUCH_ARGUMENT, f"a commitment request without {name}")
    if not is_uid(text):
        raise RequestRefused(Status.INVALID_ARGUMENT, f"a commitment request whose {name} is no UID")
    return text
