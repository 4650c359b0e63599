"""The threshold detector beside the bundle: on the same cases, with as many false alarms as the bundle had. Pure.

Its rule was chosen on other people (`baseline.BEST`). Its size threshold is chosen here, on the very cases that it is
judged on, so that it flags no more of those without the cancer than the bundle got wrong: an upper limit to what it
finds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.finding import Cancer
from engines.evaluation import statistics as stats
from engines.evaluation.baseline import BEST
from engines.evaluation.counting import right
from engines.evaluation.figures import BaselineFigures, Proportion
from engines.evaluation.results import CaseResult


def beside(cancer: Cancer, cases: Sequence[CaseResult]) -> BaselineFigures | None:
    """cases: those that count. None where organs were not outlined, or one of the two kinds is missing."""
    measured = [(r, case.person) for case in cases if (r := case.cancers[cancer]).baseline_mm is not None]
    ill, well = ([(r.baseline_mm or 0.0, person) for r, person in measured if r.truth == kind] for kind in (1, 0))
    if not ill or not well:
        return None
    allowed = sum(r.truth == 0 and not right(r) for r, _ in measured)
    from_mm = size_that_spares(sorted((mm for mm, _ in well), reverse=True), allowed)
    found, spared = [mm >= from_mm for mm, _ in ill], [mm < from_mm for mm, _ in well]
    return BaselineFigures(
        rule=str(BEST[cancer]),
        from_mm=from_mm,
        sensitivity=Proportion.of(stats.rate_of(found, [person for _, person in ill])),
        specificity=Proportion.of(stats.rate_of(spared, [person for _, person in well])),
    )


def size_that_spares(largest_first: Sequence[float], allowed: int) -> float:
    """The smallest size that at most `allowed` of these reach."""
    return float(np.nextafter(largest_first[allowed], np.inf)) if allowed < len(largest_first) else 0.0
