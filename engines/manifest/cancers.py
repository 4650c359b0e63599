"""How a cancer is looked for, when it is called positive, and for which scans and people none of that holds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from core.finding import Cancer
from engines.manifest.evidence import OperatingPoint
from engines.manifest.vocabulary import HU, Name, Part, PositiveMm, Share, refuse_repeats

Sex = Literal["F", "M", "O"]


class Organ(Part):
    """One organ as the localiser sees it."""

    name: Name
    labels: tuple[Name, ...] = Field(min_length=1, description="localiser labels that together are this organ")
    found_from_ml: float = Field(ge=0, description="mL; less than this counts as 'organ not found'")
    margin_mm: float = Field(ge=0, le=100, description="mm; the organ is searched this far beyond its mask")
    component_share: Share = Field(
        default=0.1, description="share of the largest connected part; smaller parts are dropped as noise"
    )
    cut_from_mm2: float = Field(
        default=400,
        ge=0,
        description="mm²; with more cross-section than this in the first or last slice the organ counts as cut off",
    )


class Extraction(Part):
    """Probability map → candidates."""

    probability: float = Field(gt=0, lt=1, description="voxels at or above this belong to a candidate")
    min_volume_mm3: float = Field(ge=0, description="mm³; smaller candidates are dropped")
    min_diameter_mm: float = Field(ge=0, description="mm; longest axial diameter, smaller candidates are dropped")
    score: Literal["peak", "core", "mean"] = Field(
        description="a candidate's score: its highest probability, the highest mean of 3 × 3 × 3 voxels of the network "
        "whose middle lies in it, or its mean"
    )
    inside_share: Share = Field(
        default=0,
        description="a positive candidate with a smaller share inside the organ's own mask (no margin) means that "
        "the stages disagree: indeterminate",
    )


class Classifier(Part):
    """A score for the organ as a whole, beside or instead of the lesion map."""

    network: Name = Field(description="id of a network with stage classify")
    label: Name = Field(description="its label that means cancer")
    combine: Literal["classifier", "max", "mean"] = Field(
        default="max", description="case score: the classifier's alone, or with the best candidate's"
    )


class Characteriser(Part):
    """A look at each candidate: is it malignant, or of which subtype?"""

    network: Name = Field(description="id of a network with stage characterise")
    question: Literal["malignancy", "subtype"]
    label: Name | None = Field(default=None, description="malignancy: the label that means malignant")
    score: Literal["multiply", "odds", "replace"] = Field(
        default="multiply",
        description="malignancy: what its probability does to the candidate's score: multiplies it, multiplies its "
        "odds by p / (1 - p), or takes its place",
    )

    @model_validator(mode="after")
    def _asked(self) -> Characteriser:
        if (self.question == "malignancy") != (self.label is not None):
            raise ValueError("a label stands with question malignancy and only there")
        return self


class Platt(Part):
    """Score → probability: 1 / (1 + exp(a·logit(score) + b)) (Platt 1999, on the logit as in Kull et al. 2017)."""

    kind: Literal["platt"] = "platt"
    a: float = Field(lt=0, description="slope; negative: a higher score is a higher probability")
    b: float


class Isotonic(Part):
    """Score → probability, piecewise linear through non-decreasing points (Zadrozny and Elkan 2002)."""

    kind: Literal["isotonic"] = "isotonic"
    scores: tuple[Share, ...] = Field(min_length=2, max_length=1000, description="increasing")
    probabilities: tuple[Share, ...] = Field(description="non-decreasing, one for each score")

    @model_validator(mode="after")
    def _ordered(self) -> Isotonic:
        if len(self.scores) != len(self.probabilities):
            raise ValueError("one probability for each score")
        if any(a >= b for a, b in zip(self.scores, self.scores[1:], strict=False)):
            raise ValueError("scores must increase")
        if any(a > b for a, b in zip(self.probabilities, self.probabilities[1:], strict=False)):
            raise ValueError("probabilities must not decrease")
        return self


Calibration = Annotated[Platt | Isotonic, Field(discriminator="kind")]


class ContrastWindow(Part):
    """The contrast phase that the model knows, told by the HU of a vessel; no header is believed."""

    organ: Name = Field(description="an organ of this manifest, as a rule the aorta")
    low_hu: HU = Field(description="HU; median in the organ's core at least this")
    high_hu: HU = Field(description="HU; at most this")
    phase: str = Field(min_length=1, max_length=40, description="what such a scan is called, e.g. non-contrast")

    @model_validator(mode="after")
    def _ordered(self) -> ContrastWindow:
        if self.low_hu >= self.high_hu:
            raise ValueError("low_hu must be below high_hu")
        return self


class Familiar(Part):
    """A range that the model's own cases stayed within; a scan outside of it is unlike what the model knows."""

    organ: Name
    measure: Literal["mean_hu", "sd_hu", "volume_ml", "confidence"] = Field(
        description="of the organ as localised: mean or SD of HU in its core at the localiser's spacing, volume in mL, "
        "or mean probability of the label that won"
    )
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Familiar:
        if self.low >= self.high:
            raise ValueError("low must be below high")
        return self


