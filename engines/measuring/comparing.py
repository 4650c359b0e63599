"""Two bundles, or one bundle on two runtimes, on the same volumes: what a change changed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.finding import Answer, Cancer
from core.volume import Volume
from engines.cascade import Analysis, Cascade, PatientContext
from engines.cascade.labelmaps import Labels


@dataclass(frozen=True, eq=False)
class Case:
    """A volume to compare on."""

    name: str
    volume: Volume
    patient: PatientContext


@dataclass(frozen=True)
class Pair:
    """One cancer in one case, as A and as B answer. dice: of the lesion masks; None where neither has one."""

    case: str
    cancer: Cancer
    a: str
    b: str
    score_a: float | None
    score_b: float | None
    dice: float | None

    @property
    def agrees(self) -> bool:
        """Whether the two give the same verdict, or the same reason for none."""
        return self.a == self.b

    @property
    def score_difference(self) -> float | None:
        """B less A; None unless both have a score."""
        return None if self.score_a is None or self.score_b is None else self.score_b - self.score_a


@dataclass(frozen=True)
class Compared:
    """pairs: every cancer of every case that A or B models. organs: (case, organ, mL of A, mL of B), 0 where not found.
    seconds: median analysis of A and of B."""

    pairs: tuple[Pair, ...]
    organs: tuple[tuple[str, str, float, float], ...]
    seconds: tuple[float, float]

    @property
    def agree(self) -> bool:
        """Whether all verdicts are the same."""
        return all(pair.agrees for pair in self.pairs)


def compare(
    a: Cascade,
    b: Cascade,
    cases: Iterable[Case],
    modelled: Sequence[Cancer],
    step: Callable[[str], None] = lambda case: None,
) -> Compared:
    """Analyse every case with both, in changing order (a machine gets slower as it gets warm).

    modelled: the cancers to compare.
    """
    pairs: list[Pair] = []
    organs: list[tuple[str, str, float, float]] = []
    seconds: tuple[list[float], list[float]] = ([], [])
    for index, case in enumerate(cases):
        step(case.name)
        both = [(0, a), (1, b)]
        analyses: dict[int, Analysis] = {}
        for side, cascade in both if index % 2 == 0 else reversed(both):
            analyses[side] = cascade.analyse(case.volume, case.patient)
            seconds[side].append(analyses[side].timings_s["total"])
        pairs += _pairs(case.name, analyses[0], analyses[1], modelled)
        names = {**analyses[0].organs_ml, **analyses[1].organs_ml}
        organs += [(case.name, n, analyses[0].organs_ml.get(n, 0.0), analyses[1].organs_ml.get(n, 0.0)) for n in names]
    return Compared(tuple(pairs), tuple(organs), (statistics.median(seconds[0]), statistics.median(seconds[1])))


def dice(a: Labels | None, b: Labels | None) -> float | None:
    """Dice of two masks (any label); None where both are empty (1 would flatter)."""
    if a is None or b is None:
        return None if not _any(a) and not _any(b) else 0.0
    left, right = a > 0, b > 0
    total = int(np.count_nonzero(left)) + int(np.count_nonzero(right))
    return 2 * int(np.count_nonzero(left & right)) / total if total else None


def _any(mask: Labels | None) -> bool:
    return mask is not None and bool(mask.any())


def _pairs(case: str, a: Analysis, b: Analysis, modelled: Sequence[Cancer]) -> list[Pair]:
    answers: Mapping[Cancer, tuple[Answer, Answer]] = {
        x.cancer: (x, y) for x, y in zip(a.answers, b.answers, strict=True)
    }
    return [
        Pair(
            case,
            cancer,
            _said(answers[cancer][0]),
            _said(answers[cancer][1]),
            answers[cancer][0].score,
            answers[cancer][1].score,
            dice(a.masks.get(cancer), b.masks.get(cancer)),
        )
        for cancer in modelled
    ]


def _said(answer: Answer) -> str:
    return answer.reason.value if answer.reason else answer.verdict.value
