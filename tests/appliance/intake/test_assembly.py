"""Completeness, sans-IO: order of arrival, duplicates, interleaved studies, aborted associations, jumping clocks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from appliance.intake.announcement import Announcement
from appliance.intake.assembly import Assembly, Complete, Waiting
from appliance.intake.facts import CT_IMAGE, ENHANCED_CT, InstanceFacts

QUIET = 30.0
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def fact(index: int, study: str = "1.1", series: str = "1", spacing: float = 2.0, **changes: object) -> InstanceFacts:
    facts = InstanceFacts(
        sop_instance_uid=f"{study}.{series}.{index}",
        sop_class_uid=CT_IMAGE,
        study_uid=study,
        series_uid=f"{study}.{series}",
        modality="CT",
        image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
        position=(-200.0, -100.0, spacing * index),
        orientation=AXIAL,
        rows=512,
        columns=512,
        spacing_mm=(0.8, 0.8),
        thickness_mm=spacing,
        acquisition_number=1,
    )
    return dataclasses.replace(facts, **changes)  # type: ignore[arg-type]


def series(count: int, **changes: object) -> list[InstanceFacts]:
    return [fact(i, **changes) for i in range(count)]  # type: ignore[arg-type]


def multi_frame(index: int, series: str = "1", **changes: object) -> InstanceFacts:
    """An Enhanced CT image of 20 frames; with `part`, a part of one."""
    changes = {"concatenation": "1.1.77", **changes} if "part" in changes else changes
    told = {"sop_class_uid": ENHANCED_CT, "frames": 20, "position": None, "orientation": None, "spacing_mm": None}
    return fact(index, series=series, **{**told, **changes})  # type: ignore[arg-type]


def deliver(assembly: Assembly, facts: Sequence[InstanceFacts], key: str = "a", now: float = 0.0) -> None:
    """One association that brings `facts` and is released."""
    assembly.association_opened(key, "CT1")
    for one in facts:
        assembly.instance_stored(key, one, now)
    assembly.association_closed(key, released=True, now=now)


def outcome(facts: Sequence[InstanceFacts], now: float = 0.0) -> Complete | Waiting:
    """What one association with these facts leads to, at once."""
    assembly = Assembly(QUIET)
    deliver(assembly, facts)
    (decision,) = assembly.tick(now)
    return decision


def test_a_contiguous_series_is_complete_at_the_release_not_before() -> None:
    assembly = Assembly(QUIET)
    assembly.association_opened("a", "CT1")
    for one in series(10):
        assembly.instance_stored("a", one, 1.0)
    (waiting,) = assembly.tick(2.0)
    assert waiting == Waiting("1.1", "waiting: an association of CT1 is open")
    assert assembly.tick(1e6) == []  # told once; an open association holds a study however long it is silent
    assembly.association_closed("a", released=True, now=1e6)
    (complete,) = assembly.tick(1e6)
    assert isinstance(complete, Complete)
    assert complete.by == "geometry"
    assert "10 slices" in complete.explanation
    assert assembly.tick(1e6) == [complete]  # until the hand-over is written
    assembly.forget("1.1")
    assert assembly.tick(1e6) == []
    assert not assembly.knows("1.1")


@pytest.mark.parametrize(
    ("name", "facts", "obstacle"),
    [
        ("a slice is missing", [f for f in series(10) if f.sop_instance_uid != "1.1.1.4"], "evenly"),
        ("every other slice", series(10)[::2], "gaps"),
        ("tilt in the header", series(10, tilt_degrees=12.0), "tilt"),
        ("leaning stack", [fact(i, position=(0.0, 0.3 * i, 2.0 * i)) for i in range(10)], "tilt"),
        ("two phases", [*series(6), *[fact(i + 50, position=(-200.0, -100.0, 2.0 * i)) for i in range(6)]], "position"),
        ("two matrices", [*series(6), fact(6, rows=256)], "mixes"),
        ("beyond measure", series(6, orientation=(1e200, 0.0, 0.0, 0.0, 1e200, 0.0)), "not evenly spaced"),
        ("two slices", series(2), "short"),
        ("a part is missing", [multi_frame(0, part=1, parts=3), multi_frame(1, part=3, parts=3)], "2 of 3 parts"),
        ("parts without number", [multi_frame(0, part=1), multi_frame(1, part=2)], "does not say how many"),
        ("a part came twice", [multi_frame(n, part=1, parts=2) for n in range(2)], "1 of 2 parts"),
        ("frames and slices", [*series(6), multi_frame(9)], "mixes multi-frame images and single slices"),
        ("a gap beside it", [multi_frame(9, series="9"), *series(10)[::2]], "gaps"),
        ("fewer frames than counted", [multi_frame(0, images_in_acquisition=30)], "20 of 30"),
        ("no axial series", [fact(i, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")) for i in range(3)], "no axial"),
        ("fewer than counted", series(10, images_in_acquisition=12), "10 of 12"),
    ],
)
def test_what_geometry_can_not_judge_waits_for_quiet(name: str, facts: list[InstanceFacts], obstacle: str) -> None:
    early = outcome(facts)
    assert isinstance(early, Waiting), name
    assert obstacle in early.explanation
    late = outcome(facts, QUIET)
    assert isinstance(late, Complete)
    assert late.by == "quiet"
    assert obstacle in late.explanation


@pytest.mark.parametrize(
    "facts",
    [
        [multi_frame(0)],
        [multi_frame(0), multi_frame(1, series="2")],
        [multi_frame(0, part=2, parts=2), multi_frame(1, part=1, parts=2)],
        [multi_frame(0, series="2"), *series(10)],
        [multi_frame(0), multi_frame(1, series="2", image_type=("ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"))],
    ],
    ids=["one", "two series", "in parts", "beside slices", "beside its localizer"],
)
def test_a_multi_frame_image_is_whole_as_one_instance(facts: list[InstanceFacts]) -> None:
    complete = outcome(facts)
    assert isinstance(complete, Complete)
    assert complete.by == "count"
    assert "multi-frame and whole" in complete.explanation


def test_a_localizer_alone_completes_nothing() -> None:
    localizer = multi_frame(0, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"))
    assert isinstance(outcome([localizer]), Waiting)


def test_localizer_dose_and_other_planes_do_not_hold_a_study_up() -> None:
    others = [
        fact(90, series="2", image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")),
        fact(91, series="3", sop_class_uid="1.2.840.10008.5.1.4.1.1.88.67", position=None, orientation=None),
        fact(92, series="4", orientation=(1.0, 0.0, 0.0, 0.0, 0.0, -1.0)),
    ]
    decision = outcome([*others, *series(10)])
    assert isinstance(decision, Complete)
    assert decision.by == "geometry"


def test_a_second_series_with_a_gap_holds_the_study_up() -> None:
    gap = [f for f in series(10, series="2") if not f.sop_instance_uid.endswith(".5")]
    assert isinstance(outcome([*series(10), *gap]), Waiting)


def test_counts_decide_where_geometry_can_not() -> None:
    decision = outcome(series(10, tilt_degrees=12.0, images_in_acquisition=10))
    assert isinstance(decision, Complete)
    assert decision.by == "count"


def test_an_announced_count_decides_even_one_image_per_association() -> None:
    assembly = Assembly(QUIET)
    for number, one in enumerate(series(5)):
        deliver(assembly, [one], key=f"a{number}", now=float(number))
        assembly.announced("1.1", Announcement(requested=frozenset(f.sop_instance_uid for f in series(5))))
        decisions = assembly.tick(float(number))
        assert any(isinstance(d, Complete) for d in decisions) == (number == 4)


def test_an_announced_count_that_is_short_holds_a_perfect_stack_back() -> None:
    assembly = Assembly(QUIET)
    assembly.association_opened("a", "CT1")
    for one in series(10):
        assembly.instance_stored("a", one, 0.0)
    assembly.announced("1.1", Announcement(performed=frozenset(f.sop_instance_uid for f in series(11))))
    assembly.association_closed("a", released=True, now=0.0)
    (waiting,) = assembly.tick(0.0)
    assert "10 of 11 announced" in waiting.explanation


def test_a_commitment_request_for_a_part_says_nothing_of_the_whole() -> None:
    assembly = Assembly(QUIET)
    for number, one in enumerate(series(5)):
        deliver(assembly, [one], key=f"a{number}", now=float(number))
        assembly.announced("1.1", Announcement(requested=frozenset({one.sop_instance_uid})))
        assert not any(isinstance(d, Complete) for d in assembly.tick(float(number)))


def test_a_step_in_progress_holds_a_perfect_stack_back_but_not_for_ever() -> None:
    assembly = Assembly(QUIET)
    deliver(assembly, series(10))
    assembly.announced("1.1", Announcement(in_progress=1))
    (waiting,) = assembly.tick(0.0)
    assert isinstance(waiting, Waiting)
    assert "in progress" in waiting.explanation
    (complete,) = assembly.tick(QUIET)
    assert isinstance(complete, Complete)
    assert complete.by == "quiet"


def test_a_discontinued_step_is_told_and_waited_for_by_nobody() -> None:
    assembly = Assembly(QUIET)
    deliver(assembly, series(10))
    assembly.announced("1.1", Announcement(discontinued=1))
    (complete,) = assembly.tick(0.0)
    assert isinstance(complete, Complete)
    assert complete.by == "geometry"
    assert "discontinued" in complete.explanation


def test_a_sender_with_one_association_per_image_falls_back_to_quiet() -> None:
    assembly = Assembly(QUIET)
    for number, one in enumerate(series(8)):
        deliver(assembly, [one], key=f"a{number}", now=float(number))
        assert not any(isinstance(d, Complete) for d in assembly.tick(float(number)))
    assert not any(isinstance(d, Complete) for d in assembly.tick(7.0 + QUIET - 0.1))
    (complete,) = assembly.tick(7.0 + QUIET)
    assert isinstance(complete, Complete)
    assert complete.by == "quiet"


def test_after_an_abort_only_a_later_association_or_quiet_completes() -> None:
    assembly = Assembly(QUIET)
    assembly.association_opened("a", "CT1")
    assembly.association_opened("b", "CT1")
    for one in series(10):
        assembly.instance_stored("a", one, 0.0)
        assembly.instance_stored("b", one, 0.0)
    assembly.association_closed("a", released=False, now=1.0)
    assembly.association_closed("b", released=True, now=1.0)  # it ran beside the one that broke off
    (waiting,) = assembly.tick(1.0)
    assert "broke off" in waiting.explanation
    deliver(assembly, series(12), key="c", now=2.0)
    (complete,) = assembly.tick(2.0)
    assert isinstance(complete, Complete)
    assert complete.by == "geometry"


def test_a_restored_study_is_not_trusted_until_somebody_brings_more() -> None:
    assembly = Assembly(QUIET)
    assembly.restore("1.1", series(10), now=5.0)
    (waiting,) = assembly.tick(5.0)
    assert isinstance(waiting, Waiting)
    assert assembly.next_deadline() == 5.0 + QUIET
    (complete,) = assembly.tick(5.0 + QUIET)
    assert isinstance(complete, Complete)
    assert complete.by == "quiet"


def test_pruned_images_have_to_come_back_first() -> None:
    assembly = Assembly(QUIET)
    assembly.restore("1.1", series(10), now=0.0, absent={f.sop_instance_uid for f in series(9)})
    deliver(assembly, [fact(10)], now=1.0)
    (waiting,) = assembly.tick(1000.0)
    assert "push the whole study again" in waiting.explanation
    assert assembly.next_deadline() is None
    deliver(assembly, series(11), key="b", now=1001.0)
    (complete,) = assembly.tick(1001.0)
    assert isinstance(complete, Complete)


def test_an_association_that_moved_on_to_another_study_does_not_hold_the_first_forever() -> None:
    assembly = Assembly(QUIET)
    assembly.association_opened("archive", "PACS")
    for one in [*series(10), *series(10, study="1.2")]:
        assembly.instance_stored("archive", one, 0.0)
    assert all(isinstance(d, Waiting) for d in assembly.tick(QUIET - 1))
    (complete,) = assembly.tick(QUIET)
    assert (complete.study_uid, getattr(complete, "by", None)) == ("1.1", "quiet")


def test_a_late_image_reopens() -> None:
    assembly = Assembly(QUIET)
    deliver(assembly, series(10))
    assembly.tick(0.0)
    assembly.forget("1.1")
    assembly.restore("1.1", series(10), now=50.0)
    deliver(assembly, [fact(10), fact(11)], key="b", now=50.0)
    (complete,) = assembly.tick(50.0)
    assert isinstance(complete, Complete)
    assert "12 slices" in complete.explanation


@settings(max_examples=100)
@given(data=st.data(), count=st.integers(3, 12))
def test_order_and_duplicates_change_nothing(data: st.DataObject, count: int) -> None:
    facts = [*series(count), *series(4, series="2", spacing=5.0)]
    again = data.draw(st.lists(st.sampled_from(facts), max_size=8))
    order = data.draw(st.permutations([*facts, *again]))
    assert outcome(order) == outcome(facts)


@settings(max_examples=100)
@given(gone=st.sets(st.integers(1, 10), min_size=1, max_size=5), order=st.permutations(range(12)))
def test_a_stack_with_a_hole_is_never_complete_by_geometry(gone: set[int], order: list[int]) -> None:
    decision = outcome([fact(i) for i in order if i not in gone])
    assert isinstance(decision, Waiting)


@settings(max_examples=100)
@given(jumps=st.lists(st.floats(-1e5, 1e5), max_size=12))
def test_jumping_clocks_never_complete_what_is_open_and_never_hold_what_is_quiet(jumps: list[float]) -> None:
    assembly = Assembly(QUIET)
    assembly.association_opened("a", "CT1")
    now = 0.0
    assembly.instance_stored("a", fact(0), now)
    for jump in jumps:
        now += jump
        assert not any(isinstance(d, Complete) for d in assembly.tick(now))
    assembly.association_closed("a", released=False, now=now)
    assert not any(isinstance(d, Complete) for d in assembly.tick(now))
    (complete,) = assembly.tick(math.nextafter(now + QUIET, math.inf))
    assert isinstance(complete, Complete)


class Traffic(RuleBasedStateMachine):
    """Several senders, several studies, any interleaving; a plain model of what must never happen beside it."""

    @initialize()
    def begin(self) -> None:
        self.assembly = Assembly(QUIET)
        self.now = 0.0
        self.open: dict[int, str | None] = {}  # association → study that it is bringing
        self.touched: dict[str, set[int]] = {}
        self.stored: dict[str, dict[str, InstanceFacts]] = {}
        self.waiting: set[str] = set()
        self.next_key = 0

    @rule()
    def open_association(self) -> None:
        self.open[self.next_key] = None
        self.assembly.association_opened(self.next_key, "CT1")
        self.next_key += 1

    @rule(pick=st.integers(0, 9), study=st.sampled_from(["1.1", "1.2"]), index=st.integers(0, 7))
    def store(self, pick: int, study: str, index: int) -> None:
        if not self.open:
            return
        key = sorted(self.open)[pick % len(self.open)]
        one = fact(index, study=study)
        known = self.stored.setdefault(study, {})
        if one.sop_instance_uid in known and study not in self.waiting:
            return  # the caller does not tell assembly of what a complete study has already
        if study not in self.waiting and known:
            self.assembly.restore(study, known.values(), self.now)
        known[one.sop_instance_uid] = one
        self.waiting.add(study)
        self.assembly.instance_stored(key, one, self.now)
        self.open[key] = study
        self.touched.setdefault(study, set()).add(key)

    @rule(pick=st.integers(0, 9), released=st.booleans())
    def close(self, pick: int, released: bool) -> None:
        if self.open:
            key = sorted(self.open)[pick % len(self.open)]
            del self.open[key]
            self.assembly.association_closed(key, released, self.now)
            for keys in self.touched.values():
                keys.discard(key)

    @rule(seconds=st.floats(-50, 50))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def tick(self) -> None:
        for decision in self.assembly.tick(self.now):
            study = decision.study_uid
            assert study in self.waiting
            if isinstance(decision, Complete):
                self.assembly.forget(study)
                self.waiting.discard(study)
                assert study not in self.open.values()
                if decision.by == "geometry":
                    assert not self.touched[study]
                    z = sorted(f.position[2] for f in self.stored[study].values() if f.position)
                    assert len(z) >= 3
                    assert z[-1] - z[0] == 2.0 * (len(z) - 1)

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert all(self.assembly.knows(study) for study in self.waiting)

    def teardown(self) -> None:
        if not hasattr(self, "assembly"):
            return
        for key in self.open:
            self.assembly.association_closed(key, True, self.now)
        self.assembly.tick(self.now)  # it has to see a clock that jumped back before it can count from there
        done = {d.study_uid for d in self.assembly.tick(self.now + QUIET + 1) if isinstance(d, Complete)}
        assert done == self.waiting


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=100, stateful_step_count=30)
