"""How easy the synthetic cancers are: what thresholds find, and what an ideal observer would, on a large cohort.

    make bench-phantom_ease                                    200 women with all seven cancers, 800 people without
    make bench-phantom_ease ARGS="--ill 50 --well 300"         fewer
    make bench-phantom_ease ARGS="--seconds 200"               go on for so long; the next run goes on from there

Every person is one JSON file in var/phantom-ease, so the work may be stopped and shared by several runs. Everybody is
scanned whole at 2 mm by the law's kernels and doses. The threshold detector's rule and size are chosen on the very
people that it is judged on, so its figure is its upper limit.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.record import Goal, Record
from core import durable
from core.finding import Cancer
from engines.evaluation.baseline import RULES, Tuned, marks_mm, tune
from engines.evaluation.observer import places, sensitivity
from engines.phantom import (
    Rendered,
    Scan,
    Torso,
    build,
    difficulty,
    organ_mask,
    render,
    sample_person,
    sample_scan,
)
from engines.phantom.visibility import visibility

SPACING = (2.0, 2.0, 2.0)
SPECIFICITY = 0.999
FOLDER = Path(__file__).parents[1] / "var" / "phantom-ease"
_ILL_FROM, _WELL_FROM = 50_000, 60_000


def main() -> None:
    """Measure who is missing, then judge everybody who is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ill", type=int, default=200)
    parser.add_argument("--well", type=int, default=800)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="measure no longer than this")
    parser.add_argument("--part", default="0/1", help="i/n: measure only every n-th person, from the i-th on")
    given = parser.parse_args()
    folder = FOLDER / difficulty.digest()[:12]
    shares = [(i / given.ill, _ILL_FROM + i) for i in range(given.ill)]
    shares += [(i / given.well, _WELL_FROM + i) for i in range(given.well)]
    seeds = [seed for _, seed in sorted(shares)]  # wherever it is stopped, both groups have grown alike
    first, step = (int(v) for v in given.part.split("/"))
    until = time.monotonic() + given.seconds
    for seed in seeds[first::step]:
        if time.monotonic() > until:
            break
        path = folder / f"{seed}.json"
        if not path.exists():
            durable.make_folder(folder)
            durable.write_text(path, json.dumps(measure(seed)))
    people = [json.loads((folder / f"{s}.json").read_text()) for s in seeds if (folder / f"{s}.json").exists()]
    judge(people)


def measure(seed: int) -> dict[str, Any]:
    """One person: the threshold detector's marks in each organ, and d' of each cancer."""
    person = sample_person(seed, dict.fromkeys(Cancer, 1) if seed < _WELL_FROM else {})
    torso, scan = build(person), sample_scan(person, SPACING, whole=True)
    rendered = render(torso, scan)
    marks, organ_ml = {}, {}
    for cancer in Cancer:
        organ = organ_mask(rendered.organs, cancer.value)
        organ_ml[cancer.value] = float(organ.sum()) * rendered.volume.geometry.voxel_mm3 / 1000
        marks[cancer.value] = np.round(marks_mm(rendered.volume.hu, organ, SPACING), 2).tolist()
    return {"seed": seed, "sex": person.sex, "marks": marks, "lesions": _lesions(torso, scan, rendered, organ_ml)}


def _lesions(torso: Torso, scan: Scan, rendered: Rendered, organ_ml: dict[str, float]) -> list[dict[str, Any]]:
    rows = []
    for found in torso.findings:
        mask = rendered.lesions == found.number
        if not found.cancer or not mask.any():
            continue
        noise = float(rendered.noise_hu[mask.any(axis=(1, 2))].mean())
        ml = float(mask.sum()) * rendered.volume.geometry.voxel_mm3 / 1000
        seen = visibility(torso, scan, found, noise)
        where = places(organ_ml[found.organ], ml)
        rows.append({
            "organ": found.organ, "kind": found.kind, "mm": found.diameter_mm, "contrast_hu": found.contrast_hu,
            "signs": found.signs, "noise_hu": round(noise, 1), "kernel": scan.kernel.value if scan.kernel else "",
            "ml": round(ml, 3), "d_known": round(seen.known, 2), "d_uneven": round(seen.uneven, 2),
            "known": round(sensitivity(seen.known, where, SPECIFICITY), 5),
            "uneven": round(sensitivity(seen.uneven, where, SPECIFICITY), 5),
        })  # fmt: skip
    return rows


def judge(people: list[dict[str, Any]]) -> None:
    """Print and keep, for each cancer, what the thresholds and the ideal observer find."""
    ill = np.array([p["seed"] < _WELL_FROM for p in people])
    goals = {f"baseline_{c.value}": Goal(0.6) for c in Cancer} | {f"known_{c.value}": Goal(0.97, True) for c in Cancer}
    record = Record("phantom_ease", f"Synthetic cancers, law {difficulty.VERSION}", goals)
    record.add("ill", "people with all seven cancers", [float(ill.sum())], "people")
    record.add("well", "people without cancer", [float((~ill).sum())], "people")
    for cancer in Cancer:
        tuned = thresholds(people, ill, cancer)
        rule = tuned.detector.rule
        above = "0 HU" if rule.absolute else "the median"
        what = f"{rule.contrast_hu:g} HU {rule.polarity} than {above} over {rule.smooth_mm:g} mm"
        record.add(
            f"baseline_{cancer.value}",
            f"thresholds, {cancer.value}: {what}, from {tuned.detector.from_mm:.0f} mm",
            [tuned.sensitivity],
            "sensitivity",
        )
        for key, what in (("known", "ideal observer"), ("uneven", "ideal observer, texture unknown")):
            best = [max((r[key] for r in p["lesions"] if r["organ"] == cancer.value), default=0.0)
                    for p in people if p["lesions"]]  # fmt: skip
            record.add(f"{key}_{cancer.value}", f"{what}, {cancer.value}", [float(np.mean(best))], "sensitivity")
    record.finish()


def thresholds(people: list[dict[str, Any]], ill: npt.NDArray[np.bool_], cancer: Cancer) -> Tuned:
    """The best rule at the specificity; in the breast judged among women, who alone have the cancer."""
    women = np.array([cancer is not Cancer.BREAST or p["sex"] == "F" for p in people])
    marks = np.array([p["marks"][cancer.value] for p in people])
    assert marks.shape[1] == len(RULES)
    return tune(marks[women], ill[women], SPECIFICITY)


if __name__ == "__main__":
    main()
