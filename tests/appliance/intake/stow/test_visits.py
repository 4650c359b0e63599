"""Requests of one address are one visit until it pauses; what breaks off is broken; each is ended once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Hashable
from contextlib import ExitStack

from hypothesis import given
from hypothesis import strategies as st

from appliance.intake.door import Door
from appliance.intake.senders import Senders
from appliance.intake.storing import StoreRequest
from appliance.intake.stow.visits import Visits

PAUSE_S = 10.0


class _Stand:
    """Counts what completeness hears."""

    def __init__(self) -> None:
        self.now = 0.0
        self.open: dict[Hashable, str] = {}
        self.closed: list[tuple[str, bool]] = []
        senders = Senders(lambda: dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc))
        door = Door(self._store, self._opened, self._closed, lambda a, b: False, lambda: True, senders, (), ())
        self.visits = Visits(door, "STOW-RS", False, PAUSE_S, lambda: self.now)

    def _store(self, request: StoreRequest) -> None:
        raise AssertionError("nothing is stored here")

    def _opened(self, visit: Hashable, sender: str, address: str) -> None:
        assert visit not in self.open
        self.open[visit] = address

    def _closed(self, visit: Hashable, released: bool) -> None:
        self.closed.append((self.open.pop(visit), released))

    def request(self, address: str, seconds: float = 0.0, fails: bool = False) -> Hashable:
        try:
            with self.visits.request(address) as visit:
                self.now += seconds
                if fails:
                    raise OSError("cut")
        except OSError:
            pass
        return visit


def test_requests_that_follow_each_other_are_one_visit_until_it_pauses() -> None:
    stand = _Stand()
    first = stand.request("10.0.0.1")
    for _ in range(5):
        stand.now += PAUSE_S - 1
        stand.visits.end_finished()
        assert stand.request("10.0.0.1", seconds=100.0) is first
    other = stand.request("10.0.0.2")
    assert other is not first
    assert stand.closed == []
    stand.now += PAUSE_S
    stand.visits.end_finished()
    assert sorted(stand.closed) == [("10.0.0.1", True), ("10.0.0.2", True)]
    assert stand.request("10.0.0.1") is not first


def test_a_request_that_breaks_off_ends_its_visit_and_the_repeat_is_another() -> None:
    stand = _Stand()
    first = stand.request("10.0.0.1")
    assert stand.request("10.0.0.1", fails=True) is first
    assert stand.closed == [("10.0.0.1", False)]
    again = stand.request("10.0.0.1")
    assert again is not first
    stand.now += PAUSE_S
    stand.visits.end_finished()
    assert stand.closed[1:] == [("10.0.0.1", True)]


def test_one_that_breaks_off_beside_others_ends_the_visit_when_they_are_through() -> None:
    stand = _Stand()
    with stand.visits.request("10.0.0.1") as one:
        assert stand.request("10.0.0.1", fails=True) is one
        assert stand.closed == []
        assert stand.request("10.0.0.1") is not one
    assert stand.closed == [("10.0.0.1", False)]


def test_at_the_end_none_counts_as_released() -> None:
    stand = _Stand()
    stand.request("10.0.0.1")
    with stand.visits.request("10.0.0.2"):
        stand.visits.stop()
        assert stand.closed == [("10.0.0.1", False)]
    assert stand.closed == [("10.0.0.1", False), ("10.0.0.2", False)]


STEPS = st.lists(st.tuples(st.sampled_from(["begin", "end", "fail", "pass", "look"]), st.integers(0, 2)), max_size=40)


@given(STEPS)
def test_whatever_happens_each_visit_is_ended_once_and_never_during_a_request(steps: list[tuple[str, int]]) -> None:
    stand = _Stand()
    running: list[list[tuple[ExitStack, Hashable]]] = [[], [], []]
    for step, who in steps:
        if step == "begin":
            stack = ExitStack()
            running[who].append((stack, stack.enter_context(stand.visits.request(f"10.0.0.{who}"))))
        elif step in ("end", "fail") and running[who]:
            stack, _ = running[who].pop(0)
            error = OSError("cut") if step == "fail" else None
            stack.__exit__(type(error) if error else None, error, None)
        elif step == "pass":
            stand.now += 6.0
        elif step == "look":
            stand.visits.end_finished()
        for requests in running:
            assert all(visit in stand.open for _, visit in requests)
    for requests in running:
        for stack, _ in requests:
            stack.close()
    stand.now += PAUSE_S
    stand.visits.end_finished()
    assert not stand.open
