"""What may be said about a cancer: pure functions from what was measured to the answer. Nothing else decides.

The order is that of the questions that a careful reader would ask: does the bundle know this cancer; was the scan fit
for it; is the patient one for whom there is evidence; was the organ in the scan, whole, in a contrast phase and of a
look that the model knows; and what was seen in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from core.finding import Answer, Cancer, Reason, Verdict
from engines.cascade.calibration import calibrated
from engines.manifest import CancerModel, ContrastWindow, Familiar, Organ


@dataclass(frozen=True)
class PatientContext:
    """What the rules may know of the patient; None: not known. sex: "F", "M" or "O" as in DICOM."""

    age_years: int | None = None
    sex: str | None = None


class Scored(Protocol):
    """What the rules read of a candidate."""

    @property
    def score(self) -> float: ...

    @property
    def inside_share(self) -> float: ...


class Looked(Protocol):
    """How an organ looks in this scan; None: not known."""

    @property
    def median_hu(self) -> float | None: ...

    @property
    def mean_hu(self) -> float | None: ...

    @property
    def sd_hu(self) -> float | None: ...

    @property
    def confidence(self) -> float | None: ...


class Seen(Protocol):
    """An organ as the localiser found it."""

    @property
    def volume_ml(self) -> float: ...

    @property
    def cut_mm2(self) -> float: ...

    @property
    def looks(self) -> Looked: ...


@dataclass(frozen=True)
class Refusal:
    """Why a cancer is not analysed."""

    reason: Reason
    detail: str

    def answer(self, cancer: Cancer) -> Answer:
        """As an answer."""
        return Answer.not_analysed(cancer, self.reason, self.detail)


def unfit(model: CancerModel, patient: PatientContext, slice_spacing_mm: float) -> Refusal | None:
    """Why this patient or this scan is not to be analysed for this cancer; None if it may be. Needs no network."""
    limits = model.contraindications
    restricted = limits.min_age_years > 0 or limits.max_age_years is not None
    if patient.age_years is None and limits.unknown_age == "refuse" and restricted:
        return Refusal(Reason.AGE, "the age is not known")
    if patient.age_years is not None and patient.age_years < limits.min_age_years:
        return Refusal(Reason.AGE, f"evidence begins at {limits.min_age_years} years")
    if patient.age_years is not None and limits.max_age_years is not None and patient.age_years > limits.max_age_years:
        return Refusal(Reason.AGE, f"evidence ends at {limits.max_age_years} years")
    if patient.sex is None and limits.unknown_sex == "refuse":
        return Refusal(Reason.SEX, "the sex is not known")
    if patient.sex is not None and patient.sex not in limits.sexes:
        return Refusal(Reason.SEX, f"evidence is of sex {', '.join(limits.sexes)}")
    if slice_spacing_mm > limits.max_slice_spacing_mm + 1e-3:
        return Refusal(
            Reason.TOO_THICK, f"{slice_spacing_mm:g} mm between slices, at most {limits.max_slice_spacing_mm:g} mm"
        )
    return None


def looked_at(model: CancerModel) -> frozenset[str]:
    """The organs whose looks `strange` asks for."""
    limits = model.contraindications
    organs = {rule.organ for rule in limits.familiar if rule.measure != "volume_ml"}
    return frozenset(organs | {limits.contrast.organ} if limits.contrast else organs)


def unseen(model: CancerModel, organ: Organ, found: Seen) -> Refusal | None:
    """Why the organ can't be judged in this scan; None if it can. Cut off comes before too small: it explains it."""
    if found.cut_mm2 > organ.cut_from_mm2 and model.contraindications.coverage == "complete":
        return Refusal(Reason.NOT_COVERED, f"the scan ends inside the {organ.name} ({found.cut_mm2 / 100:.0f} cm² cut)")
    if found.volume_ml < organ.found_from_ml or found.volume_ml == 0:
        return Refusal(
            Reason.ORGAN_NOT_FOUND,
            f"{found.volume_ml:.0f} mL of {organ.name} seen, {organ.found_from_ml:.0f} mL expected",
        )
    return None


