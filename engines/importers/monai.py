"""A MONAI bundle (metadata.json, inference.json or .yaml, weights) → our bundle, with what MONAI would do said as data.

    1  metadata: what goes in, what the outputs mean                    here
    2  the inference configuration, read and never executed             `monai_config`
    3  transforms and inferer as fields of a manifest                   `monai_transforms`
    4  network_def and its weights as ONNX, the same numbers as torch   `monai_networks`
    5  what a person says of it: organs, cancers, intended use          `binding`
    6  checked, tried, written                                          `assembly`

MONAI's arrays have axes x, y, z; a manifest's `axes` are the letters of Orientationd's axcodes, in that order.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.bundle import Bundle
from engines.importers import ImportRefused
from engines.importers.assembly import Say, assemble
from engines.importers.binding import Binding
from engines.importers.fitting import Fitted
from engines.importers.forms import FP32, Forms
from engines.importers.monai_config import Component, Config
from engines.importers.monai_transforms import inferer, postprocessing, preprocessing

_CONFIGURATIONS = ("inference.json", "inference.yaml", "inference.yml")
_WEIGHTS = ("model.pt", "model.ts")


@dataclass(frozen=True, eq=False)
class MonaiBundle:
    """What a MONAI bundle says, in a manifest's words. network: its fields but for stage; notes: what is different."""

    folder: Path
    name: str
    labels: tuple[str, ...]
    network: Mapping[str, Any]
    definition: Component
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Imported:
    """A new bundle. difference: ONNX to torch, relative to the largest logit."""

    bundle: Bundle
    files: Mapping[str, Fitted]
    difference: float
    notes: tuple[str, ...]


def read_monai(folder: Path, configuration: Path | None = None, without: Collection[str] = ()) -> MonaiBundle:
    """Steps 1 to 3. without: transforms to leave out knowingly. ImportRefused names what no manifest can say."""
    metadata = _metadata(folder)
    config = Config.read(configuration or _configuration(folder))
    labels = _labels(metadata)
    before = preprocessing(config.components("preprocessing"), without)
    after = postprocessing(config.components("postprocessing"), without)
    definition = config.component("network_def" if "network_def" in config else "network")
    _check_labels(labels, after.fields["activation"])
    resampling = {**before.fields["resampling"], "back": after.fields.pop("back", "logits")}
    read = {**before.fields, "resampling": resampling, **inferer(config.component("inferer")), **after.fields}
    name = _word(str(metadata.get("name") or folder.resolve().name))
    return MonaiBundle(
        folder, name, labels, {**read, "labels": list(labels)}, definition, (*before.notes, *after.notes)
    )


def import_monai(
    source: MonaiBundle,
    to: Path,
    binding: Binding,
    weights: Path | None = None,
    trust_torchscript: bool = False,
    say: Say = lambda line: None,
    forms: Forms = FP32,
) -> Imported:
    """Steps 4 to 6. ImportRefused, BundleRefused: nothing was written."""
    from engines.importers import monai_networks  # imports torch and monai

    stage = "localise" if binding.has_organs else "detect"
    file = f"{source.name}.onnx"
    say(f"building {source.definition.name}")
    network = monai_networks.build(source.definition, 1, len(source.labels))
    monai_networks.load_weights(network, weights or _weights(source.folder), trust_torchscript)
    a, b, c = source.network["tiling"]["size"]
    say(f"exporting {file}")
    with tempfile.TemporaryDirectory(prefix="onescan-") as scratch:
        model, difference = monai_networks.to_onnx(network, file, source.definition.name, (a, b, c), Path(scratch))
    spec = {"id": source.name, "stage": stage, "region": "volume", "files": [file], **source.network}
    networks, detector = [spec], source.name
    if binding.has_organs and binding.has_cancers:
        detector = f"{source.name}-lesions"
        networks.append({**spec, "id": detector, "stage": "detect"})
    fields = binding.manifest_fields(networks, detector)
    made = assemble(to, fields, {file: model}, binding.others, say, forms)
    return Imported(made.bundle, made.files, difference, (*source.notes, *made.notes))


def _metadata(folder: Path) -> dict[str, Any]:
    path = folder / "configs" / "metadata.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ImportRefused(
            f"can't read {path}: {error.strerror}", remedy="Name the folder that holds configs/ and models/."
        ) from error
    except ValueError as error:
        raise ImportRefused(f"{path} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ImportRefused(f"{path} holds no fields")
    image = _inner(fields, "network_data_format", "inputs", "image")
    if (modality := str(image.get("modality", "CT")).upper()) != "CT":
        raise ImportRefused(f"the network was trained on {modality}; OneScan reads CT")
    if image.get("num_channels", 1) != 1:
        raise ImportRefused(f"the network takes {image['num_channels']} channels; a CT has one")
    return fields


def _labels(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    outputs = _inner(metadata, "network_data_format", "outputs")
    pred: Any = outputs.get("pred") or next(iter(outputs.values()), {})
    named = pred.get("channel_def") if isinstance(pred, dict) else None
    if not isinstance(named, dict) or not named:
        raise ImportRefused(
            "metadata.json does not say what the output channels mean (network_data_format.outputs.pred.channel_def)"
        )
    try:
        by_channel = {int(channel): _word(str(label)) for channel, label in named.items()}
    except ValueError as error:
        raise ImportRefused(f"channel_def: channels are numbers, not {', '.join(named)}") from error
    if sorted(by_channel) != list(range(len(by_channel))):
        raise ImportRefused(f"channel_def names channels {sorted(by_channel)}: 0 to {len(by_channel) - 1} are wanted")
    return tuple(by_channel[channel] for channel in sorted(by_channel))


def _check_labels(labels: tuple[str, ...], activation: str) -> None:
    if activation == "softmax" and len(labels) < 2:
        raise ImportRefused(f"a softmax over one channel ({labels[0]}) says nothing")


def _inner(fields: Mapping[str, Any], *path: str) -> dict[str, Any]:
    found: Any = fields
    for part in path:
        found = found.get(part) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _configuration(folder: Path) -> Path:
    for name in _CONFIGURATIONS:
        if (path := folder / "configs" / name).is_file():
            return path
    raise ImportRefused(f"{folder}/configs has no {' or '.join(_CONFIGURATIONS)}", remedy="Name it with --config.")


def _weights(folder: Path) -> Path:
    for name in _WEIGHTS:
        if (path := folder / "models" / name).is_file():
            return path
    raise ImportRefused(f"{folder}/models has no {' or '.join(_WEIGHTS)}", remedy="Name the file with --weights.")


def _word(text: str) -> str:
    """A manifest's name made of what people write."""
    word = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:60]
    return word or "network"
