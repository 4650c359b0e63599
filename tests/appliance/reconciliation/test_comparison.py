"""What is missed and when to ask: every answer that a source may give, every clock that a box may have."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.reconciliation.comparison import (
    NOTHING,
    Held,
    Performed,
    PerformedSeries,
    may_be_ct,
    merged,
    still_lacking,
    suspect,
    wanted_series,
)
from appliance.reconciliation.schedule import Asked, Rules, days_asked, due, latest_night, may_fetch, retry_after

NOW = dt.datetime(2026, 11, 20, 14, 0, tzinfo=dt.timezone(dt.timedelta(hours=2)))
RULES = Rules(
    night=dt.time(2, 30),
    downtime=dt.timedelta(minutes=10),
    settle=dt.timedelta(minutes=15),
    look_back=dt.timedelta(days=7),
    studies_an_hour=12,
    tries=3,
)
CT = PerformedSeries("s1", "CT", 10)


@pytest.mark.parametrize(
    ("study", "held", "verdict"),
    [
        (Performed("1", modalities=("CT",), instances=10), NOTHING, True),
        (Performed("1", modalities=("CT", "SR"), instances=11), Held({"s1": 10}), True),
        (Performed("1", modalities=("CT",), instances=10), Held({"s1": 10}), False),
        (Performed("1", modalities=("CT",), instances=10), Held({"s1": 4}, receiving=True), False),
        (Performed("1", modalities=("MR",), instances=10), NOTHING, False),
        (Performed("1"), NOTHING, True),
        (Performed("1"), Held({"s1": 1}), False),
    ],
)
def test_which_studies_are_looked_at(study: Performed, held: Held, verdict: bool) -> None:
    assert suspect(study, held) is verdict


@pytest.mark.parametrize(
    ("series", "held", "wanted"),
    [
        ([CT], NOTHING, [CT]),
        ([CT], Held({"s1": 9}), [CT]),
        ([CT, PerformedSeries("s2", "SR", 1), PerformedSeries("s3", "SEG", 1)], Held({"s1": 10}), None),
        ([PerformedSeries("s2", "MR", 5)], NOTHING, None),
        ([PerformedSeries("s1", "CT")], Held({"s1": 1}), None),
        ([PerformedSeries("s1", "CT")], NOTHING, [PerformedSeries("s1", "CT")]),
        ([PerformedSeries("s1", None, 10)], NOTHING, [PerformedSeries("s1", None, 10)]),
        ([], NOTHING, []),
        ([], Held({"s1": 3}), None),
    ],
)
def test_which_series_are_wanted(
    series: list[PerformedSeries], held: Held, wanted: list[PerformedSeries] | None
) -> None:
    assert wanted_series(Performed("1", instances=99), series, held) == wanted


def test_a_fetch_is_judged_by_what_is_here() -> None:
    assert still_lacking([CT], Held({"s1": 10})) == ""
    assert still_lacking([CT], Held({"s1": 9})) == "9 of 10 images of a series are here"
    assert still_lacking([], NOTHING) == "nothing arrived"
    assert still_lacking([], Held({"s7": 1})) == ""


@given(
    answers=st.lists(
        st.builds(
            Performed,
            st.sampled_from(["", "1", "2", "3"]),
            st.none() | st.dates(dt.date(2026, 1, 1), dt.date(2026, 12, 31)),
            st.none() | st.lists(st.sampled_from(["CT", "MR", "SR"]), max_size=2).map(tuple),
            st.none() | st.integers(0, 50),
        )
    )
)
def test_a_source_that_repeats_itself_tells_of_every_study_once(answers: list[Performed]) -> None:
    found = merged(answers)
    assert [one.study_uid for one in found] == list(dict.fromkeys(a.study_uid for a in answers if a.study_uid))
    for one in found:
        said = [a for a in answers if a.study_uid == one.study_uid]
        assert one.instances == max((a.instances for a in said if a.instances is not None), default=None)
        assert may_be_ct(one) == (
            not any(a.modalities for a in said) or any("CT" in (a.modalities or ()) for a in said)
        )


@given(
    performed=st.dictionaries(st.sampled_from("abc"), st.integers(1, 5), min_size=1),
    held=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 5)),
)
def test_after_what_is_wanted_has_come_nothing_is_wanted(performed: dict[str, int], held: dict[str, int]) -> None:
    series = [PerformedSeries(uid, "CT", count) for uid, count in performed.items()]
    study = Performed("1", modalities=("CT",), instances=sum(performed.values()))
    wanted = wanted_series(study, series, Held(held)) or []
    after = Held({**held, **{one.series_uid: one.instances or 0 for one in wanted}})
    assert wanted_series(study, series, after) is None
    assert still_lacking(series, after) == ""
    if not suspect(study, Held(held)):
        assert sum(held.values()) >= sum(performed.values())


def at(hour: int, minute: int = 0, day: int = 20) -> dt.datetime:
    return NOW.replace(day=day, hour=hour, minute=minute)


LONG, SHORT = dt.timedelta(hours=3), dt.timedelta(minutes=3)


@pytest.mark.parametrize(
    ("now", "asked", "started", "away", "why"),
    [
        (at(14), Asked(), at(13, 59), None, "first"),
        (at(14), Asked(at(2, 31)), at(13), SHORT, None),
        (at(14), Asked(at(2, 29)), at(1), SHORT, "night"),
        (at(2), Asked(at(3, day=19)), at(1), SHORT, None),
        (at(14), Asked(at(3)), at(13), LONG, "outage"),
        (at(14), Asked(at(3)), at(13, 50), LONG, None),  # the scanners may be pushing again by themselves
        (at(14), Asked(at(13, 20)), at(13), LONG, None),  # asked since
        (at(14), Asked(at(3, day=25)), at(13), SHORT, "first"),  # the clock was set back
        (at(14), Asked(at(2, day=19), at(13, 57), 1), at(1), None, None),
        (at(14), Asked(at(2, day=19), at(13, 55), 1), at(1), None, "night"),
        (at(14), Asked(None, at(13, 30), 9), at(1), None, None),
        (at(14), Asked(None, at(13, 30), 9), at(13, 59), None, "first"),  # started since: what was wrong may be mended
    ],
)
def test_when_a_source_is_asked(
    now: dt.datetime, asked: Asked, started: dt.datetime, away: dt.timedelta | None, why: str | None
) -> None:
    assert due(now, RULES, asked, started, away) == why


def test_which_days_are_asked_for() -> None:
    assert days_asked(NOW, RULES, Asked()) == (dt.date(2026, 11, 13), dt.date(2026, 11, 20))
    assert days_asked(NOW, RULES, Asked(at(3))) == (dt.date(2026, 11, 19), dt.date(2026, 11, 20))
    assert days_asked(NOW, RULES, Asked(NOW - dt.timedelta(days=300)))[0] == dt.date(2026, 11, 13)
    assert days_asked(NOW, RULES, Asked(NOW + dt.timedelta(days=2)))[0] == dt.date(2026, 11, 13)


@given(offset=st.integers(-3_000_000, 3_000_000))
def test_the_latest_night_is_behind_us_and_less_than_a_day_ago(offset: int) -> None:
    now = NOW + dt.timedelta(seconds=offset)
    night = latest_night(now, RULES.night)
    assert dt.timedelta() <= now - night < dt.timedelta(days=1)
    assert (night.hour, night.minute) == (2, 30)


def test_fetching_keeps_its_rate_and_lets_scanners_go_first() -> None:
    assert may_fetch(NOW, RULES, None, arriving=False)
    assert not may_fetch(NOW, RULES, None, arriving=True)
    assert not may_fetch(NOW, RULES, NOW - dt.timedelta(minutes=4), arriving=False)
    assert may_fetch(NOW, RULES, NOW - dt.timedelta(minutes=5), arriving=False)
    assert may_fetch(NOW, RULES, NOW + dt.timedelta(days=1), arriving=False)  # the clock was set back
    assert [retry_after(n).total_seconds() for n in (1, 2, 5, 50)] == [300, 600, 3600, 3600]
