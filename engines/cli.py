"""`onescan-engines`: look into model bundles, prove them, run them, publish them. For model developers."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from core import durable
from core.errors import ConfigError, OneScanError
from core.finding import Answer
from core.volume import Volume
from engines import show
from engines.bundle import open_bundle
from engines.manifest import schema
from engines.runtime.choice import Precision, Preference, choose

if TYPE_CHECKING:
    from engines.phantom import Patient

REFERENCE = Path(__file__).parent / "bundles" / "reference"
Result = TypeVar("Result")
Step = Callable[[int, int], None]

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    help="""Model bundles: what the appliance runs on a CT volume to get seven cancer answers.

A bundle is a folder: `manifest.json` and `blobs/<sha256>`. Try the one that comes with OneScan:

    onescan-engines inspect                 what is in it, on what evidence

    onescan-engines verify                  checks, then golden cases on this machine

    onescan-engines run --phantom 7         a synthetic patient, seven answers
""",
)

_OURS = "the bundle that comes with OneScan"
BundleArgument = Annotated[Path, typer.Argument(help="Bundle folder.", show_default=_OURS)]
BundleOption = Annotated[Path, typer.Option("--bundle", help="Bundle folder.", show_default=_OURS)]
VolumeArgument = Annotated[Path | None, typer.Argument(help="A volume: .npz with hu (int16) and spacing_mm (z, y, x).")]
PhantomOption = Annotated[int | None, typer.Option("--phantom", min=0, help="Seed of a synthetic patient instead.")]
RuntimeOption = Annotated[Preference, typer.Option("--runtime", help="What runs the networks; auto picks the fastest.")]
PrecisionOption = Annotated[Precision, typer.Option("--precision", help="fp32 forgoes bf16: slower, exact.")]
ThreadsOption = Annotated[int, typer.Option("--threads", min=0, help="Cores to use; 0: all of this process.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


@app.command()
def inspect(bundle: BundleArgument = REFERENCE, as_json: JsonOption = False) -> None:
    """Show what a bundle is for, what is in it, and the evidence behind each operating point.

    All checks that need no network are made first (see `verify`); a bundle that fails one is not shown.
    """
    opened = open_bundle(bundle)
    if as_json:
        _print_json({"digest": opened.digest, "manifest": json.loads(opened.manifest.to_json())})
        return
    show.head(out, opened)
    show.contents(out, opened.manifest)


@app.command()
def verify(
    bundle: BundleArgument = REFERENCE,
    golden: Annotated[bool, typer.Option(help="Also run the golden cases through the networks.")] = True,
    runtime: RuntimeOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Prove that a bundle is whole, and that this machine gets from it what its maker got.

    Exit status 0: all passed. 1: a check failed; its number is named (the list: `engines/bundle.py`).

    Example: `onescan-engines verify my-bundle --runtime onnx`
    """
    from engines.parity import run_golden

    opened = open_bundle(bundle)
    choice = choose(runtime, threads, precision) if golden else None
    outcomes = run_golden(opened, choice.runtime) if choice else ()
    passed = all(outcome.passed for outcome in outcomes)
    if as_json:
        cases = [{"case": o.case, "passed": o.passed, "detail": o.detail} for o in outcomes]
        why = choice.why if choice else None
        _print_json({"digest": opened.digest, "passed": passed, "runtime": why, "golden": cases})
    else:
        show.head(out, opened)
        out.print("[green]✓[/] checks 1 to 8: manifest, files, sizes, SHA-256, nothing foreign, names resolve")
        if choice:
            out.print(f"  {escape(choice.why)}")
        for outcome in outcomes:
            mark = "[green]✓[/]" if outcome.passed else "[red]✗[/]"
            out.print(f"{mark} golden case {outcome.case}: {escape(outcome.detail)}")
    if not passed:
        raise typer.Exit(1)


