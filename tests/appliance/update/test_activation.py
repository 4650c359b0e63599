"""The table of a bundle's life has no dead end but the meant ones, and no way around the trial."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.update.activation import (
    REPORTED_AS,
    TRANSITIONS,
    UNFINISHED,
    Event,
    State,
    after,
    attempt_code,
    attempts_made,
)
from core.errors import IllegalTransition


def test_only_a_passed_trial_activates() -> None:
    assert [key for key, step in TRANSITIONS.items() if step.to is State.ACTIVE] == [(State.TRIAL, Event.TRIAL_PASSED)]


def test_refused_is_final_and_every_unfinished_state_can_be_left() -> None:
    assert not [key for key in TRANSITIONS if key[0] is State.REFUSED]
    for state in UNFINISHED:
        assert after(state, Event.SUPERSEDED) is State.RETIRED
        assert after(state, Event.FAULT_FOUND) is State.REFUSED


@given(st.sampled_from(State), st.sampled_from(Event))
def test_an_event_that_the_table_does_not_have_is_an_error(state: State, event: Event) -> None:
    if (state, event) in TRANSITIONS:
        assert after(state, event) is TRANSITIONS[state, event].to
    else:
        with pytest.raises(IllegalTransition):
            after(state, event)


def test_every_step_says_what_is_durable_before_it_and_every_state_has_a_word() -> None:
    assert all(step.durable_before for step in TRANSITIONS.values())
    assert set(REPORTED_AS) == set(State)


@given(st.integers(1, 10_000))
def test_a_row_remembers_its_attempts(n: int) -> None:
    assert attempts_made(attempt_code(n)) == n


@pytest.mark.parametrize("code", ["", "superseded", "attempt", "attempt x", "golden case", "attempt -1"])
def test_other_codes_tell_of_no_attempts(code: str) -> None:
    assert attempts_made(code) == 0
