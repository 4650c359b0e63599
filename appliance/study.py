"""The life of a study, as one literal table. Two journals keep it: `intake.db` the first two states (written by the
receiver alone), `journal.db` all later ones.

    RECEIVING ⇄ COMPLETE → QUEUED → ANALYSING → ANSWERED → DELIVERED
                             └──── SUPERSEDED ────┘

An event that the table does not have for a state raises `IllegalTransition` and changes nothing.
"""

from __future__ import annotations

import enum

from core.errors import IllegalTransition


class State(str, enum.Enum):
    """Where a study is."""

    RECEIVING = "receiving"  # instances are still coming
    COMPLETE = "complete"  # judged complete; handed over by an idempotent row
    QUEUED = "queued"  # in the journal, waiting for the analyser
    ANALYSING = "analysing"  # the analyser has it; after a crash it is taken up again from here
    ANSWERED = "answered"  # seven answers, objects and outbox rows committed in one transaction
    DELIVERED = "delivered"  # the PACS took every object and the registry acknowledged the result
    SUPERSEDED = "superseded"  # more slices came before this hand-over was analysed


class Event(str, enum.Enum):
    """What happens to a study."""

    INSTANCE_STORED = "instance stored"
    JUDGED_COMPLETE = "judged complete"
    HANDED_OVER = "handed over"
    ANALYSIS_STARTED = "analysis started"
    ANSWERS_COMMITTED = "answers committed"
    ALL_DELIVERED = "all delivered"
    NEWER_HANDED_OVER = "newer hand-over"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.RECEIVING, Event.INSTANCE_STORED): State.RECEIVING,
    (State.RECEIVING, Event.JUDGED_COMPLETE): State.COMPLETE,
    (State.COMPLETE, Event.INSTANCE_STORED): State.RECEIVING,
    (State.COMPLETE, Event.HANDED_OVER): State.QUEUED,
    (State.QUEUED, Event.ANALYSIS_STARTED): State.ANALYSING,
    (State.QUEUED, Event.NEWER_HANDED_OVER): State.SUPERSEDED,
    (State.ANALYSING, Event.ANALYSIS_STARTED): State.ANALYSING,
    (State.ANALYSING, Event.ANSWERS_COMMITTED): State.ANSWERED,
    (State.ANALYSING, Event.NEWER_HANDED_OVER): State.SUPERSEDED,
    (State.ANSWERED, Event.ALL_DELIVERED): State.DELIVERED,
}

FINAL = frozenset({State.DELIVERED, State.SUPERSEDED})


def after(state: State, event: Event) -> State:
    """The state that `event` leads to. IllegalTransition if the table has none."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"a study that is {state.value} can't take the event '{event.value}'") from None
