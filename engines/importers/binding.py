"""What no model folder says: whose bundle it becomes, for what use, which label is which organ, which one a cancer.

A person writes it as YAML with the manifest's own fields but `networks`, or leaves it out and gets a bundle that only
segments. `files` and unanswered golden cases mean what they mean in `plain`. `template` writes the first version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from engines.bundle import Content
from engines.importers import ImportRefused
from engines.importers.plain import Source, read_fields, sources_of

UNEVALUATED = "Segmentation for research. Not evaluated, not for clinical use."


@dataclass(frozen=True, eq=False)
class Binding:
    """Fields of a manifest (JSON's types), and the files that are not networks."""

    fields: Mapping[str, Any]
    others: tuple[Content, ...] = ()

    @property
    def has_organs(self) -> bool:
        """True where the network localises organs."""
        return bool(self.fields.get("organs"))

    @property
    def has_cancers(self) -> bool:
        """True where the network's labels mark lesions, too."""
        return bool(self.fields.get("cancers"))

    def manifest_fields(self, networks: Sequence[Mapping[str, Any]], detector: str) -> dict[str, Any]:
        """All fields; cancers that name no network are looked for with `detector`."""
        cancers = [_with_network(cancer, detector) for cancer in self.fields.get("cancers") or ()]
        return {**self.fields, "networks": list(networks), "cancers": cancers}


def unbound(name: str) -> Binding:
    """What is said of a model of which nobody said anything."""
    return Binding(
        {
            "name": name,
            "version": "0.1.0",
            "label": name,
            "manufacturer": "unknown",
            "synthetic": False,
            "intended_use": UNEVALUATED,
            "licence": "unknown",
        }
    )


def read_binding(path: Path, name: str) -> Binding:
    """The binding in a YAML file; what it lacks is as in `unbound`. ImportRefused names what is wrong."""
    fields = {key: value for key, value in read_fields(path).items() if value is not None}
    if "networks" in fields:
        raise ImportRefused(f"{path.name}: networks come from the model folder, not from here")
    sources = sources_of(fields.pop("files", {}))
    inputs = [str(case.get("input")) for case in fields.get("golden", ()) if isinstance(case, Mapping)]
    for word in inputs:
        sources[word] = Source(path=sources[word].path if word in sources else word, role="golden")
    return Binding({**unbound(name).fields, **fields}, tuple(_contents(sources, path.parent)))


def template(name: str, labels: Sequence[str]) -> str:
    """A YAML file to complete: what is sure filled in, the rest as comments."""
    head = yaml.safe_dump(dict(unbound(name).fields), sort_keys=False, allow_unicode=True).strip()
    return f"""# Whose bundle this is, and what its labels mean. Labels of the network: {", ".join(labels)}
# synthetic: true where it was trained or evaluated on synthetic patients only. licence: SPDX identifier, or text.
{head}

# Without organs and cancers the bundle only segments. `onescan-engines schema` explains every field.
organs: []
#  - {{name: pancreas, labels: [{labels[-1]}], found_from_ml: 15, margin_mm: 10}}
cancers: []
#  - cancer: pancreas
#    organ: pancreas
#    label: {labels[-1]}
#    extraction: {{probability: 0.5, min_volume_mm3: 30, min_diameter_mm: 3, score: peak}}
#    negative_below: 0.3
#    positive_above: 0.7
#    operating_points:
#      - name: rule-in
#        threshold: 0.7
#        evidence: {{kind: retrospective, cohort: which cases and from where, n_positive: 0, n_negative: 0,
#                   sensitivity: 0, sensitivity_ci95: [0, 1], specificity: 0, specificity_ci95: [0, 1]}}
#    contraindications: {{max_slice_spacing_mm: 5}}

# Volumes (.npz beside this file) whose answers are recorded at import; every device must then reproduce them.
golden: []
#  - {{name: first, input: first.npz, age_years: 60}}
"""


def _with_network(cancer: Any, detector: str) -> Any:
    if isinstance(cancer, Mapping) and "label" in cancer:
        return {"network": detector, **cancer}
    return cancer


def _contents(sources: Mapping[str, Source], folder: Path) -> list[Content]:
    contents = []
    for name, source in sources.items():
        if source.role is None or source.role == "network":
            raise ImportRefused(f"files: {name} needs a role: model_card, licence or golden")
        if not (folder / source.path).is_file():
            raise ImportRefused(f"there is no {folder / source.path}, which the binding calls {name}")
        contents.append(Content(name, source.role, folder / source.path))
    return contents
