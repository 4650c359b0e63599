"""The journal: the same hand-over once, one transaction an answer, nothing counted twice, everything after a reopen."""

from __future__ import annotations

import contextlib
import datetime as dt
import sqlite3
import uuid
from pathlib import Path

import pytest

from appliance.clock import Stamp
from appliance.ports import BundleRow, Handover
from appliance.storage.journal import CommittedObject, Journal
from appliance.study import TRANSITIONS, Event, State, after
from core import wire
from core.errors import IllegalTransition
from core.finding import Cancer, Reason, complete
from tests.core.test_wire import result_body

T0 = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)


def stamp() -> Stamp:
    return Stamp(T0, 1, uuid.UUID(int=3), True)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.db", tmp_path, "box-1", stamp)


def handover(generation: int = 1, study_uid: str = "1.2.3") -> Handover:
    return Handover(f"{study_uid}/{generation}", study_uid, generation, "geometry", "64 slices, 5 mm apart", T0, T0, ())


def answer(journal: Journal, generation: int = 1, cursor: int = 1) -> str:
    """Queue, start and answer one study; returns its result id."""
    assert journal.queue(cursor, handover(generation), "ab" * 16)
    row = journal.next()
    assert row is not None
    row = journal.start(row, T0)
    result = uuid.uuid5(uuid.NAMESPACE_OID, row.handover_id)
    body = result_body(answered_at=T0, result_id=result, revision=row.revision, supersedes=row.supersedes)
    objects = [CommittedObject("sr", "1.2.840.1", f"2.25.{generation}", f"objects/{result}/sr.dcm")]
    assert journal.commit_answers(row, body, complete({}, Reason.NO_MODEL), objects, ["pacs"])
    return str(result)


def test_the_same_handover_queues_once(journal: Journal) -> None:
    assert journal.queue(1, handover(), "ab")
    assert not journal.queue(1, handover(), "ab")
    assert len(journal.recent()) == 1


def test_an_answer_puts_objects_and_message_into_the_outboxes(journal: Journal, tmp_path: Path) -> None:
    result = answer(journal)
    [item] = journal.pacs.due(T0)
    assert (item.result_id, item.destination, item.path) == (result, "pacs", tmp_path / f"objects/{result}/sr.dcm")
    [message] = journal.messages.after("result", 0)
    assert wire.open_envelope(message.payload).body.result_id == uuid.UUID(result)  # type: ignore[union-attr]
    assert {row["cancer"] for row in journal.answers(result)} == {c.value for c in Cancer}


def test_a_failed_commit_leaves_no_trace(journal: Journal) -> None:
    journal.queue(1, handover(), "ab")
    row = journal.start(journal.next(), T0)  # type: ignore[arg-type]
    twice = [*complete({}, Reason.NO_MODEL), *complete({}, Reason.NO_MODEL)]
    with pytest.raises(Exception, match="UNIQUE"):
        journal.commit_answers(row, result_body(), twice, [], ["pacs"])
    assert journal.study(row.handover_id).state is State.ANALYSING
    assert journal.messages.waiting() == 0
    assert journal.answers(str(result_body().result_id)) == []


def test_an_answer_keeps_its_series_number_in_a_journal_of_an_older_release_too(
    journal: Journal, tmp_path: Path
) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.db")) as database:
        database.execute("DROP TABLE answer_series")  # it is not in schema.sql of version 1
    older = Journal(tmp_path / "journal.db", tmp_path, "box-1", stamp)
    older.queue(1, handover(), "ab" * 16)
    row = older.next()
    assert row is not None
    body = result_body(answered_at=T0, result_id=uuid.uuid4())
    read_in = {Cancer.LUNG: 3, Cancer.LIVER: 5}
    assert older.commit_answers(older.start(row, T0), body, complete({}, Reason.NO_MODEL), [], [], read_in)
    older.close()
    again = Journal(tmp_path / "journal.db", tmp_path, "box-1", stamp)
    numbers = {row["cancer"]: row["series_number"] for row in again.answers(str(body.result_id))}
    assert numbers == {cancer.value: read_in.get(cancer) for cancer in Cancer}
    again.close()


def test_delivered_means_pacs_and_registry_both_have_it(journal: Journal) -> None:
    result = answer(journal)
    [item] = journal.pacs.due(T0)
    journal.pacs.delivered(item, T0)
    assert journal.settle(T0) == 0
    journal.messages.acknowledge("result", 1, T0)
    assert journal.settle(T0) == 1
    assert journal.study_of_result(result).state is State.DELIVERED  # type: ignore[union-attr]
    assert [row["event"] for row in journal.steps("1.2.3/1")] == [
        "handed over",
        "analysis started",
        "answers committed",
        "all delivered",
    ]


def test_one_slice_more_gives_revision_2_that_supersedes(journal: Journal) -> None:
    first = answer(journal)
    second = answer(journal, generation=2, cursor=2)
    row = journal.study_of_result(second)
    assert row is not None
    assert (row.revision, row.supersedes) == (2, first)


def test_a_newer_handover_supersedes_one_that_is_still_waiting(journal: Journal) -> None:
    journal.queue(1, handover(1), "ab")
    journal.queue(2, handover(2), "ab")
    assert journal.study("1.2.3/1").state is State.SUPERSEDED
    row = journal.next()
    assert row is not None
    assert row.generation == 2


