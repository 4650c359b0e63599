"""Train a network that looks at single candidates: which cancer is it, if any; or of which subtype.

    python -m engines.reference.characterise soft_malignancy --store var/reference/patients \\
        --candidates var/reference/candidates --into var/reference/soft_malignancy

Its candidates are what the first two stages brought up (`candidates`), so their masks are as ragged as they will be.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from core.errors import EngineError
from engines.reference.calipers import measured, numbers_of
from engines.reference.candidates import EDGE, Known, read_all
from engines.reference.loop import Training
from engines.reference.network import looking_network
from engines.reference.patients import Store
from engines.reference.pieces import AIR_HU
from engines.reference.recipes import CHARACTERISERS, MIRROR, SPACING_MM, CharacteriserRecipe
from engines.reference.scanner import draw_look, scanned

SMOOTHED = 0.02
"""Of a label's certainty, to keep networks from being surer than they can know."""
_SHAKE = 4
_UNSURE_HU = 0.3
"""Standard deviation of what the localiser's masks do to an organ's median."""


def class_of(recipe: CharacteriserRecipe, known: Known) -> int | None:
    """The label of a candidate; None where the question isn't asked of it."""
    if known.asked not in {c.value for c in recipe.cancers}:
        return None
    if recipe.question == "malignancy":
        return recipe.labels.index(known.truth) if known.truth in recipe.labels else 0
    if known.truth != known.asked:
        return None
    return recipe.labels.index(known.kind.replace(" ", "_"))


class NothingToLearn(EngineError):
    """The candidates are all of one kind, so no question can be learned from them."""

    default_remedy = "Mine candidates of more patients, or look at what the first two stages find."


