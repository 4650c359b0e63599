"""The journal: what happened to each study after hand-over, and what has to happen because of it.

Every state change goes through the table in `appliance.study`, and is committed in one transaction with the rows it
causes: steps, answers, objects, and the outbox rows for PACS and registry.
"""

from __future__ import annotations

import datetime as dt
import importlib.resources
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from sqlite3 import Row
from types import MappingProxyType

from appliance import study
from appliance.clock import Stamp
from appliance.ports import Handover
from appliance.storage.database import Database, from_iso, iso
from appliance.storage.messages import MessageQueue
from appliance.storage.pacs_queue import PacsQueue
from appliance.storage.shelf import Shelf
from appliance.study import Event, State
from core.finding import Answer, Cancer
from core.wire import EventBody, ResultBody

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class StudyRow:
    """One hand-over as the journal knows it."""

    handover_id: str
    cursor: int
    study_uid: str
    pseudonym: str
    generation: int
    state: State
    complete_by: str
    explanation: str
    instances: int
    received_at: dt.datetime
    complete_at: dt.datetime
    attempts: int
    started_at: dt.datetime | None
    revision: int | None
    supersedes: str | None
    result_id: str | None
    result_seq: int | None
    answered_at: dt.datetime | None
    delivered_at: dt.datetime | None


@dataclass(frozen=True)
class CommittedObject:
    """A result object that is durable on disk; `path` is relative to the state folder."""

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    path: str


