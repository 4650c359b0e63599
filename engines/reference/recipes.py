"""What is trained, as literal tables: which patients, which networks, in which order.

Everything is at 2 mm, the working spacing, and the localiser at twice that. Networks see HU through a window: soft
tissue about 0 with 40 HU to the unit, so that a contrast of 5 HU survives bfloat16; lungs through a wide one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from core.finding import Cancer
from core.volume import Index
from engines.manifest.networks import Axis
from engines.phantom import LOBES, Tissue, difficulty

SPACING_MM, COARSE_MM = 2.0, 4.0

TRAINING_SEED, VALIDATION_SEED, MINING_SEED, TUNING_SEED = 4_000_000, 4_100_000, 4_200_000, 4_300_000
"""First seeds: of the patients that networks learn from, that measure them on their way, whose candidates the third
stage learns from, and that thresholds are chosen on. Nobody is in two of these, and who is judged is in none."""

LEG_SEEDS = 1000
"""How far apart the first patients of a training's legs are (`loop`): more than any recipe takes."""

_BLOCK = 100_000
TAKEN: dict[str, range] = {
    "training": range(TRAINING_SEED, TRAINING_SEED + _BLOCK),
    "validation": range(VALIDATION_SEED, VALIDATION_SEED + _BLOCK),
    "mining": range(MINING_SEED, MINING_SEED + _BLOCK),
    "tuning": range(TUNING_SEED, TUNING_SEED + _BLOCK),
    "golden cases": range(4_900_000, 4_900_000 + _BLOCK),
    "threshold rules": range(50_000, 50_000 + _BLOCK),
}
"""Seeds that nobody may be judged on: of all who had a part in making the bundle, or the detector beside it."""

CANCER_SHARE: dict[Cancer, float] = {
    Cancer.PANCREAS: 0.5, Cancer.OESOPHAGUS: 0.5, Cancer.LUNG: 0.5, Cancer.BREAST: 0.4, Cancer.LIVER: 0.45,
    Cancer.STOMACH: 0.5, Cancer.COLORECTUM: 0.5,
}  # fmt: skip
"""How many of the patients for training have each cancer, independently: no cancer tells of another."""

CROWDED_SEED = MINING_SEED + 50_000
"""First seed of the crowded among the patients who are mined: several cancers, and many look-alikes, in each."""

CROWDED_CANCERS: dict[Cancer, tuple[float, ...]] = {
    Cancer.PANCREAS: (0.4, 0.6), Cancer.OESOPHAGUS: (0.6, 0.4), Cancer.LUNG: (0.3, 0.2, 0.3, 0.2),
    Cancer.BREAST: (0.6, 0.15, 0.25), Cancer.LIVER: (0.45, 0.25, 0.3), Cancer.STOMACH: (0.4, 0.4, 0.2),
    Cancer.COLORECTUM: (0.4, 0.3, 0.3),
}  # fmt: skip
"""How many of the crowded have none, one, two … cancers of an organ, independently of the other organs."""

CROWDED_LOOKALIKES: dict[str, float] = {
    "liver cyst": 0.5, "liver haemangioma": 0.7, "lung dependent atelectasis": 0.5, "lung apical cap": 0.3,
    "lung granuloma": 0.6, "lung scar": 0.6, "intrapulmonary node": 0.4, "pancreatic cyst": 0.4,
    "breast fibroadenoma calcified": 0.4, "breast fibroadenoma": 0.6, "breast cyst": 0.5, "collapsed stomach": 0.4,
}  # fmt: skip
"""Chance of look-alikes among the crowded. What must not be called cancer is rare by the law: six in a hundred have a
haemangioma, and it decides whether one healthy liver in a thousand is flagged."""

ORGANS: dict[str, tuple[Tissue, ...]] = {
    "background": (),
    "lung": LOBES,
    "heart": (Tissue.HEART,),
    "aorta": (Tissue.AORTA,),
    "liver": (Tissue.LIVER,),
    "gallbladder": (Tissue.GALLBLADDER,),
    "spleen": (Tissue.SPLEEN,),
    "kidney": (Tissue.KIDNEY,),
    "pancreas": (Tissue.PANCREAS,),
    "stomach": (Tissue.STOMACH,),
    "oesophagus": (Tissue.OESOPHAGUS,),
    "duodenum": (Tissue.DUODENUM,),
    "small_bowel": (Tissue.SMALL_BOWEL,),
    "colon": (Tissue.COLON,),
    "bladder": (Tissue.BLADDER,),
    "breast": (Tissue.BREAST,),
}
"""Labels of the localiser, in the order of its channels, and the tissues that each is made of."""