def test_a_study_superseded_while_it_is_analysed_is_not_answered(journal: Journal) -> None:
    journal.queue(1, handover(1), "ab")
    row = journal.start(journal.next(), T0)  # type: ignore[arg-type]
    journal.queue(2, handover(2), "ab")
    assert not journal.commit_answers(row, result_body(), complete({}, Reason.NO_MODEL), [], [])
    assert journal.messages.waiting() == 0


def test_an_interrupted_study_comes_first_and_keeps_its_time(journal: Journal, tmp_path: Path) -> None:
    journal.queue(1, handover(1, "1.2.3"), "ab")
    journal.start(journal.next(), T0)  # type: ignore[arg-type]
    journal.queue(2, handover(1, "1.1.1"), "cd")
    journal.close()
    again = Journal(tmp_path / "journal.db", tmp_path, "box-1", stamp)
    row = again.next()
    assert row is not None
    assert row.study_uid == "1.2.3"
    row = again.start(row, T0 + dt.timedelta(hours=1))
    assert (row.attempts, row.started_at) == (2, T0)


def test_sequence_numbers_go_on_after_a_reopen_and_the_epoch_stays(journal: Journal, tmp_path: Path) -> None:
    journal.tell(wire.EventBody(kind="started"))
    epoch = journal.messages.epoch
    journal.close()
    again = Journal(tmp_path / "journal.db", tmp_path, "box-1", stamp)
    again.tell(wire.EventBody(kind="started"))
    assert again.messages.epoch == epoch
    assert [m.seq for m in again.messages.after("event", 0)] == [1, 2]
    assert (again.messages.next_session(), again.messages.next_session()) == (1, 2)


def test_an_ack_is_cumulative_and_never_goes_back(journal: Journal) -> None:
    for _ in range(5):
        journal.tell(wire.EventBody(kind="started"))
    journal.messages.acknowledge("event", 3, T0)
    journal.messages.acknowledge("event", 2, T0)
    assert journal.messages.acknowledged_up_to("event") == 3
    assert [m.seq for m in journal.messages.after("event", 0)] == [4, 5]
    assert list(journal.messages.streams()) == ["event"]


def test_an_ack_beyond_what_was_sent_does_not_cover_later_messages(journal: Journal) -> None:
    journal.tell(wire.EventBody(kind="started"))
    journal.messages.acknowledge("event", 1000, T0)
    journal.tell(wire.EventBody(kind="started"))
    assert [m.seq for m in journal.messages.after("event", 0)] == [2]
    assert journal.messages.acknowledged_up_to("event") == 1


def test_a_restored_registry_is_given_everything_again(journal: Journal) -> None:
    for _ in range(5):
        journal.tell(wire.EventBody(kind="started"))
    journal.messages.acknowledge("event", 5, T0)
    before = [m.payload for m in journal.messages.after("event", 0)]
    assert before == []
    journal.messages.rewind("cafe" * 8, {"event": 2}, T0)
    assert [m.seq for m in journal.messages.after("event", 0)] == [3, 4, 5]
    assert journal.messages.registry_epoch() == "cafe" * 8


def test_acknowledged_messages_stay_30_days(journal: Journal) -> None:
    journal.tell(wire.EventBody(kind="started"))
    journal.messages.acknowledge("event", 1, T0)
    assert journal.messages.prune(T0 + dt.timedelta(days=29)) == 0
    assert journal.messages.prune(T0 + dt.timedelta(days=31)) == 1
    journal.tell(wire.EventBody(kind="started"))
    assert [m.seq for m in journal.messages.after("event", 0)] == [2]


def test_a_postponed_object_waits_for_its_time(journal: Journal) -> None:
    answer(journal)
    [item] = journal.pacs.due(T0)
    later = T0 + dt.timedelta(minutes=5)
    journal.pacs.postponed(item, "0xA700", later)
    assert journal.pacs.due(T0) == []
    assert journal.pacs.next_due() == later
    assert journal.pacs.due(later)[0].attempts == 1


def test_one_bundle_is_active_and_the_switch_tells_the_registry(journal: Journal) -> None:
    for digest, version in (("aa", "1"), ("bb", "2")):
        journal.shelf.put(BundleRow(digest, "reference", version, "active", "", T0))
    active = journal.shelf.active()
    assert active is not None
    assert active.digest == "bb"
    assert {row.digest: row.state for row in journal.shelf.bundles()} == {"aa": "retired", "bb": "active"}
    assert journal.messages.waiting() == 2
    journal.shelf.put(BundleRow("bb", "reference", "2", "active", "", T0))
    assert journal.messages.waiting() == 2


def test_the_wish_of_the_registry_is_kept(journal: Journal) -> None:
    assert journal.shelf.desired() is None
    journal.shelf.wish("reference", "2", T0)
    assert journal.shelf.desired() == ("reference", "2")


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_what_is_not_in_the_table_raises(state: State, event: Event) -> None:
    if (state, event) in TRANSITIONS:
        assert after(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(IllegalTransition, match=state.value):
            after(state, event)


def test_reading_ahead_is_noted_once_until_it_is_over(journal: Journal) -> None:
    assert journal.begin_reading_ahead("1.2", T0)
    assert journal.begin_reading_ahead("1.3", T0)
    assert not journal.begin_reading_ahead("1.2", T0)
    journal.end_reading_ahead("1.2")
    journal.end_reading_ahead("1.2")
    assert journal.begin_reading_ahead("1.2", T0)
    assert not journal.begin_reading_ahead("1.3", T0)
