"""Case scores through the real cascade, thresholds from tuning cases, evidence from other cases.

python -m engines.reference.evaluate --bundle var/reference/draft --cases var/reference/tuning --into tuning.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from core import durable
from core.finding import Cancer
from core.volume import Geometry, Volume
from engines.bundle import open_bundle
from engines.cascade import Cascade, PatientContext
from engines.manifest import Evidence
from engines.phantom import Tissue, sample_patient
from engines.reference.rendering import Case, load
from engines.runtime.choice import choose

FINDING = {Cancer.LUNG: Tissue.LUNG_LESION, Cancer.LIVER: Tissue.LIVER_LESION}


@dataclass(frozen=True)
class Scored:
    """One case and cancer. score None: not analysed, and `reason` says why. diameters_mm: of the true lesions."""

    seed: int
    cancer: str
    truth: bool
    score: float | None
    reason: str
    diameters_mm: tuple[float, ...]
    kinds: tuple[str, ...]
    organs_ml: dict[str, tuple[float, float]]


def score_case(case: Case, cascade: Cascade) -> list[Scored]:
    """Scores and truth of one rendered study."""
    volume = Volume(case.hu, Geometry(case.hu.shape, case.spacing_mm, (0.0, 0.0, 0.0)))
    patient = sample_patient(case.seed)
    analysis = cascade.analyse(volume, PatientContext(patient.age_years, patient.sex))
    voxel_ml = volume.geometry.voxel_mm3 / 1000
    organs = {
        organ: (float(analysis.organs_ml.get(organ, 0.0)), float((case.labels == tissue).sum() * voxel_ml))
        for organ, tissue in (("lung", Tissue.LUNG), ("liver", Tissue.LIVER))
    }
    rows = []
    for answer in analysis.answers:
        if answer.cancer not in FINDING:
            continue
        lesions = patient.cancers(answer.cancer.value)
        rows.append(
            Scored(
                seed=case.seed,
                cancer=answer.cancer.value,
                # Truth is what was painted: a lesion may have found no room.
                truth=bool((case.labels == FINDING[answer.cancer]).any()),
                score=answer.score,
                reason=f"{answer.reason.value}: {answer.detail}" if answer.reason else "",
                diameters_mm=tuple(round(x.diameter_mm, 1) for x in lesions),
                kinds=tuple(x.kind.value for x in lesions),
                organs_ml=organs,
            )
        )
    return rows


def choose_thresholds(
    scores: Sequence[float], truth: Sequence[bool], sensitivity: float, specificity: float
) -> tuple[float, float]:
    """(negative below, positive at or above) for a rule-out and a rule-in point on tuning cases.

    The lower is the highest threshold that keeps `sensitivity`, the upper the lowest that reaches `specificity`; where
    they cross, both become the middle: the tuning cases leave no doubtful zone. Both lie between two observed scores.
    """
    values, positive = np.asarray(scores, float), np.asarray(truth, bool)
    cuts = np.unique(np.concatenate([values, (0.0, 1.0)]))
    middles = (cuts[1:] + cuts[:-1]) / 2
    if not positive.any() or positive.all():
        raise ValueError("thresholds need cases with and without the cancer")
    kept = np.array([(values[positive] >= t).mean() for t in middles])
    spared = np.array([(values[~positive] < t).mean() for t in middles])
    low = float(middles[kept >= sensitivity].max(initial=middles[0]))
    high = float(middles[spared >= specificity].min(initial=middles[-1]))
    if low > high:
        low = high = (low + high) / 2
    return round(low, 4), round(high, 4)


def clopper_pearson(successes: int, n: int) -> tuple[float, float]:
    """Exact 95 % interval of a proportion (Clopper and Pearson, Biometrika 26:404, 1934)."""
    if n == 0:
        return (0.0, 1.0)
    interval = stats.binomtest(successes, n).proportion_ci(0.95, method="exact")
    return (float(interval.low), float(interval.high))


def evidence_at(threshold: float, rows: Sequence[Scored], cohort: str) -> Evidence:
    """Sensitivity and specificity at `threshold`; a case that was not analysed counts as wrong either way."""
    positives, negatives = [r for r in rows if r.truth], [r for r in rows if not r.truth]
    hits = sum(r.score is not None and r.score >= threshold for r in positives)
    spared = sum(r.score is not None and r.score < threshold for r in negatives)
    return Evidence(
        kind="synthetic",
        cohort=cohort,
        n_positive=len(positives),
        n_negative=len(negatives),
        sensitivity=hits / len(positives) if positives else 0.0,
        sensitivity_ci95=clopper_pearson(hits, len(positives)),
        specificity=spared / len(negatives) if negatives else 0.0,
        specificity_ci95=clopper_pearson(spared, len(negatives)),
    )


def read_scores(path: Path, cancer: Cancer) -> list[Scored]:
    """The rows of one cancer from a file that `main` wrote."""
    rows = [Scored(**row) for row in json.loads(path.read_text())]
    return [r for r in rows if r.cancer == cancer.value]


def main() -> None:
    """Score cached studies with a bundle."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    cascade = Cascade(open_bundle(a.bundle), choose(threads=a.threads).runtime)
    rows: list[Scored] = []
    for path in sorted(a.cases.glob("*.case"))[: a.limit]:
        new = score_case(load(path), cascade)
        rows += new
        for row in new:
            print(json.dumps(asdict(row)), flush=True)
        durable.write_text(a.into, json.dumps([asdict(r) for r in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
