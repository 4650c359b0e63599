"""`pack`, `unpack`: a bundle as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from core.errors import ConfigError
from engines import archive
from engines.bundle import open_bundle, sha256_of
from engines.commands.options import JsonOption, out, print_json


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (pack, unpack):
        app.command(rich_help_panel="Hand on")(command)


def pack(
    folder: Annotated[Path, typer.Argument(help="Bundle folder.")],
    to: Annotated[Path, typer.Argument(help=f"The archive to write, as a rule NAME{archive.SUFFIX}.")],
    as_json: JsonOption = False,
) -> None:
    """Put a bundle into one file, to hand on by disk or by mail; all commands that take a folder take it too.

    The bundle is checked first. The same bundle always gives the same bytes. `tar -xf` unpacks them as well, but only
    `unpack` checks them. An archive is not signed: to send a bundle to devices use `publish`.

    Example: `onescan-engines pack my-bundle my-bundle.osb`
    """
    if to.exists():
        raise ConfigError(f"{to} exists already", remedy="Choose a new name or remove the old file first.")
    bundle = open_bundle(folder)
    archive.pack(bundle, to)
    size, sha256 = to.stat().st_size, sha256_of(to)
    if as_json:
        print_json({"archive": str(to), "size": size, "sha256": sha256, "digest": bundle.digest})
        return
    out.print(f"[green]✓[/] {escape(str(to))}: {size / 1e6:.1f} MB, bundle {bundle.digest}")
    out.print(f"  sha256 {sha256}")


def unpack(
    packed: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="An archive that `pack` made.")],
    folder: Annotated[Path, typer.Argument(help="The bundle's new folder; it must not exist yet.")],
    as_json: JsonOption = False,
) -> None:
    """Unpack an archive into a bundle folder, and check all of it.

    Example: `onescan-engines unpack my-bundle.osb my-bundle`
    """
    bundle = archive.unpack(packed, folder)
    if as_json:
        print_json({"bundle": str(folder), "digest": bundle.digest})
        return
    out.print(f"[green]✓[/] {escape(str(folder))}: bundle {bundle.manifest.name} {bundle.manifest.version}")
    out.print(f"  digest {bundle.digest}")
