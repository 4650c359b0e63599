"""Pieces for the localiser: whole torsos at 4 mm, cut as scans are, in any phase of contrast, shaken and blurred.

It has to find organs in people too, so it sees more than the law of scans: tissues brighter or darker than they are in
a torso, contrast medium, flanks outside the field of view, sizes beside the usual. No mirroring: the liver is on the
right.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from engines.phantom import COVERAGE, Tissue
from engines.reference.patients import Patient, Store
from engines.reference.pieces import AIR_HU, Choice, Memory, Piece
from engines.reference.recipes import COARSE_MM, Recipe, organ_table

Hu = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]

_PHASE: dict[Tissue, tuple[float, float]] = {
    Tissue.AORTA: (80, 300), Tissue.ARTERY: (80, 300), Tissue.VEIN: (40, 160), Tissue.HEART: (60, 220),
    Tissue.KIDNEY: (60, 170), Tissue.LIVER: (15, 70), Tissue.SPLEEN: (30, 90), Tissue.PANCREAS: (25, 80),
    Tissue.STOMACH: (0, 40), Tissue.COLON: (0, 40), Tissue.DUODENUM: (5, 50), Tissue.SMALL_BOWEL: (5, 60),
    Tissue.MUSCLE: (0, 20), Tissue.THYROID: (30, 100), Tissue.UTERUS: (20, 80), Tissue.PROSTATE: (10, 40),
}  # fmt: skip
"""HU that contrast medium adds."""


class Localising:
    """Pieces of whole torsos."""

    def __init__(self, recipe: Recipe, store: Store, first_seed: int) -> None:
        self.recipe, self.store, self.first = recipe, store, first_seed
        self.patients: list[Patient] = []
        self._organs = organ_table()

    def grow(self, count: int) -> None:
        """Take patients in until there are `count`."""
        self.store.fill(range(self.first + len(self.patients), self.first + count))
        for number in range(len(self.patients), count):
            self.patients.append(self.store.patient(self.first + number))

    def choose(self, rng: np.random.Generator, memory: Memory) -> Choice:
        """A patient; every place is as good as another."""
        return Choice(self.patients[int(rng.integers(len(self.patients)))], (0, 0, 0))

    def cut(self, choice: Choice, rng: np.random.Generator) -> Piece:
        """A piece of a scan of the patient."""
        hu, organs = coarse_volume(choice.patient)
        rows = _covered(len(hu), rng)
        hu, organs = shift_tissues(hu[rows], organs[rows], rng), organs[rows]
        hu = _narrow(hu, rng)
        hu, organs = _resized(hu, organs, rng)
        hu, organs = _window(hu, organs, self.recipe.patch, rng)
        hu = _noisy(hu, rng)
        image, target = self.recipe.window.apply(hu), self._organs[organs]
        nothing = np.zeros((0, 0, 0))
        return Piece(
            image, target, nothing.astype(np.uint8), nothing.astype(np.float32), choice.patient.seed, choice.centre
        )


def coarse_volume(patient: Patient) -> tuple[Hu, Labels]:
    """The whole torso without noise and its organs at the localiser's spacing."""
    hu, organs = patient.stored.array("coarse_hu").astype(np.float32), patient.stored.array("coarse_organs")
    # halving rounds up for one and down for the other
    z, y, x = (min(a, b) for a, b in zip(hu.shape, organs.shape, strict=True))
    return hu[:z, :y, :x], organs[:z, :y, :x]


def _covered(count: int, rng: np.random.Generator) -> slice:
    """Rows of a scan's coverage: one of the law's, or any stretch of at least 160 mm."""
    low, high = COVERAGE["torso"]
    if rng.random() < 0.35:
        first, last = 0, count
    elif rng.random() < 0.6:
        start, stop = COVERAGE[("chest", "abdomen and pelvis", "upper abdomen")[int(rng.integers(3))]]
        shift = rng.normal(0, 12)
        first, last = (round((edge + shift - low) / (high - low) * count) for edge in (start, stop))
    else:
        length = int(rng.integers(round(160 / COARSE_MM), count + 1))
        first = int(rng.integers(0, count - length + 1))
        last = first + length
    return slice(max(first, 0), min(last, count))


def shift_tissues(hu: Hu, organs: Labels, rng: np.random.Generator) -> Hu:
    """Every tissue a little brighter or darker; in one scan of four with contrast medium."""
    offset = rng.normal(0, 6, 256).astype(np.float32)
    offset[Tissue.OUTSIDE] = 0
    if rng.random() < 0.25:
        strength = rng.uniform(0.2, 1)
        for tissue, (low, high) in _PHASE.items():
            offset[tissue] += strength * rng.uniform(low, high)
    # Gas in stomach and bowel stays gas.
    return np.asarray(hu + np.where(hu > -300, offset[organs], 0), np.float32)


def _narrow(hu: Hu, rng: np.random.Generator) -> Hu:
    """Sometimes a field of view that cuts off the flanks: air outside a circle."""
    if rng.random() < 0.75:
        return hu
    _, ny, nx = hu.shape
    y, x = np.ogrid[:ny, :nx]
    radius = rng.uniform(0.40, 0.52) * nx
    outside = (y - ny / 2 + rng.normal(0, 2)) ** 2 + (x - nx / 2 + rng.normal(0, 2)) ** 2 > radius**2
    hu = hu.copy()
    hu[:, outside] = AIR_HU
    return hu


def _resized(hu: Hu, organs: Labels, rng: np.random.Generator) -> tuple[Hu, Labels]:
    """Axes stretched by up to 12 %, and now and then a turn in the axial plane."""
    if rng.random() < 0.5:
        return hu, organs
    angle = float(rng.normal(0, 0.06))
    scale = rng.uniform(0.88, 1.12, 3)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    matrix = turn / scale
    shape = tuple(round(n * s) for n, s in zip(hu.shape, scale, strict=True))
    offset = (np.array(hu.shape) - 1) / 2 - matrix @ ((np.array(shape) - 1) / 2)
    moved = ndimage.affine_transform(hu, matrix, offset, shape, order=1, cval=AIR_HU)
    labels = ndimage.affine_transform(organs, matrix, offset, shape, order=0, cval=0)
    return np.asarray(moved, np.float32), np.asarray(labels, np.uint8)


def _window(hu: Hu, organs: Labels, size: tuple[int, int, int], rng: np.random.Generator) -> tuple[Hu, Labels]:
    """A random block of `size`; where the scan is smaller, air at its far ends as the cascade pads."""
    where, missing = [], []
    for n, wanted in zip(hu.shape, size, strict=True):
        start = int(rng.integers(0, max(n - wanted, 0) + 1))
        where.append(slice(start, start + wanted))
        missing.append((0, max(wanted - n, 0)))
    block, labels = hu[tuple(where)], organs[tuple(where)]
    return np.pad(block, missing, constant_values=AIR_HU), np.pad(labels, missing)


def _noisy(hu: Hu, rng: np.random.Generator) -> Hu:
    """Blur along the body by thick slices, noise of any strength, a scanner slightly off."""
    if rng.random() < 0.4:
        hu = ndimage.gaussian_filter1d(hu, float(rng.uniform(0.2, 0.9)), axis=0)
    noise = rng.standard_normal(hu.shape, dtype=np.float32)
    if rng.random() < 0.4:
        noise = ndimage.uniform_filter(noise, (1, 2, 2)) * 2
    sd = float(np.exp(rng.uniform(np.log(1.5), np.log(25))))
    return np.asarray(hu * rng.uniform(0.96, 1.04) + sd * noise + rng.normal(0, 6), np.float32)
