"""Which piece of which patient a network sees at a step, cut out, scanned and labelled. numpy only.

All randomness comes from the generator that is passed in, and what was hard before from `Memory`, which is part of a
checkpoint: a training that was stopped goes on as if it had not been.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from core.finding import Cancer
from core.volume import Index
from engines.phantom import ORGAN_OF
from engines.reference.patients import Patient, Store
from engines.reference.recipes import SCENERY, Recipe, Window, scenery_table
from engines.reference.scanner import draw_look, scanned

AIR_HU = -1000
_CUT_SHARE = 0.12
_JITTER = {"cancer": 24, "other": 16, "hard": 10, "organ": 16}


@dataclass(frozen=True, eq=False)
class Piece:
    """image: float32 (z, y, x), as the network sees it. target: its classes, uint8. scenery: classes, uint8, and clean:
    the image without noise, float32, both at half the resolution; empty for the localiser. seed, centre: where it is
    from."""

    image: npt.NDArray[np.float32]
    target: npt.NDArray[np.uint8]
    scenery: npt.NDArray[np.uint8]
    clean: npt.NDArray[np.float32]
    seed: int
    centre: Index


@dataclass(eq=False)
class Memory:
    """Places that were hard: (n, 4) seed and voxel, and how hard, 0..1. The easiest gives way to a harder one."""

    most: int = 1024
    places: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 4), np.int64))
    hardness: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))

    def draw(self, rng: np.random.Generator) -> tuple[int, int, Index]:
        """Row, seed and voxel of a place, harder ones more often."""
        weights = self.hardness.astype(np.float64) + 0.02
        row = int(rng.choice(len(weights), p=weights / weights.sum()))
        seed, z, y, x = (int(v) for v in self.places[row])
        return row, seed, (z, y, x)

    def note(self, seed: int, voxel: Index, hardness: float, row: int | None = None) -> None:
        """Remember a place; `row`: the one that was drawn, which gets its new hardness."""
        if row is None and len(self.hardness) < self.most:
            self.places = np.append(self.places, [[seed, *voxel]], axis=0)
            self.hardness = np.append(self.hardness, np.float32(hardness))
            return
        if row is None:
            row = int(np.argmin(self.hardness))
            if self.hardness[row] >= hardness:
                return
        self.places[row], self.hardness[row] = (seed, *voxel), hardness


@dataclass(frozen=True)
class Choice:
    """A piece to come. row: of the memory, where it comes from there."""

    patient: Patient
    centre: Index
    row: int | None = None


class Detecting:
    """Pieces for a detector: at its cancers, at what is none, where it was hard, and anywhere in its organs."""

    def __init__(self, recipe: Recipe, store: Store, first_seed: int) -> None:
        self.recipe, self.store, self.first = recipe, store, first_seed
        self.patients: list[Patient] = []
        self._ill: dict[Cancer, list[tuple[int, int]]] = {cancer: [] for cancer in recipe.cancers}
        self._scenery = scenery_table()
        self._organs = frozenset(int(t) for c in recipe.cancers for t in ORGAN_OF[c])

    def grow(self, count: int) -> None:
        """Take patients in until there are `count`."""
        self.store.fill(range(self.first + len(self.patients), self.first + count))
        for number in range(len(self.patients), count):
            patient = self.store.patient(self.first + number)
            self.patients.append(patient)
            for cancer, known in self._ill.items():
                known += [(number, finding) for finding in patient.cancers(cancer)]

    def choose(self, rng: np.random.Generator, memory: Memory) -> Choice:
        """Where the next piece is cut."""
        at_cancer, at_other, at_hard = np.cumsum(self.recipe.shares)
        lot = rng.random()
        cancer = self.recipe.cancers[int(rng.integers(len(self.recipe.cancers)))]
        if lot < at_cancer and self._ill[cancer]:
            number, finding = self._ill[cancer][int(rng.integers(len(self._ill[cancer])))]
            return Choice(self.patients[number], self._in_finding(number, [finding], "cancer", rng))
        if at_other <= lot < at_hard and len(memory.hardness):
            row, seed, voxel = memory.draw(rng)
            return Choice(self.patients[seed - self.first], _moved(voxel, "hard", rng), row)
        number = int(rng.integers(len(self.patients)))
        others = self.patients[number].others()
        if at_cancer <= lot < at_other and others:
            return Choice(self.patients[number], self._in_finding(number, others, "other", rng))
        points = self.patients[number].in_organ[cancer]
        if not len(points):
            points = self.patients[number].in_findings[:, 1:]
        return Choice(self.patients[number], _moved(points[int(rng.integers(len(points)))], "organ", rng))

    def cut(self, choice: Choice, rng: np.random.Generator) -> Piece:
        """The piece itself."""
        recipe, patient = self.recipe, choice.patient
        low = _index(c - n // 2 for c, n in zip(choice.centre, recipe.patch, strict=True))
        block = patient.stored.read(low, recipe.patch, {"hu": AIR_HU})
        look, noise = draw_look(rng, recipe.spacing_mm), patient.noise(low, recipe.patch)
        clean = block["hu"].astype(np.float32)
        hu = scanned(clean, *noise, look, recipe.spacing_mm, rng)
        clean = recipe.window.apply(_halved(clean))
        target = self.target(patient, block["lesions"])
        scenery = self.scenery(patient, block["organs"][::2, ::2, ::2], block["lesions"][::2, ::2, ::2])
        if rng.random() < _CUT_SHARE:
            _cut_off((hu, target), (scenery, clean), recipe.window, rng)
        return Piece(recipe.window.apply(hu), target, scenery, clean, patient.seed, choice.centre)

    def target(self, patient: Patient, lesions: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Class of each voxel: 0, or one more than the number of its cancer among the recipe's."""
        table = np.zeros(256, np.uint8)
        for number, cancer in enumerate(self.recipe.cancers, 1):
            table[patient.cancers(cancer)] = number
        return table[lesions]

    def scenery(
        self, patient: Patient, organs: npt.NDArray[np.uint8], lesions: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.uint8]:
        """Class of each voxel in SCENERY; findings that are no cancer are the class after those."""
        table = np.zeros(256, bool)
        table[patient.others()] = True
        return np.where(table[lesions], np.uint8(len(SCENERY)), self._scenery[organs])

    def _in_finding(self, number: int, findings: list[int], kind: str, rng: np.random.Generator) -> Index:
        finding = findings[int(rng.integers(len(findings)))]
        rows = self.patients[number].in_findings
        points = rows[rows[:, 0] == finding, 1:]
        return _moved(points[int(rng.integers(len(points)))], kind, rng)


