"""A hand-written manifest and ONNX files → a bundle.

The manifest is YAML or JSON with a `ManifestDraft`'s fields (`onescan-engines schema`). Every file that it names is
looked for under its name beside it; `files` says where else one lies, and adds texts:

    files:
      localiser.onnx: exports/run-7/model.onnx
      model-card.md: {path: card.md, role: model_card}

A golden case may give name, input and age only: what it must answer is then recorded here, in fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from engines.bundle import Content
from engines.importers import ImportRefused
from engines.importers.assembly import Assembled, Say, assemble, draft_of, in_words
from engines.importers.forms import FP32, Forms
from engines.importers.graph import read
from engines.manifest import Name, Role
from engines.manifest.vocabulary import Part

_MAX_BYTES = 4 * 1024 * 1024


class Source(Part):
    """Where a file lies. path: from the manifest's folder; role: only where no other part of the manifest tells."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    role: Role | None = None


_Files = TypeAdapter(dict[Name, str | Source])


def import_onnx(manifest: Path, into: Path, say: Say = lambda line: None, forms: Forms = FP32) -> Assembled:
    """The bundle in `into`. ImportRefused says what stands in the way."""
    fields = read_fields(manifest)
    sources = sources_of(fields.pop("files", None) or {})
    roles = _roles(fields)
    unknown = sorted(name for name, source in sources.items() if name not in roles and source.role is None)
    if unknown:
        raise ImportRefused(
            f"files: nothing in the manifest uses {', '.join(unknown)}",
            remedy="Give it a role (model_card, licence), or take it out.",
        )
    roles |= {name: source.role for name, source in sources.items() if name not in roles and source.role}
    places = {name: manifest.parent / (sources[name].path if name in sources else name) for name in roles}
    for name, place in places.items():
        if not place.is_file():
            raise ImportRefused(f"there is no {place}, which the manifest calls {name}")
    models = {name: read(place, name) for name, place in places.items() if roles[name] == "network"}
    others = [Content(name, roles[name], place) for name, place in places.items() if roles[name] != "network"]
    return assemble(into, fields, models, others, say, forms)


def read_fields(path: Path) -> dict[str, Any]:
    """A YAML or JSON object; JSON is YAML. ImportRefused if it is none."""
    try:
        raw = path.read_bytes()
        if len(raw) > _MAX_BYTES:
            raise ImportRefused(f"{path} is larger than {_MAX_BYTES} bytes")
        fields = yaml.safe_load(raw)
    except OSError as error:
        raise ImportRefused(f"can't read {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ImportRefused(f"{path.name} is neither YAML nor JSON: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(fields, dict) or not all(isinstance(key, str) for key in fields):
        raise ImportRefused(f"{path.name} holds no fields")
    return fields


def sources_of(raw: object) -> dict[str, Source]:
    """What `files` says, by the files' names in the manifest. ImportRefused names what is wrong."""
    try:
        found = _Files.validate_python(raw)
    except ValidationError as error:
        raise ImportRefused(f"files.{in_words(error)}") from error
    return {name: Source(path=source) if isinstance(source, str) else source for name, source in found.items()}


def _roles(fields: Mapping[str, Any]) -> dict[str, Role]:
    """Files that the manifest's other parts name, and what they are."""
    draft, unanswered = draft_of(fields)
    roles: dict[str, Role] = {name: "network" for network in draft.networks for name in network.all_files}
    golden = [case.input for case in draft.golden] + [str(case.get("input")) for case in unanswered]
    return roles | dict.fromkeys(golden, "golden")
