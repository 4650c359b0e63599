"""What may be said about a cancer: pure functions from what was measured to the answer. Nothing else decides.

The order is that of the questions that a careful reader would ask: does the bundle know this cancer; was the scan fit
for it; is the patient one for whom there is evidence; was the organ in the scan, whole; and what was seen in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from core.finding import Answer, Cancer, Reason, Verdict
from engines.manifest import CancerModel, Organ


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
    if patient.age_years is None and limits.unknown_age == "refuse" and limits.min_age_years > 0:
        return Refusal(Reason.AGE, "the age is not known")
    if patient.age_years is not None and patient.age_years < limits.min_age_years:
        return Refusal(Reason.AGE, f"evidence begins at {limits.min_age_years} years")
    if slice_spacing_mm > limits.max_slice_spacing_mm + 1e-3:
        return Refusal(
            Reason.TOO_THICK, f"{slice_spacing_mm:g} mm between slices, at most {limits.max_slice_spacing_mm:g} mm"
        )
    return None


def unseen(model: CancerModel, organ: Organ, volume_ml: float, cut_mm2: float) -> Refusal | None:
    """Why the organ can't be judged in this scan; None if it can. Cut off comes before too small: it explains it."""
    if cut_mm2 > organ.cut_from_mm2 and model.contraindications.coverage == "complete":
        return Refusal(Reason.NOT_COVERED, f"the scan ends inside the {organ.name} ({cut_mm2 / 100:.0f} cm² cut)")
    if volume_ml < organ.found_from_ml or volume_ml == 0:
        return Refusal(
            Reason.ORGAN_NOT_FOUND, f"{volume_ml:.0f} mL of {organ.name} seen, {organ.found_from_ml:.0f} mL expected"
        )
    return None


def decide(cancer: Cancer, model: CancerModel, candidates: Sequence[Scored]) -> Answer:
    """The verdict on an organ that was looked at. The case score is the highest candidate's; 0 without any."""
    best = max(candidates, key=lambda c: c.score, default=None)
    score = best.score if best else 0.0
    if score < model.negative_below:
        return Answer(cancer, Verdict.NEGATIVE, score=score)
    if best is None or score < model.positive_above:
        return Answer(cancer, Verdict.INDETERMINATE, score=score, detail="score between the two thresholds")
    if not any(_agreed(c, model) for c in candidates):
        return Answer(
            cancer,
            Verdict.INDETERMINATE,
            score=score,
            detail=f"stages disagree: the lesion lies outside the {model.organ} as localised",
        )
    return Answer(cancer, Verdict.POSITIVE, score=score)


def _agreed(candidate: Scored, model: CancerModel) -> bool:
    inside_share = model.extraction.inside_share if model.extraction else 0.0
    return candidate.score >= model.positive_above and candidate.inside_share >= inside_share
