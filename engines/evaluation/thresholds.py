"""Thresholds other than the bundle's: chosen on tuning cases, and what answers would have been with them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core.errors import ConfigError
from core.finding import Cancer, Verdict
from engines.calibration import NotCalibrated, choose_thresholds
from engines.evaluation.counting import counts
from engines.evaluation.results import CaseResult, Thresholds


def chosen_thresholds(
    tuning: Sequence[CaseResult],
    cancers: Sequence[Cancer],
    sensitivity: float,
    specificity: float,
    confidence: float | None = None,
) -> dict[Cancer, Thresholds]:
    """Thresholds that keep both on the tuning cases; with a confidence, the specificity among others too.

    ConfigError where cases of one kind are missing.
    """
    found = {}
    for cancer in cancers:
        known = [r for case in tuning if (r := case.cancers.get(cancer)) and counts(r) and r.score is not None]
        try:
            low, high = choose_thresholds(
                [r.score or 0.0 for r in known], [r.truth == 1 for r in known], sensitivity, specificity, confidence
            )
        except NotCalibrated as error:
            raise ConfigError(
                f"{cancer.value}: {error}", remedy="Run cases with and without it that are marked for tuning."
            ) from error
        found[cancer] = Thresholds(negative_below=low, positive_above=high)
    return found


def at_thresholds(case: CaseResult, thresholds: Mapping[Cancer, Thresholds]) -> CaseResult:
    """The case as other thresholds would have it: by its scores alone."""
    changed = {}
    for cancer, result in case.cancers.items():
        if result.score is None or cancer not in thresholds:
            changed[cancer] = result
            continue
        limits = thresholds[cancer]
        verdict = Verdict.INDETERMINATE
        if result.score >= limits.positive_above:
            verdict = Verdict.POSITIVE
        elif result.score < limits.negative_below:
            verdict = Verdict.NEGATIVE
        changed[cancer] = result.model_copy(update={"verdict": verdict})
    return case.model_copy(update={"cancers": changed})