class Looking:
    """The task of a characteriser: every class as often, within the benign the surest more often. A class that no
    candidate is of is never shown to it; run.json says how many there are of each."""

    def __init__(self, recipe: CharacteriserRecipe, store: Store, rows: Sequence[Known]) -> None:
        self.recipe, self.store = recipe, store
        self.iterations, self.learning_rate = recipe.iterations, recipe.learning_rate
        self.groups: list[list[Known]] = [[] for _ in recipe.labels]
        for known in rows:
            number = class_of(recipe, known)
            if number is not None:
                self.groups[number].append(known)
        self._there = [number for number, group in enumerate(self.groups) if group]
        if len(self._there) < 2:
            only = f"only {recipe.labels[self._there[0]]}" if self._there else "none"
            raise NothingToLearn(f"{recipe.name} needs candidates of two kinds, there are {only}")
        self._weights = [_weights(group) for group in self.groups]

    def build(self) -> nn.Module:
        """The network, untrained."""
        return looking_network(self.recipe)

    def begin(self, leg: int) -> None:
        """Nothing: what is learned from is what was mined."""

    def prepare(self, step: int) -> None:
        """Nothing: all candidates are there."""

    def loss(self, model: Any, rng: np.random.Generator, device: str) -> tuple[torch.Tensor, dict[str, float]]:
        """Cross-entropy of one batch; half of it benign where that is the question."""
        image, target = (t.to(device) for t in self.batch(rng))
        with torch.autocast(device, dtype=torch.bfloat16):
            logits = model(image.contiguous(memory_format=torch.channels_last_3d))
        loss = functional.cross_entropy(logits.float(), target, label_smoothing=SMOOTHED)
        right = float((logits.detach().argmax(1) == target).float().mean())
        return loss, {"right": right}

    def batch(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Candidates as `look` shows them, (n, 2 + R, z, y, x), and their labels, (n,)."""
        images, targets = [], []
        for _ in range(self.recipe.batch):
            number = self._group(rng)
            group = self.groups[number]
            known = group[int(rng.choice(len(group), p=self._weights[number]))]
            images.append(look(self.recipe, self.store, known, rng))
            targets.append(number)
        return torch.from_numpy(np.stack(images)), torch.tensor(targets)

    def _group(self, rng: np.random.Generator) -> int:
        """A label that some candidate has; every second time benign where that is the question."""
        benign = self.recipe.question == "malignancy" and self._there[0] == 0
        if benign and rng.random() < 0.5:
            return 0
        others = self._there[1:] if benign else self._there
        return others[int(rng.integers(len(others)))]

    def state(self) -> dict[str, torch.Tensor]:
        """Nothing."""
        return {}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Nothing."""

    def describe(self) -> dict[str, Any]:
        """The recipe, and how many candidates there are of each label."""
        counts = {label: len(group) for label, group in zip(self.recipe.labels, self.groups, strict=True)}
        return {**asdict(self.recipe), "candidates": counts}


class Measuring(Looking):
    """The task of calipers. To scan a candidate anew is dear, and a few numbers are all that they read of it: so those
    are remembered, and every step learns from hundreds of looks, a few of them new."""

    def __init__(self, recipe: CharacteriserRecipe, store: Store, rows: Sequence[Known]) -> None:
        super().__init__(recipe, store, rows)
        self._memory = Memory(numbers_of(len(recipe.references)))

    def loss(self, model: Any, rng: np.random.Generator, device: str) -> tuple[torch.Tensor, dict[str, float]]:
        """Cross-entropy of many looks that are remembered."""
        image, target = self.batch(rng)
        self._memory.add(measured(image), target)
        numbers, target = (t.to(device) for t in self._memory.draw(rng))
        logits = model.read(numbers)
        loss = functional.cross_entropy(logits, target, label_smoothing=SMOOTHED)
        return loss, {"right": float((logits.detach().argmax(1) == target).float().mean())}

    def state(self) -> dict[str, torch.Tensor]:
        """What was measured so far."""
        return self._memory.state()

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """As it was when `state` told of it."""
        self._memory.restore(state)


class Memory:
    """The latest looks, as what was measured of them."""

    def __init__(self, numbers: int, size: int = 16384) -> None:
        self._numbers, self._truth = torch.zeros(size, numbers), torch.zeros(size, dtype=torch.int64)
        self._seen = 0

    def add(self, numbers: torch.Tensor, truth: torch.Tensor) -> None:
        """(n, C) of n looks and their labels; the oldest are forgotten."""
        places = (self._seen + torch.arange(len(truth))) % len(self._truth)
        self._numbers[places], self._truth[places] = numbers, truth
        self._seen += len(truth)

    def draw(self, rng: np.random.Generator, count: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
        """(count, C) and (count,): any of the looks that are remembered."""
        chosen = torch.from_numpy(rng.integers(0, min(self._seen, len(self._truth)), count))
        return self._numbers[chosen], self._truth[chosen]

    def state(self) -> dict[str, torch.Tensor]:
        """All of it."""
        return {"numbers": self._numbers, "truth": self._truth, "seen": torch.tensor(self._seen)}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Of `state`."""
        self._numbers, self._truth, self._seen = state["numbers"], state["truth"], int(state["seen"])


def _weights(group: Sequence[Known]) -> npt.NDArray[np.float64]:
    weights = np.array([0.2 + known.score for known in group])
    return np.asarray(weights / weights.sum(), np.float64)


def look(
    recipe: CharacteriserRecipe, store: Store, known: Known, rng: np.random.Generator, shake: int = _SHAKE
) -> npt.NDArray[np.float32]:
    """The network's input (2 + R, z, y, x): the candidate in its surroundings, scanned anew, its mask, and references
    as the same scan shows them; mirrored at random along the axes of MIRROR."""
    patient = store.patient(known.seed)
    stored = patient.stored
    moved = np.asarray(known.centre) + rng.integers(-shake, shake + 1, 3)
    z, y, x = (int(c) - n // 2 for c, n in zip(moved, recipe.block, strict=True))
    hu = stored.read((z, y, x), recipe.block, {"hu": AIR_HU})["hu"].astype(np.float32)
    scan = draw_look(rng, SPACING_MM)
    image = scanned(hu, *patient.noise((z, y, x), recipe.block), scan, SPACING_MM, rng)
    corner = [a - (c - EDGE // 2) for a, c in zip((z, y, x), known.centre, strict=True)]
    where = tuple(slice(a, a + n) for a, n in zip(corner, recipe.block, strict=True))
    channels = [recipe.window.apply(image), known.unpacked()[where].astype(np.float32)]
    for organ in recipe.references:
        seen = store.reference(known.seed, organ) + scan.offset_hu + rng.normal(0, _UNSURE_HU)
        channels.append(np.full(recipe.block, recipe.window.apply(np.float32(seen)), np.float32))
    flips = tuple(1 + "zyx".index(axis) for axis in MIRROR if rng.random() < 0.5)
    return np.ascontiguousarray(np.flip(np.stack(channels), flips))


def main() -> None:
    """Train one characteriser; see the module's docstring."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("network", choices=sorted(CHARACTERISERS))
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--candidates", type=Path, required=True)
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--until", type=int)
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    try:
        recipe = CHARACTERISERS[a.network]
        task = (Looking if recipe.features else Measuring)(recipe, Store(a.store), read_all(a.candidates))
    except NothingToLearn as error:
        # Six cancers should not wait for one that the first stages never find: `pack` leaves this network out.
        print(f"{error}: not trained. {error.remedy()}", flush=True)
        return
    Training(task, a.into, a.seed).run(a.until)


if __name__ == "__main__":
    main()
