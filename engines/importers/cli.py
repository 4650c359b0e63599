"""`onescan-engines import ...`: models of other frameworks → bundles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from core import durable
from core.errors import ConfigError
from engines.importers.options import (
    BindingOption,
    Fp16Option,
    Int8Option,
    JsonOption,
    LaterToOption,
    ToOption,
    VolumesOption,
    WriteBindingOption,
)

if TYPE_CHECKING:
    from engines.bundle import Bundle
    from engines.importers.fitting import Fitted
    from engines.importers.forms import Forms

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)
importers = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Make a bundle of a trained network. What can't be run faithfully is refused by name, never approximated.

Weights are read, never executed: a checkpoint that wants to call code is refused. docs/bring-your-own-model.md walks
through each command.
""",
)


def register(app: typer.Typer) -> None:
    """Add `import` to `onescan-engines`."""
    app.add_typer(importers, name="import", rich_help_panel="Make")


@importers.command("onnx")
def onnx_command(
    manifest: Annotated[Path, typer.Argument(help="Hand-written manifest, YAML or JSON; its files lie beside it.")],
    to: ToOption,
    fp16: Fp16Option = False,
    int8: Int8Option = False,
    volumes: VolumesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import ONNX files with a hand-written manifest.

    The manifest has the fields of a bundle's own (`onescan-engines schema`), without digests and sizes. Each network is
    checked against what the manifest says of it, and run once on noise. A golden case that expects nothing yet is given
    what this machine answers in fp32.

    Example: `onescan-engines import onnx my-model/manifest.yaml --to my-bundle`
    """
    from engines.importers.plain import import_onnx

    made = import_onnx(manifest, to, _quiet if as_json else _step, _forms(fp16, int8, volumes))
    _report(made.bundle, made.files, as_json, made.notes)


@importers.command("nnunet")
def nnunet_command(
    folder: Annotated[
        Path, typer.Argument(help="TRAINER__PLANS__CONFIGURATION with plans.json and fold_*, or its parent.")
    ],
    to: LaterToOption = None,
    configuration: Annotated[
        str | None, typer.Option(help="3d_fullres, 3d_lowres or 3d_cascade_fullres. Default: by the folder's name.")
    ] = None,
    folds: Annotated[str, typer.Option(help="Which folds to average, such as 0,1,2. Default: all there are.")] = "",
    checkpoint: Annotated[str, typer.Option(help="Which checkpoint of each fold.")] = "checkpoint_final.pth",
    binding: BindingOption = None,
    write_binding: WriteBindingOption = None,
    previous: Annotated[
        Path | None, typer.Option(help="The earlier stage of a cascade, if it is not beside FOLDER.")
    ] = None,
    file_axes: Annotated[
        str | None,
        typer.Option(
            help="Where z, y, x of the training images grew to, one of S I, P A, L R each. Default: as nnU-Net's "
            "reader turned them, else SPL (files made from DICOM, read by SimpleITK). NIfTI in RAS: SAR."
        ),
    ] = None,
    fp16: Fp16Option = False,
    int8: Int8Option = False,
    volumes: VolumesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import a model that nnU-Net v2 trained: PlainConvUNet or ResidualEncoderUNet, 3D, any number of folds.

    The bundle resamples, tiles, mirrors and averages as nnU-Net's own predictor does. Start with --write-binding, say
    in that file which labels are organs and cancers, then import with --binding. What the box answers for a cancer is
    worth what its evidence is worth: calibrate and evaluate before you publish.

    Examples:

        onescan-engines import nnunet Dataset7/nnUNetTrainer__nnUNetPlans__3d_fullres --to bundle

        onescan-engines import nnunet Dataset7 --configuration 3d_cascade_fullres --folds 0,1 --to bundle
    """
    from engines.importers import nnunet
    from engines.importers.binding import read_binding, template, unbound
    from engines.importers.nnunet_plans import heads_of

    model = nnunet.find_model(folder, configuration)
    name = model.plans.dataset_name.lower().replace("_", "-").strip("-.") or "imported"
    if write_binding is not None:
        durable.write_bytes(write_binding, template(name, heads_of(model.dataset).names).encode(), 0o644)
        _report_binding(write_binding, as_json)
        return
    if to is None:
        raise ConfigError("where is the bundle to be made?", remedy="Say --to FOLDER.")
    imported = nnunet.import_model(
        model,
        to,
        unbound(name) if binding is None else read_binding(binding, name),
        folds=tuple(fold.strip() for fold in folds.split(",") if fold.strip()),
        checkpoint=checkpoint,
        previous=previous,
        file_axes=file_axes,
        forms=_forms(fp16, int8, volumes),
        say=_quiet if as_json else _step,
    )
    notes = (*(network.sentence for network in imported.networks), *imported.notes)
    _report(imported.bundle, imported.files, as_json, notes)


@importers.command("monai")
def monai_command(
    folder: Annotated[Path, typer.Argument(help="MONAI bundle: a folder with configs/ and models/.")],
    to: LaterToOption = None,
    config: Annotated[
        Path | None, typer.Option(help="Inference configuration. Default: configs/inference.json or .yaml.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Default: models/model.pt, else models/model.ts.")] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="A transform to leave out knowingly, by its name; may be repeated.")
    ] = None,
    trust_torchscript: Annotated[
        bool, typer.Option("--trust-torchscript", help="Open a .ts file: it is a program, and it may run.")
    ] = False,
    binding: BindingOption = None,
    write_binding: WriteBindingOption = None,
    fp16: Fp16Option = False,
    int8: Int8Option = False,
    volumes: VolumesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import a MONAI bundle: a segmentation network of monai.networks.nets with a sliding window.

    The configuration is read as data, none of its Python is run. Transforms, tiles and resampling become fields of the
    manifest; a transform that no manifest can say is refused by name. Needs torch and monai.

    Examples:

        onescan-engines import monai spleen_ct_segmentation --to bundle

        onescan-engines import monai spleen_ct_segmentation --without KeepLargestConnectedComponentd --to bundle
    """
    from engines.importers import monai
    from engines.importers.binding import read_binding, template, unbound

    source = monai.read_monai(folder, config, without or ())
    if write_binding is not None:
        durable.write_bytes(write_binding, template(source.name, source.labels).encode(), 0o644)
        _report_binding(write_binding, as_json)
        return
    if to is None:
        raise ConfigError("where is the bundle to be made?", remedy="Say --to FOLDER.")
    bound = unbound(source.name) if binding is None else read_binding(binding, source.name)
    say = _quiet if as_json else _step
    forms = _forms(fp16, int8, volumes)
    imported = monai.import_monai(source, to, bound, weights, trust_torchscript, say, forms)
    agreed = f"ONNX = torch within {imported.difference:.1e} of the largest logit"
    _report(imported.bundle, imported.files, as_json, (agreed, *imported.notes))


@importers.command("int8")
def int8_command(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder, with golden cases.")],
    to: ToOption,
    volumes: VolumesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add int8 files to a bundle: 1.3 to 1.7 times as fast as bf16 on a CPU, at some loss that golden cases bound.

    The cascade reads the volumes; each network is quantised with what it saw, as explicit symmetric Q/DQ. A network
    keeps its int8 file only if the golden cases hold with it on this machine. A device runs it where its own golden
    cases hold, at precision int8.

    Example: `onescan-engines import int8 bundle --volume a.npz --volume b.npz --to bundle-int8`
    """
    from engines.bundle import open_bundle
    from engines.importers.forms import with_int8

    made, notes = with_int8(open_bundle(bundle), volumes or (), to, _quiet if as_json else _step)
    _report(made, {}, as_json, notes)


