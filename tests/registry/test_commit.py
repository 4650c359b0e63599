"""What a batch does to the database."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

import pytest

from core import wire
from core.finding import Verdict
from registry import migrations, triage
from registry.commit import Committed, commit, unstorable
from registry.migrations import MigrationRefused
from registry.statements import SQL
from registry.store import Connection, Unstorable, reader, renew_epoch, settle_epoch
from tests.registry import messages as m

pytestmark = pytest.mark.integration
NOW = dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.timezone.utc)


def deliver(connection: Connection, *items: wire.Envelope | tuple[str, bytes], site: str = m.SITE) -> Committed:
    """A batch, as the worker does it."""
    raw = [(wire.topic(site, i.device, i.stream), i.payload()) if isinstance(i, wire.Envelope) else i for i in items]
    sorted_ = [s for topic, payload in raw if (s := triage.sort(topic, payload)) is not None]
    return commit(connection, sorted_, NOW)


def say(connection: Connection, body: wire.StatusBody | wire.BirthBody | wire.ReportedBody, leaf: str) -> Committed:
    return deliver(connection, (wire.topic(m.SITE, m.DEVICE, leaf), body.model_dump_json().encode()))


def rows(connection: Connection, sql: str) -> list[Any]:
    return connection.execute(sql.encode()).fetchall()


def ack(committed: Committed, stream: str = "result") -> int:
    (seq,) = (a.seq for a in committed.acks[m.SITE, m.DEVICE].acks if a.stream == stream)
    return seq


def test_a_batch_is_stored_and_projected(connection: Connection) -> None:
    positive = m.result(m.study(1), answers=m.answers(lung=Verdict.POSITIVE))
    event = wire.EventBody(kind="started", code="power")
    done = deliver(connection, m.envelope(positive, 1), m.envelope(event, 1), m.envelope(m.telemetry(), 1))
    assert (done.stored, done.repeated, done.refused) == (3, 0, 0)
    assert rows(connection, "SELECT payload FROM message WHERE stream = 'result'") == [
        (m.envelope(positive, 1).payload().decode(),)
    ]
    found = rows(connection, "SELECT cancer, verdict, lesions, largest_mm, reason FROM answer")
    assert len(found) == 7
    assert ("lung", "positive", 2, 14.2, None) in found
    assert ("pancreas", "not_analysed", 0, None, "no model in bundle") in found
    assert rows(connection, "SELECT kind, code FROM event") == [("started", "power")]
    assert rows(connection, "SELECT studies_today FROM telemetry") == [(12,)]
    assert {a.stream: a.seq for a in done.acks[m.SITE, m.DEVICE].acks} == {"result": 1, "event": 1, "telemetry": 1}


def test_repeats_change_nothing_and_are_acknowledged_again(connection: Connection) -> None:
    batch = m.results(range(1, 21))
    first = deliver(connection, *batch)
    before = rows(connection, "SELECT * FROM message ORDER BY seq")
    again = deliver(connection, *batch, *batch)
    assert (again.stored, again.repeated, again.refused) == (0, 40, 0)
    assert rows(connection, "SELECT * FROM message ORDER BY seq") == before
    assert rows(connection, "SELECT count(*) FROM result") == [(20,)]
    assert ack(first) == ack(again) == 20


def test_out_of_order_messages_are_acknowledged_up_to_the_first_gap(connection: Connection) -> None:
    batch = m.results(range(1, 31))
    missing = batch.pop(10)
    random.Random(3).shuffle(batch)
    for start in range(0, len(batch), 7):
        done = deliver(connection, *batch[start : start + 7])
    assert max(a.seq for a in deliver(connection, batch[0]).acks[m.SITE, m.DEVICE].acks) == 10
    assert done.refused == 0
    assert ack(deliver(connection, missing)) == 30


def test_a_skipped_range_counts_as_received(connection: Connection) -> None:
    one, five, seven = (m.envelope(m.telemetry(), seq) for seq in (1, 5, 7))
    assert ack(deliver(connection, one, five, seven), "telemetry") == 1
    skip = m.envelope(wire.SkipBody(first=2, last=4), 6, stream="telemetry")
    assert ack(deliver(connection, skip), "telemetry") == 7


def test_streams_and_epochs_are_counted_apart(connection: Connection) -> None:
    done = deliver(connection, *m.results(range(1, 4)), *m.results(range(2, 3), epoch="cd" * 16))
    found = {(a.epoch, a.seq) for a in done.acks[m.SITE, m.DEVICE].acks}
    assert found == {(m.EPOCH, 3), ("cd" * 16, 0)}


@pytest.mark.parametrize("apart", [True, False], ids=["in two batches", "in one batch"])
def test_another_message_under_the_same_key_is_quarantined_with_an_alert(connection: Connection, apart: bool) -> None:
    first, second = m.envelope(m.result(m.study(1)), 1), m.envelope(m.result(m.study(2)), 1)
    done = [deliver(connection, first), deliver(connection, second)] if apart else [deliver(connection, first, second)]
    assert done[-1].refused == 1
    assert rows(connection, "SELECT study FROM result") == [(m.study(1),)]
    (kept,) = rows(connection, "SELECT reason, payload FROM quarantine")
    assert kept == ("duplicate_identity", second.payload())
    assert rows(connection, "SELECT kind, site, device FROM alert") == [("duplicate_identity", m.SITE, m.DEVICE)]


@pytest.mark.parametrize(
    ("topic", "payload", "reason"),
    [
        (wire.topic(m.SITE, m.DEVICE, "result"), b"not json", "malformed"),
        (wire.topic(m.SITE, m.DEVICE, "result"), b"\xff\x00", "malformed"),
        (wire.topic(m.SITE, m.DEVICE, "event"), m.results(range(1, 2))[0].payload(), "malformed"),
        (wire.topic(m.SITE, "ct-2", "result"), m.results(range(1, 2))[0].payload(), "foreign_identity"),
        (wire.topic("elsewhere", m.DEVICE, "result"), m.results(range(1, 2))[0].payload(), "unknown_device"),
        (wire.topic(m.SITE, m.DEVICE, "gossip"), b"{}", "foreign_topic"),
        ("onescan/v2/x", b"{}", "foreign_topic"),
        (wire.topic("Bad Site", m.DEVICE, "result"), b"{}", "foreign_topic"),
        (wire.topic(m.SITE, m.DEVICE, "result"), b" " * 300_000, "too_long"),
    ],
)
def test_what_cannot_be_believed_goes_to_quarantine_unacknowledged(
    connection: Connection, topic: str, payload: bytes, reason: str
) -> None:
    done = deliver(connection, (topic, payload), m.envelope(m.telemetry(), 1))
    assert rows(connection, "SELECT reason, topic FROM quarantine") == [(reason, topic)]
    assert rows(connection, "SELECT kind FROM alert") == [(reason,)]
    assert [a.stream for a in done.acks[m.SITE, m.DEVICE].acks] == ["telemetry"]
    deliver(connection, (topic, payload))
    assert rows(connection, "SELECT times FROM quarantine") == [(2,)]


def test_quarantine_says_where_the_fault_is_and_nothing_that_stood_there(connection: Connection) -> None:
    text = m.results(range(1, 2))[0].payload().decode()
    for wrong in (text.replace('"age_years":58', '"age_years":"DOE^JANE"'), text[:-1] + ',"DOE^JANE":1}'):
        deliver(connection, (wire.topic(m.SITE, m.DEVICE, "result"), wrong.encode()))
    details = [row[0] for row in rows(connection, "SELECT detail FROM quarantine")]
    assert len(details) == 2
    assert any("age_years" in d for d in details)
    assert not any("DOE" in d for d in details)


def test_a_result_must_answer_each_cancer_once(connection: Connection) -> None:
    body = m.result(m.study(1))
    twice = body.model_copy(update={"answers": (body.answers[0], *body.answers[:6])})
    assert deliver(connection, m.envelope(twice, 1)).refused == 1
    bare = body.answers[0].model_copy(update={"reason": None})
    unexplained = body.model_copy(update={"answers": (bare, *body.answers[1:])})
    assert deliver(connection, m.envelope(unexplained, 1)).refused == 1
    assert rows(connection, "SELECT count(*) FROM message") == [(0,)]


def test_a_value_too_large_for_its_column_is_told_apart(connection: Connection) -> None:
    body = m.result(m.study(1)).model_copy(update={"slices": 2**70})
    topic = wire.topic(m.SITE, m.DEVICE, "result")
    item = triage.sort(topic, m.envelope(body, 1).payload())
    assert item is not None
    with pytest.raises(Unstorable):
        commit(connection, [item], NOW)
    commit(connection, [unstorable(item)], NOW)
    assert rows(connection, "SELECT reason FROM quarantine") == [("unstorable",)]


def test_only_the_latest_revision_of_a_study_is_current_in_any_order(connection: Connection, database: str) -> None:
    revisions = [m.envelope(m.result(m.study(1), revision), revision) for revision in (1, 2, 3)]
    for order in ((2,), (0, 1)):
        deliver(connection, *(revisions[i] for i in order))
    with reader(database) as store:
        (current,) = store.results(study=m.study(1))
        assert (current["revision"], current["superseded_by"]) == (3, None)
        everything = store.results(study=m.study(1), everything=True)
    assert {(r["revision"], r["current"]) for r in everything} == {(1, False), (2, False), (3, True)}
    assert all(r["superseded_by"] == current["result_id"] for r in everything if not r["current"])


def test_a_result_repeated_from_a_new_journal_is_one_result(connection: Connection) -> None:
    body = m.result(m.study(1))
    later = body.model_copy(update={"answered_at": NOW})
    deliver(connection, m.envelope(body, 1))
    assert deliver(connection, m.envelope(later, 1, epoch="cd" * 16)).refused == 0
    assert rows(connection, "SELECT count(*) FROM result") == [(1,)]
    other = body.model_copy(update={"answers": m.answers(lung=Verdict.POSITIVE)})
    assert deliver(connection, m.envelope(other, 2, epoch="cd" * 16)).refused == 1
    assert rows(connection, "SELECT reason FROM quarantine") == [("result_conflict",)]


def test_the_late_will_of_an_old_session_changes_nothing(connection: Connection) -> None:
    online = "SELECT online, session FROM device"
    say(connection, m.status(1), "status")
    say(connection, m.birth(2), "birth")
    say(connection, m.status(1, online=False), "status")
    assert rows(connection, online) == [(True, 2)]
    say(connection, m.status(2, online=False), "status")
    assert rows(connection, online) == [(False, 2)]
    say(connection, m.birth(2), "birth")  # a birth that was on its way when the device died
    assert rows(connection, online) == [(False, 2)]
    assert rows(connection, "SELECT software, bundle_version FROM device") == [("0.1.0", "1.2.0")]


def test_two_boots_in_one_session_are_a_duplicate_identity(connection: Connection) -> None:
    say(connection, m.status(4), "status")
    assert say(connection, m.status(4, boot=m.uuid.UUID(int=99)), "status").refused == 1
    assert rows(connection, "SELECT kind FROM alert") == [("duplicate_identity",)]


def test_the_brokers_word_is_no_sign_of_life(connection: Connection) -> None:
    say(connection, m.status(3, online=False), "status")
    reported = wire.ReportedBody(device=m.DEVICE, ts=m.WHEN, active=m.BUNDLE, state="active")
    say(connection, reported, "reported")
    assert rows(connection, "SELECT last_seen, update_state FROM device") == [(None, "active")]
    deliver(connection, m.envelope(m.telemetry(), 1))
    assert rows(connection, "SELECT last_seen FROM device") == [(NOW,)]


def test_a_device_that_connects_hears_about_all_of_its_streams(connection: Connection) -> None:
    deliver(connection, *m.results(range(1, 5)))
    done = say(connection, m.birth(1), "birth")
    assert {a.stream: a.seq for a in done.acks[m.SITE, m.DEVICE].acks} == {"result": 4, "event": 0, "telemetry": 0}


def test_an_empty_payload_only_clears_a_retained_message(connection: Connection) -> None:
    assert triage.sort(wire.topic(m.SITE, m.DEVICE, "status"), b"") is None
    assert deliver(connection).acks == {}


def test_the_epoch_stays_until_the_database_is_another_one(connection: Connection) -> None:
    epoch = settle_epoch(connection)
    assert settle_epoch(connection) == epoch
    connection.execute("UPDATE registry_epoch SET cluster = 'where the dump was taken'")
    restored = settle_epoch(connection)
    assert restored != epoch
    assert settle_epoch(connection) == restored
    assert renew_epoch(connection) not in (epoch, restored)


def test_migrations_are_applied_once_and_guarded(connection: Connection) -> None:
    assert migrations.apply(connection) == ()
    connection.execute("INSERT INTO schema_migration (name, sha256) VALUES ('9999_future', '')")
    try:
        with pytest.raises(MigrationRefused, match="newer than this release"):
            migrations.apply(connection)
    finally:
        connection.execute("DELETE FROM schema_migration WHERE name = '9999_future'")
    (right,) = rows(connection, "SELECT sha256 FROM schema_migration WHERE name LIKE '0001%'")[0]
    connection.execute("UPDATE schema_migration SET sha256 = 'edited' WHERE name LIKE '0001%'")
    try:
        with pytest.raises(MigrationRefused, match="another text"):
            migrations.apply(connection)
    finally:
        connection.execute("UPDATE schema_migration SET sha256 = %s WHERE name LIKE '0001%%'", (right,))


def test_every_statement_is_known_to_postgresql(connection: Connection) -> None:
    for name in ("devices", "results", "totals", "workers", "quarantine", "alerts"):
        where = {"site": None, "device": None, "study": None, "result_id": None, "since": None}
        connection.execute(SQL[name], {**where, "everything": True, "limit": 5}).fetchall()


def test_days_are_kept_as_the_device_said_last_whatever_arrives_last(connection: Connection) -> None:
    def said(seq: int, missing: int) -> wire.Envelope:
        day = wire.DayBody(
            day=m.WHEN.date(), performed=9, received=9 - missing, analysed=0, delivered=0, missing=missing
        )
        sent = m.envelope(m.telemetry(days=(day, day.model_copy(update={"day": day.day - dt.timedelta(days=1)}))), seq)
        return sent.model_copy(update={"ts": m.WHEN + dt.timedelta(minutes=seq)})

    deliver(connection, said(2, 1))
    deliver(connection, said(1, 4), m.envelope(m.telemetry(), 3))
    assert rows(connection, "SELECT performed, received, reviewed, missing FROM day") == [(9, 8, None, 1)] * 2