def strange(model: CancerModel, organs: Mapping[str, Seen]) -> Refusal | None:
    """Why this scan is none that the model knows: its contrast phase, or how organs look in it; None if it is."""
    limits = model.contraindications
    if limits.contrast and (refusal := _other_phase(limits.contrast, organs[limits.contrast.organ])):
        return refusal
    for rule in limits.familiar:
        if refusal := _unfamiliar(rule, organs[rule.organ]):
            return refusal
    return None


def decide(
    cancer: Cancer, model: CancerModel, candidates: Sequence[Scored], organ_score: float | None = None
) -> Answer:
    """The verdict on an organ that was looked at.

    The score of the candidates is the highest one's, 0 without any; `organ_score` is the classifier's. The case score
    is what the manifest makes of the two, calibrated. Where the two by themselves would give opposite verdicts, or only
    candidates outside the organ are positive, the stages disagree: indeterminate.
    """
    best = max((candidate.score for candidate in candidates), default=0.0)
    score = case_score(model, best, organ_score)
    verdict = _verdict(score, model)
    if verdict is Verdict.INDETERMINATE:
        return Answer(cancer, verdict, score=score, detail="between the two thresholds")
    if organ_score is not None and model.network is not None:
        opinions = {_verdict(calibrated(s, model.calibration), model) for s in (best, organ_score)}
        if opinions == {Verdict.POSITIVE, Verdict.NEGATIVE}:
            detail = f"stages disagree: lesion map {best:.2f}, classifier {organ_score:.2f}"
            return Answer(cancer, Verdict.INDETERMINATE, score=score, detail=detail)
    if verdict is Verdict.POSITIVE and not _supported(candidates, organ_score, model):
        return Answer(
            cancer,
            Verdict.INDETERMINATE,
            score=score,
            detail=f"stages disagree: the lesion lies outside the {model.organ} as localised",
        )
    return Answer(cancer, verdict, score=score)


def case_score(model: CancerModel, best_candidate: float, organ_score: float | None) -> float:
    """The calibrated score of a case, 0..1."""
    if model.classifier is None or organ_score is None:
        raw = best_candidate
    elif model.classifier.combine == "classifier":
        raw = organ_score
    elif model.classifier.combine == "max":
        raw = max(best_candidate, organ_score)
    else:
        raw = (best_candidate + organ_score) / 2
    return calibrated(raw, model.calibration)


def _verdict(score: float, model: CancerModel) -> Verdict:
    if score < model.negative_below:
        return Verdict.NEGATIVE
    return Verdict.POSITIVE if score >= model.positive_above else Verdict.INDETERMINATE


def _supported(candidates: Sequence[Scored], organ_score: float | None, model: CancerModel) -> bool:
    """False where all that is positive are candidates outside the organ as localised."""
    inside_share = model.extraction.inside_share if model.extraction else 0.0
    positive = [c for c in candidates if calibrated(c.score, model.calibration) >= model.positive_above]
    if organ_score is not None and calibrated(organ_score, model.calibration) >= model.positive_above:
        return True
    return not positive or any(c.inside_share >= inside_share for c in positive)


def _other_phase(rule: ContrastWindow, found: Seen) -> Refusal | None:
    hu = found.looks.median_hu
    if hu is None:
        return Refusal(Reason.CONTRAST, f"the {rule.organ}, which would show the phase, was not found")
    if not rule.low_hu <= hu <= rule.high_hu:
        return Refusal(
            Reason.CONTRAST,
            f"{hu:.0f} HU in the {rule.organ}; {rule.phase} scans have {rule.low_hu:.0f} to {rule.high_hu:.0f}",
        )
    return None


def _unfamiliar(rule: Familiar, found: Seen) -> Refusal | None:
    value = found.volume_ml if rule.measure == "volume_ml" else getattr(found.looks, rule.measure)
    what = {"mean_hu": "mean HU", "sd_hu": "SD of HU", "volume_ml": "volume in mL", "confidence": "certainty"}
    if value is None:
        return Refusal(Reason.OUT_OF_DISTRIBUTION, f"no {rule.organ} found to compare")
    if not rule.low <= value <= rule.high:
        return Refusal(
            Reason.OUT_OF_DISTRIBUTION,
            f"{what[rule.measure]} of the {rule.organ} is {value:.3g}; known are {rule.low:.3g} to {rule.high:.3g}",
        )
    return None
