"""`bench`, `compare`: how fast, how much memory, and what a change changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from core.errors import ConfigError
from core.finding import Cancer
from engines import archive
from engines.commands import measured
from engines.commands.options import (
    REFERENCE,
    AgeOption,
    BundleArgument,
    JsonOption,
    PrecisionOption,
    RuntimeOption,
    SexOption,
    ThreadsOption,
    err,
    out,
    print_json,
    small_phantom,
    with_progress,
)
from engines.runtime.choice import Precision, Preference, choose

if TYPE_CHECKING:
    from engines.bundle import Bundle
    from engines.measuring.comparing import Case
    from engines.measuring.speed import Speed

VolumeOption = Annotated[Path | None, typer.Option("--volume", help="A volume (.npz) to run on.")]
SeedOption = Annotated[int, typer.Option("--phantom", min=0, help="Seed of a synthetic patient, without --volume.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (bench, compare):
        app.command(rich_help_panel="Measure")(command)


def bench(
    bundle: BundleArgument = REFERENCE,
    volume: VolumeOption = None,
    phantom: SeedOption = 7,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Rounds; medians are shown.")] = 5,
    memory: Annotated[bool, typer.Option(help="Also measure each network's bytes per voxel.")] = True,
    write_memory: Annotated[
        Path | None,
        typer.Option(
            "--write-memory",
            help="A copy of the bundle, in this new folder, that says a quarter more than was measured.",
        ),
    ] = None,
    version: Annotated[
        str | None, typer.Option("--version", help="With --write-memory: version of that copy, not the old one's.")
    ] = None,
    age: AgeOption = None,
    sex: SexOption = None,
    runtime: RuntimeOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Measure how fast a bundle runs here, beside a plain loop over the same tiles and beside bare matrix products.

    Each round runs all three, in changing order, so that what else the machine does meets all alike: read the ratios.
    The loop is `network.run(tile)` and nothing else, on the same runtime at the same precision. The peak is that of
    matrix products (2048 × 1024 × 1024) on them.

    Examples: `onescan-engines bench` · `onescan-engines bench my-bundle --volume chest.npz --age 61 --runs 9 --json`
    """
    from engines.cascade import PatientContext
    from engines.measuring.speed import measure

    if (write_memory is None) != (version is None) or (write_memory is not None and not memory):
        raise ConfigError(
            "--write-memory, --version and --memory go together", remedy="A copy has a version of its own."
        )
    (case,) = _cases([volume] if volume else [], [] if volume else [phantom], age, sex)
    with archive.opened(bundle) as opened:
        choice = choose(runtime, threads, precision, networks=opened.networks)
        patient = PatientContext(case.patient.age_years, case.patient.sex)
        speed = with_progress(
            "measuring", "rounds", lambda s: measure(opened, choice.runtime, case.volume, patient, runs, s), as_json
        )
        on_host = choice.runtime.name != "tensorrt"
        bytes_per_voxel = _memory(opened, speed, choice.runtime.name, precision, threads) if memory and on_host else {}
        copy = _with_memory(opened, bytes_per_voxel, write_memory, version) if write_memory and version else None
    if as_json:
        print_json(measured.speed_fields(opened, choice, case.name, speed, bytes_per_voxel))
        return
    measured.speed(out, opened, choice, case.name, speed, bytes_per_voxel)
    if copy is not None:
        out.print(f"Written to {escape(str(copy.folder))}, digest {copy.digest[:12]}")


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Bundle: a folder, or an archive.")],
    b: Annotated[
        Path, typer.Argument(metavar="B", help="The other one, or the same for another runtime or precision.")
    ],
    volumes: Annotated[list[Path] | None, typer.Argument(help="Volumes (.npz).")] = None,
    phantom: Annotated[
        list[int] | None, typer.Option("--phantom", min=0, help="Seed of a synthetic patient; repeat.")
    ] = None,
    age: AgeOption = None,
    sex: SexOption = None,
    runtime: RuntimeOption = "auto",
    precision: PrecisionOption = "auto",
    runtime_b: Annotated[Preference | None, typer.Option(help="What runs B. Default: what runs A.")] = None,
    precision_b: Annotated[Precision | None, typer.Option(help="Precision of B. Default: that of A.")] = None,
    threads: ThreadsOption = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 1 if any verdict differs.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a change changes: two bundles, or one on two runtimes or precisions, on the same volumes.

    Verdicts beside each other, differences of scores, Dice of lesion masks, organ volumes, times. Verdicts that differ
    are listed case by case.

    Examples:

        onescan-engines compare old new chest1.npz chest2.npz --age 61

        onescan-engines compare model model --phantom 7 --phantom 8 --precision fp32 --precision-b auto --strict
    """
    from engines.cascade import Cascade
    from engines.measuring.comparing import compare as run_both

    cases = _cases(volumes or [], phantom or [], age, sex)
    with archive.opened(a) as left, archive.opened(b) as right, err.status("comparing", spinner="line") as status:
        modelled = [c for c in Cancer if left.manifest.model_of(c) or right.manifest.model_of(c)]
        if not modelled:
            raise ConfigError(
                "neither bundle looks for a cancer", remedy="Compare label maps: `onescan-engines segment`."
            )
        first = choose(runtime, threads, precision, networks=left.networks)
        second = choose(runtime_b or runtime, threads, precision_b or precision, networks=right.networks)
        cascades = Cascade(left, first.runtime), Cascade(right, second.runtime)
        found = run_both(*cascades, cases, modelled, lambda case: status.update(f"comparing on {case}"))
    if as_json:
        print_json(
            {
                "a": {"digest": left.digest, "runtime": first.why},
                "b": {"digest": right.digest, "runtime": second.why},
                "agree": found.agree,
                **measured.compared_fields(found),
            }
        )
    else:
        measured.compared(out, (left, right), (first, second), found)
    if strict and not found.agree:
        raise typer.Exit(1)


def _cases(volumes: Sequence[Path], seeds: Sequence[int], age: int | None, sex: str | None) -> Iterator[Case]:
    """One at a time: volumes are large."""
    if not volumes and not seeds:
        raise ConfigError("no volume to run on", remedy="Name .npz files or --phantom SEED.")
    return _drawn(volumes, seeds, age, sex)


def _drawn(volumes: Sequence[Path], seeds: Sequence[int], age: int | None, sex: str | None) -> Iterator[Case]:
    from engines import volumefile
    from engines.cascade import PatientContext
    from engines.measuring.comparing import Case

    for path in volumes:
        yield Case(path.name, volumefile.read(path), PatientContext(age, sex))
    for seed in seeds:
        torso, image = small_phantom(seed, quiet=True)
        known = PatientContext(age if age is not None else torso.person.age_years, sex or torso.person.sex)
        yield Case(f"phantom {seed}", image, known)


def _memory(bundle: Bundle, speed: Speed, runtime: str, precision: Precision, threads: int) -> dict[str, int]:
    from engines.measuring.memory import bytes_per_voxel

    found = {}
    for share in speed.networks:
        with err.status(f"memory of {share.network}", spinner="line"):
            spec = bundle.manifest.network(share.network)
            found[share.network] = bytes_per_voxel(bundle, spec, share.shape, runtime, precision, threads)
    return found


def _with_memory(bundle: Bundle, bytes_per_voxel: dict[str, int], to: Path, version: str) -> Bundle:
    from engines.bundle import write_bundle
    from engines.manifest import ManifestDraft
    from engines.measuring.memory import with_margin

    if version == bundle.manifest.version:
        raise ConfigError(
            f"version {version} is the old bundle's", remedy="A version is never changed: name a new one."
        )
    said = {network: with_margin(measured) for network, measured in bytes_per_voxel.items()}
    networks = [
        spec.model_copy(update={"bytes_per_voxel": said.get(spec.id, spec.bytes_per_voxel)})
        for spec in bundle.manifest.networks
    ]
    fields = bundle.manifest.model_dump(exclude={"files"})
    draft = ManifestDraft.model_validate({**fields, "version": version, "networks": networks, "authorisations": ()})
    return write_bundle(to, draft, bundle.contents())
