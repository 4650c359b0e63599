from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from registry.contiguity import Held, Span

spans = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 6)).map(lambda p: (p[0], p[0] + p[1])), max_size=40)


def numbers(held: Held) -> set[int]:
    everything = [(1, held.contiguous), *held.beyond]
    return {n for first, last in everything for n in range(first, last + 1)}


@given(spans)
def test_holds_exactly_the_numbers_that_came(came: list[Span]) -> None:
    assert numbers(Held().plus(came)) == {n for first, last in came for n in range(first, last + 1)}


@given(spans)
def test_contiguous_is_the_number_before_the_first_gap(came: list[Span]) -> None:
    held = Held().plus(came)
    present = numbers(held)
    assert held.contiguous + 1 not in present
    assert set(range(1, held.contiguous + 1)) <= present


@given(spans, st.randoms(use_true_random=False), st.integers(1, 8))
def test_order_repeats_and_batches_do_not_matter(came: list[Span], random, size: int) -> None:  # type: ignore[no-untyped-def]
    shuffled = [*came, *came]
    random.shuffle(shuffled)
    held = Held()
    for start in range(0, len(shuffled), size):
        held = held.plus(shuffled[start : start + size])
    assert held == Held().plus(came)


@given(spans, spans)
def test_an_acknowledgement_never_goes_back(before: list[Span], after: list[Span]) -> None:
    held = Held().plus(before)
    assert held.plus(after).contiguous >= held.contiguous


@given(spans)
def test_survives_the_way_through_the_database(came: list[Span]) -> None:
    held = Held().plus(came)
    assert Held.from_row(*held.row()) == held


def test_a_gap_holds_the_acknowledgement_back_until_it_is_filled() -> None:
    held = Held().plus([(1, 1), (3, 3), (4, 4)])
    assert held == Held(1, ((3, 4),))
    assert held.plus([(2, 2)]) == Held(4)
    assert held.plus([(2, 1)]) == held  # an empty range says nothing
