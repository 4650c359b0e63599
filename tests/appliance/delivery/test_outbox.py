"""When to try again and what may fly: pure rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.delivery.outbox import Backoff, Cursor, by_urgency


def test_waiting_times_double_up_to_the_ceiling() -> None:
    backoff = Backoff(first_s=2, ceiling_s=60, spread=0)
    assert [backoff.delay_s(n, 0.5) for n in range(1, 8)] == [2, 4, 8, 16, 32, 60, 60]


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_jitter_stays_within_its_spread(failures: int, jitter: float) -> None:
    backoff = Backoff(first_s=1, ceiling_s=100, spread=0.25)
    middle = backoff.delay_s(failures, 0.5)
    assert 0.75 * middle - 1e-9 <= backoff.delay_s(failures, jitter) <= 1.25 * middle + 1e-9


def test_jitter_spreads() -> None:
    backoff = Backoff(first_s=10, spread=0.5)
    assert (backoff.delay_s(1, 0), backoff.delay_s(1, 1)) == (5, 15)


@given(st.integers(1, 2000))
def test_time_waited_is_the_sum_of_the_waits(failures: int) -> None:
    backoff = Backoff(first_s=2, ceiling_s=300)
    assert backoff.waited_s(failures) == pytest.approx(sum(backoff.delay_s(n, 0.5) for n in range(1, failures + 1)))


def test_stalled_after_hours_not_after_attempts() -> None:
    backoff = Backoff(first_s=2, ceiling_s=300)
    first = next(n for n in range(1, 10_000) if backoff.is_stalled(n, after_h=6))
    assert 6 * 3600 <= backoff.waited_s(first) < 6 * 3600 + 300


def test_no_delay_for_nonsense() -> None:
    with pytest.raises(ValueError, match="0 failures"):
        Backoff().delay_s(0, 0.5)


def test_results_go_before_telemetry() -> None:
    assert by_urgency({"telemetry", "zebra", "result", "event"}) == ["result", "event", "telemetry", "zebra"]


@pytest.fixture
def cursor() -> Cursor:
    return Cursor(acked=10, resend=Backoff(first_s=30, ceiling_s=120, spread=0))


def test_what_flies_takes_room_until_it_is_acknowledged(cursor: Cursor) -> None:
    for seq in (11, 12, 13):
        cursor.sent(seq, now=1.0)
    assert (cursor.position, cursor.room(4)) == (13, 1)
    cursor.acknowledged(12, now=2.0)
    assert (cursor.position, cursor.room(4)) == (13, 3)


def test_older_acks_change_nothing(cursor: Cursor) -> None:
    cursor.sent(11, now=1.0)
    cursor.acknowledged(5, now=2.0)
    assert (cursor.acked, list(cursor.flying)) == (10, [11])


def test_silence_sends_again_each_time_later(cursor: Cursor) -> None:
    now, waits = 0.0, []
    for _ in range(4):
        cursor.sent(11, now)
        sent_at = now
        while not cursor.is_overdue(now):
            now += 1.0
        waits.append(now - sent_at)
        cursor.go_back()
        assert cursor.position == 10
    assert waits == [30, 60, 120, 120]
    cursor.sent(11, now)
    cursor.acknowledged(11, now)
    cursor.sent(12, now)
    assert cursor.is_overdue(now + 30)


@given(st.lists(st.tuples(st.sampled_from(["send", "ack", "back"]), st.integers(0, 30))))
def test_everything_unacknowledged_is_flying_or_still_to_come(steps: list[tuple[str, int]]) -> None:
    cursor = Cursor(acked=0, resend=Backoff())
    for step, seq in steps:
        if step == "send":
            cursor.sent(cursor.position + 1, 0.0)
        elif step == "ack" and seq <= cursor.position:
            cursor.acknowledged(seq, 0.0)
        elif step == "back":
            cursor.go_back()
        assert list(cursor.flying) == list(range(cursor.acked + 1, cursor.position + 1))