@app.command()
def run(
    volume: VolumeArgument = None,
    phantom: PhantomOption = None,
    bundle: BundleOption = REFERENCE,
    age: Annotated[int | None, typer.Option("--age", min=0, max=130, help="The patient's age in years.")] = None,
    masks: Annotated[Path | None, typer.Option("--masks", help="Write the lesion masks to this .npz file.")] = None,
    runtime: RuntimeOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Run a bundle on one HU volume and print its seven answers.

    No DICOM here: the appliance makes the volume. To try a DICOM study use `make demo STUDY=/folder`.

    Examples: `onescan-engines run --phantom 7` · `onescan-engines run chest.npz --age 61 --json`
    """
    from engines.cascade import Cascade, PatientContext

    if (volume is None) == (phantom is None):
        raise ConfigError("give either a volume file or --phantom SEED", remedy="See `onescan-engines run --help`.")
    opened = open_bundle(bundle)
    choice = choose(runtime, threads, precision)
    image, known_age, truth = _input(volume, phantom)
    begun = time.monotonic()
    analysis = Cascade(opened, choice.runtime).analyse(image, PatientContext(age if age is not None else known_age))
    seconds = time.monotonic() - begun
    if masks is not None:
        _write_masks(masks, {cancer.value: mask for cancer, mask in analysis.masks.items()})
    if as_json:
        _print_json(
            {
                "bundle": {"name": opened.manifest.name, "version": opened.manifest.version, "digest": opened.digest},
                "runtime": analysis.runtime,
                "answers": [_answer_fields(answer) for answer in analysis.answers],
                "organs_ml": analysis.organs_ml,
                "timings_s": analysis.timings_s,
                "truth": truth,
            }
        )
        return
    show.answers(out, opened, analysis.answers, truth)
    organs = ", ".join(f"{name} {ml:.0f} mL" for name, ml in analysis.organs_ml.items())
    out.print(f"Localised: {organs or 'nothing'}")
    network = analysis.timings_s.get("network", 0.0)
    out.print(f"{seconds:.1f} s, of which {network:.1f} s in the networks; {escape(choice.why)}")


@app.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of `manifest.json`, for editors and other languages' validators."""
    _print_json(schema())


@app.command()
def phantom(
    seed: Annotated[int, typer.Argument(min=0, help="Which synthetic patient: the same seed is the same patient.")],
    to: Annotated[Path, typer.Argument(help="A folder for a DICOM series, or a file name.npz for a bare volume.")],
    slice_mm: Annotated[float, typer.Option(min=0.5, max=10, help="Distance between slices in mm.")] = 3.0,
    pixel_mm: Annotated[
        float | None,
        typer.Option(min=0.4, max=8, help="Pixel size in mm; larger is quicker. Default: 512 × 512."),
    ] = None,
    vendor: Annotated[str, typer.Option(help="Whose scanner the DICOM headers imitate.")] = "siemens",
    as_json: JsonOption = False,
) -> None:
    """Make the CT of a synthetic patient, with lesions that it tells you about.

    Examples: `onescan-engines phantom 7 study/` · `onescan-engines phantom 7 torso.npz --slice-mm 5`
    """
    from engines.phantom import Scan, render, sample_patient
    from engines.phantom.dicom import VENDORS, default_spacing_mm, write_series

    if vendor not in VENDORS:
        raise ConfigError(f"no vendor {vendor}", remedy=f"Choose one of {', '.join(VENDORS)}.")
    patient = sample_patient(seed)
    scan = Scan(spacing_mm=default_spacing_mm(patient, slice_mm))
    if pixel_mm is not None:
        scan = Scan(spacing_mm=(slice_mm, pixel_mm, pixel_mm), matrix=None)
    if to.suffix == ".npz":
        from engines import volumefile

        volume, _ = _with_progress(lambda step: render(patient, scan, step), as_json)
        durable.make_folder(to.resolve().parent)
        durable.write_bytes(to, volumefile.to_bytes(volume))
        written = 1
    else:
        written = len(
            _with_progress(lambda step: write_series(patient, to, scan=scan, vendor=vendor, progress=step), as_json)
        )
    truth = _truth(patient)
    if as_json:
        _print_json({"seed": seed, "path": str(to), "files": written, "age_years": patient.age_years, "truth": truth})
        return
    out.print(
        f"{written} {'file' if written == 1 else 'files'} in {to}: synthetic patient {seed}, {patient.age_years} years"
    )
    for lesion in truth:
        out.print(f"  {lesion['kind']}, {lesion['diameter_mm']} mm" + ("" if lesion["cancer"] else ", benign"))


def main() -> NoReturn:
    """Entry point: an error says what happened and what to do, and exits 1."""
    _register_more()
    try:
        app()
    except OneScanError as error:
        if "--json" in sys.argv:
            _print_json({"error": str(error), "remedy": error.remedy()})
        else:
            err.print(f"[red]✗[/] {escape(str(error))}\n  {escape(error.remedy())}")
        sys.exit(1)
    sys.exit(0)


def _register_more() -> None:
    from engines import publish
    from engines.importers import cli as importers

    publish.register(app)
    importers.register(app)


def _input(path: Path | None, seed: int | None) -> tuple[Volume, int | None, list[dict[str, Any]] | None]:
    """The volume, the age where it is known, and the lesions where they are known."""
    if path is not None:
        from engines import volumefile

        return volumefile.read(path), None, None
    from engines.phantom import Scan, render, sample_patient

    assert seed is not None
    patient = sample_patient(seed)
    scan = Scan(spacing_mm=(3.0, 1.5, 1.5), matrix=None)  # four times as quick to draw as 512 × 512
    volume, _ = _with_progress(lambda step: render(patient, scan, step), quiet=False)
    return volume, patient.age_years, _truth(patient)


def _with_progress(work: Callable[[Step], Result], quiet: bool) -> Result:
    """Run `work`, which reports slices done and slices in all, under a progress bar on stderr."""
    columns = (TextColumn("making the phantom"), BarColumn(), TextColumn("{task.completed}/{task.total} slices"))
    with Progress(*columns, TimeElapsedColumn(), console=err, transient=True, disable=quiet) as progress:
        task = progress.add_task("phantom")
        return work(lambda done, total: progress.update(task, completed=done, total=total))


def _truth(patient: Patient) -> list[dict[str, Any]]:
    return [
        {
            "organ": lesion.kind.organ,
            "kind": lesion.kind.value.replace("_", " "),
            "cancer": lesion.kind.is_cancer,
            "diameter_mm": round(lesion.diameter_mm, 1),
        }
        for lesion in patient.lesions
    ]


def _answer_fields(answer: Answer) -> dict[str, Any]:
    return {
        "cancer": answer.cancer.value,
        "verdict": answer.verdict.value,
        "score": answer.score,
        "reason": answer.reason.value if answer.reason else None,
        "detail": answer.detail,
        "lesions": [dataclasses.asdict(lesion) for lesion in answer.lesions],
    }


def _write_masks(path: Path, masks: Mapping[str, npt.NDArray[np.uint8]]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:  # what NumPy calls .npz
        for name, mask in masks.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.save(entry, mask, allow_pickle=False)
    durable.write_bytes(path, buffer.getvalue())


def _print_json(fields: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(fields, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
