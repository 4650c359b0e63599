"""Which cases count, and as what: the rules by which an answer is right or wrong. Pure.

    truth unknown                          not counted
    not analysed, and rightly so           not counted, but listed by reason (`excused`)
    not analysed otherwise                 wrong, whether the person has the cancer or not
    positive                               a flag: right for who has the cancer, wrong for who has not
    negative, indeterminate                no flag: wrong for who has the cancer, right for who has not

Rightly not analysed are scans and people that the bundle's own limits exclude, and organs that the scan cuts off: where
the truth knows that the organ is whole, "not covered" is a fault of the localiser, and counts as one.
"""

from __future__ import annotations

from core.finding import Reason, Verdict
from engines.evaluation.results import CancerResult

OUT_OF_SCOPE = frozenset(
    {Reason.NO_CT, Reason.NO_AXIAL_SERIES, Reason.TOO_FEW_SLICES, Reason.GANTRY_TILT, Reason.MISSING_SLICES}
    | {Reason.MIXED_SPACING, Reason.MIXED_GEOMETRY, Reason.DUPLICATE_POSITIONS, Reason.TOO_THICK}
    | {Reason.AGE, Reason.SEX, Reason.NO_MODEL}
)
"""What header and bundle say by themselves: no network had a part in it."""
OF_THE_PERSON = frozenset({Reason.AGE, Reason.SEX, Reason.NO_MODEL})


def excused(result: CancerResult) -> bool:
    """Whether a case was rightly not analysed."""
    if result.reason is None:
        return False
    if result.reason in (Reason.NOT_COVERED, Reason.ORGAN_NOT_FOUND):
        return result.whole is False or (result.whole is None and result.reason is Reason.NOT_COVERED)
    return result.reason in OUT_OF_SCOPE


def counts(result: CancerResult) -> bool:
    """Whether a case says anything about sensitivity or specificity."""
    return result.truth != "unknown" and not excused(result)


def flagged(result: CancerResult) -> bool:
    """Whether somebody would be called back."""
    return result.verdict is Verdict.POSITIVE


def analysed(result: CancerResult) -> bool:
    """Whether there is an answer."""
    return result.verdict is not Verdict.NOT_ANALYSED


def right(result: CancerResult) -> bool:
    """Whether the answer of a case that counts is right."""
    return flagged(result) if result.truth == 1 else analysed(result) and not flagged(result)
