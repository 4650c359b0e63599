"""Toy torsos (tests.engines.cascade.toy) as a source of studies whose every outcome is known in advance."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.finding import Cancer
from engines.cascade import PatientContext
from engines.evaluation.cases import CaseSet
from engines.evaluation.results import CaseResult, Run
from engines.evaluation.running import run_cases
from engines.evaluation.studies import Finding, Study
from tests.engines.cascade import toy

CYST = 120
KINDS = ("healthy", "lung", "small lung", "liver", "cyst", "hidden", "dense")


@dataclass(frozen=True)
class Toys:
    """healthy; a lung or liver cancer that is found; one too small to be (missed); a cyst that the liver's detector
    leaves alone; a cancer of the liver as faint as the liver (hidden, missed); a dense spot in the lung that is no
    cancer (a false alarm)."""

    kinds: tuple[str, ...]
    set: CaseSet = "judging"
    first: int = 0
    synthetic: bool = True
    title: str = "toys"

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr((self.kinds, self.set, self.first)).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.kinds)

    def study(self, index: int) -> Study:
        kind = self.kinds[index]
        lung = {"lung": 8.0, "small lung": 2.0, "dense": 8.0}.get(kind, 0.0)
        liver = {"liver": 9.0, "cyst": 9.0, "hidden": 9.0}.get(kind, 0.0)
        hu = {"cyst": CYST, "hidden": toy.LIVER + 1}.get(kind, toy.LIVER_LESION)
        volume = toy.torso(lung_lesion_mm=lung, liver_lesion_mm=liver, liver=hu)
        clean = toy.torso()
        marks = np.where(volume.hu != clean.hu, 1, 0).astype(np.uint8)
        outlines = {Cancer.LUNG: clean.hu == toy.LUNG, Cancer.LIVER: clean.hu == toy.LIVER}
        cancer = {"lung": Cancer.LUNG, "small lung": Cancer.LUNG, "liver": Cancer.LIVER, "hidden": Cancer.LIVER}.get(
            kind
        )
        findings = () if kind == "healthy" else (Finding(1, cancer, kind, 2 * max(lung, liver), "10-20 mm"),)
        return Study(
            case=self.first + index,
            person=self.first + index,
            set=self.set,
            patient=PatientContext(60, "F"),
            volume=volume,
            truth={c: int(c is cancer) for c in (Cancer.LUNG, Cancer.LIVER)},  # type: ignore[misc]
            attributes={"sex": "F" if index % 2 else "M", "age_years": 40.0 + index, "kernel": "soft"},
            findings=findings,
            marks=marks,
            whole=dict.fromkeys(Cancer, True),
            organ=lambda cancer: outlines[cancer],
        )


def ran(folder: Path, kinds: tuple[str, ...] = KINDS, **options: object) -> tuple[Run, list[CaseResult]]:
    """Toys through the toy bundle."""
    from engines.evaluation.results import read_cases

    bundle = toy.bundle(folder / "bundle") if not (folder / "bundle").exists() else None
    if bundle is None:
        from engines.bundle import open_bundle

        bundle = open_bundle(folder / "bundle")
    run = run_cases(bundle, Toys(kinds, **options), folder / "run", runtime="onnx", precision="fp32", shard_size=3)  # type: ignore[arg-type]
    return run, list(read_cases(folder / "run", run))
