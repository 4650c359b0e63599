"""Train one map-giving network of the reference bundle: the localiser, or a detector.

python -m engines.reference.train abdomen --store var/reference/patients --into var/reference/abdomen
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional

from engines.reference.coarse import Localising
from engines.reference.loop import Training
from engines.reference.network import UNet
from engines.reference.patients import Store
from engines.reference.pieces import Choice, Detecting, Memory, Piece
from engines.reference.recipes import LEG_SEEDS, RECIPES, SCENERY, TRAINING_SEED, Recipe
from engines.reference.validate import report

_RARE = 4.0
"""Weight of a cancer's voxel in the cross-entropy of a detector."""
_FILLED = 0.6
"""Share of a block that must be cancer for the block to be one."""
_VALIDATED = 60
"""Patients that a network is tried on."""


class Source(Protocol):
    """Where pieces come from."""

    def grow(self, count: int) -> None: ...
    def choose(self, rng: np.random.Generator, memory: Memory) -> Choice: ...
    def cut(self, choice: Choice, rng: np.random.Generator) -> Piece: ...


def source_of(recipe: Recipe, store: Store, first_seed: int) -> Source:
    """The recipe's pieces of patients from `first_seed` on."""
    kind = Localising if recipe.stage == "localise" else Detecting
    return kind(recipe, store, first_seed)


def map_loss(log_p: torch.Tensor, target: torch.Tensor, rare: float = 1.0) -> torch.Tensor:
    """Cross-entropy plus soft Dice over the batch; a class that the batch lacks has no Dice.

    log_p: log of the softmax, (N, C, Z, Y, X). target: classes, (N, Z, Y, X). rare: weight in the cross-entropy of a
    voxel of anything but background.
    """
    classes = log_p.shape[1]
    weights = log_p.new_full((classes,), rare)
    weights[0] = 1.0
    loss = functional.nll_loss(log_p, target, weights)
    # All classes at once: the gradient of one channel picked out of the map is as large as the map.
    flat, p = target.flatten(), log_p.exp()
    sizes = torch.bincount(flat, minlength=classes).float()
    both = log_p.new_zeros(classes).index_add(0, flat, p.gather(1, target[:, None]).flatten())
    dice = (2 * both + 1) / (p.sum((0, 2, 3, 4)) + sizes + 1)
    there = sizes[1:] > 0
    return loss + 1 - dice[1:][there].mean() if bool(there.any()) else loss


def peak_loss(log_p: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, list[float]]:
    """Logistic loss of the surest 6 mm of each piece and cancer, in it and outside of all: what cases are scored by.

    Also how hard each piece was, 0..1: the larger of how surely its cancer was missed, and of its false alarm. How sure
    is the mean probability over a block of 3³ voxels.
    """
    sure = functional.avg_pool3d(log_p[:, 1:].exp(), 3)
    inside = functional.avg_pool3d(torch.stack([target == number for number in range(1, log_p.shape[1])], 1).float(), 3)
    there = (inside > _FILLED).flatten(2).any(2)
    hit = sure.masked_fill(inside <= _FILLED, 0).amax((2, 3, 4))
    miss = sure.masked_fill(inside.amax(1, keepdim=True) > 0, 0).amax((2, 3, 4))
    found = -torch.log(hit.clamp(min=1e-4)) * there
    loss = found.sum() / there.sum().clamp(min=1) - torch.log((1 - miss).clamp(min=1e-4)).mean()
    hard = torch.maximum(((1 - hit) * there).amax(1), miss.amax(1))
    return loss, [float(v) for v in hard.detach()]


