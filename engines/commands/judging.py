"""`calibrate`: from scores of cases with a known outcome to thresholds and evidence in a new bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from core.errors import ConfigError
from core.finding import Cancer
from engines import archive, show
from engines.commands.options import JsonOption, ThreadsOption, err, out, print_json
from engines.evaluation.judging import Judged, Method, Wishes
from engines.manifest.evidence import Kind

if TYPE_CHECKING:
    from engines.bundle import Bundle
    from engines.evaluation.cases import CaseFile
    from engines.manifest import CancerModel


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel="Judge")(calibrate)


def calibrate(
    bundle: Annotated[Path, typer.Argument(help="Bundle that gave the scores: a folder, or an archive.")],
    cases: Annotated[Path, typer.Argument(help="Cases with truth and raw score: JSON or CSV, see docs/models.md.")],
    to: Annotated[Path, typer.Option("--to", help="The new bundle's folder; it must not exist yet.")],
    version: Annotated[str, typer.Option("--version", help="The new bundle's version: never the old one's.")],
    method: Annotated[Method, typer.Option(help="How scores become probabilities.")] = "platt",
    sensitivity: Annotated[
        float, typer.Option(min=0, max=1, help="Kept by the lower threshold (negative below) on the tuning cases.")
    ] = 0.95,
    specificity: Annotated[
        float, typer.Option(min=0, max=1, help="Reached by the upper threshold (positive from) on the tuning cases.")
    ] = 0.99,
    confidence: Annotated[
        float | None,
        typer.Option(
            min=0.5, max=0.999, help="With which others keep that specificity too, not just the tuning cases: 0.9, say."
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Share of people without cancer who may be flagged for any. Raises thresholds."
        ),
    ] = None,
    cancer: Annotated[
        list[Cancer] | None, typer.Option(help="Only this cancer; may be repeated. Default: all.")
    ] = None,
    kind: Annotated[Kind | None, typer.Option(help="Kind of evidence, where the file does not say it.")] = None,
    cohort: Annotated[
        str | None, typer.Option(help="Which cases the judging ones are, from where, of when, where the file does not.")
    ] = None,
    at_least: Annotated[int, typer.Option(min=1, help="Fewest cases with and without a cancer in each set.")] = 10,
    threads: ThreadsOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Calibrate scores, choose thresholds, measure the evidence, and write all of it into a new bundle.

    Calibration and thresholds come from the tuning cases, evidence (sensitivity, specificity, exact 95 % intervals)
    from the judging cases, which nothing was chosen by; nobody may be in both. A case that was not analysed counts as
    wrong. The golden cases must pass with the old bundle here; they get the new scores and verdicts. Authorisations
    are not carried over: they are those of the old bundle.

    Example:

        onescan-engines calibrate draft cases.csv --to model --version 1.1.0 --kind retrospective
        --cohort "two hospitals, 2024" --sensitivity 0.95 --specificity 0.99 --budget 0.05
    """
    from engines.evaluation.cases import read_cases
    from engines.evaluation.judging import judge
    from engines.recalibrate import recalibrated

    if to.exists():
        raise ConfigError(f"{to} exists already", remedy="Choose a new folder or remove the old one first.")
    file = read_cases(cases)
    wishes = Wishes(method, sensitivity, specificity, budget, at_least, confidence)
    with archive.opened(bundle) as opened:
        models = _models(opened, file, cancer, budget)
        judged = judge(file, models, wishes, *_origin(file, kind, cohort))
        with err.status("answering the golden cases anew", spinner="line"):
            made = recalibrated(opened, judged, version, to, threads)
    _report(made, judged, wishes, file.repeats, as_json)


def _models(bundle: Bundle, file: CaseFile, only: list[Cancer] | None, budget: float | None) -> list[CancerModel]:
    """The models to calibrate; ConfigError where file and bundle don't belong together."""
    manifest = bundle.manifest
    if file.bundle is not None and file.bundle != bundle.digest:
        raise ConfigError(
            f"the scores are those of bundle {file.bundle[:12]}, this is {bundle.digest[:12]}",
            remedy="Calibrate the bundle that gave them, or score the cases with this one.",
        )
    known = {model.cancer for model in manifest.cancers}
    scored = {c for case in file.cases for c, outcome in case.cancers.items() if outcome.score is not None}
    if foreign := sorted(c.value for c in scored - known):
        raise ConfigError(f"the bundle has no model of {', '.join(foreign)}, which the file has scores of")
    wanted = set(only) if only else known
    if missing := sorted(c.value for c in wanted if c not in known & scored):
        raise ConfigError(
            f"no model or no scores of {', '.join(missing)}", remedy="Score them, or name the others with --cancer."
        )
    if budget is not None and wanted != known:
        raise ConfigError("a budget is one of all the bundle's cancers together", remedy="Leave out --cancer.")
    return [model for model in manifest.cancers if model.cancer in wanted]


def _origin(file: CaseFile, kind: Kind | None, cohort: str | None) -> tuple[Kind, str]:
    for name, said, given in (("kind", file.kind, kind), ("cohort", file.cohort, cohort)):
        if said is None and given is None:
            raise ConfigError(f"neither the file nor --{name} says the evidence's {name}", remedy=f"Give --{name}.")
        if said is not None and given is not None and said != given:
            raise ConfigError(f"the file says {name} {said!r}, --{name} says {given!r}", remedy=f"Leave out --{name}.")
    chosen_kind, chosen_cohort = file.kind or kind, file.cohort or cohort
    assert chosen_kind is not None
    assert chosen_cohort is not None
    return chosen_kind, chosen_cohort


def _report(made: Bundle, judged: Judged, wishes: Wishes, repeats: int, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "bundle": str(made.folder),
                "digest": made.digest,
                "cancers": [model.model_dump(mode="json") for model in judged.models],
                "case_level": judged.case_level.model_dump(mode="json") if judged.case_level else None,
                "raised_to": judged.raised_to,
                "left_out": judged.left_out,
                "too_few": {cancer.value: n for cancer, n in judged.too_few.items()},
                "repeats": repeats,
            }
        )
        return
    show.head(out, made)
    show.judgement(out, judged.models, judged.case_level)
    if judged.raised_to is not None:
        out.print(f"  the budget took a specificity of {judged.raised_to:.2%} of every cancer on the tuning cases")
    if judged.left_out:
        out.print(f"  {judged.left_out} people without cancer were not analysed for all, and are not counted above")
    if judged.too_few:
        people = ", ".join(f"{cancer.value} {n}" for cancer, n in judged.too_few.items())
        out.print(
            f"  too few tuning cases without the cancer to show a specificity of {wishes.specificity:.4g} to others, "
            f"wherever the threshold lies: {people}. More of others may be flagged; tune on more."
        )
    if repeats:
        out.print(
            f"  {repeats} cases are further ones of people who have one before. The evidence's intervals know that; "
            "what was asked of thresholds counts each as if it were somebody else's. One a person is better."
        )
    out.print(f"Next: onescan-engines verify {escape(str(made.folder))}")