def _moved(voxel: npt.ArrayLike, kind: str, rng: np.random.Generator) -> Index:
    by = _JITTER[kind]
    return _index(np.asarray(voxel, np.int64) + rng.integers(-by, by + 1, 3))


def _halved(hu: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Means over 2³ voxels."""
    z, y, x = (n // 2 for n in hu.shape)
    return np.asarray(hu.reshape(z, 2, y, 2, x, 2).mean(axis=(1, 3, 5)), np.float32)


def _cut_off(
    full: tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]],
    half: tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]],
    window: Window,
    rng: np.random.Generator,
) -> None:
    """The scan ends inside the piece: there is air beyond, as a tile that reaches over the scan's end is padded."""
    (hu, target), (scenery, clean) = full, half
    at = int(rng.integers(4, len(scenery) - 4))
    ahead = rng.random() < 0.5
    beyond, halved = (slice(0, 2 * at), slice(0, at)) if ahead else (slice(2 * at, None), slice(at, None))
    hu[beyond], target[beyond], scenery[halved] = AIR_HU, 0, 0
    clean[halved] = window.apply(np.full(1, AIR_HU, np.float32))


def _index(values: object) -> Index:
    z, y, x = (int(v) for v in values)  # type: ignore[attr-defined]
    return (z, y, x)