ORGAN_OF_CANCER: dict[Cancer, str] = {
    Cancer.PANCREAS: "pancreas", Cancer.OESOPHAGUS: "oesophagus", Cancer.LUNG: "lung", Cancer.BREAST: "breast",
    Cancer.LIVER: "liver", Cancer.STOMACH: "stomach", Cancer.COLORECTUM: "colon",
}  # fmt: skip

SCENERY: tuple[tuple[Tissue, ...], ...] = (
    (Tissue.OUTSIDE,),
    (Tissue.SKIN, Tissue.FAT, Tissue.MEDIASTINUM),
    (Tissue.MUSCLE,),
    (Tissue.BONE, Tissue.CARTILAGE, Tissue.SPINAL_CANAL, Tissue.METAL),
    LOBES,
    (Tissue.AIRWAY,),
    (Tissue.HEART,),
    (Tissue.AORTA, Tissue.VEIN, Tissue.ARTERY),
    (Tissue.LIVER,),
    (Tissue.GALLBLADDER, Tissue.BILE_DUCT),
    (Tissue.SPLEEN,),
    (Tissue.KIDNEY, Tissue.ADRENAL),
    (Tissue.PANCREAS,),
    (Tissue.STOMACH,),
    (Tissue.OESOPHAGUS,),
    (Tissue.DUODENUM, Tissue.SMALL_BOWEL),
    (Tissue.COLON,),
    (Tissue.BLADDER, Tissue.PROSTATE, Tissue.UTERUS),
    (Tissue.BREAST,),
    (Tissue.LYMPH_NODE, Tissue.THYROID, Tissue.EFFUSION),
)
"""What a detector also has to name while it learns, at half its resolution: a wall is thick only for its organ. One
more class, the last, is every finding that is no cancer."""


