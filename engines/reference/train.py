"""Train one network of the reference bundle on cached phantoms.

    python -m engines.reference.train localiser --cases var/reference/coarse --into var/reference/localiser

Step i draws its batch from a generator seeded (seed, i), so a training that was stopped goes on exactly where it was:
the newest checkpoint in the folder is taken up. losses.jsonl and run.json there say what was done.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch.nn import functional

from core import durable
from engines.reference import augment
from engines.reference.network import UNet
from engines.reference.recipes import RECIPES, Recipe
from engines.reference.rendering import Case, load_all

Batch = tuple[torch.Tensor, torch.Tensor]
_KEPT_POINTS, _POINTS_EACH = 4000, 200


@dataclass(frozen=True)
class Places:
    """Where in a case patches are centred: indices (n, 3) of voxels."""

    lesion: npt.NDArray[np.intp]
    lookalike: npt.NDArray[np.intp]
    organ: npt.NDArray[np.intp]
    around: npt.NDArray[np.intp]


def find_places(case: Case, recipe: Recipe) -> Places:
    """A random sample of voxels of each kind, the same for the same case."""
    rng = np.random.Generator(np.random.PCG64(case.seed))

    def some(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
        points = np.argwhere(mask)
        return points[rng.permutation(len(points))[:_KEPT_POINTS]]

    def each(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
        """As many voxels of a small lesion as of a large one."""
        parts, count = ndimage.label(mask)
        boxes = ndimage.find_objects(parts)
        chosen = [np.empty((0, 3), np.intp)]
        for number, box in enumerate(boxes[:count], 1):
            points = np.argwhere(parts[box] == number) + [edge.start for edge in box]
            chosen.append(points[rng.integers(0, len(points), _POINTS_EACH)])
        return np.concatenate(chosen)

    organ = np.isin(case.labels, recipe.organ)
    around = np.isin(case.labels, recipe.around)
    lesion, lookalike = (each(case.labels == tissue) for tissue in (recipe.finding, recipe.lookalike))
    return Places(lesion, lookalike, some(organ), some(around))


class WholeVolumes:
    """Batches for the localiser: whole volumes, cut and warped, padded with air to a common multiple."""

    def __init__(self, cases: list[Case], recipe: Recipe) -> None:
        self.cases, self.recipe, self.table = cases, recipe, recipe.target_table()

    def batch(self, rng: np.random.Generator) -> Batch:
        pairs = [self._one(rng) for _ in range(self.recipe.batch)]
        shape = np.max([hu.shape[2:] for hu, _ in pairs], axis=0)
        shape = -(-shape // self.recipe.multiple) * self.recipe.multiple
        images, targets = zip(*(self._pad(hu, target, shape) for hu, target in pairs), strict=True)
        return torch.cat(images), torch.cat(targets)[:, 0].long()

    def _one(self, rng: np.random.Generator) -> Batch:
        case = self.cases[int(rng.integers(len(self.cases)))]
        hu, labels = augment.partial_coverage(case.hu.astype(np.float32), case.labels, rng, self.recipe.spacing_mm)
        hu, labels = augment.random_margin(hu, labels, rng)
        hu = augment.narrow_field(augment.shift_tissues(hu, labels, rng), rng)
        target = torch.from_numpy(self.table[labels].astype(np.uint8))[None, None]
        image, target = augment.affine(torch.from_numpy(hu)[None, None], target, rng)
        return augment.scan_again(image, rng, self.recipe.spacing_mm, (1.0, 12.0)), target

    def _pad(self, hu: torch.Tensor, target: torch.Tensor, shape: npt.NDArray[np.int64]) -> Batch:
        extra = [int(n) for n in shape - np.array(hu.shape[2:])]
        ends = [0, extra[2], 0, extra[1], 0, extra[0]]
        return normalise(functional.pad(hu, ends, value=-1000), self.recipe), functional.pad(target, ends)


class LesionPatches:
    """Batches for a detector: patches at lesions, look-alikes, beside the organ and anywhere in it."""

    def __init__(self, cases: list[Case], recipe: Recipe) -> None:
        self.cases, self.recipe, self.table = cases, recipe, recipe.target_table()
        self.places = [find_places(case, recipe) for case in cases]

    def batch(self, rng: np.random.Generator) -> Batch:
        pairs = [self._one(rng) for _ in range(self.recipe.batch)]
        return torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])

    def _one(self, rng: np.random.Generator) -> Batch:
        assert self.recipe.patch is not None
        number = int(rng.integers(len(self.cases)))
        case, places = self.cases[number], self.places[number]
        choice = rng.random()
        kinds = ((0.4, places.lesion), (0.55, places.lookalike), (0.75, places.around), (1.0, places.organ))
        points = next(points for share, points in kinds if choice < share)
        if not len(points):
            points = places.organ
        centre = points[int(rng.integers(len(points)))] + rng.integers(-20, 21, 3)
        size = np.array(self.recipe.patch)
        start = np.clip(centre - size // 2, 0, np.maximum(np.array(case.hu.shape) - size, 0))
        where = tuple(slice(int(a), int(a + n)) for a, n in zip(start, size, strict=True))
        missing = [(0, int(max(0, n - have))) for n, have in zip(size, case.hu[where].shape, strict=True)]
        hu = np.pad(case.hu[where], missing, constant_values=-1000).astype(np.float32)
        labels = np.pad(case.labels[where], missing)
        image = augment.scan_again(torch.from_numpy(hu)[None, None], rng, self.recipe.spacing_mm, (2.0, 20.0))
        return normalise(image, self.recipe), torch.from_numpy(self.table[labels])[None]


def normalise(hu: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """HU → network input."""
    return (hu.clamp(*recipe.clip_hu) - recipe.mean_hu) / recipe.std_hu


def loss_of(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy plus soft Dice over the batch, background left out of the Dice."""
    logits = logits.float()
    probability = logits.softmax(1)
    truth = functional.one_hot(target, logits.shape[1]).movedim(-1, 1).float()
    axes = (0, 2, 3, 4)
    overlap, total = (probability * truth).sum(axes)[1:], (probability + truth).sum(axes)[1:]
    there = (truth.sum(axes)[1:] > 0).float()
    dice = (2 * overlap + 1) / (total + 1)
    # A class that this batch lacks teaches through the cross-entropy alone: its Dice would be all noise.
    dice_loss = ((1 - dice) * there).sum() / there.sum().clamp(min=1)
    return functional.cross_entropy(logits, target) + dice_loss


