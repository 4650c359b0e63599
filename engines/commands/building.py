"""`build`: plans for this machine's GPU."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from engines import archive
from engines.build import Outcome
from engines.buildprocess import ChildBuild
from engines.commands.options import REFERENCE, BundleArgument, JsonOption, err, out, print_json
from engines.runtime.choice import plans_folder

_MARKS = {"ready": "[green]✓[/]", "refused": "[red]✗[/]", "failed": "[red]✗[/]", "postponed": "[yellow]–[/]"}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel="Run")(build)


def build(
    bundle: BundleArgument = REFERENCE,
    plans: Annotated[
        Path | None,
        typer.Option("--plans", help="Where plans are kept.", show_default="ONESCAN_PLANS, or the user's cache"),
    ] = None,
    memory_mb: Annotated[
        int,
        typer.Option("--memory-mb", min=512, help="MiB that the build may take; half of it on the GPU for a layer."),
    ] = 8192,
    fp32: Annotated[
        bool, typer.Option("--fp32", help="Compute float32 networks in full float32, without TF32: slower, exact.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Build TensorRT plans of a bundle's networks for this machine's GPU, and let them run if they agree.

    A plan is a network compiled for one GPU model, one version of TensorRT and one precision; it can't be shipped. So
    each machine builds its own, once a bundle, at idle priority; a small device takes its time. Ctrl-C ends it; begun
    again, it goes on with what was built and measured.

    Then the bundle's golden cases run on the plans. Only if verdicts, scores and organ volumes agree within the
    bundle's tolerances do `onescan-engines run`, `verify` and the appliance use them.

    A network runs in the precision of its file: give fp16 files to get fp16 plans (docs/bring-your-own-model.md).

    Exit status 0: the plans may run. 1: they may not; the reason is named. 2: ended before it was done.

    Examples: `onescan-engines build` · `onescan-engines build my-bundle --plans /var/lib/onescan/plans --json`
    """
    stopped = _stopped_by_ctrl_c()
    child = ChildBuild(plans or plans_folder(), memory_mb, fp32=fp32)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[phase]}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=as_json) as progress:
        task = progress.add_task("starting", phase="", total=None)

        def show(said: Mapping[str, Any]) -> None:
            progress.update(
                task, description=said["network"], phase=said["phase"], completed=said["done"], total=said["total"]
            )

        with archive.opened(bundle) as opened:
            outcome = child.run(opened.folder, wanted=lambda: not stopped, progress=show)
    if as_json:
        print_json(asdict(outcome))
    else:
        _tell(outcome, child.plans)
    raise typer.Exit({"ready": 0, "postponed": 2}.get(outcome.kind, 1))


def _tell(outcome: Outcome, plans: Path) -> None:
    for plan in outcome.plans:
        shapes = "×".join(map(str, plan["to"]))
        if plan["from"] != plan["to"]:
            shapes = f"{'×'.join(map(str, plan['from']))} to {shapes}"
        out.print(f"  {plan['precision']}, images of {shapes}, built in {plan['built_s']:.0f} s: {plan['plan']}")
    for case in outcome.cases:
        out.print(
            f"{'[green]✓[/]' if case['passed'] else '[red]✗[/]'} golden case {case['case']}: {escape(case['detail'])}"
        )
    sentence = {
        "ready": f"the plans in {plans} may run",
        "refused": "the plans do not agree with the bundle's golden cases and will not run",
        "postponed": "ended before it was done; run it again to go on",
        "failed": outcome.detail,
    }[outcome.kind]
    (out if outcome.kind == "ready" else err).print(f"{_MARKS[outcome.kind]} {escape(sentence)}")
    if outcome.remedy:
        err.print(f"  {escape(outcome.remedy)}")


def _stopped_by_ctrl_c() -> list[int]:
    """A list that is empty until somebody presses Ctrl-C, or SIGTERM comes: the child then keeps what it measured."""
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, frame: stopped.append(received))
    return stopped