@dataclass(frozen=True)
class Window:
    """HU → input: (clip(HU, low, high) - mean) / std."""

    low: float
    high: float
    mean: float
    std: float

    def apply(self, hu: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The input, float32."""
        return np.asarray((np.clip(hu, self.low, self.high) - self.mean) / self.std, np.float32)


SOFT, AIRY = Window(-160.0, 240.0, 40.0, 40.0), Window(-1000.0, 240.0, -600.0, 250.0)


@dataclass(frozen=True)
class Recipe:
    """How one map-giving network is built and trained.

    features: of each level; the first works at half the input's resolution. patch: voxels (z, y, x). iterations: steps
    in all; more of them later are another leg (`loop`). cases: patients to draw from at a leg's first step, at most,
    and the step from which on it is that many; it grows evenly between. cancers: what a detector looks for; none: the
    localiser. shares: of a batch, patches at (cancers, findings that are none, places that were hard); the rest are
    anywhere in the organs.
    """

    name: str
    stage: Literal["localise", "detect"]
    window: Window
    spacing_mm: float
    features: tuple[int, ...]
    patch: Index
    batch: int
    iterations: int
    learning_rate: float
    cases: tuple[int, int, int]
    cancers: tuple[Cancer, ...] = ()
    shares: tuple[float, float, float] = (0.45, 0.1, 0.2)

    @property
    def labels(self) -> tuple[str, ...]:
        """Meaning of each output channel."""
        return ("background", *(c.value for c in self.cancers)) if self.cancers else tuple(ORGANS)

    @property
    def multiple(self) -> int:
        """Input axes are multiples of this."""
        return int(2 ** len(self.features))

    def pool(self, step: int) -> int:
        """How many patients step `step` of a leg draws from."""
        first, most, at = self.cases
        return first + (most - first) * min(step, at) // at


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="localiser", stage="localise", window=Window(-400.0, 400.0, 0.0, 150.0), spacing_mm=COARSE_MM,
            features=(16, 32, 64, 96, 128), patch=(96, 64, 96), batch=1, iterations=5000, learning_rate=2e-3,
            cases=(150, 500, 2000),
        ),
        Recipe(
            name="abdomen", stage="detect", window=SOFT, spacing_mm=SPACING_MM, features=(16, 48, 96, 160),
            patch=(64, 64, 64), batch=2, iterations=22000, learning_rate=2e-3, cases=(150, 500, 6000),
            cancers=(Cancer.PANCREAS, Cancer.LIVER, Cancer.STOMACH, Cancer.COLORECTUM),
        ),
        Recipe(
            name="chest", stage="detect", window=SOFT, spacing_mm=SPACING_MM, features=(16, 48, 96, 160),
            patch=(64, 64, 64), batch=2, iterations=10000, learning_rate=2e-3, cases=(300, 500, 4000),
            cancers=(Cancer.OESOPHAGUS, Cancer.BREAST),
        ),
        Recipe(
            name="lung", stage="detect", window=AIRY, spacing_mm=SPACING_MM, features=(16, 32, 64, 96),
            patch=(64, 64, 64), batch=2, iterations=5000, learning_rate=2e-3, cases=(300, 500, 3000),
            cancers=(Cancer.LUNG,),
        ),
    )
}  # fmt: skip


MIRROR: tuple[Axis, ...] = ("z", "x")
"""Along these the third stage sees candidates mirrored while it learns, and answers for all four. Not along y: fluid
lies below gas, and people on their back."""


@dataclass(frozen=True)
class CharacteriserRecipe:
    """How a network that looks at single candidates is built and trained.

    question: of all candidates of these cancers, which cancer is it, if any; or of one cancer, which subtype. block:
    voxels (z, y, x) at SPACING_MM around the candidate. references: organs whose brightness in this scan it is told.
    Without features it is a network that only measures (`calipers`).
    """

    name: str
    question: Literal["malignancy", "subtype"]
    cancers: tuple[Cancer, ...]
    window: Window
    labels: tuple[str, ...]
    references: tuple[str, ...] = ()
    features: tuple[int, ...] = (16, 32, 64, 96)
    block: Index = (48, 48, 48)
    batch: int = 12
    iterations: int = 1500
    learning_rate: float = 2e-3


def _subtypes(cancer: Cancer) -> tuple[str, ...]:
    """Names as a manifest takes them."""
    return tuple(kind.replace(" ", "_") for kind in difficulty.SUBTYPES[cancer.value])


_SOFT_CANCERS = tuple(c for c in Cancer if c is not Cancer.LUNG)
CHARACTERISERS: dict[str, CharacteriserRecipe] = {
    recipe.name: recipe
    for recipe in (
        CharacteriserRecipe(
            name="soft_malignancy", question="malignancy", cancers=_SOFT_CANCERS, window=SOFT,
            labels=("benign", *(c.value for c in _SOFT_CANCERS)), features=(16, 32, 64, 128), iterations=17000,
        ),
        CharacteriserRecipe(
            name="liver_malignancy", question="malignancy", cancers=(Cancer.LIVER,), window=SOFT,
            references=("aorta", "liver"), labels=("benign", Cancer.LIVER.value), features=(), batch=4, iterations=6000,
        ),
        CharacteriserRecipe(
            name="breast_malignancy", question="malignancy", cancers=(Cancer.BREAST,), window=SOFT,
            labels=("benign", Cancer.BREAST.value), features=(), batch=4, iterations=6000,
        ),
        CharacteriserRecipe(
            name="lung_malignancy", question="malignancy", cancers=(Cancer.LUNG,), window=AIRY,
            labels=("benign", Cancer.LUNG.value), features=(), batch=4, iterations=6000,
        ),
        CharacteriserRecipe(
            name="pancreas_subtype", question="subtype", cancers=(Cancer.PANCREAS,), window=SOFT,
            labels=_subtypes(Cancer.PANCREAS), iterations=2200,
        ),
        CharacteriserRecipe(
            name="liver_subtype", question="subtype", cancers=(Cancer.LIVER,), window=SOFT,
            labels=_subtypes(Cancer.LIVER), iterations=2200,
        ),
    )
}  # fmt: skip
"""Of two with a question about a cancer the later one is asked: it was made for that cancer alone."""


def organ_table() -> npt.NDArray[np.uint8]:
    """(256,): localiser's class of each tissue."""
    table = np.zeros(256, np.uint8)
    for channel, tissues in enumerate(ORGANS.values()):
        table[list(tissues)] = channel
    return table


def scenery_table() -> npt.NDArray[np.uint8]:
    """(256,): class of each tissue in SCENERY."""
    table = np.zeros(256, np.uint8)
    for number, tissues in enumerate(SCENERY):
        table[list(tissues)] = number
    return table
