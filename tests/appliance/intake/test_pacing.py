"""What is learned of the senders' gaps: bounded, robust against outliers and jumping clocks, repeatable."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from typer.testing import CliRunner

from appliance import cli, completeness
from appliance.intake.assembly import Assembly, Complete
from appliance.intake.facts import InstanceFacts
from appliance.intake.pacing import (
    DEFAULT_S,
    ENOUGH_STUDIES,
    LEAST_S,
    MOST_S,
    MOST_SENDERS,
    Gaps,
    Pace,
    Pacing,
    Sender,
    quiet_time,
    suggestion,
)
from appliance.storage.pace_file import PaceFile
from core.errors import StorageError
from tests.appliance.dicom_samples import ct_series
from tests.appliance.intake.stand import push, running, wait_for
from tests.appliance.intake.test_assembly import deliver, fact, series

CT1, CT2 = Sender("CT1", "10.0.0.1"), Sender("CT2", "10.0.0.2")


def gaps(*seconds: float) -> Gaps:
    found = Gaps()
    for one in seconds:
        found = found.with_gap(one)
    return found


@given(seconds=st.lists(st.floats(0.002, 80_000), min_size=1, max_size=300), share=st.floats(0.01, 1))
def test_quantiles_are_never_too_short_and_at_most_a_tenth_too_long(seconds: list[float], share: float) -> None:
    exact = sorted(seconds)[max(1, math.ceil(share * len(seconds) - 1e-9)) - 1]
    found = gaps(*seconds).quantile(share)
    assert found is not None
    assert exact * (1 - 1e-6) <= found <= exact * 1.1 * (1 + 1e-6)


@given(seconds=st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=50))
def test_whatever_a_clock_says_a_histogram_stays_small_and_orderly(seconds: list[float]) -> None:
    found = gaps(*seconds)
    assert found.total == sum(s >= 0 for s in seconds)
    assert all(0 <= bucket < 194 for bucket in found.counts)


def test_old_gaps_fade() -> None:
    found = Gaps(gaps(300.0).counts)
    for _ in range(20_000):
        found = found.with_gap(1.0)
    assert found.total <= 10_001
    assert found.quantile(1.0) == pytest.approx(1.0, rel=0.1)
    assert sum(1 for _ in found.counts) == 1


def pace(studies: int = ENOUGH_STUDIES, **changes: object) -> Pace:
    return dataclasses.replace(Pace(studies=studies, between=gaps(*[20.0] * 100)), **changes)  # type: ignore[arg-type]


def test_configured_goes_before_learned_and_learned_before_the_default() -> None:
    assert quiet_time(5.0, pace()).seconds == 5.0
    assert quiet_time(None, pace()).source == "learned"
    assert quiet_time(None, pace()).seconds == pytest.approx(40.0, rel=0.11)
    assert (quiet_time(None, pace(19)).source, quiet_time(None, pace(19)).seconds) == ("default", DEFAULT_S)


def test_one_gap_in_three_hundred_changes_nothing() -> None:
    with_outlier = pace(between=gaps(*[20.0] * 300, 5000.0))
    assert suggestion(with_outlier) == suggestion(pace())


def test_late_slices_lengthen_the_quiet_time_but_one_alone_does_not() -> None:
    one = pace(late=((18, 200.0),))
    assert suggestion(one) == suggestion(pace())
    two = suggestion(pace(late=((18, 200.0), (19, 100.0))))
    assert two is not None
    assert two.seconds == 200.0
    assert "late" in two.why
    assert suggestion(pace(late=((1, 5e4), (2, 6e4), (3, 7e4)))) == suggestion(pace())  # no quiet time outlasts those
    old = pace(studies=900, late=((18, 200.0), (19, 100.0)))
    assert suggestion(old).seconds == suggestion(pace(studies=900)).seconds  # type: ignore[union-attr]


def test_only_what_came_later_than_quiet_time_counts_as_too_short_a_quiet_time() -> None:
    pacing = Pacing()
    for number in range(30):
        by = "geometry" if number % 2 else "quiet"
        pacing.ended(f"1.{number}", [CT1], by, float(number))  # type: ignore[arg-type]
        pacing.reopened(f"1.{number}", CT1, number + 100.0)
        pacing.reopened(f"1.{number}", CT1, number + 500.0)  # it is open: not late again
    [(_, learned)] = pacing.changed()
    assert learned.late_after == {"quiet": 15, "geometry": 15}
    assert set(learned.recent_late()) == {100.0}
    assert pacing.changed() == []


def test_another_senders_slice_says_nothing_about_the_first_ones_pace() -> None:
    pacing = Pacing()
    pacing.ended("1.1", [CT1], "quiet", 0.0)
    pacing.reopened("1.1", CT2, 50.0)
    assert all(not found.late_after for _, found in pacing.changed())


def test_a_study_of_two_senders_waits_for_the_slower_one_and_after_a_break_at_least_the_default() -> None:
    fast, slow = pace(between=gaps(*[1.0] * 100)), pace(between=gaps(*[100.0] * 100))
    pacing = Pacing(None, {CT1: fast, CT2: slow})
    assert pacing.quiet([CT1], reliable=True).seconds == LEAST_S
    assert pacing.quiet([CT1, CT2], reliable=True).seconds > 200
    assert pacing.quiet([CT1], reliable=False).seconds == DEFAULT_S
    assert pacing.quiet([], reliable=True).seconds > 200  # restored after a restart: nobody knows whose it is
    assert Pacing(7.0, {CT1: fast, CT2: slow}).quiet([CT1], reliable=False).seconds == 7.0


def single_image_study(assembly: Assembly, number: int, gap: float, start: float) -> float:
    """A sender with one association an image, `gap` s apart; returns when it is done and judged."""
    now = start
    for index in range(6):
        now = start + gap * index
        assembly.association_opened((number, index), "CT1", "10.0.0.1")
        assembly.instance_stored((number, index), fact(index, study=f"1.{number}"), now)
        assembly.association_closed((number, index), released=True, now=now + 0.01)
        assert not any(isinstance(d, Complete) for d in assembly.tick(now + 0.01))
    deadline = assembly.next_deadline()
    assert deadline is not None
    (complete,) = [d for d in assembly.tick(deadline) if isinstance(d, Complete)]
    assert complete.by == "quiet"
    assembly.forget(complete.study_uid)
    return deadline


@pytest.mark.parametrize("gap", [2.0, 12.0, 50.0])
def test_assembly_learns_a_scanners_gaps_and_says_so_in_the_explanation(gap: float) -> None:
    assembly, now = Assembly(None), 0.0
    for number in range(ENOUGH_STUDIES):
        began = now
        now = single_image_study(assembly, number, gap, now + 10)
        assert now - began == pytest.approx(10 + 5 * gap + 0.01 + DEFAULT_S)
    deliver(assembly, [fact(0, study="1.99")], now=now)  # no address: another sender, nothing is known of it
    assert assembly.next_deadline() == now + DEFAULT_S
    assembly.forget("1.99")
    learned = single_image_study(assembly, 1000, gap, now) - now - 5 * gap
    assert max(LEAST_S, 2 * gap) - 1 <= learned <= max(LEAST_S, 2.2 * gap) + 2


def test_learning_never_shortens_what_waits_already() -> None:
    """A restored study of nobody we know waits the longest of all that is known."""
    assembly = Assembly(None, {CT1: pace(between=gaps(*[300.0] * 100))})
    assembly.restore("1.1", series(4), now=0.0)
    deadline = assembly.next_deadline()
    assert deadline is not None
    assert deadline > 600


class Learning(RuleBasedStateMachine):
    """Senders of every kind at once, on a clock that jumps: what is learned stays within bounds, and studies whole.

    A second assembly hears the same and must come to the same (no hidden time, no chance).
    """

    @initialize()
    def begin(self) -> None:
        self.both = (Assembly(None), Assembly(None))
        self.now = 0.0
        self.last: dict[str, float] = {}  # open study → when a slice of it came or an association of it ended
        self.open: dict[int, tuple[Sender, str | None]] = {}
        self.known: dict[str, dict[str, InstanceFacts]] = {}
        self.jumped: set[str] = set()
        self.next_key = 0
        self.completed = 0

    @rule(sender=st.sampled_from([CT1, CT2, Sender("PACS", "")]))
    def open_association(self, sender: Sender) -> None:
        for one in self.both:
            one.association_opened(self.next_key, *sender)
        self.open[self.next_key] = (sender, None)
        self.next_key += 1

    @precondition(lambda self: self.open)
    @rule(pick=st.integers(0, 9), study=st.integers(0, 5), index=st.integers(0, 9), again=st.booleans())
    def store(self, pick: int, study: int, index: int, again: bool) -> None:
        key = sorted(self.open)[pick % len(self.open)]
        facts = fact(index, study=f"1.{study}")
        uid, known = facts.study_uid, self.known.setdefault(facts.study_uid, {})
        repeated = facts.sop_instance_uid in known
        if repeated and (uid not in self.last or not again):
            return
        for one in self.both:
            if known and uid not in self.last:
                one.restore(uid, known.values(), self.now)
            one.instance_stored(key, facts, self.now)
        known[facts.sop_instance_uid] = facts
        self.last[uid] = self.now
        self.open[key] = (self.open[key][0], uid)

    @precondition(lambda self: self.open)
    @rule(pick=st.integers(0, 9), released=st.booleans())
    def close(self, pick: int, released: bool) -> None:
        key = sorted(self.open)[pick % len(self.open)]
        del self.open[key]
        for one in self.both:
            one.association_closed(key, released, self.now)

    @rule(seconds=st.floats(0, 120))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(seconds=st.floats(-1e6, 1e6))
    def clock_jumps(self, seconds: float) -> None:
        self.now += seconds
        if seconds < 0:
            self.last = {uid: min(at, self.now) for uid, at in self.last.items()}

    @rule()
    def tick(self) -> None:
        first, second = (one.tick(self.now) for one in self.both)
        assert first == second
        for decision in first:
            if not isinstance(decision, Complete):
                continue
            assert decision.study_uid not in {uid for _, uid in self.open.values()}
            if decision.by == "quiet":
                assert self.now - self.last[decision.study_uid] >= LEAST_S - 1e-6
            del self.last[decision.study_uid]
            self.completed += 1
            for one in self.both:
                one.forget(decision.study_uid)

    @invariant()
    def what_is_learned_is_bounded_and_the_same(self) -> None:
        learned = [dict(one.pacing._paces) for one in self.both]
        assert learned[0] == learned[1]
        for found in learned[0].values():
            assert found == Pace.from_json(found.to_json())
            assert LEAST_S <= quiet_time(None, found).seconds <= MOST_S
            assert len(found.to_json()) < 8000

    def teardown(self) -> None:
        if not hasattr(self, "both"):
            return
        one = self.both[0]
        for key in self.open:
            one.association_closed(key, True, self.now)
        one.tick(self.now)
        done = {d.study_uid for d in one.tick(self.now + MOST_S) if isinstance(d, Complete)}
        assert done == set(self.last)  # every study ends, whatever was learned


TestLearning = Learning.TestCase
TestLearning.settings = settings(max_examples=60, stateful_step_count=40)


@settings(max_examples=50)
@given(count=st.integers(1, 40), data=st.data())
def test_the_order_of_gaps_does_not_matter(count: int, data: st.DataObject) -> None:
    seconds = data.draw(st.lists(st.floats(0, 1e4), min_size=count, max_size=count))
    assert gaps(*seconds) == gaps(*data.draw(st.permutations(seconds)))


def test_senders_beyond_the_limit_are_forgotten_oldest_first(tmp_path: Path) -> None:
    file, pacing = PaceFile(tmp_path / "intake.db"), Pacing()
    for number in range(MOST_SENDERS + 5):
        pacing.ended(f"1.{number}", [Sender(f"CT{number}", "")], "geometry", 0.0)
    kept = pacing.changed()
    assert len(kept) == MOST_SENDERS
    file.keep(Sender("OLD", ""), Pace())
    for sender, found in kept:
        file.keep(sender, found)
    assert len(file.paces()) == MOST_SENDERS
    assert Sender("OLD", "") not in file.paces()


def test_what_a_receiver_learned_survives_its_restart_and_is_shown(tmp_path: Path) -> None:
    file = PaceFile(tmp_path / "intake.db")
    with running(tmp_path, quiet_seconds=None, paces=file) as stand:
        assert file.paces() == {}
        assert push(stand.port, tmp_path, ct_series(5)) == [0] * 5
        wait_for(lambda: file.paces())
    with running(tmp_path, quiet_seconds=None, paces=file) as stand:
        assert push(stand.port, tmp_path, ct_series(5, study="b")) == [0] * 5
        wait_for(lambda: next(iter(file.paces().values())).studies == 2)
    [(sender, learned)] = file.paces().items()
    assert sender == Sender("SCANNER1", "127.0.0.1")
    assert learned.complete_by == {"geometry": 2}
    assert learned.within.total == 8
    said = completeness.describe(file.paces(), file.completions(10), None, lambda uid: "ab" * 16)
    assert [one["complete_by"] for one in said["studies"]] == ["geometry", "geometry"]
    assert "contiguous" in said["studies"][0]["explanation"]
    assert said["scanners"][0]["source"] == "default"


def test_a_pace_that_can_not_be_kept_holds_no_study_up(tmp_path: Path) -> None:
    class Broken(PaceFile):
        def keep(self, sender: Sender, pace: Pace) -> None:
            raise StorageError("the disk is gone")

    with running(tmp_path, quiet_seconds=None, paces=Broken(tmp_path / "intake.db")) as stand:
        assert push(stand.port, tmp_path, ct_series(5)) == [0] * 5
        assert wait_for(lambda: stand.reader.handovers_after(0))


@pytest.mark.parametrize(
    ("configured", "advice"),
    [(None, "Leave receiver.quiet_seconds out"), (10.0, "Raise"), (60.0, "Keep"), (600.0, "Leave")],
)
def test_the_suggestion_says_what_to_write(configured: float | None, advice: str) -> None:
    said = completeness.describe({CT1: pace()}, [], configured, str)
    assert said["suggestion"].startswith(advice)
    assert json.loads(json.dumps(said)) == said


def test_the_command_is_there_with_help() -> None:
    shown = CliRunner().invoke(cli.app, ["completeness", "--help"])
    assert shown.exit_code == 0
    assert "late" in shown.output
