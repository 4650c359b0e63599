"""Cases with a known outcome, which every device must reproduce before a bundle may run on it."""

from __future__ import annotations

from pydantic import Field, model_validator

from core.finding import Cancer, Reason, Verdict
from engines.manifest.cancers import Sex
from engines.manifest.vocabulary import Name, Part, Share


class GoldenAnswer(Part):
    """What a golden case must give for one cancer."""

    cancer: Cancer
    verdict: Verdict
    reason: Reason | None = None
    score: Share | None = Field(default=None, description="case score; absent: only the verdict counts")
    score_tolerance: Share = Field(default=0.05, description="largest allowed difference of the score")

    @model_validator(mode="after")
    def _reasoned(self) -> GoldenAnswer:
        if (self.verdict is Verdict.NOT_ANALYSED) != (self.reason is not None):
            raise ValueError("a reason stands with not_analysed and only there")
        return self


class GoldenOrgan(Part):
    """How large the localiser must find an organ in a golden case."""

    organ: Name
    volume_ml: float = Field(ge=0, description="mL")
    tolerance_ml: float = Field(ge=0, description="mL; largest allowed difference")


class GoldenCase(Part):
    """A volume and what must come of it."""

    name: Name
    input: Name = Field(description="name of a file with role golden (see engines.volumefile)")
    age_years: int | None = Field(default=None, ge=0, le=130)
    sex: Sex | None = None
    answers: tuple[GoldenAnswer, ...] = ()
    organs: tuple[GoldenOrgan, ...] = ()

    @model_validator(mode="after")
    def _expects(self) -> GoldenCase:
        if not self.answers and not self.organs:
            raise ValueError("a golden case expects answers, organs or both")
        return self
