"""`run`, `segment`, `phantom`: one volume through a bundle, or made for it."""

from __future__ import annotations

import dataclasses
import io
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich.markup import escape

from core import durable
from core.errors import ConfigError
from core.finding import Cancer
from engines import archive, show
from engines.commands.options import (
    REFERENCE,
    AgeOption,
    BundleOption,
    JsonOption,
    PhantomOption,
    PrecisionOption,
    RuntimeOption,
    SexOption,
    ThreadsOption,
    VolumeArgument,
    err,
    out,
    print_json,
    small_phantom,
    truth_of,
    with_progress,
)
from engines.runtime.choice import choose

if TYPE_CHECKING:
    from core.finding import Answer
    from core.volume import Volume
    from engines.cascade import PatientContext


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (run, segment, phantom):
        app.command(rich_help_panel="Run")(command)


def run(
    volume: VolumeArgument = None,
    phantom: PhantomOption = None,
    bundle: BundleOption = REFERENCE,
    age: AgeOption = None,
    sex: SexOption = None,
    masks: Annotated[Path | None, typer.Option("--masks", help="Write the lesion masks to this .npz file.")] = None,
    runtime: RuntimeOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Run a bundle on one HU volume and print its seven answers.

    No DICOM here: the appliance makes the volume. To try a DICOM study use `make demo STUDY=/folder`.

    Examples: `onescan-engines run --phantom 7` · `onescan-engines run chest.npz --age 61 --sex F --json`
    """
    from engines.cascade import Cascade, PatientContext

    with archive.opened(bundle) as opened:
        choice = choose(runtime, threads, precision, networks=opened.networks)
        image, known, truth = _input(volume, phantom)
        patient = PatientContext(age if age is not None else known.age_years, sex or known.sex)
        begun = time.monotonic()
        analysis = Cascade(opened, choice.runtime).analyse(image, patient)
        seconds = time.monotonic() - begun
    if masks is not None:
        _write_arrays(masks, {cancer.value: mask for cancer, mask in analysis.masks.items()})
    if as_json:
        print_json(
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


def segment(
    to: Annotated[
        Path, typer.Option("--to", help="Write the labels here: .npz with labels, uint8 as the volume's hu.")
    ],
    volume: VolumeArgument = None,
    phantom: PhantomOption = None,
    bundle: BundleOption = REFERENCE,
    network: Annotated[
        str | None, typer.Option("--network", help="Its id. Default: the one that looks at the whole scan.")
    ] = None,
    runtime: RuntimeOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Label every voxel of a volume with one network, in the volume's own grid: no rules, no thresholds.

    For networks that look at the whole scan: the localiser, or detectors with region: volume, as imported ones have.

    Example: `onescan-engines segment chest.npz --bundle my-bundle --network organs --to labels.npz`
    """
    from engines.cascade.whole import segment_volume, the_network

    with archive.opened(bundle) as opened:
        choice = choose(runtime, threads, precision, networks=opened.networks)
        image, _, _ = _input(volume, phantom)
        result = segment_volume(opened, network or the_network(opened.manifest), choice.runtime, image)
    _write_arrays(to, {"labels": result.labels})
    counts = np.bincount(result.labels.ravel(), minlength=len(result.names))
    millilitres = {
        name: float(counts[value]) * image.geometry.voxel_mm3 / 1000 for value, name in result.names.items() if value
    }
    if as_json:
        print_json(
            {
                "labels": {name: value for value, name in result.names.items()},
                "volumes_ml": millilitres,
                "timings_s": result.seconds,
                "runtime": f"{choice.runtime.name} {choice.runtime.precision}",
            }
        )
        return
    for value, name in result.names.items():
        if value:
            out.print(f"  {value:3d} {name}: {millilitres[name]:.1f} mL")
    out.print(f"{result.seconds['total']:.1f} s, of which {result.seconds.get('network', 0.0):.1f} s in the networks")


def phantom(
    seed: Annotated[int, typer.Argument(min=0, help="Which synthetic patient: the same seed is the same patient.")],
    to: Annotated[Path, typer.Argument(help="A folder for a DICOM series, or a file name.npz for a bare volume.")],
    slice_mm: Annotated[float, typer.Option(min=0.5, max=10, help="Distance between slices in mm.")] = 3.0,
    pixel_mm: Annotated[
        float | None,
        typer.Option(min=0.4, max=8, help="Pixel size in mm; larger is quicker. Default: 512 × 512."),
    ] = None,
    vendor: Annotated[
        str, typer.Option(help="Whose scanner the DICOM headers imitate: siemens, ge, philips or canon.")
    ] = "siemens",
    count: Annotated[
        int | None,
        typer.Option(
            min=1, help="This many torsos with all seven cancers, seeds from the first on, into a folder; resumable."
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, help="With --count: processes; 0: one a core.")] = 0,
    cancer: Annotated[
        list[Cancer] | None, typer.Option(help="With --count: everyone has this one; may be repeated. Default: drawn.")
    ] = None,
    healthy: Annotated[bool, typer.Option("--healthy", help="With --count: nobody has any.")] = False,
    dicom: Annotated[bool, typer.Option("--dicom", help="With --count: DICOM with truth as SEG.")] = False,
    shifted: Annotated[
        bool, typer.Option("--shifted", help="With --count: as from elsewhere, with other kernels, bodies and lesions.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make the CT of a synthetic patient, with lesions that it tells you about; or thousands (`--count`).

    Examples: `onescan-engines phantom 7 study/` · `onescan-engines phantom 7 torso.npz --slice-mm 5` ·
    `onescan-engines phantom 100000 cohort/ --count 10000`
    """
    if count is not None:
        from engines.commands.people import Wish, make_people

        wish = Wish(seed, count, jobs, tuple(cancer or ()), healthy, dicom, shifted, slice_mm, pixel_mm)
        make_people(to, wish, as_json)
        return
    from engines import volumefile
    from engines.phantom import Scan, build, render, sample_person
    from engines.phantom.dicom import VENDORS, default_scan, write_series

    if vendor not in VENDORS:
        raise ConfigError(f"no vendor {vendor}", remedy=f"Choose one of {', '.join(VENDORS)}.")
    torso = build(sample_person(seed))
    scan = default_scan(torso, slice_mm)
    if pixel_mm is not None:
        scan = Scan(spacing_mm=(slice_mm, pixel_mm, pixel_mm), matrix=None)
    what = ("making the phantom", "slices")
    if to.suffix == ".npz":
        volume = with_progress(*what, lambda step: render(torso, scan, step), as_json).volume
        durable.make_folder(to.resolve().parent)
        durable.write_bytes(to, volumefile.to_bytes(volume))
        written = 1
    else:
        written = len(with_progress(*what, lambda step: write_series(torso, scan, to, vendor, step), as_json))
    person, truth = torso.person, truth_of(torso)
    if as_json:
        print_json({"seed": seed, "path": str(to), "files": written, "age_years": person.age_years, "truth": truth})
        return
    counted = "1 file" if written == 1 else f"{written} files"
    out.print(f"{counted} in {to}: synthetic patient {seed}, {person.age_years} years")
    for found in truth:
        what_it_is = f"cancer of the {found['organ']}" if found["cancer"] else "benign"
        out.print(f"  {found['kind']}, {found['diameter_mm']} mm, {what_it_is}")


def _input(path: Path | None, seed: int | None) -> tuple[Volume, PatientContext, list[dict[str, Any]] | None]:
    """The volume, who it is where that is known, and the lesions where they are known."""
    from engines import volumefile
    from engines.cascade import PatientContext

    if path is not None and seed is None:
        return volumefile.read(path), PatientContext(), None
    if path is not None or seed is None:
        raise ConfigError("give either a volume file or --phantom SEED", remedy="See --help of this command.")
    torso, volume = small_phantom(seed, quiet=not err.is_terminal)
    return volume, PatientContext(torso.person.age_years, torso.person.sex), truth_of(torso)


def _answer_fields(answer: Answer) -> dict[str, Any]:
    return {
        "cancer": answer.cancer.value,
        "verdict": answer.verdict.value,
        "score": answer.score,
        "reason": answer.reason.value if answer.reason else None,
        "detail": answer.detail,
        "lesions": [dataclasses.asdict(lesion) for lesion in answer.lesions],
    }


def _write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[np.uint8]]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:  # what NumPy calls .npz
        for name, array in arrays.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.save(entry, array, allow_pickle=False)
    durable.make_folder(path.resolve().parent)
    durable.write_bytes(path, buffer.getvalue())
