"""Phantoms for training, rendered once at working spacing and kept under `var/`.

Seeds never overlap between purposes: training 100000.., validation 200000.., tuning 300000.., evidence 400000.. .
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core import durable
from core.volume import Vector
from engines.phantom import Kernel, Scan, render, sample_patient

TRAINING_SEED, VALIDATION_SEED, TUNING_SEED, EVIDENCE_SEED = 100_000, 200_000, 300_000, 400_000
COARSE_MM, FINE_MM = 6.0, 2.0
TORSO_FROM_LIVER = (180.0, 650.0)
"""Template z that the lesion detectors ever see: kidneys to lung apex."""


@dataclass(frozen=True)
class Case:
    """A cached phantom: HU int16 and `Tissue` labels uint8, both (z, y, x), at spacing_mm (z, y, x).

    Cases for training are without noise: that is added anew at every step.
    """

    seed: int
    hu: npt.NDArray[np.int16]
    labels: npt.NDArray[np.uint8]
    spacing_mm: Vector


def render_coarse(seed: int) -> Case:
    """The whole torso at 6 mm."""
    scan = Scan((COARSE_MM,) * 3, None, (-30.0, 660.0), kernel=None)
    volume, labels = render(sample_patient(seed), scan)
    return Case(seed, volume.hu, labels, scan.spacing_mm)


def render_fine(seed: int) -> Case:
    """Chest and upper abdomen at 2 mm, rich in lesions: three patients in four have several in both organs."""
    lesions = (0, 0) if seed % 4 == 0 else (4, 3)
    scan = Scan((FINE_MM,) * 3, None, TORSO_FROM_LIVER, kernel=None)
    volume, labels = render(sample_patient(seed, lung=lesions[0], liver=lesions[1]), scan)
    return Case(seed, volume.hu, labels, scan.spacing_mm)


def render_study(seed: int) -> Case:
    """A study as it is judged: noise, 1.5–5 mm slices, two scans in three without the pelvis.

    Half of the patients have cancer of the lung, half of the liver, drawn independently; look-alikes come on top.
    Pixels of 1.2–1.6 mm instead of 0.7–0.9 keep rendering cheap; the networks see 2 and 6 mm.
    """
    patient = sample_patient(seed)
    rng = patient.generator(50)
    pixel = round(float(rng.uniform(1.2, 1.6)), 2)
    scan = Scan(
        spacing_mm=(float(rng.choice((1.5, 2.5, 3.0, 5.0))), pixel, pixel),
        matrix=None,
        coverage_mm=(-10.0, 650.0) if rng.random() < 1 / 3 else (175.0, 650.0),
        kernel=Kernel.ITERATIVE if rng.random() < 0.25 else Kernel.SOFT,
    )
    volume, labels = render(patient, scan)
    return Case(seed, volume.hu, labels, scan.spacing_mm)


RENDER = {"coarse": render_coarse, "fine": render_fine, "study": render_study}


def fill(folder: Path, kind: str, seeds: range) -> None:
    """Render what is missing of `seeds` into `folder`; safe to run again, or for other seeds at the same time."""
    durable.make_folder(folder)
    for seed in seeds:
        path = folder / f"{seed}.case"
        if path.exists():
            continue
        case = RENDER[kind](seed)
        durable.write_bytes(path, _pack(case))
        print(json.dumps({"rendered": kind, "seed": seed, "shape": case.hu.shape}), flush=True)


def _pack(case: Case) -> bytes:
    header = json.dumps({"seed": case.seed, "shape": case.hu.shape, "spacing_mm": case.spacing_mm}).encode()
    # Level 1: these are read far more often than the disk is full.
    return header + b"\n" + zlib.compress(case.hu.tobytes() + case.labels.tobytes(), 1)


def load(path: Path) -> Case:
    """One cached case."""
    header, packed = path.read_bytes().split(b"\n", 1)
    described = json.loads(header)
    shape = tuple(described["shape"])
    raw = zlib.decompress(packed)
    voxels = int(np.prod(shape))
    hu = np.frombuffer(raw, np.int16, voxels).reshape(shape)
    labels = np.frombuffer(raw, np.uint8, voxels, 2 * voxels).reshape(shape)
    z, y, x = described.get("spacing_mm", (0.0, 0.0, 0.0))
    return Case(described["seed"], hu, labels, (z, y, x))


def load_all(folder: Path, limit: int | None = None) -> Iterator[Case]:
    """The cached cases in the order of their seeds."""
    for path in sorted(folder.glob("*.case"))[:limit]:
        yield load(path)


def main() -> None:
    """python -m engines.reference.rendering coarse var/reference/coarse 100000 120"""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("kind", choices=sorted(RENDER))
    parser.add_argument("folder", type=Path)
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    a = parser.parse_args()
    fill(a.folder, a.kind, range(a.first, a.first + a.count))


if __name__ == "__main__":
    main()
