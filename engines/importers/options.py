"""Options that `onescan-engines import` has in several commands, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ToOption = Annotated[Path, typer.Option("--to", help="The bundle's new folder; it must not exist yet.")]
LaterToOption = Annotated[
    Path | None, typer.Option("--to", help="The bundle's new folder; it must not exist yet. Not with --write-binding.")
]
BindingOption = Annotated[
    Path | None, typer.Option(help="YAML: name, intended use, organs, cancers. Default: the bundle only segments.")
]
WriteBindingOption = Annotated[
    Path | None, typer.Option("--write-binding", help="Write a binding to complete to this file, and stop.")
]
Fp16Option = Annotated[
    bool,
    typer.Option(
        "--fp16",
        help="Store networks in fp16 with fp32 around norms: half the size, and on a GPU TensorRT runs them so.",
        rich_help_panel="Precision",
    ),
]
Int8Option = Annotated[
    bool,
    typer.Option(
        "--int8",
        help="Add int8 files where the golden cases hold with them; a CPU runs them at --precision int8.",
        rich_help_panel="Precision",
    ),
]
VolumesOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--volume",
        help="A scan like those to read (.npz), to calibrate int8 with; may be repeated. Default: the golden cases.",
        rich_help_panel="Precision",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of sentences.")]
