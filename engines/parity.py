"""Does this device get from a bundle what its maker got? The golden cases, run through the whole cascade here.

Checks 9 and 10 of a bundle (see `engines.bundle`): cases answer for every cancer that the bundle models, and this
device reproduces verdicts, scores and organ volumes within each case's tolerances.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from core.finding import Answer, Cancer
from engines import volumefile
from engines.bundle import Bundle
from engines.cascade import Analysis, Budget, Cascade, PatientContext
from engines.manifest import GoldenAnswer, GoldenCase, Manifest
from engines.runtime import Runtime

COVERAGE = "coverage"
"""Stands where a case's name would: no case shows that the bundle works for some cancer."""


@dataclass(frozen=True)
class GoldenOutcome:
    """One case. detail: what differed, or in how many seconds it agreed."""

    case: str
    passed: bool
    detail: str


def run_golden(bundle: Bundle, runtime: Runtime, budget: Budget | None = None) -> tuple[GoldenOutcome, ...]:
    """Every golden case, in the manifest's order, on one cascade. Never empty: a cancer without a case has failed.

    EngineError where a case's volume can't be read; a network that fails shows as a case that differs.
    """
    cascade = Cascade(bundle, runtime, budget)
    outcomes = [_run(case, bundle, cascade) for case in bundle.manifest.golden]
    if untested := _untested(bundle.manifest):
        names = ", ".join(cancer.value for cancer in untested)
        outcomes.append(GoldenOutcome(COVERAGE, False, f"no golden case shows that this bundle works for {names}"))
    elif not outcomes:
        outcomes.append(GoldenOutcome(COVERAGE, False, "the bundle has no golden case"))
    return tuple(outcomes)


def differences(case: GoldenCase, analysis: Analysis) -> tuple[str, ...]:
    """What in an analysis is not as the case wants it, each as a sentence. Pure."""
    return tuple(_differences(case, analysis))


def _run(case: GoldenCase, bundle: Bundle, cascade: Cascade) -> GoldenOutcome:
    volume = volumefile.read(bundle.path(case.input))
    analysis = cascade.analyse(volume, PatientContext(case.age_years, case.sex))
    found = differences(case, analysis)
    detail = "; ".join(found) or f"agrees, {analysis.timings_s['total']:.1f} s on {analysis.runtime}"
    return GoldenOutcome(case.name, not found, detail)


def _untested(manifest: Manifest) -> tuple[Cancer, ...]:
    """Modelled cancers for which no case runs the detector: "not analysed" would show nothing."""
    shown = {answer.cancer for case in manifest.golden for answer in case.answers if answer.reason is None}
    return tuple(model.cancer for model in manifest.cancers if model.cancer not in shown)


def _differences(case: GoldenCase, analysis: Analysis) -> Iterator[str]:
    answers = {answer.cancer: answer for answer in analysis.answers}
    for expected in case.answers:
        yield from _answer_differences(expected, answers[expected.cancer])
    for organ in case.organs:
        volume = analysis.organs_ml.get(organ.organ)
        if volume is None or abs(volume - organ.volume_ml) > organ.tolerance_ml:
            shown = "nothing" if volume is None else f"{volume:.0f} mL"
            yield f"{organ.organ}: {shown} instead of {organ.volume_ml:.0f} ± {organ.tolerance_ml:.0f} mL"


def _answer_differences(expected: GoldenAnswer, answer: Answer) -> Iterator[str]:
    name = expected.cancer.value
    if (answer.verdict, answer.reason) != (expected.verdict, expected.reason):
        wanted = expected.reason.value if expected.reason else expected.verdict.value
        got = f"{answer.reason.value} ({answer.detail})" if answer.reason else answer.verdict.value
        yield f"{name}: {got} instead of {wanted}"
        return
    if expected.score is None or answer.score is None:
        return
    if abs(answer.score - expected.score) > expected.score_tolerance:
        yield f"{name}: score {answer.score:.3f} instead of {expected.score:.3f} ± {expected.score_tolerance:.3f}"
