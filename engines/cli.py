"""`onescan-engines`: look into model bundles, prove, run, measure, judge, publish them. For model developers."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer
from rich.markup import escape

from core.errors import OneScanError
from engines import publish
from engines.commands import building, evaluating, judging, looking, measuring, packing, running
from engines.commands.options import err, print_json
from engines.importers import cli as importers

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    help="""Model bundles: what the appliance runs on a CT volume to get seven cancer answers.

A bundle is a folder (`manifest.json` and `blobs/<sha256>`) or one file that `pack` made of it. Try the one that comes
with OneScan:

    onescan-engines inspect                 what is in it, on what evidence

    onescan-engines verify                  checks, then golden cases on this machine

    onescan-engines run --phantom 7         a synthetic patient, seven answers
""",
)
for part in (looking, running, measuring, judging, evaluating, building, packing, importers, publish):
    part.register(app)


def main() -> NoReturn:
    """Entry point: an error says what happened and what to do, and exits 1."""
    try:
        app()
    except OneScanError as error:
        if "--json" in sys.argv:
            print_json({"error": str(error), "remedy": error.remedy()})
        else:
            err.print(f"[red]✗[/] {escape(str(error))}\n  {escape(error.remedy())}")
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
