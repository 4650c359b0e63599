"""`onescan-engines import ...`: models of other frameworks → bundles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from engines.bundle import Bundle
    from engines.importers.fitting import Fitted

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

ToOption = Annotated[Path, typer.Option("--to", help="The bundle's new folder; it must not exist yet.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of sentences.")]


def register(app: typer.Typer) -> None:
    """Add `import` to `onescan-engines`."""
    app.add_typer(importers, name="import")


@importers.command("onnx")
def onnx_command(
    manifest: Annotated[Path, typer.Argument(help="Hand-written manifest, YAML or JSON; its files lie beside it.")],
    to: ToOption,
    as_json: JsonOption = False,
) -> None:
    """Import ONNX files with a hand-written manifest.

    The manifest has the fields of a bundle's own (`onescan-engines schema`), without digests and sizes. Each network is
    checked against what the manifest says of it, and run once on noise. A golden case that expects nothing yet is given
    what this machine answers in fp32.

    Example: `onescan-engines import onnx my-model/manifest.yaml --to my-bundle`
    """
    from engines.importers.plain import import_onnx

    bundle, files = import_onnx(manifest, to, _quiet if as_json else _step)
    _report(bundle, files, as_json)


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
    out.print(f"Next: onescan-engines verify {escape(str(bundle.folder))}")
