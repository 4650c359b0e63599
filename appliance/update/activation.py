"""The life of a bundle on this device, as one literal table. Pure.

                         ┌───────────── WANTED_AGAIN ─────────────┐
                         ▼                                        │
    (wish) ──▶ ANNOUNCED ─▶ FETCHING ─▶ STAGED ⇄ TRIAL ─▶ ACTIVE ─▶ RETIRED
                   └────────────┴──────────┴───────┴──▶ REFUSED    ▲
                   └────────────┴──────────┴───────┴── SUPERSEDED ─┘

Each line of TRANSITIONS: (state, event) → (next state, what must be durable before its row is written). The row is
written before the next thing is attempted, so that after a crash the row says what was going on:

| row says | after a crash the updater ... |
|---|---|
| ANNOUNCED | starts fetching |
| FETCHING | goes on fetching; what is staged and whole is not fetched twice |
| STAGED | starts the trial |
| TRIAL | counts the attempt that was cut off (it stands in the row) and tries again, at most MAX_TRIALS times |
| ACTIVE, REFUSED, RETIRED | has nothing to do |

REFUSED is final for a digest: a corrected bundle has another version and so another digest.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from core.errors import IllegalTransition

MAX_TRIALS = 3
"""Trials that may be cut off (power, memory, a fault that takes the machine down) before the bundle is blamed."""


class State(str, enum.Enum):
    """Where a bundle is. The values stand in the journal."""

    ANNOUNCED = "announced"  # signed metadata names it, and the registry wants it
    FETCHING = "fetching"  # its files are on their way into the staging folder
    STAGED = "staged"  # whole, verified, in its final folder
    TRIAL = "trial"  # its golden cases are being run on this device
    ACTIVE = "active"  # the analyser uses it
    REFUSED = "refused"  # it failed a check or its golden cases; the row says which
    RETIRED = "retired"  # was active before, or no longer wanted before it became active


class Event(str, enum.Enum):
    """What happens to a bundle."""

    FETCH_STARTED = "fetch started"
    VERIFIED = "verified"
    TRIAL_STARTED = "trial started"
    TRIAL_POSTPONED = "trial postponed"
    TRIAL_PASSED = "trial passed"
    FAULT_FOUND = "fault found"
    SUPERSEDED = "superseded"
    REPLACED = "replaced"
    WANTED_AGAIN = "wanted again"


@dataclass(frozen=True)
class Step:
    """Where an event leads, and what is durable before that stands in the journal."""

    to: State
    durable_before: str


_NOTHING = "nothing"
_KEPT = "the bundle that was active is still active"

TRANSITIONS: dict[tuple[State, Event], Step] = {
    (State.ANNOUNCED, Event.FETCH_STARTED): Step(State.FETCHING, _NOTHING),
    (State.ANNOUNCED, Event.FAULT_FOUND): Step(State.REFUSED, _KEPT),
    (State.ANNOUNCED, Event.SUPERSEDED): Step(State.RETIRED, _KEPT),
    (State.FETCHING, Event.FETCH_STARTED): Step(State.FETCHING, "the blobs that are whole, each by itself"),
    (State.FETCHING, Event.VERIFIED): Step(State.STAGED, "every file, under the final folder name"),
    (State.FETCHING, Event.FAULT_FOUND): Step(State.REFUSED, _KEPT),
    (State.FETCHING, Event.SUPERSEDED): Step(State.RETIRED, _KEPT),
    (State.STAGED, Event.TRIAL_STARTED): Step(State.TRIAL, "the number of this attempt, in the row itself"),
    (State.STAGED, Event.FAULT_FOUND): Step(State.REFUSED, _KEPT),
    (State.STAGED, Event.SUPERSEDED): Step(State.RETIRED, _KEPT),
    (State.TRIAL, Event.TRIAL_STARTED): Step(State.TRIAL, "the number of this attempt, in the row itself"),
    (State.TRIAL, Event.TRIAL_POSTPONED): Step(State.STAGED, "the trial's process has ended"),
    (State.TRIAL, Event.TRIAL_PASSED): Step(State.ACTIVE, "the trial's process has ended and every case passed"),
    (State.TRIAL, Event.FAULT_FOUND): Step(State.REFUSED, _KEPT),
    (State.TRIAL, Event.SUPERSEDED): Step(State.RETIRED, _KEPT),
    (State.ACTIVE, Event.REPLACED): Step(State.RETIRED, "the new active row, in the same transaction (by the shelf)"),
    (State.RETIRED, Event.WANTED_AGAIN): Step(State.ANNOUNCED, _NOTHING),
}

UNFINISHED = frozenset({State.ANNOUNCED, State.FETCHING, State.STAGED, State.TRIAL})
REPORTED_AS = {
    State.ANNOUNCED: "fetching",
    State.FETCHING: "fetching",
    State.STAGED: "verifying",
    State.TRIAL: "trial",
    State.ACTIVE: "active",
    State.REFUSED: "refused",
    State.RETIRED: "idle",
}
"""State → the word of `core.wire.ReportedBody.state`."""


def after(state: State, event: Event) -> State:
    """The state that `event` leads to. IllegalTransition if the table has none."""
    try:
        return TRANSITIONS[state, event].to
    except KeyError:
        raise IllegalTransition(f"a bundle that is {state.value} can't take the event '{event.value}'") from None


_ATTEMPT = "attempt "


def attempt_code(attempt: int) -> str:
    """How a row in TRIAL remembers which attempt it is."""
    return f"{_ATTEMPT}{attempt}"


def attempts_made(code: str) -> int:
    """Attempts that a row's code tells of; 0 for any other code."""
    number = code[len(_ATTEMPT) :] if code.startswith(_ATTEMPT) else ""
    return int(number) if number.isdigit() else 0
