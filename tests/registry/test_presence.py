from __future__ import annotations

import itertools
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.presence import Known, Said, Verdict, adopt, judge

BOOT, OTHER = uuid.UUID(int=1), uuid.UUID(int=2)
KNOWN = Known(("old", "new"), BOOT, 5, True)


@pytest.mark.parametrize(
    ("known", "said", "verdict"),
    [
        (Known(), Said("new", BOOT, 1, True), Verdict.NEWER),
        (KNOWN, Said("unheard", BOOT, 1, False), Verdict.NEWER),
        (KNOWN, Said("old", BOOT, 9, True), Verdict.OLDER),
        (KNOWN, Said("new", BOOT, 6, True), Verdict.NEWER),
        (KNOWN, Said("new", BOOT, 4, False), Verdict.OLDER),
        (KNOWN, Said("new", OTHER, 5, True), Verdict.CONFLICT),
        (KNOWN, Said("new", BOOT, 5, False), Verdict.NEWER),
        (KNOWN, Said("new", BOOT, 5, True), Verdict.SAME),
        (Known(("new",), BOOT, 5, False), Said("new", BOOT, 5, True), Verdict.SAME),
    ],
)
def test_the_table(known: Known, said: Said, verdict: Verdict) -> None:
    assert judge(known, said) is verdict


@given(st.permutations(list(itertools.product(range(1, 5), [True, False]))))
def test_whatever_the_order_of_arrival_the_end_is_the_same(words: list[tuple[int, bool]]) -> None:
    known = Known()
    for session, online in words:
        said = Said("epoch", BOOT, session, online)
        if judge(known, said) is Verdict.NEWER:
            known = adopt(known, said)
    assert (known.session, known.online) == (4, False)
