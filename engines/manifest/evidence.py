"""What was measured, on whom, and what that permits."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from core.finding import Cancer
from engines.manifest.vocabulary import Interval, Name, Part, Share

Kind = Literal["synthetic", "retrospective", "prospective"]


class Evidence(Part):
    """What an operating point was measured on, and what came out."""

    kind: Kind
    cohort: str = Field(min_length=1, description="which cases, from where, of when")
    n_positive: int = Field(ge=0, description="cases with the cancer")
    n_negative: int = Field(ge=0, description="cases without it")
    sensitivity: Share
    sensitivity_ci95: Interval = Field(description="95 % confidence interval (low, high)")
    specificity: Share
    specificity_ci95: Interval = Field(description="95 % confidence interval (low, high)")

    @model_validator(mode="after")
    def _ordered(self) -> Evidence:
        _inside("sensitivity", self.sensitivity, self.sensitivity_ci95)
        _inside("specificity", self.specificity, self.specificity_ci95)
        return self


class OperatingPoint(Part):
    """A score threshold and how well it did."""

    name: Name
    threshold: Share = Field(description="calibrated case score; at or above it a case counts as positive")
    evidence: Evidence


class CaseLevel(Part):
    """All cancers together: seven good specificities multiply to one that may be bad, so it has a budget of its own."""

    budget: Share = Field(description="share of people without any of the cancers who may be flagged for one or more")
    kind: Kind
    cohort: str = Field(min_length=1, description="which cases, from where, of when")
    n_negative: int = Field(ge=1, description="people without any of the cancers")
    specificity: Share = Field(description="share of them with no flag at all")
    specificity_ci95: Interval = Field(description="95 % confidence interval (low, high)")

    @model_validator(mode="after")
    def _within_budget(self) -> CaseLevel:
        _inside("specificity", self.specificity, self.specificity_ci95)
        if 1 - self.specificity > self.budget + 1e-9:
            raise ValueError(
                f"{1 - self.specificity:.2%} of healthy people are flagged, the budget is {self.budget:.2%}: "
                "raise thresholds, or drop a cancer"
            )
        return self


class Authorisation(Part):
    """Permission to use this bundle on patients. Without one it is never clinical."""

    jurisdiction: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")] = Field(
        description="ISO 3166-1 alpha-2 code, or EU"
    )
    authority: str = Field(min_length=1)
    reference: str = Field(min_length=1, description="number of the certificate or clearance")
    cancers: tuple[Cancer, ...] = Field(min_length=1)
    valid_from: dt.date
    valid_until: dt.date | None = None

    def covers(self, cancer: Cancer, jurisdiction: str, on: dt.date) -> bool:
        """Whether it permits this cancer there on that day."""
        valid = self.valid_from <= on and (self.valid_until is None or on <= self.valid_until)
        return valid and jurisdiction == self.jurisdiction and cancer in self.cancers


def _inside(name: str, value: float, interval: Interval) -> None:
    low, high = interval
    if not low <= value <= high:
        raise ValueError(f"{name} {value} lies outside its own interval {low}..{high}")
