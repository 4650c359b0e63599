"""A trained nnU-Net v2 model folder → a bundle that gives the labels which nnU-Net's own predictor gives.

FOLDER/plans.json dataset.json fold_0/checkpoint_final.pth ...        one configuration, as nnU-Net's trainer left it
FOLDER/TRAINER__PLANS__CONFIGURATION/plans.json ...                   or several of them side by side

1  read plans and dataset; refuse what can't be run faithfully         (`nnunet_plans`)
2  a cascade's earlier stage first                                     (3d_cascade_fullres follows 3d_lowres)
3  each fold: weights, network, ONNX, the same numbers as in torch     (`nnunet_weights`)
4  what a person says of it: organs, cancers, intended use             (`binding`)
5  the networks checked once more, golden cases answered, the bundle   (`assembly`)
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import durable
from core.errors import BundleRefused, EngineError
from core.volume import Index
from engines.bundle import Bundle
from engines.importers import ImportRefused
from engines.importers.assembly import Say, assemble
from engines.importers.binding import Binding
from engines.importers.fitting import Fitted
from engines.importers.forms import FP32, Forms
from engines.importers.graph import to_bytes
from engines.importers.nnunet_plans import (
    READER_AXES,
    Dataset,
    Plans,
    architecture_of,
    check_runnable,
    heads_of,
    network_of,
    read_dataset,
    read_plans,
)
from engines.manifest import CANONICAL, Axes, Network, Stage

if TYPE_CHECKING:
    from engines.importers.nnunet_weights import Checkpoint


@dataclass(frozen=True)
class ModelFolder:
    """One trained configuration."""

    folder: Path
    plans: Plans
    dataset: Dataset
    configuration: str

    def folds(self, checkpoint: str) -> tuple[str, ...]:
        """Names of the folds that have this checkpoint: numbers first, then `all`."""
        found = (path.parent.name.removeprefix("fold_") for path in self.folder.glob(f"fold_*/{checkpoint}"))
        return tuple(sorted(found))


@dataclass(frozen=True)
class ImportedNetwork:
    """What became of one configuration. difference: ONNX to torch, relative to the largest logit, its worst fold."""

    id: str
    configuration: str
    trainer: str
    folds: tuple[str, ...]
    difference: float

    @property
    def sentence(self) -> str:
        """For people."""
        counted = "fold" if len(self.folds) == 1 else "folds"
        return (
            f"{self.id}: trained by {self.trainer}, {counted} {', '.join(self.folds)}; "
            f"ONNX = torch within {self.difference:.1e} of the largest logit"
        )


@dataclass(frozen=True)
class Imported:
    """A new bundle and where its networks came from."""

    bundle: Bundle
    files: Mapping[str, Fitted]
    networks: tuple[ImportedNetwork, ...]
    notes: tuple[str, ...] = ()


def find_model(folder: Path, configuration: str | None = None) -> ModelFolder:
    """The model folder at or under `folder`. ImportRefused: none, or several of which `configuration` picks none."""
    if (folder / "plans.json").is_file():
        here = folder
    else:
        found = sorted(path.parent for path in folder.glob("*__*__*/plans.json"))
        fitting = [path for path in found if configuration in (None, path.name.rsplit("__", 1)[-1])]
        if len(fitting) != 1:
            raise ImportRefused(
                f"{folder} has {len(fitting)} model folders{f' of {configuration}' if configuration else ''}"
                f" among {', '.join(path.name for path in found) or 'none'}",
                remedy="Name one folder TRAINER__PLANS__CONFIGURATION that has plans.json and fold_* in it.",
            )
        here = fitting[0]
    plans = read_plans(_json(here / "plans.json"))
    dataset = read_dataset(_json(here / "dataset.json"))
    name = configuration or here.name.rsplit("__", 1)[-1]
    if configuration is None and name not in plans.configurations:
        raise ImportRefused(f"{here}: which of {', '.join(plans.configurations)} is it?", remedy="Say --configuration.")
    return ModelFolder(here, plans, dataset, name)


def file_axes_of(plans: Plans, given: Axes | None) -> Axes:
    """Where z, y, x of the training images grew to: as a person says, as the reader turns them, else canonical."""
    return given or READER_AXES.get(plans.image_reader_writer, CANONICAL)


def import_model(
    model: ModelFolder,
    to: Path,
    binding: Binding,
    *,
    folds: Sequence[str] = (),
    checkpoint: str = "checkpoint_final.pth",
    previous: Path | None = None,
    file_axes: Axes | None = None,
    forms: Forms = FP32,
    say: Say = lambda line: None,
) -> Imported:
    """Make the bundle in `to`. folds: () takes all. previous: where a cascade's earlier stage is, if not beside it.

    say: gets a sentence before each step. ImportRefused, BundleRefused; then nothing was written.
    """
    if to.exists():
        raise BundleRefused(6, f"{to} exists already", remedy="Choose a new folder or remove the old one first.")
    with tempfile.TemporaryDirectory(prefix="onescan-") as scratch:
        importer = _Importer(Path(scratch), checkpoint, file_axes_of(model.plans, file_axes), say)
        before = _previous(model, previous)
        after = importer.add(before, folds, "detect") if before is not None else None
        detector = importer.add(model, folds, "localise" if binding.has_organs else "detect", after)
        if binding.has_organs and binding.has_cancers:
            detector = importer.repeat("detect", f"{detector}-lesions")
        unmeasured = [n.model_dump(mode="json", exclude={"bytes_per_voxel"}) for n in importer.networks]
        fields = binding.manifest_fields(unmeasured, detector)
        made = assemble(to, fields, importer.models, binding.others, say, forms)
    return Imported(made.bundle, made.files, tuple(importer.report), made.notes)


class _Importer:
    """Collects networks and files."""

    def __init__(self, scratch: Path, checkpoint: str, axes: Axes, say: Say) -> None:
        self._scratch, self._checkpoint, self._axes, self._say = scratch, checkpoint, axes, say
        self.networks: list[Network] = []
        self.models: dict[str, Any] = {}
        self.report: list[ImportedNetwork] = []

    def add(self, model: ModelFolder, folds: Sequence[str], stage: Stage, after: str | None = None) -> str:
        """Import one configuration; its network's id."""
        configuration = model.plans.configuration(model.configuration)
        check_runnable(configuration, model.configuration)
        architecture_of(configuration, model.configuration)  # what can't be built is refused before weights are read
        chosen = self._chosen(model, folds)
        read = [self._fold(model, fold) for fold in chosen]
        first = read[0][0]
        if any(each.mirror != first.mirror for each, _ in read):
            raise ImportRefused(f"{model.folder}: the folds were trained with different mirroring")
        network = network_of(
            model.plans,
            model.dataset,
            model.configuration,
            network_id=model.configuration,
            stage=stage,
            files=tuple(f"{model.configuration}-fold-{fold}.onnx" for fold in chosen),
            mirror=first.mirror,
            file_axes=self._axes,
            after=after,
        )
        self.networks.append(network)
        worst = max(difference for _, difference in read)
        self.report.append(ImportedNetwork(network.id, model.configuration, first.trainer, chosen, worst))
        return network.id

    def repeat(self, stage: Stage, network_id: str) -> str:
        """The last network once more, for another stage: the same files. Its new id."""
        self.networks.append(self.networks[-1].model_copy(update={"stage": stage, "id": network_id, "region": "organ"}))
        return network_id

    def _chosen(self, model: ModelFolder, folds: Sequence[str]) -> tuple[str, ...]:
        there = model.folds(self._checkpoint)
        missing = [fold for fold in folds if fold not in there]
        if missing or not there:
            raise ImportRefused(
                f"{model.folder} has no {self._checkpoint} of fold {', '.join(missing) or 'any'}; it has "
                f"{', '.join(there) or 'none'}"
            )
        # `all` was trained on every case: a model of its own, not a sixth member of the ensemble.
        return tuple(folds) or tuple(fold for fold in there if fold != "all") or there

    def _fold(self, model: ModelFolder, fold: str) -> tuple[Checkpoint, float]:
        weights = _torch()
        name = model.configuration
        self._say(f"{name}, fold {fold}: reading the weights")
        checkpoint: Checkpoint = weights.read_checkpoint(model.folder / f"fold_{fold}" / self._checkpoint)
        if checkpoint.configuration != name:
            raise ImportRefused(f"fold {fold} was trained as {checkpoint.configuration}, not as {name}")
        configuration, heads = model.plans.configuration(name), heads_of(model.dataset)
        kind, arguments = architecture_of(configuration, name)
        channels = 1 + (len(heads.foreground) if configuration.previous_stage else 0)
        network = weights.build(kind, arguments, channels, len(heads.names), checkpoint.weights)
        self._say(f"{name}, fold {fold}: exporting")
        multiple = _multiple(arguments["strides"])
        path = self._scratch / f"{name}-fold-{fold}.onnx"
        onnx = weights.to_onnx(network, channels, multiple, path.name)
        durable.write_bytes(path, to_bytes(onnx))
        self._say(f"{name}, fold {fold}: comparing with torch")
        z, y, x = configuration.patch_size
        difference = weights.compare(network, path, channels, ((z, y, x), _other_shape(multiple)))
        self.models[path.name] = onnx
        return checkpoint, difference


