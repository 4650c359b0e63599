"""A bundle judged on fresh synthetic people: a goal per cancer for sensitivity and specificity, one for the healthy.

    make bench-evaluate ARGS="--bundle model"                       the whole of it: hours; killed, it goes on
    make bench-evaluate ARGS="--bundle model --seconds 3600"        an hour's worth; the next run goes on from there,
                                                                    elsewhere too, with bench/results/evaluate-cases
    make bench-evaluate ARGS="--bundle model --positives 5 --healthy 20 --shifted 0 --dicom 0"        a first look

Everybody is synthetic: no evidence about people. Seeds begin where neither training nor tuning may (12,000,000). A
detector of contrast and size stands beside it on the same cases. The page: var/evaluate/<digest>/report/report.html.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.judged import Asked, judge_all, parts_of
from bench.kept import keep, take
from bench.record import Goal, Record
from core import durable
from core.finding import Cancer, Verdict
from engines import archive
from engines.commands.options import REFERENCE
from engines.evaluation import statistics as stats
from engines.evaluation.figures import Evaluation
from engines.evaluation.measuring import Results, evaluate
from engines.evaluation.report.page import page
from engines.evaluation.results import CaseResult
from engines.evaluation.wanted import Wanted

VAR = Path(__file__).parents[1] / "var" / "evaluate"
KEPT = Path(__file__).parent / "results" / "evaluate-cases.jsonl.gz"
BASELINE_UNDER, SECONDS_A_PATIENT = 0.6, 10.0
POSITIVES, HEALTHY = 200, 4000
"""So many with each cancer who count, and without any, make a goal's figure."""


def main() -> None:
    """Judge, print the table, write the page and the figures."""
    given = _arguments()
    asked = Asked(given.positives, given.healthy, given.shifted, given.dicom)
    with archive.opened(given.bundle) as bundle:
        manifest, folder = bundle.manifest, VAR / bundle.digest[:16]
        cancers = [model.cancer for model in manifest.cancers]
        if taken := take(KEPT, folder, bundle.digest):
            print(f"{taken} people were judged before, see {KEPT.name}")
        found = judge_all(bundle, parts_of(asked, cancers), folder, given.jobs, given.seconds)
    keep(folder, KEPT)
    at_2mm = [run for name in ("healthy", *(c.value for c in cancers)) for run in found.get(name, ())]
    if not at_2mm:
        raise SystemExit("Nobody has been judged yet: give it more --seconds.")
    evaluation, healthy = _report(at_2mm, folder), len(_cases(found.get("healthy", ())))
    record = Record(
        "evaluate", f"{manifest.name} {manifest.version} on synthetic patients", _goals(evaluation, healthy)
    )
    _add(record, evaluation, "synthetic")
    for name in ("shifted", "dicom"):
        if runs := found.get(name):
            _add(record, evaluate(runs, Wanted(), _now()), f"synthetic_{name}")
    _compare(record, found.get("dicom", ()), found.get("beside-dicom", ()), cancers)
    seconds = [case.seconds["all"] for case in _cases(at_2mm)]
    record.add("seconds_a_patient", "a synthetic patient at working spacing, made and judged", seconds, "s, one worker")
    record.finish()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=REFERENCE)
    parser.add_argument(
        "--positives", type=int, default=POSITIVES, help="of each cancer that the bundle models, who count"
    )
    parser.add_argument("--healthy", type=int, default=HEALTHY)
    parser.add_argument("--shifted", type=int, default=400, help="people of the shifted cohort; 0: none")
    parser.add_argument("--dicom", type=int, default=100, help="people at full resolution through DICOM; 0: none")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing new after so many")
    return parser.parse_args()


def _report(runs: Sequence[Results], folder: Path) -> Evaluation:
    found = evaluate(runs, Wanted(), _now())
    durable.make_folder(folder / "report")
    durable.write_text(folder / "report" / "evaluation.json", found.model_dump_json(indent=1) + "\n")
    folders = sorted(path.parent for path in folder.glob("*/run.json"))
    durable.write_text(folder / "report" / "report.html", page(found, folders))
    print(f"The page: {folder / 'report' / 'report.html'}")
    return found


def _goals(found: Evaluation, healthy: int) -> dict[str, Goal]:
    """At least what the evaluation asks for; of what thresholds find, less than BASELINE_UNDER. Too few people meet no
    goal. healthy: so many were judged."""
    goals = {}
    for goal in found.goals:
        enough = goal.reached.n >= POSITIVES if goal.what == "sensitivity" else healthy >= HEALTHY
        goals[f"synthetic_{goal.key}"] = Goal(goal.at_least, at_least=True, enough=enough)
    for part in found.cancers:
        goals[f"synthetic_{part.cancer.value}_baseline"] = Goal(BASELINE_UNDER, enough=part.sensitivity.n >= POSITIVES)
    return goals | {"seconds_a_patient": Goal(SECONDS_A_PATIENT)}


def _add(record: Record, found: Evaluation, prefix: str) -> None:
    """Every goal's figure with the ends of its 95 % interval, the areas, and what thresholds find of the same cases. A
    figure without cases is left out."""
    word = prefix.replace("_", ", ")
    for goal in found.goals:
        share = goal.reached
        if share.value is None:
            continue
        low, high = share.ci95
        what = f"{word}: {goal.key.replace('_', ', ')} ({share.hits} of {share.n}, 95 % {low:.4f} to {high:.4f})"
        record.add(f"{prefix}_{goal.key}", what, [share.value], "share")
        record.keep(f"{prefix}_{goal.key}_low", low)
        record.keep(f"{prefix}_{goal.key}_high", high)
    for part in found.cancers:
        name = part.cancer.value
        if part.auc.value is not None:
            record.add(f"{prefix}_{name}_auc", f"{word}: {name}, AUC", [part.auc.value], "area")
        if part.baseline is not None and part.baseline.sensitivity.value is not None:
            spared, hit = part.baseline.specificity, part.baseline.sensitivity
            what = f"{word}: {name}, thresholds find ({hit.hits} of {hit.n}; {spared.hits} of {spared.n} left alone)"
            record.add(f"{prefix}_{name}_baseline", what, [part.baseline.sensitivity.value], "share")


def _compare(record: Record, fine: Sequence[Results], coarse: Sequence[Results], cancers: Sequence[Cancer]) -> None:
    """The same people at full resolution and at working spacing: how many verdicts and flags are the same?"""
    at_2mm = {case.case: case for case in _cases(coarse)}
    pairs = [
        (a.cancers[cancer], at_2mm[a.case].cancers[cancer])
        for a in _cases(fine)
        for cancer in cancers
        if a.case in at_2mm
    ]
    both = [(a, b) for a, b in pairs if a.score is not None and b.score is not None]
    alike = {
        "verdict": ("verdicts", [a.verdict is b.verdict for a, b in both]),
        "flag": (
            "flagged or not",
            [(a.verdict is Verdict.POSITIVE) is (b.verdict is Verdict.POSITIVE) for a, b in both],
        ),
    }
    for key, (named, same) in alike.items():
        share = stats.rate(sum(same), len(same))
        if share.value is not None:
            what = f"synthetic: {named} through DICOM, 512 × 512, as at working spacing ({share.hits} of {share.n})"
            record.add(f"synthetic_dicom_same_{key}", what, [share.value], "share")


def _cases(runs: Iterable[Results]) -> list[CaseResult]:
    return [case for run in runs for case in run.cases]


def _now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)


if __name__ == "__main__":
    main()
