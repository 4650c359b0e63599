"""How good is a network on its way? Tried on patients that nobody learns from.

A detector: whole organs, tiled as the cascade tiles. For each cancer the case score of each patient, the best 6 mm of
its organ and margin; from those the area under the ROC curve, and the sensitivity where the wanted share of the healthy
is left alone. The organ's outline is the true one, so this measures the detector alone. The localiser: Dice of each
organ. What the whole cascade reaches is for `onescan-engines evaluate` on other patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from core.finding import Cancer
from core.volume import Index
from engines.cascade.tiles import tiles
from engines.phantom import organ_mask
from engines.reference.coarse import coarse_volume
from engines.reference.patients import Patient, Store
from engines.reference.pieces import AIR_HU, Detecting
from engines.reference.recipes import VALIDATION_SEED, Recipe, organ_table
from engines.reference.scanner import draw_look, scanned

MARGIN_MM, OVERLAP = 10.0, 0.25
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """One patient and cancer."""

    seed: int
    cancer: str
    truth: bool
    score: float


def score_patients(recipe: Recipe, network: Any, source: Detecting, device: str) -> list[Score]:
    """Scores of all patients that `source` holds, for each of the recipe's cancers."""
    rows = []
    for patient in source.patients:
        rng = np.random.Generator(np.random.PCG64([patient.seed, 81]))
        for number, cancer in enumerate(recipe.cancers, 1):
            score = _organ_score(recipe, network, patient, cancer, number, rng, device)
            if score is not None:
                rows.append(Score(patient.seed, cancer.value, bool(patient.cancers(cancer)), score))
    return rows


def _organ_score(
    recipe: Recipe, network: Any, patient: Patient, cancer: Cancer, number: int, rng: np.random.Generator, device: str
) -> float | None:
    points = patient.in_organ[cancer]
    if not len(points):
        return None
    margin = round(MARGIN_MM / recipe.spacing_mm)
    low = np.maximum(points.min(axis=0).astype(int) - margin - 4, 0)
    high = np.minimum(points.max(axis=0).astype(int) + margin + 5, patient.stored.shape)
    size = np.maximum(high - low, recipe.patch)
    start, extent = _index(low), _index(size)
    block = patient.stored.read(start, extent, {"hu": AIR_HU})
    look, noise = draw_look(rng, recipe.spacing_mm, rendered_share=1.0), patient.noise(start, extent)
    hu = scanned(block["hu"].astype(np.float32), *noise, look, recipe.spacing_mm, rng)
    probability = tiled(network, recipe.window.apply(hu), recipe.patch, number, device)
    organ = organ_mask(block["organs"], cancer.value)
    near = ndimage.distance_transform_edt(~organ) <= margin
    smooth = ndimage.uniform_filter(probability, 3)
    return float(smooth[near].max(initial=0.0))


def tiled(
    network: Any, image: npt.NDArray[np.float32], patch: Index, channel: int, device: str
) -> npt.NDArray[np.float32]:
    """Probability of one channel over an image (z, y, x), from overlapping tiles blended as in the cascade."""
    total = np.zeros(image.shape, np.float32)
    z, y, x = image.shape
    with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16):
        for tile in tiles((z, y, x), patch, OVERLAP):
            piece = torch.from_numpy(np.ascontiguousarray(image[tile.where]))[None, None].to(device)
            logits = network(piece.contiguous(memory_format=torch.channels_last_3d)).float()
            part = logits.softmax(1)[0, channel].cpu().numpy()
            a, b, c = tile.weights
            total[tile.where] += part * a[:, None, None] * b[:, None] * c
    return total


def figures(rows: Sequence[Score], cancer: Cancer) -> dict[str, float]:
    """auc, and sensitivity with 95, 99 and all of the healthy left alone; NaN without cases of either kind."""
    scores = np.array([r.score for r in rows if r.cancer == cancer.value])
    truth = np.array([r.truth for r in rows if r.cancer == cancer.value], bool)
    ill, well = scores[truth], np.sort(scores[~truth])
    if not len(ill) or not len(well):
        return {"auc": float("nan"), "at95": float("nan"), "at99": float("nan"), "at100": float("nan")}
    auc = float((ill[:, None] > well).mean() + 0.5 * (ill[:, None] == well).mean())
    result = {"auc": auc}
    for name, share in (("at95", 0.95), ("at99", 0.99), ("at100", 1.0)):
        limit = well[min(int(np.ceil(share * len(well))) - 1, len(well) - 1)]
        result[name] = float((ill > limit).mean())
    return {name: round(value, 4) for name, value in result.items()}


def _index(values: npt.NDArray[np.int64]) -> Index:
    z, y, x = (int(v) for v in values)
    return (z, y, x)


def report(recipe: Recipe, network: Any, store: Store, count: int, device: str) -> dict[str, Any]:
    """Figures of a network on the first `count` patients for validation, by cancer or by organ."""
    network.eval()
    if recipe.stage == "localise":
        return dice_of_organs(recipe, network, [store.patient(VALIDATION_SEED + i) for i in range(count)], device)
    source = Detecting(recipe, store, VALIDATION_SEED)
    source.grow(count)
    rows = score_patients(recipe, network, source, device)
    return {cancer.value: figures(rows, cancer) for cancer in recipe.cancers}


def dice_of_organs(recipe: Recipe, network: Any, patients: Sequence[Patient], device: str) -> dict[str, float]:
    """Dice of each organ over all patients' voxels together, whole torsos at the localiser's spacing."""
    table, labels = organ_table(), recipe.labels
    both, sizes = np.zeros(len(labels)), np.zeros(len(labels))
    for patient in patients:
        rng = np.random.Generator(np.random.PCG64([patient.seed, 83]))
        hu, organs = coarse_volume(patient)
        truth = table[organs]
        noisy = hu + np.float32(6) * rng.standard_normal(hu.shape, dtype=np.float32)
        found = _whole(network, recipe.window.apply(noisy), recipe.multiple, device)
        for number in range(len(labels)):
            a, b = truth == number, found == number
            both[number] += 2 * (a & b).sum()
            sizes[number] += a.sum() + b.sum()
    dice = both / np.maximum(sizes, 1)
    return {label: round(float(d), 3) for label, d in zip(labels[1:], dice[1:], strict=True)}


def _whole(network: Any, image: npt.NDArray[np.float32], multiple: int, device: str) -> npt.NDArray[np.int64]:
    padding = [(0, -n % multiple) for n in image.shape]
    padded = torch.from_numpy(np.pad(image, padding, constant_values=image.min()))[None, None].to(device)
    with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16):
        logits = network(padded.contiguous(memory_format=torch.channels_last_3d))
    z, y, x = image.shape
    return np.asarray(logits[0, :, :z, :y, :x].argmax(0).cpu().numpy(), np.int64)
