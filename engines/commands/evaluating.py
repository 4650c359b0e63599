"""`evaluate`: a bundle on cases with a known outcome: run, report, compare two bundles, hand on to `calibrate`."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from core import durable
from core.errors import ConfigError
from core.finding import Cancer
from engines import archive
from engines.commands import judged
from engines.commands.options import (
    REFERENCE,
    BundleOption,
    JsonOption,
    PrecisionOption,
    RuntimeOption,
    out,
    print_json,
    with_progress,
)
from engines.evaluation.cases import CaseSet

if TYPE_CHECKING:
    from engines.evaluation.measuring import Results
    from engines.evaluation.results import Run
    from engines.evaluation.studies import Source
    from engines.evaluation.wanted import Wanted

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Judge a bundle on cases with a known outcome.

1. `run` answers the cases and keeps what was said beside the truth (resumable; may take hours)

2. `report` turns that into a page for people and evaluation.json for machines (seconds)

3. `compare` sets two bundles side by side on the same cases; `cases` hands scores on to `calibrate`

DICOM studies are judged by `onescan-appliance evaluate`, with the same reports.
""",
)

RunsArgument = Annotated[list[Path], typer.Argument(help="Folders that `evaluate run` filled; all of one bundle.")]
ToOption = Annotated[Path, typer.Option("--to", help="Folder for the results; the same command goes on where it was.")]
JobsOption = Annotated[int, typer.Option(min=0, help="Worker processes, about 1 GB each; 0: one a core.")]
PicturesOption = Annotated[bool, typer.Option(help="Keep pictures of the hardest cases.")]
ByOption = Annotated[
    list[str] | None, typer.Option("--by", help="A further column to break figures down by; may be repeated.")
]


def register(parent: typer.Typer) -> None:
    """Add the command and its parts."""
    parent.add_typer(app, name="evaluate", rich_help_panel="Judge")