class Contraindications(Part):
    """When a scan is not to be analysed for this cancer."""

    min_age_years: int = Field(default=18, ge=0, le=120, description="years; younger patients are not analysed")
    max_age_years: int | None = Field(default=None, ge=0, le=130, description="years; older patients are not analysed")
    unknown_age: Literal["refuse", "analyse"] = Field(default="refuse", description="what if the age is missing")
    sexes: tuple[Sex, ...] = Field(
        default=("F", "M", "O"), min_length=1, description="of whom there is evidence, as DICOM's Patient's Sex"
    )
    unknown_sex: Literal["refuse", "analyse"] = Field(default="analyse", description="what if the sex is missing")
    max_slice_spacing_mm: PositiveMm = Field(description="mm between slices; thicker scans are not analysed")
    coverage: Literal["complete", "partial"] = Field(
        default="complete", description="complete: an organ cut off by the scan's ends is not analysed"
    )
    contrast: ContrastWindow | None = Field(default=None, description="None: any phase")
    familiar: tuple[Familiar, ...] = ()


class CancerModel(Part):
    """How one cancer is looked for and when it is called positive.

    A detector's `network` and `label` give candidates, `classifier` a score for the organ; one of the two is there, or
    both. Thresholds are on the calibrated case score.
    """

    cancer: Cancer
    organ: Name
    network: Name | None = Field(default=None, description="id of a network with stage detect")
    label: Name | None = Field(default=None, description="label of that network which marks the lesion")
    extraction: Extraction | None = Field(default=None, description="stands with a detecting network")
    classifier: Classifier | None = None
    characterisers: tuple[Characteriser, ...] = ()
    calibration: Calibration | None = None
    negative_below: Share = Field(description="case score below this: negative")
    positive_above: Share = Field(description="case score at or above this: positive; between: indeterminate")
    operating_points: tuple[OperatingPoint, ...] = Field(min_length=1)
    contraindications: Contraindications

    @model_validator(mode="after")
    def _ordered(self) -> CancerModel:
        if not 0 < self.negative_below <= self.positive_above:
            raise ValueError("0 < negative_below <= positive_above must hold")
        refuse_repeats((p.name for p in self.operating_points), "operating point")
        return self

    @model_validator(mode="after")
    def _looked_for(self) -> CancerModel:
        parts = (self.network, self.label, self.extraction)
        if any(part is None for part in parts) and any(part is not None for part in parts):
            raise ValueError("network, label and extraction stand together")
        if self.network is None and (self.classifier is None or self.classifier.combine != "classifier"):
            raise ValueError("without a detecting network there is a classifier with combine: classifier")
        if self.characterisers and self.network is None:
            raise ValueError("what is characterised are the candidates of a detecting network")
        refuse_repeats((c.question for c in self.characterisers), "question to a characteriser")
        return self
