"""What of an answer the box's pages are given: silent ones withheld, an indeterminate one with its reason in words."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.overview import _answer_view


def row(**changes: Any) -> dict[str, object]:
    base = {"cancer": "lung", "verdict": "indeterminate", "mode": "research", "score": 0.7, "reason": None}
    return {**base, "detail": "between the two thresholds", "lesions": "[1, 2]", "series_number": 3, **changes}


def test_an_indeterminate_answer_says_why() -> None:
    view = _answer_view(row())
    assert (view.verdict, view.score, view.lesions) == ("indeterminate", 0.7, 2)
    assert view.detail == "between the two thresholds"
    assert (view.series, _answer_view(row(series_number=None)).series) == (3, None)


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        ({"mode": "silent"}, "withheld", ""),
        ({"verdict": "positive"}, "positive", ""),
        ({"verdict": "not_analysed", "reason": "analysis failed", "score": None}, "not_analysed", "analysis failed"),
    ],
)
def test_no_other_answer_shows_its_detail(changes: dict[str, Any], verdict: str, reason: str) -> None:
    """A failure's detail may be an exception's text: it belongs into the log and the hospital's own report."""
    view = _answer_view(row(**changes))
    assert (view.verdict, view.reason, view.detail) == (verdict, reason, "")
    if verdict == "withheld":
        assert (view.score, view.lesions) == (None, 0)
