"""What the first two stages bring up in patients whom they have not learned from: the third stage learns on that.

    python -m engines.reference.candidates --bundle var/reference/draft --store var/reference/patients \\
        --into var/reference/candidates --first 0 --count 600

The real cascade looks at the patient as scanned, at thresholds that hide nothing. Of each candidate its place, mask and
what it truly is are kept; its surroundings stay in the store, so that they can be scanned anew at every use.
"""

from __future__ import annotations

import argparse
import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core import durable
from core.finding import Answer, Cancer, Lesion
from core.volume import Geometry, Index, Volume
from engines.bundle import open_bundle
from engines.cascade import Analysis, Cascade, PatientContext
from engines.reference.patients import Patient, Store
from engines.reference.recipes import CROWDED_SEED, MINING_SEED, SPACING_MM
from engines.reference.scanner import draw_look, scanned
from engines.runtime.choice import choose

EDGE = 64
"""Voxels of the block around a candidate in which its mask is kept: more than a characteriser sees, to shake it."""
MOST = 24
"""Of one cancer and patient."""
_AGE = 60
_OVERLAP = 0.2


@dataclass(frozen=True)
class Known:
    """A candidate and the truth. asked: the cancer that was looked for. truth: which cancer it is, "" for none of them;
    kind: subtype, or name of the look-alike. centre: voxel. mask: of EDGE³ voxels about it, packed."""

    seed: int
    asked: str
    score: float
    truth: str
    kind: str
    diameter_mm: float
    centre: Index
    mask: str

    def unpacked(self) -> npt.NDArray[np.bool_]:
        """The mask, (EDGE, EDGE, EDGE)."""
        bits = np.frombuffer(zlib.decompress(base64.b64decode(self.mask)), np.uint8)
        return np.unpackbits(bits, count=EDGE**3).reshape(EDGE, EDGE, EDGE).astype(bool)


def scan_of(patient: Patient) -> Volume:
    """The whole patient as scanned at working spacing, the same at every call."""
    rng = np.random.Generator(np.random.PCG64([patient.seed, 82]))
    stored = patient.stored
    block = stored.read((0, 0, 0), stored.shape, {})
    look = draw_look(rng, SPACING_MM, rendered_share=1.0)
    hu = scanned(block["hu"].astype(np.float32), stored.array("profile"), stored.array("girth"), look, SPACING_MM, rng)
    whole = np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
    return Volume(whole, Geometry(whole.shape, (SPACING_MM,) * 3, (0.0, 0.0, 0.0)))


def candidates_of(patient: Patient, analysis: Analysis) -> list[Known]:
    """What the cascade brought up in a patient, each with its truth."""
    stored = patient.stored
    truth = stored.read((0, 0, 0), stored.shape, {})["lesions"]
    rows = []
    for answer in analysis.answers:
        for lesion in answer.lesions[:MOST]:
            rows.append(_known(patient, answer.cancer, lesion, analysis.masks[answer.cancer], truth))
    return rows


def _known(
    patient: Patient, asked: Cancer, lesion: Lesion, masks: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8]
) -> Known:
    (z0, y0, x0), (z1, y1, x1) = lesion.box
    where = (slice(z0, z1), slice(y0, y1), slice(x0, x1))
    number = _mostly(truth[where][masks[where] == lesion.label])
    found = next((f for f in patient.findings if f["number"] == number), None)
    centre = ((z0 + z1) // 2, (y0 + y1) // 2, (x0 + x1) // 2)
    block = _around(masks == lesion.label, centre)
    return Known(
        seed=patient.seed,
        asked=asked.value,
        score=round(lesion.score, 4),
        truth=found["organ"] if found and found["cancer"] else "",
        kind=found["kind"] if found else "",
        diameter_mm=round(lesion.diameter_mm, 1),
        centre=centre,
        mask=base64.b64encode(zlib.compress(np.packbits(block).tobytes())).decode(),
    )


def _mostly(numbers: npt.NDArray[np.uint8]) -> int:
    """The finding that covers most of a candidate; 0 where none covers a fair share of it."""
    counts = np.bincount(numbers, minlength=256)
    counts[0] = 0
    most = int(counts.argmax())
    return most if counts[most] >= _OVERLAP * numbers.size else 0


def _around(mask: npt.NDArray[np.bool_], centre: Index) -> npt.NDArray[np.bool_]:
    block = np.zeros((EDGE,) * 3, bool)
    here, there = [], []
    for c, n in zip(centre, mask.shape, strict=True):
        low = c - EDGE // 2
        a, b = max(low, 0), min(low + EDGE, n)
        here.append(slice(a - low, b - low))
        there.append(slice(a, b))
    block[tuple(here)] = mask[tuple(there)]
    return block


def mine(cascade: Cascade, store: Store, seeds: Sequence[int], into: Path) -> None:
    """Look at what is missing of `seeds`; a file a patient, so that it can be stopped and gone on with."""
    durable.make_folder(into)
    for seed in seeds:
        path = into / f"{seed}.json"
        if path.exists():
            continue
        patient = store.patient(seed)
        analysis = cascade.analyse(scan_of(patient), PatientContext(_AGE, patient.stored.about["sex"]))
        answers = {a.cancer.value: _told(a, patient) for a in analysis.answers}
        rows = [asdict(known) for known in candidates_of(patient, analysis)]
        durable.write_text(path, json.dumps({"seed": seed, "answers": answers, "candidates": rows}))
        seconds = round(analysis.timings_s["total"], 1)
        print(json.dumps({"mined": seed, "candidates": len(rows), "s": seconds}), flush=True)


def _told(answer: Answer, patient: Patient) -> dict[str, Any]:
    reason = answer.reason.value if answer.reason else ""
    return {"score": answer.score, "reason": reason, "truth": bool(patient.cancers(answer.cancer))}


def read_all(folder: Path) -> list[Known]:
    """All candidates that `mine` wrote, in the order of seeds."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        for row in json.loads(path.read_text())["candidates"]:
            rows.append(Known(**{**row, "centre": tuple(row["centre"])}))
    return rows


def main() -> None:
    """Mine candidates; see the module's docstring."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--first", type=int, default=0, help="number of the first patient among those to mine")
    parser.add_argument("--crowded", action="store_true", help="patients with many cancers and look-alikes each")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    cascade = Cascade(open_bundle(a.bundle), choose(threads=a.threads).runtime)
    first = (CROWDED_SEED if a.crowded else MINING_SEED) + a.first
    mine(cascade, Store(a.store), range(first, first + a.count), a.into)


if __name__ == "__main__":
    main()
