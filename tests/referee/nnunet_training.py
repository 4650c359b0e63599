"""Small models of nnU-Net v2, made, trained for some steps and saved by nnU-Net's own trainer, on phantoms.

What a model segments does not matter, only that its labels are neither trivial nor noise: tissues of phantoms after a
few dozen iterations are that.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot

from core.volume import Volume
from engines.phantom import LOBES, Scan, Tissue, build, render, sample_person
from tests.engines.importers.nnunet_recipes import Recipe, dataset_of, plans_of

Array = npt.NDArray[Any]


@cache
def scan(seed: int, spacing_mm: tuple[float, float, float]) -> tuple[Volume, Array]:
    """A phantom's chest and upper abdomen, and the labels of `LABELS`."""
    rendered = render(build(sample_person(seed)), Scan(spacing_mm, None, (330.0, 500.0)))
    labels = np.where(rendered.organs == Tissue.OUTSIDE, 0, 3).astype(np.uint8)
    labels[np.isin(rendered.organs, LOBES)] = 1
    labels[rendered.organs == Tissue.BONE] = 2
    return rendered.volume, labels


def train(recipe: Recipe, results: Path, folds: Sequence[int] = (0,)) -> Path:
    """A model folder as nnU-Net's trainer leaves it, somewhere under `results`."""
    for fold in folds:
        with _environment(results):
            trainer = _trained(recipe, fold)
        folder = Path(trainer.output_folder_base)
    for name, content in (("plans", plans_of(recipe)), ("dataset", dataset_of(recipe))):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def _trained(recipe: Recipe, fold: int) -> Any:
    torch.manual_seed(fold)
    plans = {**plans_of(recipe), "continue_training": False}
    trainer = nnUNetTrainer(plans, recipe.configuration, fold, dataset_of(recipe), torch.device("cpu"))
    trainer.initialize()
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    cases = [_preprocessed(trainer, recipe, seed) for seed in (11, 12)]
    rng = np.random.default_rng(fold)
    for group in trainer.optimizer.param_groups:
        group.update(lr=0.02, momentum=0.9)  # of use within so few steps
    trainer.network.train()
    steps = []
    for _ in range(recipe.iterations):
        pairs = [_crop(cases[i], recipe.patch, rng) for i in (0, 1)]
        data, target = (np.stack(part) for part in zip(*pairs, strict=True))
        steps.append(trainer.train_step({"data": torch.from_numpy(data), "target": _pyramid(trainer, target)}))
    trainer.on_train_epoch_end(steps)
    trainer.save_checkpoint(os.path.join(trainer.output_folder, "checkpoint_final.pth"))
    return trainer


def _preprocessed(trainer: Any, recipe: Recipe, seed: int) -> tuple[Array, Array]:
    """Channels and target of a phantom, as nnU-Net preprocesses them."""
    volume, labels = scan(seed, recipe.scan_mm)
    if "ignore" in recipe.labels:
        labels = labels.copy()
        labels[:, : labels.shape[1] // 4] = recipe.labels["ignore"]
    image = as_read(volume.hu, recipe)[None].astype(np.float32)
    properties = {"spacing": list(volume.geometry.spacing_mm)}
    data, seg, _ = DefaultPreprocessor(verbose=False).run_case_npy(
        image,
        as_read(labels, recipe)[None].astype(np.int16),
        properties,
        trainer.plans_manager,
        trainer.configuration_manager,
        trainer.dataset_json,
    )
    manager = trainer.label_manager
    seg = np.maximum(seg[0], 0)
    if trainer.is_cascaded:  # the earlier stage's labels, about as right as they will be
        before = np.roll(seg, 1, axis=1)
        data = np.vstack((data, convert_labelmap_to_one_hot(before, manager.foreground_labels, data.dtype)))
    if manager.has_regions:
        target = np.stack([np.isin(seg, region) for region in manager.foreground_regions])
    else:
        target = seg[None]
    return data.astype(np.float32), target.astype(np.float32)


def _crop(case: tuple[Array, Array], patch: tuple[int, int, int], rng: np.random.Generator) -> tuple[Array, Array]:
    data, target = case
    lacking = [(0, 0), *((0, max(0, p - n)) for n, p in zip(data.shape[1:], patch, strict=True))]
    data, target = np.pad(data, lacking), np.pad(target, lacking)
    start = [int(rng.integers(0, n - p + 1)) for n, p in zip(data.shape[1:], patch, strict=True)]
    where = (slice(None), *(slice(a, a + p) for a, p in zip(start, patch, strict=True)))
    return data[where], target[where]


def _pyramid(trainer: Any, target: Array) -> list[torch.Tensor]:
    full = torch.from_numpy(target)
    return [
        torch.nn.functional.interpolate(full, scale_factor=tuple(scale), mode="nearest-exact")
        for scale in trainer._get_deep_supervision_scales()
    ]


def as_read(array: Array, recipe: Recipe) -> Array:
    """A canonical array as nnU-Net's reader would give it: those that reorient turn it to RAS, z first."""
    return array[:, ::-1, ::-1].copy() if recipe.reader.endswith("WithReorient") else array


def predict(folder: Path, recipe: Recipe, volume: Volume, folds: Sequence[int], before: Array | None = None) -> Array:
    """Labels (canonical order) that nnU-Net's own predictor gives, on the CPU in fp32. before: of the earlier stage."""
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), tuple(folds))
    labels = predictor.predict_single_npy_array(
        as_read(volume.hu, recipe)[None].astype(np.float32),
        {"spacing": list(volume.geometry.spacing_mm)},
        None if before is None else as_read(before, recipe)[None].astype(np.int16),
    )
    return as_read(np.asarray(labels, dtype=np.uint8), recipe)


@contextlib.contextmanager
def _environment(results: Path) -> Iterator[None]:
    # The trainer looks at a preprocessed case's name to know in which format cases are; ours never lie on a disk.
    preprocessed = results / "preprocessed"
    (preprocessed / "Dataset007_Phantom" / "tiny").mkdir(parents=True, exist_ok=True)
    (preprocessed / "Dataset007_Phantom" / "tiny" / "case.b2nd").touch()
    settings = {"nnUNet_results": str(results), "nnUNet_preprocessed": str(preprocessed), "nnUNet_compile": "false"}
    kept = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