class Mapping:
    """The task of a network that gives a map."""

    def __init__(self, recipe: Recipe, store: Store, first_seed: int = TRAINING_SEED) -> None:
        self.recipe, self.store, self.first_seed = recipe, store, first_seed
        self.iterations, self.learning_rate = recipe.iterations, recipe.learning_rate
        self.begin(0)

    def build(self) -> UNet:
        """The network, untrained."""
        scenery = len(SCENERY) + 1 if self.recipe.stage == "detect" else 0
        return UNet(self.recipe.features, len(self.recipe.labels), scenery)

    def begin(self, leg: int) -> None:
        """Each leg learns from patients of its own: others teach more than the same once more."""
        self.source = source_of(self.recipe, self.store, self.first_seed + leg * LEG_SEEDS)
        self.memory = Memory()

    def prepare(self, step: int) -> None:
        """More patients as training goes on."""
        self.source.grow(self.recipe.pool(step))

    def loss(self, model: Any, rng: np.random.Generator, device: str) -> tuple[torch.Tensor, dict[str, float]]:
        """One batch's."""
        choices = [self.source.choose(rng, self.memory) for _ in range(self.recipe.batch)]
        pieces = [self.source.cut(choice, rng) for choice in choices]
        image = torch.from_numpy(np.stack([p.image for p in pieces])[:, None]).to(device)
        image = image.contiguous(memory_format=torch.channels_last_3d)
        target = torch.from_numpy(np.stack([p.target for p in pieces])).to(device).long()
        if self.recipe.stage == "localise":
            with torch.autocast(device, dtype=torch.bfloat16):
                logits = model(image)
            return map_loss(logits.float().contiguous().log_softmax(1), target), {}
        with torch.autocast(device, dtype=torch.bfloat16):
            logits, scenery, clean = model.lesson(image)
        log_p = logits.float().contiguous().log_softmax(1)
        around = torch.from_numpy(np.stack([p.scenery for p in pieces])).to(device).long()
        still = torch.from_numpy(np.stack([p.clean for p in pieces])).to(device)
        seen = map_loss(log_p, target, _RARE)
        named = functional.cross_entropy(scenery.float(), around)
        stilled = functional.l1_loss(clean.float(), still)
        peak, hard = peak_loss(log_p, target)
        for choice, piece, hardness in zip(choices, pieces, hard, strict=True):
            self.memory.note(piece.seed, piece.centre, hardness, choice.row)
        parts = {"map": seen, "scenery": named, "clean": stilled, "peak": peak}
        return seen + 0.5 * named + stilled + 0.1 * peak, {name: float(part.detach()) for name, part in parts.items()}

    def state(self) -> dict[str, torch.Tensor]:
        """What was hard."""
        return {"places": torch.from_numpy(self.memory.places), "hardness": torch.from_numpy(self.memory.hardness)}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Take up what `state` gave."""
        self.memory = Memory(places=state["places"].numpy().copy(), hardness=state["hardness"].numpy().copy())

    def describe(self) -> dict[str, Any]:
        """The recipe."""
        return asdict(self.recipe)


def main() -> None:
    """Train one network; see the module's docstring."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("network", choices=sorted(RECIPES))
    parser.add_argument("--store", type=Path, required=True, help="folder of patients; missing ones are rendered")
    parser.add_argument("--into", type=Path, required=True, help="folder for checkpoint and logs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--until", type=int, help="stop after this step; a later call goes on")
    parser.add_argument("--cases", type=int, help="learn from at most so many patients")
    parser.add_argument("--tried-on", type=int, default=_VALIDATED, help="patients that a network is tried on")
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    recipe = RECIPES[a.network] if a.cases is None else of_few(RECIPES[a.network], a.cases)
    store = Store(a.store)
    training = Training(Mapping(recipe, store), a.into, a.seed)
    for stop in stops(training.begun[-1], recipe.iterations, a.until):
        training.run(stop)
        if not training.was_told("validation"):
            training.tell({"validation": report(recipe, training.average, store, a.tried_on, training.device)})


def of_few(recipe: Recipe, cases: int) -> Recipe:
    """The recipe with a pool of at most `cases` patients."""
    first, most, at = recipe.cases
    return replace(recipe, cases=(min(first, cases), min(most, cases), at))


def stops(begun: int, iterations: int, until: int | None) -> list[int]:
    """Steps after which a network is tried: a sixth, a third, two thirds of its leg, and its end."""
    end, length = iterations if until is None else min(until, iterations), iterations - begun
    return [stop for stop in (begun + length // 6, begun + length // 3, begun + 2 * length // 3) if stop < end] + [end]


if __name__ == "__main__":
    main()
