"""Case scores through the real cascade, thresholds from tuning cases, evidence from other cases.

python -m engines.reference.evaluate --bundle var/reference/draft --cases var/reference/tuning --into tuning.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from core import durable
from core.finding import Cancer
from core.volume import Geometry, Volume
from engines.bundle import open_bundle
from engines.calibration import evidence_at
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


def evidence_of(threshold: float, rows: Sequence[Scored], cohort: str) -> Evidence:
    """Sensitivity and specificity at `threshold`; a case that was not analysed counts as wrong either way."""
    return evidence_at(threshold, [r.score for r in rows], [r.truth for r in rows], "synthetic", cohort)


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