@app.command("run")
def run(
    to: ToOption,
    cases: Annotated[
        Path | None, typer.Argument(help="A cohort's folder (`phantom --count`), or a table (CSV) of .npz volumes.")
    ] = None,
    bundle: BundleOption = REFERENCE,
    torsos: Annotated[
        int | None, typer.Option(min=0, help="Instead of CASES: make synthetic torsos on the spot, from this seed on.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="With --torsos: how many.")] = 100,
    cancer: Annotated[
        list[Cancer] | None, typer.Option(help="With --torsos: everyone has this one; may be repeated. Default: drawn.")
    ] = None,
    healthy: Annotated[bool, typer.Option("--healthy", help="With --torsos: nobody has any.")] = False,
    shifted: Annotated[bool, typer.Option("--shifted", help="With --torsos: by the shifted cohort's law.")] = False,
    whole: Annotated[bool, typer.Option("--whole", help="With --torsos: everyone is scanned whole.")] = False,
    spacing_mm: Annotated[float, typer.Option(min=1, max=8, help="With --torsos: the working spacing.")] = 2.0,
    case_set: Annotated[
        CaseSet, typer.Option("--set", help="Synthetic cases: for judging, or to choose thresholds on (tuning).")
    ] = "judging",
    title: Annotated[
        str | None, typer.Option(help="A table's cases in a sentence: which, from where, of when.")
    ] = None,
    by: ByOption = None,
    jobs: JobsOption = 0,
    runtime: RuntimeOption = "auto",
    precision: PrecisionOption = "auto",
    pictures: PicturesOption = True,
    as_json: JsonOption = False,
) -> None:
    """Answer all cases with a bundle, and keep what it said beside the truth.

    Killed at any moment, the same command goes on where it was: at most the ten cases of each worker are done again.

    Examples: `onescan-engines evaluate run cohort/ --to run/` ·
    `onescan-engines evaluate run --torsos 500000 --count 4000 --healthy --bundle model --to healthy/` ·
    `onescan-engines evaluate run cases.csv --title "our clinic, 2024" --bundle model --to clinic/`
    """
    from engines.evaluation.running import run_cases

    source = _source(
        cases, torsos, range(count), cancer or [], healthy, shifted, whole, spacing_mm, case_set, title, by
    )
    workers = jobs or len(os.sched_getaffinity(0))
    how = partial(run_cases, jobs=workers, runtime=runtime, precision=precision, pictures=pictures)
    answer_all(how, bundle, source, to, "onescan-engines", as_json)


def answer_all(how: Callable[..., Run], bundle: Path, source: Source, to: Path, program: str, as_json: bool) -> None:
    """All cases of a source through a bundle, with a progress bar, and what to do next. how: `run_cases`, as wanted."""
    with archive.opened(bundle) as opened:
        done = with_progress("judging", "cases", lambda step: how(opened, source, to, progress=step), as_json)
    if as_json:
        print_json({"folder": str(to), **done.model_dump(mode="json")})
        return
    out.print(f"{done.cases} cases answered by {escape(done.bundle.name)} {done.bundle.version}: {escape(done.cohort)}")
    out.print(f"Next: {program} evaluate report {escape(str(to))} --to report/")


@app.command("report")
def report(
    runs: RunsArgument,
    to: Annotated[Path, typer.Option("--to", help="Folder for report.html and evaluation.json.")],
    choose: Annotated[
        bool,
        typer.Option("--choose-thresholds", help="Choose thresholds on the tuning cases, not the bundle's own."),
    ] = False,
    keep_sensitivity: Annotated[
        float, typer.Option(min=0, max=1, help="With --choose-thresholds: what the lower one keeps.")
    ] = 0.95,
    keep_specificity: Annotated[
        float, typer.Option(min=0, max=1, help="With --choose-thresholds: what the upper one reaches.")
    ] = 0.999,
    confidence: Annotated[
        float | None,
        typer.Option(
            min=0.5, max=0.999, help="With --choose-thresholds: with which others keep that specificity too: 0.9, say."
        ),
    ] = None,
    goal_sensitivity: Annotated[float, typer.Option(min=0, max=1, help="Goal of each cancer.")] = 0.929,
    goal_specificity: Annotated[float, typer.Option(min=0, max=1, help="Goal of each cancer.")] = 0.999,
    goal_healthy: Annotated[
        float, typer.Option(min=0, max=1, help="Goal: share of the healthy without a flag.")
    ] = 0.99,
    prevalence: Annotated[
        list[str] | None,
        typer.Option(help="Of a cancer among those scanned, for PPV and NPV: 0.01, or lung=0.02; may be repeated."),
    ] = None,
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Every figure of one bundle: a page for people, and evaluation.json for machines.

    Example: `onescan-engines evaluate report healthy/ ill/ --prevalence lung=0.01 --to report/`
    """
    from engines.evaluation.wanted import Wanted

    general, special = _prevalences(prevalence or [])
    wanted = Wanted(
        goal_sensitivity,
        goal_specificity,
        goal_healthy,
        general,
        special,
        (keep_sensitivity, keep_specificity) if choose else None,
        confidence,
        tuple(by) if by else None,
    )
    write_report(runs, to, wanted, as_json)


def write_report(runs: list[Path], to: Path, wanted: Wanted, as_json: bool) -> None:
    """Read the folders, measure, write both files, and say what came out."""
    from engines.evaluation.measuring import evaluate
    from engines.evaluation.report.page import page

    results = [read(folder) for folder in runs]
    found = evaluate(results, wanted, dt.datetime.now(dt.timezone.utc))
    durable.make_folder(to)
    durable.write_text(to / "evaluation.json", found.model_dump_json(indent=1) + "\n")
    durable.write_text(to / "report.html", page(found, runs))
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    judged.figures(out, found)
    out.print(f"Written: {escape(str(to / 'report.html'))} and evaluation.json")


@app.command("compare")
def compare_command(
    a: Annotated[list[Path], typer.Option("--a", help="Results of the one bundle; may be repeated.")],
    b: Annotated[list[Path], typer.Option("--b", help="Results of the other, on the same cases.")],
    to: Annotated[Path, typer.Option("--to", help="Folder for comparison.html and comparison.json.")],
    as_json: JsonOption = False,
) -> None:
    """Two bundles on the same cases, paired: McNemar on who errs, DeLong on the difference of the areas.

    Example: `onescan-engines evaluate compare --a old/ --b new/ --to comparison/`
    """
    from engines.evaluation.comparing import compare
    from engines.evaluation.report.page import comparison_page

    first, second = ([read(folder) for folder in runs] for runs in (a, b))
    found = compare(first, second, dt.datetime.now(dt.timezone.utc))
    durable.make_folder(to)
    durable.write_text(to / "comparison.json", found.model_dump_json(indent=1) + "\n")
    durable.write_text(to / "comparison.html", comparison_page(found))
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    judged.comparison(out, found)
    out.print(f"Written: {escape(str(to / 'comparison.html'))} and comparison.json")


@app.command("cases")
def cases_command(
    runs: RunsArgument,
    to: Annotated[Path, typer.Option("--to", help="The file: JSON, as `calibrate` reads it.")],
) -> None:
    """Truth and raw scores of all cases as a file for `onescan-engines calibrate`.

    Example: `onescan-engines evaluate cases tuning/ judging/ --to cases.json`
    """
    from engines.evaluation.handing_on import case_file

    file = case_file([read(folder) for folder in runs])
    durable.write_text(to, file.model_dump_json(indent=1) + "\n")
    out.print(f"{len(file.cases)} cases in {escape(str(to))}. Next: onescan-engines calibrate BUNDLE {escape(str(to))}")


@app.command("schema")
def schema_command() -> None:
    """The JSON Schema of evaluation.json, as published in docs/evaluation.schema.json."""
    from engines.evaluation.figures import schema

    typer.echo(json.dumps(schema(), indent=2, ensure_ascii=False))


def read(folder: Path) -> Results:
    """A folder of results."""
    from engines.evaluation.measuring import Results
    from engines.evaluation.results import read_cases, read_header

    header = read_header(folder)
    return Results(header, tuple(read_cases(folder, header)))


def _source(
    cases: Path | None,
    torsos: int | None,
    count: range,
    cancers: list[Cancer],
    healthy: bool,
    shifted: bool,
    whole: bool,
    spacing_mm: float,
    case_set: CaseSet,
    title: str | None,
    by: list[str] | None,
) -> Source:
    from engines.evaluation.table import read_table
    from engines.evaluation.torsos import CohortFolder, Torsos
    from engines.evaluation.volumes import VolumeTable
    from engines.phantom.cohort import Order

    if (cases is None) == (torsos is None):
        raise ConfigError("give either cases or --torsos SEED", remedy="See --help of this command.")
    if healthy and cancers:
        raise ConfigError("nobody can be healthy and have a cancer", remedy="Leave out --healthy or --cancer.")
    if torsos is not None:
        wanted = {} if healthy else {c.value: 1 for c in cancers} or None
        order = Order((spacing_mm, spacing_mm, spacing_mm), wanted, shifted=shifted, whole=whole)
        return Torsos(range(torsos, torsos + len(count)), order, case_set)
    assert cases is not None
    if cases.is_dir():
        return CohortFolder.open(cases, case_set)
    if title is None:
        raise ConfigError(
            "a table does not say which cases these are", remedy='Give --title "which, from where, of when".'
        )
    return VolumeTable(read_table(cases, by or ()), title)


def _prevalences(given: list[str]) -> tuple[float, dict[Cancer, float]]:
    general, special = 0.005, {}
    for text in given:
        name, _, number = text.rpartition("=")
        try:
            value = float(number)
            if not 0 < value < 1:
                raise ValueError
            if name:
                special[Cancer(name)] = value
            else:
                general = value
        except ValueError as error:
            raise ConfigError(f"{text} is no prevalence", remedy="Give 0.01, or lung=0.02.") from error
    return general, special
