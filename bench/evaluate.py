"""A bundle judged on fresh synthetic people: a goal per cancer for sensitivity and specificity, one for the healthy.

    make bench-evaluate ARGS="--bundle model.osb"            the whole of it: hours; killed, it goes on where it was
    make bench-evaluate ARGS="--positives 5 --healthy 20 --shifted 0 --dicom 0"    a first look

Everybody is synthetic: no evidence about people. Seeds begin where neither training nor tuning may (7,000,000). The
page is var/evaluate/<digest>/report/report.html.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from appliance.evaluate import DicomCohort
from bench.record import Goal, Record
from core import durable
from core.finding import Cancer
from engines import archive
from engines.bundle import Bundle
from engines.commands.options import REFERENCE
from engines.evaluation import statistics as stats
from engines.evaluation.figures import Evaluation
from engines.evaluation.measuring import Results, evaluate
from engines.evaluation.report.page import page
from engines.evaluation.results import read_cases
from engines.evaluation.running import run_cases
from engines.evaluation.studies import Source
from engines.evaluation.torsos import Torsos, cohort_settings, complete_seeds
from engines.evaluation.wanted import Wanted
from engines.phantom.torso.cohort import Order, make

FIRST = 7_000_000
_BLOCK = 100_000
SPACING = (2.0, 2.0, 2.0)
VAR = Path(__file__).parents[1] / "var" / "evaluate"


def main() -> None:
    """Judge, print the table, write the page and the figures."""
    given = _arguments()
    with archive.opened(given.bundle) as bundle:
        folder = VAR / bundle.digest[:16]
        modelled = [model.cancer for model in bundle.manifest.cancers]
        main_runs = [
            _judged(bundle, _torsos(1 + i, given.positives, {cancer.value: 1}), folder / cancer.value, given.jobs)
            for i, cancer in enumerate(modelled)
        ]
        main_runs.append(_judged(bundle, _torsos(0, given.healthy, {}), folder / "healthy", given.jobs))
        found = _report(main_runs, folder)
        record = Record(
            "evaluate", f"{bundle.manifest.name} {bundle.manifest.version} on synthetic patients", _goals(found)
        )
        _add(record, found, "synthetic")
        if given.shifted:
            run = _judged(bundle, _torsos(20, given.shifted, None, shifted=True), folder / "shifted", given.jobs)
            _add(record, evaluate([run], Wanted(), _now()), "synthetic_shifted")
        if given.dicom:
            _full_resolution(record, bundle, folder, given.dicom, given.jobs)
    seconds = [case.seconds["all"] for run in main_runs for case in run.cases]
    record.add("seconds_a_patient", "a synthetic patient at working spacing, made and judged", seconds, "s, one worker")
    record.finish()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=REFERENCE)
    parser.add_argument("--positives", type=int, default=200, help="of each cancer that the bundle models")
    parser.add_argument("--healthy", type=int, default=4000)
    parser.add_argument("--shifted", type=int, default=400, help="people of the shifted cohort; 0: none")
    parser.add_argument("--dicom", type=int, default=100, help="people at full resolution through DICOM; 0: none")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


def _torsos(block: int, count: int, wanted: dict[str, int] | None, shifted: bool = False) -> Torsos:
    first = FIRST + block * _BLOCK
    return Torsos(range(first, first + count), Order(SPACING, wanted, shifted=shifted))


def _judged(bundle: Bundle, source: Source, folder: Path, jobs: int) -> Results:
    """The source's cases answered, under a progress bar; resumed where an earlier run was cut off. Who asks for another
    number of cases gets another folder."""
    folder = folder.with_name(f"{folder.name}-{len(source)}")
    columns = (
        TextColumn(source.title),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(source))
        run = run_cases(
            bundle, source, folder, jobs=jobs, progress=lambda done, total: progress.update(task, completed=done)
        )
    return Results(run, tuple(read_cases(folder, run)))


def _report(runs: Sequence[Results], folder: Path) -> Evaluation:
    found = evaluate(runs, Wanted(), _now())
    durable.make_folder(folder / "report")
    durable.write_text(folder / "report" / "evaluation.json", found.model_dump_json(indent=1) + "\n")
    folders = sorted(path.parent for path in folder.glob("*/run.json"))
    durable.write_text(folder / "report" / "report.html", page(found, folders))
    print(f"The page: {folder / 'report' / 'report.html'}")
    return found


def _goals(found: Evaluation) -> dict[str, Goal]:
    return {f"synthetic_{goal.key}": Goal(goal.at_least, at_least=True) for goal in found.goals}


def _add(record: Record, found: Evaluation, prefix: str) -> None:
    """Every goal's figure with the ends of its 95 % interval, and the areas. A figure without cases is left out."""
    for goal in found.goals:
        share = goal.reached
        if share.value is None:
            continue
        what = f"{prefix.replace('_', ', ')}: {goal.key.replace('_', ', ')} ({share.hits} of {share.n})"
        record.add(f"{prefix}_{goal.key}", what, [share.value], "share")
        for end, value in zip(("low", "high"), share.ci95, strict=True):
            record.add(f"{prefix}_{goal.key}_{end}", f"{what}, 95 % interval, {end}", [value], "share")
    for part in found.cancers:
        if part.auc.value is not None:
            record.add(f"{prefix}_{part.cancer.value}_auc", f"{prefix}: {part.cancer.value}, AUC", [part.auc.value], "")


def _full_resolution(record: Record, bundle: Bundle, folder: Path, count: int, jobs: int) -> None:
    """The same people at 512 × 512 through DICOM and at working spacing: on how many do the verdicts differ?"""
    first = FIRST + 30 * _BLOCK
    seeds, cohort = range(first, first + count), folder / "dicom-studies"
    make(cohort, seeds, Order(None, None, dicom=True), jobs)
    there = tuple(seed for seed in complete_seeds(cohort) if seed in seeds)
    fine = _judged(bundle, DicomCohort(cohort, there, cohort_settings(cohort)), folder / "dicom", jobs)
    coarse = _judged(bundle, Torsos(seeds, Order(SPACING)), folder / "beside-dicom", jobs)
    pairs = [
        (a.cancers[cancer], b.cancers[cancer])
        for a, b in zip(fine.cases, coarse.cases, strict=True)
        for cancer in Cancer
        if cancer in bundle_cancers(bundle)
        and a.cancers[cancer].score is not None
        and b.cancers[cancer].score is not None
    ]
    same = [a.verdict is b.verdict for a, b in pairs]
    found = stats.rate(sum(same), len(same))
    if found.value is not None:
        what = f"synthetic: verdicts through DICOM, 512 × 512, as at working spacing ({found.hits} of {found.n})"
        record.add("synthetic_dicom_same_verdict", what, [found.value], "share")
    _add(record, evaluate([fine], Wanted(), _now()), "synthetic_dicom")


def bundle_cancers(bundle: Bundle) -> set[Cancer]:
    """Those that a bundle models."""
    return {model.cancer for model in bundle.manifest.cancers}


def _now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)


if __name__ == "__main__":
    main()