class Training:
    """A network on its way: model, optimiser, schedule, and the step that it has reached."""

    def __init__(self, recipe: Recipe, folder: Path, seed: int) -> None:
        torch.manual_seed(seed)
        self.recipe, self.folder, self.seed, self.step, self.skipped = recipe, folder, seed, 0, 0
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model: Any = UNet(recipe.features, len(recipe.labels)).to(
            self.device, memory_format=torch.channels_last_3d
        )
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=recipe.learning_rate, weight_decay=1e-4)
        self._resume()

    def run(self, source: WholeVolumes | LesionPatches, until: int | None = None, threads_note: str = "") -> float:
        """Train to the recipe's end (or step `until`); returns the mean loss of the last 50 steps."""
        end = until or self.recipe.iterations
        losses: list[float] = []
        begun = time.monotonic()
        while self.step < end:
            rate = self._set_rate()
            losses.append(self._advance(source))
            self.step += 1
            if self.step % 50 == 0 or self.step == end:
                self._log(losses[-50:], rate, time.monotonic() - begun)
            if self.step % 200 == 0 or self.step == end:
                self.save()
        return float(np.mean(losses[-50:])) if losses else float("nan")

    def _advance(self, source: WholeVolumes | LesionPatches) -> float:
        rng = np.random.Generator(np.random.PCG64([self.seed, self.step]))
        image, target = (t.to(self.device) for t in source.batch(rng))
        image = image.contiguous(memory_format=torch.channels_last_3d)
        self.model.train()
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.device, dtype=torch.bfloat16):
            logits = self.model(image)
        loss = loss_of(logits, target)
        loss.backward()
        if torch.isfinite(torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)):
            self.optimiser.step()
        else:
            self.skipped += 1  # an overflow in bf16 must not poison the weights
        return float(loss.detach())

    def _set_rate(self) -> float:
        """Linear warm-up of 50 steps, then a cosine to zero."""
        done = self.step / self.recipe.iterations
        warm = min((self.step + 1) / 50, 1.0)
        rate = float(self.recipe.learning_rate * warm * 0.5 * (1 + np.cos(np.pi * min(done, 1.0))))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        return rate

    def _log(self, losses: list[float], rate: float, seconds: float) -> None:
        line = {
            "step": self.step,
            "loss": round(float(np.mean(losses)), 4),
            "rate": round(rate, 6),
            "s": round(seconds),
        }
        path = self.folder / "losses.jsonl"
        before = path.read_text() if path.exists() else ""
        durable.write_text(path, before + json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def save(self) -> None:
        """Checkpoint, durably and in one step."""
        buffer = BytesIO()
        state = {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(), "step": self.step}
        torch.save(state, buffer)
        durable.write_bytes(self.folder / "checkpoint.pt", buffer.getvalue())
        run = {
            "recipe": asdict(self.recipe), "seed": self.seed, "step": self.step, "device": self.device,
            "torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads(),
        }  # fmt: skip
        durable.write_text(self.folder / "run.json", json.dumps(run, indent=2) + "\n")

    def _resume(self) -> None:
        durable.make_folder(self.folder)
        path = self.folder / "checkpoint.pt"
        if path.exists():
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step = state["step"]


def main() -> None:
    """Train one network; see the module's docstring."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("network", choices=sorted(RECIPES))
    parser.add_argument("--cases", type=Path, required=True, help="folder filled by engines.reference.rendering")
    parser.add_argument("--into", type=Path, required=True, help="folder for checkpoint and logs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=int, help="use only this many cases")
    parser.add_argument("--until", type=int, help="stop after this step; a later call goes on")
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    recipe = RECIPES[a.network]
    cases = list(load_all(a.cases, a.limit))
    source = LesionPatches(cases, recipe) if recipe.patch else WholeVolumes(cases, recipe)
    Training(recipe, a.into, a.seed).run(source, a.until)


if __name__ == "__main__":
    main()