def _forms(fp16: bool, int8: bool, volumes: list[Path] | None) -> Forms:
    from engines.importers.forms import Forms

    return Forms(fp16, int8, tuple(volumes or ()))


def _step(line: str) -> None:
    err.print(f"  {escape(line)}", style="dim")


def _quiet(line: str) -> None:
    """Nothing: --json."""


def _report(bundle: Bundle, files: Mapping[str, Fitted], as_json: bool, notes: tuple[str, ...] = ()) -> None:
    """What was made, and what to do next. notes: what of the original is not in the bundle."""
    manifest = bundle.manifest
    if as_json:
        networks = {
            name: {"opset": f.opset, "weights": f.weights, "size": list(f.size), "seconds": round(f.seconds, 3)}
            for name, f in files.items()
        }
        fields = {"bundle": str(bundle.folder), "digest": bundle.digest, "networks": networks, "notes": notes}
        typer.echo(json.dumps(fields, indent=2, ensure_ascii=False))
        return
    size = sum(entry.size for entry in manifest.files) / 1e6
    counted = "1 network" if len(manifest.networks) == 1 else f"{len(manifest.networks)} networks"
    out.print(
        f"[green]✓[/] {escape(str(bundle.folder))}: bundle {manifest.name} {manifest.version}, {counted}, "
        f"{size:.1f} MB, digest {bundle.digest[:12]}"
    )
    for note in notes:
        out.print(f"  [yellow]{escape(note)}[/]")
    if manifest.golden:
        out.print(f"Next: onescan-engines verify {escape(str(bundle.folder))}")
    else:
        out.print(f"Next: onescan-engines inspect {escape(str(bundle.folder))}")
        out.print("It has no golden case, so `verify` can only prove that it is whole (--no-golden): name some.")


def _report_binding(path: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"binding": str(path)}))
    else:
        out.print(f"Complete {escape(str(path))}, then import with --binding {escape(str(path))}")
