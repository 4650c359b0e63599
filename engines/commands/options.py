"""Arguments that several commands share, and how they all print."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from engines.runtime.choice import Precision, Preference

if TYPE_CHECKING:
    from core.volume import Volume
    from engines.phantom import Torso

REFERENCE = Path(__file__).parents[1] / "bundles" / "reference"
Result = TypeVar("Result")
Step = Callable[[int, int], None]

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

_OURS = "the bundle that comes with OneScan"
BundleArgument = Annotated[Path, typer.Argument(help="Bundle: a folder, or an archive.", show_default=_OURS)]
BundleOption = Annotated[Path, typer.Option("--bundle", help="Bundle: a folder, or an archive.", show_default=_OURS)]
VolumeArgument = Annotated[Path | None, typer.Argument(help="A volume: .npz with hu (int16) and spacing_mm (z, y, x).")]
PhantomOption = Annotated[int | None, typer.Option("--phantom", min=0, help="Seed of a synthetic patient instead.")]
AgeOption = Annotated[
    int | None,
    typer.Option(
        "--age", min=0, max=130, help="The patient's age in years. Without it: unknown, which a bundle may refuse."
    ),
]
SexOption = Annotated[
    Literal["F", "M", "O"] | None, typer.Option("--sex", help="The patient's sex, as in DICOM.", case_sensitive=False)
]
RuntimeOption = Annotated[Preference, typer.Option("--runtime", help="What runs the networks; auto picks the fastest.")]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        "--precision",
        help="auto: bf16 where the CPU has it. fp32: exact, slower. int8: the bundle's int8 files, where it has some.",
    ),
]
ThreadsOption = Annotated[int, typer.Option("--threads", min=0, help="Cores to use; 0: all of this process.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


def print_json(fields: Mapping[str, Any]) -> None:
    """One JSON object on stdout, for scripts."""
    typer.echo(json.dumps(fields, indent=2, ensure_ascii=False))


def with_progress(what: str, unit: str, work: Callable[[Step], Result], quiet: bool = False) -> Result:
    """Run `work`, which reports how many are done and how many there are, under a progress bar on stderr."""
    columns = (TextColumn(what), BarColumn(), TextColumn(f"{{task.completed}}/{{task.total}} {unit}"))
    with Progress(*columns, TimeElapsedColumn(), console=err, transient=True, disable=quiet) as progress:
        task = progress.add_task(what)
        return work(lambda done, total: progress.update(task, completed=done, total=total))


def small_phantom(seed: int, quiet: bool = False) -> tuple[Torso, Volume]:
    """A synthetic patient, drawn at 1.5 mm: four times as quick as 512 × 512."""
    from engines.phantom import Scan, build, render, sample_person

    torso, scan = build(sample_person(seed)), Scan((3.0, 1.5, 1.5), None)
    rendered = with_progress("making the phantom", "slices", lambda step: render(torso, scan, step), quiet)
    return torso, rendered.volume


def truth_of(torso: Torso) -> list[dict[str, Any]]:
    """The findings that a synthetic patient has, cancers first."""
    return [
        {
            "organ": found.organ,
            "kind": found.kind,
            "cancer": found.cancer,
            "diameter_mm": round(found.diameter_mm, 1),
        }
        for found in sorted(torso.findings, key=lambda found: not found.cancer)
    ]
