"""`evaluation.json`: every figure of a judgement, for machines. Its schema is docs/evaluation.schema.json.

Nothing in it names a person: cases go by number. Where the patients are synthetic, `synthetic` says so, and whoever
prints a figure prints that word beside it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from core.finding import Cancer, Verdict
from engines.evaluation.results import JudgedBundle, Thresholds
from engines.evaluation.statistics import Auc, Bin, Estimate, McNemar, Paired, Rate, Reliability
from engines.manifest import Share
from engines.manifest.vocabulary import Part

Interval = tuple[float, float]
Aim = Literal["sensitivity", "specificity", "healthy"]
Outcome = Literal["shown", "met", "missed", "no cases"]


class Proportion(Part):
    """hits of n."""

    hits: int = Field(ge=0)
    n: int = Field(ge=0)
    value: Share | None = Field(description="hits / n; null where n is 0")
    ci95: Interval = Field(
        description="exact 95 % interval: Clopper-Pearson; Korn-Graubard where people have several scans or lesions"
    )

    @classmethod
    def of(cls, rate: Rate) -> Proportion:
        """The same as a part of the file."""
        return cls(hits=rate.hits, n=rate.n, value=rate.value, ci95=rate.ci95)


class Figure(Part):
    """A figure with its 95 % interval."""

    value: float | None
    ci95: Interval

    @classmethod
    def of(cls, estimate: Estimate | Auc) -> Figure:
        """The same as a part of the file."""
        return cls(value=estimate.value, ci95=estimate.ci95)


class Goal(Part):
    """A goal and what came of it."""

    key: str = Field(description="e.g. lung_sensitivity, healthy")
    cancer: Cancer | None
    what: Aim
    at_least: Share
    reached: Proportion
    outcome: Outcome = Field(
        description="shown: the interval's lower end reaches the goal; met: the figure does; missed; no cases"
    )


class CurvePoint(Part):
    """x, y and the threshold that gives them; null: no case reaches it."""

    x: float
    y: float
    threshold: float | None


class Lesions(Part):
    """Lesion by lesion. marks: candidates at or above the upper threshold that hit no lesion of the cancer."""

    found: Proportion = Field(description="at the upper threshold; lesions count one by one")
    marks: int = Field(ge=0)
    scans: int = Field(ge=0)
    mean_sensitivity: Share | None = Field(description="FROC: mean at 1/8, 1/4, 1/2, 1, 2, 4, 8 false marks a scan")
    froc: tuple[CurvePoint, ...] = Field(description="x: false marks a scan; y: share of lesions found")
    marks_on: Mapping[str, int] = Field(description="what false marks lie on; '': nothing known")


class BaselineFigures(Part):
    """The threshold detector of contrast and size in the true outline of the organ, on the same cases.

    Its rule was chosen on other people, its size on these, so that it has no more false alarms than the bundle has
    wrong answers among those without the cancer: an upper limit.
    """

    rule: str = Field(description="what is marked, in words")
    from_mm: float = Field(ge=0, description="diameter from which on a mark counts as a cancer")
    sensitivity: Proportion
    specificity: Proportion


class CalibrationBin(Part):
    """Cases of similar score."""

    predicted: Share
    observed: Proportion


class CalibrationFigures(Part):
    """How far scores are probabilities, in a cohort of this prevalence."""

    prevalence: Share
    brier: float = Field(ge=0, le=1, description="mean squared error")
    ece: float = Field(ge=0, le=1, description="expected calibration error, bins of equally many cases")
    bins: tuple[CalibrationBin, ...]

    @classmethod
    def of(cls, found: Reliability, prevalence: float) -> CalibrationFigures:
        """The same as a part of the file."""
        return cls(prevalence=prevalence, brier=found.brier, ece=found.ece, bins=tuple(map(_bin, found.bins)))


class Group(Part):
    """The cases that have one value in common."""

    value: str
    sensitivity: Proportion
    specificity: Proportion


class Breakdown(Part):
    """Figures by one property of lesion, person or scan."""

    by: str
    groups: tuple[Group, ...]


class HardCase(Part):
    """One case of which the answer was wrong, or nearly."""

    case: int
    score: Share | None
    verdict: Verdict
    why: str = Field(description="what it is, as far as the truth says: kind and size, or what the mark lies on")


class CancerFigures(Part):
    """One cancer. A case that should have been analysed and was not counts as wrong, whatever its truth."""

    cancer: Cancer
    thresholds: Thresholds
    sensitivity: Proportion = Field(description="called positive, of those who have it")
    specificity: Proportion = Field(description="not called positive and analysed, of those who have not")
    sensitivity_analysed: Proportion = Field(description="the same, of those analysed")
    specificity_analysed: Proportion = Field(description="the same, of those analysed")
    not_ruled_out: Proportion = Field(description="not called negative, of those who have it")
    indeterminate: Proportion = Field(description="of all analysed")
    unknown: int = Field(ge=0, description="cases without a known outcome: not counted")
    excused: Mapping[str, int] = Field(description="rightly not analysed, by reason: not counted")
    failed: Mapping[str, int] = Field(description="not analysed although they should have been: counted as wrong")
    elsewhere: int | None = Field(
        description="called positive with the cancer, but no mark lies on it; null: not known"
    )
    prevalence: Share = Field(description="that the predictive values are for")
    ppv: Figure
    npv: Figure
    auc: Figure
    roc: tuple[CurvePoint, ...] = Field(description="x: false positive rate; y: sensitivity")
    lesions: Lesions | None = Field(description="null where nobody outlined lesions")
    calibration: CalibrationFigures | None
    baseline: BaselineFigures | None = Field(
        default=None, description="the threshold detector beside the bundle; null where organs were not outlined"
    )
    breakdowns: tuple[Breakdown, ...]
    misses: tuple[HardCase, ...] = Field(description="of those who have it: not called positive, lowest score first")
    false_alarms: tuple[HardCase, ...] = Field(description="called positive without it, highest score first")


class Healthy(Part):
    """People with none of the cancers, all cancers together."""

    unflagged: Proportion = Field(description="called positive for none")
    unflagged_complete: Proportion = Field(description="the same, of those analysed for all cancers that apply to them")
    flagged_for: Mapping[Cancer, int]


class Cohort(Part):
    """One of the folders of results that were judged."""

    cohort: str
    synthetic: bool
    source: str
    cases: int
    runtime: str


class Speed(Part):
    """Seconds a case, wall time of one worker: median, 95th percentile, longest."""

    load: tuple[float, float, float]
    analyse: tuple[float, float, float]
    all: tuple[float, float, float]


class Evaluation(Part):
    """A bundle, judged on cases with a known truth."""

    format: Literal["onescan-evaluation"] = "onescan-evaluation"
    version: Literal[1] = 1
    synthetic: bool = Field(description="some or all of the patients are synthetic: no evidence about people")
    made_at: dt.datetime
    software: str
    bundle: JudgedBundle
    thresholds_from: Literal["bundle", "tuning cases"]
    tuning_cases: int = Field(ge=0, description="that thresholds were chosen on; none of them is judged")
    cohorts: tuple[Cohort, ...]
    cases: int = Field(ge=0)
    persons: int = Field(ge=0)
    goals: tuple[Goal, ...]
    healthy: Healthy
    cancers: tuple[CancerFigures, ...]
    seconds: Speed


class Discordance(Part):
    """On how many cases only one of the two models was right."""

    only_a: int
    only_b: int
    n: int
    p: float = Field(description="McNemar, exact, two-sided; of people where they have several scans")
    p_holm: float = Field(default=1.0, description="the same, adjusted for all questions of this comparison")

    @classmethod
    def of(cls, found: McNemar, n: int) -> Discordance:
        """The same as a part of the file."""
        return cls(only_a=found.only_a, only_b=found.only_b, n=n, p=found.p)


class AucDifference(Part):
    """b minus a, paired."""

    a: float
    b: float
    difference: float
    ci95: Interval
    p: float | None = Field(description="DeLong (Obuchowski), two-sided; null where the difference has no variance")
    p_holm: float | None = None

    @classmethod
    def of(cls, found: Paired) -> AucDifference:
        """The same as a part of the file."""
        return cls(a=found.a, b=found.b, difference=found.difference, ci95=found.ci95, p=found.p)


class CancerComparison(Part):
    """Two models on the same cases of one cancer."""

    cancer: Cancer
    sensitivity: tuple[Proportion, Proportion]
    specificity: tuple[Proportion, Proportion]
    on_ill: Discordance
    on_well: Discordance
    auc: AucDifference | None = Field(description="null without cases of both kinds that both models scored")


class Comparison(Part):
    """Model b against model a, on the same cases."""

    format: Literal["onescan-comparison"] = "onescan-comparison"
    version: Literal[1] = 1
    synthetic: bool
    made_at: dt.datetime
    software: str
    a: JudgedBundle
    b: JudgedBundle
    cohorts: tuple[str, ...]
    cases: int
    cancers: tuple[CancerComparison, ...]
    healthy: tuple[Proportion, Proportion]
    on_healthy: Discordance


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of evaluation.json."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Evaluation.model_json_schema()}


def _bin(item: Bin) -> CalibrationBin:
    return CalibrationBin(predicted=item.predicted, observed=Proportion.of(item.observed))