class Journal:
    """`journal.db`: studies here; `.messages`, `.pacs` and `.shelf` are the outboxes and the bundles."""

    def __init__(self, path: Path, state: Path, device: str, stamp: Callable[[], Stamp]) -> None:
        """path: the database file. state: folder that object paths are relative to. stamp: the present moment."""
        schema = (importlib.resources.files(__package__) / "schema.sql").read_text()
        self._database = Database(path, schema, SCHEMA_VERSION)
        self._database.run("create_answer_series")
        self._stamp = stamp
        self.messages = MessageQueue(self._database, device, stamp)
        self.pacs = PacsQueue(self._database, state)
        self.shelf = Shelf(self._database, self.messages)

    # ---- the way of a study

    def cursor(self) -> int:
        """Hand-overs up to this rowid of `intake.db` are in the journal."""
        row = self._database.one("last_cursor")
        return int(row["cursor"]) if row else 0

    def queue(self, cursor: int, handover: Handover, pseudonym: str) -> bool:
        """Take over a hand-over; True if it was new. Older generations that are still unanswered are superseded."""
        state = study.after(State.COMPLETE, Event.HANDED_OVER)
        parameters = {
            "handover_id": handover.id,
            "cursor": cursor,
            "study_uid": handover.study_uid,
            "pseudonym": pseudonym,
            "generation": handover.generation,
            "state": state.value,
            "complete_by": handover.complete_by,
            "explanation": handover.explanation,
            "instances": len(handover.instances),
            "received_at": iso(handover.received_at),
            "complete_at": iso(handover.complete_at),
        }
        with self._database.transaction():
            if not self._database.run("queue_study", parameters):
                return False
            self._step(handover.id, Event.HANDED_OVER, state)
            for row in self._database.rows("older_unanswered", parameters):
                self._move(row, Event.NEWER_HANDED_OVER)
        return True

    def next(self) -> StudyRow | None:
        """The study to analyse now: an interrupted one first, then the one that waits longest."""
        row = self._database.one("next_study")
        return _study(row) if row else None

    def start(self, row: StudyRow, at: dt.datetime) -> StudyRow:
        """The analysis starts (again). Fixes, once, the time and revision that the result will carry."""
        state = study.after(row.state, Event.ANALYSIS_STARTED)
        with self._database.transaction():
            before = self._database.one("latest_answered", {"study_uid": row.study_uid})
            self._database.run(
                "start_study",
                {
                    "handover_id": row.handover_id,
                    "state": state.value,
                    "at": iso(at),
                    "revision": before["revision"] + 1 if before else 1,
                    "supersedes": before["result_id"] if before else None,
                },
            )
            self._step(row.handover_id, Event.ANALYSIS_STARTED, state)
        return self.study(row.handover_id)

    def begin_reading_ahead(self, study_uid: str, at: dt.datetime) -> bool:
        """Note, durably, that images of a study are decoded before its hand-over.

        False where that is noted already: whoever noted it was ended before it could take the note back. A row of
        `meta` and not a table of its own: there are journals without one, which a rolled-back release must open.
        """
        return self._database.run("put_meta_once", {"key": _reading_ahead(study_uid), "value": iso(at)}) == 1

    def end_reading_ahead(self, study_uid: str) -> None:
        """Take the note back: nothing of it is being decoded any more, or it was answered."""
        self._database.run("drop_meta", {"key": _reading_ahead(study_uid)})

    def refund_attempt(self, handover_id: str) -> None:
        """The attempt that just ended does not count."""
        self._database.run("refund_attempt", {"handover_id": handover_id})

    def commit_answers(
        self,
        row: StudyRow,
        body: ResultBody,
        answers: Sequence[Answer],
        objects: Sequence[CommittedObject],
        destinations: Sequence[str],
        read_in: Mapping[Cancer, int] = MappingProxyType({}),
    ) -> bool:
        """Seven answers, their objects and all outbox rows, in one transaction. read_in: Series Numbers, if any.

        False, and nothing written, if a newer hand-over superseded this study while it was analysed.
        """
        result_id = str(body.result_id)
        with self._database.transaction():
            current = self.study(row.handover_id)
            if current.state is State.SUPERSEDED:
                return False
            state = study.after(current.state, Event.ANSWERS_COMMITTED)
            for answer in answers:
                self._database.run("add_answer", {"result_id": result_id, **_answer_row(answer)})
            for cancer, number in read_in.items():
                self._database.run(
                    "add_answer_series", {"result_id": result_id, "cancer": cancer.value, "series_number": number}
                )
            for item in objects:
                self._add_object(result_id, item, destinations, body.answered_at)
            self._database.run(
                "answer_study",
                {
                    "handover_id": row.handover_id,
                    "state": state.value,
                    "result_id": result_id,
                    "result_seq": self.messages.post("result", body),
                    "at": iso(body.answered_at),
                },
            )
            self._step(row.handover_id, Event.ANSWERS_COMMITTED, state)
        return True

    def _add_object(self, result_id: str, item: CommittedObject, destinations: Sequence[str], at: dt.datetime) -> None:
        parameters = {"result_id": result_id, **asdict(item), "next_at": iso(at)}
        self._database.run("add_object", parameters)
        for destination in destinations:
            self._database.run("add_pacs_item", {**parameters, "destination": destination})

    def settle(self, at: dt.datetime) -> int:
        """Mark studies delivered that PACS and registry both have; returns how many."""
        with self._database.transaction():
            rows = self._database.rows("results_acked_up_to")
            for row in rows:
                state = study.after(State(row["state"]), Event.ALL_DELIVERED)
                self._database.run(
                    "deliver_study", {"handover_id": row["handover_id"], "state": state.value, "at": iso(at)}
                )
                self._step(row["handover_id"], Event.ALL_DELIVERED, state)
        return len(rows)

    def tell(self, body: EventBody) -> None:
        """Put an event message into the outbox."""
        self.messages.post("event", body)

    def report_cursor(self) -> int:
        """Reports of the receiver up to this cursor of `intake.db` are in the outbox."""
        row = self._database.one("get_meta", {"key": "report_cursor"})
        return int(row["value"]) if row else 0

    def pass_on(self, cursor: int, body: EventBody) -> None:
        """Put a report of the receiver into the outbox, once."""
        with self._database.transaction():
            if cursor > self.report_cursor():
                self._database.run("put_meta", {"key": "report_cursor", "value": str(cursor)})
                self.messages.post("event", body)

    def set_reported(self, reported: str) -> None:
        """What the updater has to say: a `ReportedBody` as JSON, for the courier to publish."""
        self._database.run("put_meta", {"key": "reported", "value": reported})

    # ---- reading

    def reported(self) -> str | None:
        """What the updater said last."""
        row = self._database.one("get_meta", {"key": "reported"})
        return row["value"] if row else None

    def study(self, handover_id: str) -> StudyRow:
        """One study by its hand-over; KeyError if there is none."""
        row = self._database.one("study", {"handover_id": handover_id})
        if row is None:
            raise KeyError(handover_id)
        return _study(row)

    def study_of_result(self, result_id: str) -> StudyRow | None:
        """The study that a result answers."""
        row = self._database.one("study_of_result", {"result_id": result_id})
        return _study(row) if row else None

    def recent(self, limit: int = 100) -> list[StudyRow]:
        """The studies handed over last, newest first."""
        return [_study(row) for row in self._database.rows("recent_studies", {"limit": limit})]

    def answers(self, result_id: str) -> list[Row]:
        """Answer rows of a result, each with the Series Number that it comes from, where several series were read."""
        return self._database.rows("answers", {"result_id": result_id})

    def objects(self, result_id: str) -> list[Row]:
        """Object rows of a result."""
        return self._database.rows("objects", {"result_id": result_id})

    def has_report(self, result_id: str) -> bool:
        """Whether this result has a structured report."""
        return any(row["kind"] == "sr" for row in self.objects(result_id))

    def deliveries(self, result_id: str) -> list[Row]:
        """PACS outbox rows of a result, delivered ones included."""
        return self._database.rows("pacs_items_of_result", {"result_id": result_id})

    def steps(self, handover_id: str) -> list[Row]:
        """What happened to a study, in order."""
        return self._database.rows("steps", {"handover_id": handover_id})

    def answered_since(self, since: dt.datetime) -> int:
        """How many studies were answered since then."""
        row = self._database.one("count_answered_since", {"since": iso(since)})
        return int(row["n"]) if row else 0

    def finished_handovers(self) -> frozenset[str]:
        """Hand-overs whose spool files may go: delivered everywhere, or superseded."""
        return frozenset(row["handover_id"] for row in self._database.rows("finished_handovers"))

    def close(self) -> None:
        """Close the file; what was committed stays."""
        self._database.close()

    # ---- inside

    def _move(self, row: Row, event: Event) -> None:
        state = study.after(State(row["state"]), event)
        self._database.run("set_study_state", {"handover_id": row["handover_id"], "state": state.value})
        self._step(row["handover_id"], event, state)

    def _step(self, handover_id: str, event: Event, state: State) -> None:
        at = iso(self._stamp().ts)
        self._database.run(
            "add_step", {"handover_id": handover_id, "at": at, "event": event.value, "state": state.value}
        )


def _reading_ahead(study_uid: str) -> str:
    return f"reading_ahead {study_uid}"


def _study(row: Row) -> StudyRow:
    fields = dict(row)
    for name in ("received_at", "complete_at", "started_at", "answered_at", "delivered_at"):
        fields[name] = from_iso(fields[name]) if fields[name] else None
    return StudyRow(**{**fields, "state": State(row["state"])})


def _answer_row(answer: Answer) -> dict[str, object]:
    return {
        "cancer": answer.cancer.value,
        "verdict": answer.verdict.value,
        "mode": answer.mode.value,
        "score": answer.score,
        "reason": answer.reason.value if answer.reason else None,
        "detail": answer.detail,
        "lesions": json.dumps([asdict(lesion) for lesion in answer.lesions]),
    }