def _previous(model: ModelFolder, given: Path | None) -> ModelFolder | None:
    """The earlier stage of a cascade: where a person says, or the folder beside it that is called alike."""
    name = model.plans.configuration(model.configuration).previous_stage
    if name is None:
        return None
    beside = model.folder.with_name(f"{model.folder.name.rsplit('__', 1)[0]}__{name}")
    if given is None and not beside.is_dir():
        raise ImportRefused(f"{model.configuration} follows {name}, and there is no {beside}", remedy="Say --previous.")
    before = find_model(given or beside, name)
    if heads_of(before.dataset) != heads_of(model.dataset):
        raise ImportRefused(f"{before.folder} and {model.folder} were trained for different labels")
    return before


def _torch() -> Any:
    try:
        from engines.importers import nnunet_weights
    except ImportError as error:
        raise EngineError(
            f"nnU-Net's weights can't be read without {error.name}",
            remedy="Install what importers need: pip install 'onescan[importers,cpu]'.",
        ) from error
    return nnunet_weights


def _multiple(strides: Sequence[Any]) -> Index:
    z, y, x = (
        math.prod(stride if isinstance(stride, int) else stride[axis] for stride in strides) for axis in range(3)
    )
    return (z, y, x)


def _other_shape(multiple: Index) -> Index:
    """A small shape other than a cube: the exported axes are dynamic."""
    z, y, x = multiple
    return (2 * z, 3 * y, 4 * x)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ImportRefused(f"can't read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ImportRefused(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ImportRefused(f"{path} is not a JSON object")
    return content
