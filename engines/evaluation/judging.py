"""Calibration and thresholds from the tuning cases; evidence, and the budget of all cancers together, from the others.

    1  each cancer's calibration is fitted on the tuning cases of known truth
    2  its thresholds keep the wanted sensitivity and specificity there; with a confidence, the specificity also among
       others, as far as these cases can show it. Where they are too few to show it, their number is told
    3  where all cancers together flag too many tuning people without any cancer, the specificity wanted of every cancer
       is raised, in steps of one person, until the share flagged keeps the budget with 90 % confidence (its one-sided
       Clopper-Pearson limit): a share that only just keeps it here exceeds it in half of all other samples
    4  the judging cases give the evidence at each threshold, and the share of people that all cancers leave alone

Nothing that step 4 sees has an influence on 1 to 3. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from core.errors import ConfigError
from core.finding import Cancer
from engines.calibration import (
    CONFIDENCE,
    NotCalibrated,
    choose_thresholds,
    evidence_at,
    isotonic,
    platt,
    upper_limit,
)
from engines.cascade.calibration import calibrated
from engines.evaluation.cases import Case, CaseFile, CaseSet, Truth
from engines.evaluation.statistics import rate_of
from engines.manifest import Calibration, CancerModel, CaseLevel, OperatingPoint
from engines.manifest.evidence import Kind

Method = Literal["platt", "isotonic", "none"]
_SETS: tuple[CaseSet, ...] = ("tuning", "judging")
_FITS: Mapping[Method, Callable[[Sequence[float], Sequence[bool]], Calibration | None]] = {
    "platt": platt,
    "isotonic": isotonic,
    "none": lambda scores, truth: None,
}


@dataclass(frozen=True)
class Wishes:
    """What thresholds are chosen for.

    sensitivity: of rule-out, what `negative_below` keeps. specificity: of rule-in, what `positive_above` reaches.
    budget: share of people without cancer who may be flagged for one cancer or more; None: not asked for. at_least:
    cases with and cases without each cancer, in each set, below which nothing is claimed. confidence: with which the
    specificity must hold for others than the tuning cases; None: it is counted on them.
    """

    method: Method
    sensitivity: float
    specificity: float
    budget: float | None
    at_least: int = 10
    confidence: float | None = None


@dataclass(frozen=True)
class Judged:
    """models: in the given order. case_level: None without a budget. raised_to: the specificity that the budget took
    for every cancer, None where the wanted one was enough. left_out: healthy judging people whom not all cancers were
    analysed for, and who therefore say nothing about the case level. too_few: of which cancers the tuning cases without
    it are too few to show the wanted specificity, wherever the threshold lies, and how many they are."""

    models: tuple[CancerModel, ...]
    case_level: CaseLevel | None
    raised_to: float | None
    left_out: int
    too_few: Mapping[Cancer, int]


def check(file: CaseFile, models: Sequence[CancerModel], wishes: Wishes) -> None:
    """ConfigError with everything that is missing, so that a person has to look only once."""
    faults = []
    for model in models:
        for name in _SETS:
            truths: list[Truth] = [
                case.cancers[model.cancer].truth
                for case in file.of(name)
                if model.cancer in case.cancers and (name == "judging" or case.cancers[model.cancer].score is not None)
            ]
            for count, what in ((truths.count(1), "with it"), (truths.count(0), "without it")):
                if count < wishes.at_least:
                    faults.append(f"{model.cancer.value}: {count} {name} cases {what}")
    if faults:
        raise ConfigError(
            f"too few cases, at least {wishes.at_least} of each are wanted: {'; '.join(faults)}",
            remedy="Score more cases; or lower --at-least, or leave cancers out with --cancer, and say why.",
        )


def judge(file: CaseFile, models: Sequence[CancerModel], wishes: Wishes, kind: Kind, cohort: str) -> Judged:
    """The models with calibration, thresholds, operating points and evidence of their own.

    ConfigError where cases are too few or a budget can't be kept; NotCalibrated where scores mean nothing.
    """
    check(file, models, wishes)
    fits = {model.cancer: _fit(file, model.cancer, wishes) for model in models}
    thresholds, raised_to = _thresholds(file, fits, wishes)
    judged = tuple(_judged(model, file, fits[model.cancer], thresholds[model.cancer], kind, cohort) for model in models)
    case_level, left_out = None, 0
    if wishes.budget is not None:
        case_level, left_out = _case_level(file, judged, wishes.budget, kind, cohort)
    return Judged(judged, case_level, raised_to, left_out, _too_few(file, list(fits), wishes))


def _too_few(file: CaseFile, cancers: Sequence[Cancer], wishes: Wishes) -> dict[Cancer, int]:
    without = {cancer: _known(file, cancer)[1].count(False) for cancer in cancers}
    confidence = wishes.confidence or CONFIDENCE
    return {c: n for c, n in without.items() if upper_limit(0, n, confidence) > 1 - wishes.specificity}


def flagged(model: CancerModel, raw: float | None) -> bool:
    """Whether a person with this raw score is flagged: called positive."""
    return raw is not None and calibrated(raw, model.calibration) >= model.positive_above


def _fit(file: CaseFile, cancer: Cancer, wishes: Wishes) -> Calibration | None:
    scores, truth = _known(file, cancer)
    try:
        return _FITS[wishes.method](scores, truth)
    except NotCalibrated as error:
        raise NotCalibrated(f"{cancer.value}: {error}") from error


def _thresholds(
    file: CaseFile, fits: Mapping[Cancer, Calibration | None], wishes: Wishes
) -> tuple[dict[Cancer, tuple[float, float]], float | None]:
    """(negative below, positive from) for each cancer, and the specificity that the budget took."""
    known = {cancer: _known(file, cancer) for cancer in fits}
    likely = {c: [calibrated(s, fits[c]) for s in scores] for c, (scores, _) in known.items()}
    healthy, _ = _healthy(file.of("tuning"), fits)

    def chosen(specificity: float) -> dict[Cancer, tuple[float, float]]:
        wanted = wishes.sensitivity, specificity, wishes.confidence
        return {c: choose_thresholds(likely[c], known[c][1], *wanted) for c in fits}

    def most_flagged(thresholds: Mapping[Cancer, tuple[float, float]]) -> float:
        hit = sum(any(calibrated(raw, fits[c]) >= thresholds[c][1] for c, raw in one.items()) for _, one in healthy)
        return upper_limit(hit, len(healthy))

    thresholds = chosen(wishes.specificity)
    if wishes.budget is None or most_flagged(thresholds) <= wishes.budget:
        return thresholds, None
    if upper_limit(0, len(healthy)) > wishes.budget:
        raise ConfigError(
            f"{len(healthy)} tuning people without any cancer, analysed for all, can't show that at most "
            f"{wishes.budget:.2%} are flagged, whatever the thresholds",
            remedy="Add such people, allow a larger budget, or calibrate without --budget.",
        )
    steps = max(truth.count(False) for _, truth in known.values())
    for spared in range(int(wishes.specificity * steps), steps + 1):
        thresholds = chosen(spared / steps)
        if most_flagged(thresholds) <= wishes.budget:
            return thresholds, spared / steps
    raise ConfigError(
        f"no thresholds keep the tuning cases within a budget of {wishes.budget:.2%}: some people without cancer have "
        "the highest score there is",
        remedy="Allow a larger budget, or leave out the cancer that gives such scores.",
    )


def _judged(
    model: CancerModel,
    file: CaseFile,
    calibration: Calibration | None,
    thresholds: tuple[float, float],
    kind: Kind,
    cohort: str,
) -> CancerModel:
    cases = [case for case in file.of("judging") if model.cancer in case.cancers]
    known = [case for case in cases if case.cancers[model.cancer].truth != "unknown"]
    rows = [case.cancers[model.cancer] for case in known]
    scores = [None if row.score is None else calibrated(row.score, calibration) for row in rows]
    truth, persons = [row.truth == 1 for row in rows], _numbered(known)
    points = tuple(
        OperatingPoint(name=name, threshold=at, evidence=evidence_at(at, scores, truth, persons, kind, cohort))
        for name, at in zip(("rule-out", "rule-in"), thresholds, strict=True)
    )
    changes = {
        "calibration": calibration,
        "negative_below": thresholds[0],
        "positive_above": thresholds[1],
        "operating_points": points,
    }
    return CancerModel.model_validate({**dict(model), **changes})


def _case_level(
    file: CaseFile, models: Sequence[CancerModel], budget: float, kind: Kind, cohort: str
) -> tuple[CaseLevel, int]:
    people, left_out = _healthy(file.of("judging"), [model.cancer for model in models])
    if not people:
        raise ConfigError(
            "no judging case is known to be free of all cancers and was analysed for all: a budget needs such people",
            remedy="Add them, or calibrate without --budget.",
        )
    spared = [not any(flagged(model, scores[model.cancer]) for model in models) for _, scores in people]
    found = rate_of(spared, _numbered([case for case, _ in people]))
    try:
        part = CaseLevel(
            budget=budget,
            kind=kind,
            cohort=cohort,
            n_negative=len(people),
            specificity=found.value or 0.0,
            specificity_ci95=found.ci95,
        )
    except ValidationError as error:
        raise ConfigError(
            f"of {len(people)} judging people without cancer {1 - (found.value or 0.0):.2%} are flagged for one cancer "
            f"or more; the budget is {budget:.2%}",
            remedy="Tune on more cases or ask for a higher --specificity; choosing by the judging cases would spoil "
            "them as evidence.",
        ) from error
    return part, left_out


def _known(file: CaseFile, cancer: Cancer) -> tuple[list[float], list[bool]]:
    """Raw scores and truth of the tuning cases that have both."""
    outcomes = [case.cancers[cancer] for case in file.of("tuning") if cancer in case.cancers]
    rows = [(o.score, o.truth == 1) for o in outcomes if o.score is not None and o.truth != "unknown"]
    return [score for score, _ in rows], [truth for _, truth in rows]


def _healthy(cases: Sequence[Case], cancers: Sequence[Cancer] | Mapping[Cancer, object]) -> tuple[
    list[tuple[Case, dict[Cancer, float]]], int
]:  # fmt: skip
    """Those who have none of the cancers and were analysed for all, with raw scores; how many were not for all.

    To leave those out can only make the specificity look worse: who was asked fewer questions is flagged less often.
    """
    people, left_out = [], 0
    for case in cases:
        outcomes = {cancer: case.cancers.get(cancer) for cancer in cancers}
        if any(outcome is None or outcome.truth != 0 for outcome in outcomes.values()):
            continue
        scores = {c: o.score for c, o in outcomes.items() if o is not None and o.score is not None}
        if len(scores) == len(outcomes):
            people.append((case, scores))
        else:
            left_out += 1
    return people, left_out


def _numbered(cases: Sequence[Case]) -> list[int]:
    """Whose each case is."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(case.who, len(numbers)) for case in cases]
