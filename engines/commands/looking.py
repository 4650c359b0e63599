"""`inspect`, `verify`, `schema`: what a bundle is, and whether it does here what it should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from core import durable
from engines import archive, show
from engines.commands.options import (
    REFERENCE,
    BundleArgument,
    JsonOption,
    PrecisionOption,
    RuntimeOption,
    ThreadsOption,
    out,
    print_json,
)
from engines.manifest import schema
from engines.runtime.choice import choose


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (inspect, verify):
        app.command(rich_help_panel="Look")(command)
    app.command("schema", rich_help_panel="Look")(schema_command)


def inspect(bundle: BundleArgument = REFERENCE, as_json: JsonOption = False) -> None:
    """Show what a bundle is for, what is in it, and the evidence behind each operating point.

    All checks that need no network are made first (see `verify`); a bundle that fails one is not shown.
    """
    with archive.opened(bundle) as opened:
        if as_json:
            print_json({"digest": opened.digest, "manifest": json.loads(opened.manifest.to_json())})
            return
        show.head(out, opened)
        show.contents(out, opened.manifest)


def verify(
    bundle: BundleArgument = REFERENCE,
    golden: Annotated[bool, typer.Option(help="Also run the golden cases through the networks.")] = True,
    runtime: RuntimeOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Prove that a bundle is whole, and that this machine gets from it what its maker got.

    The latter is what its golden cases are for: scans with the answers that its maker got. A bundle without any fails,
    as nothing shows that it works; --no-golden checks the files alone.

    Exit status 0: all passed. 1: a check failed; its number is named (the list: `engines/bundle.py`, and for archives
    `engines/archive.py`).

    Example: `onescan-engines verify my-bundle --runtime onnx`
    """
    from engines.parity import run_golden

    with archive.opened(bundle) as opened:
        choice = choose(runtime, threads, precision, networks=opened.networks) if golden else None
        outcomes = run_golden(opened, choice.runtime) if choice else ()
    passed = all(outcome.passed for outcome in outcomes)
    if as_json:
        cases = [{"case": o.case, "passed": o.passed, "detail": o.detail} for o in outcomes]
        why = choice.why if choice else None
        print_json({"digest": opened.digest, "passed": passed, "runtime": why, "golden": cases})
    else:
        show.head(out, opened)
        out.print("[green]✓[/] checks 1 to 8: manifest, files, sizes, SHA-256, nothing foreign, names resolve")
        if bundle.is_file():
            out.print("[green]✓[/] checks 11 to 13: a whole archive of a bundle, in its one form")
        if choice:
            out.print(f"  {escape(choice.why)}")
        for outcome in outcomes:
            mark = "[green]✓[/]" if outcome.passed else "[red]✗[/]"
            out.print(f"{mark} golden case {outcome.case}: {escape(outcome.detail)}")
    if not passed:
        raise typer.Exit(1)


def schema_command(
    to: Annotated[Path | None, typer.Option("--to", help="Write it to this file instead of printing it.")] = None,
) -> None:
    """Print the JSON Schema of `manifest.json`, for editors and other languages' validators.

    It is published as `docs/manifest.schema.json`: `onescan-engines schema --to docs/manifest.schema.json`
    """
    if to is None:
        print_json(schema())
    else:
        durable.write_text(to, json.dumps(schema(), indent=2, ensure_ascii=False) + "\n", 0o644)
        out.print(f"Written to {escape(str(to))}")
