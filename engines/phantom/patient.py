"""Who the synthetic patient is: a small frozen description from which everything else follows.

`sample_patient(seed)` draws one. The description alone, not a random state, decides the images: the same Patient gives
the same anatomy, the same lesions and the same noise. HU ranges are those of non-contrast CT in `docs/model-card.md`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np

from engines.phantom.shapes import Point
from engines.phantom.warp import Warp


class LesionKind(str, enum.Enum):
    """What a lesion is. The last three are look-alikes: they must not be called cancer."""

    LUNG_SOLID = "lung_solid"
    LUNG_SPICULATED = "lung_spiculated"
    LUNG_GROUND_GLASS = "lung_ground_glass"
    LIVER_HYPODENSE = "liver_hypodense"
    LUNG_GRANULOMA = "lung_granuloma"
    LIVER_CYST = "liver_cyst"
    LIVER_CALCIFICATION = "liver_calcification"

    @property
    def organ(self) -> str:
        """ "lung" or "liver"."""
        return self.value.split("_", 1)[0]

    @property
    def is_cancer(self) -> bool:
        """False for look-alikes."""
        return self not in (self.LUNG_GRANULOMA, self.LIVER_CYST, self.LIVER_CALCIFICATION)


@dataclass(frozen=True)
class Lesion:
    """One lesion. centre: template mm z-y-x. diameter_mm: in the patient. hu: of its middle. phase: its shape's own."""

    kind: LesionKind
    centre: Point
    diameter_mm: float
    hu: float
    phase: Point


@dataclass(frozen=True)
class Intensities:
    """HU of the patient's tissues, without noise."""

    fat: float
    muscle: float
    blood: float
    heart: float
    lung: float
    liver: float
    spleen: float
    kidney: float
    pancreas: float
    wall: float
    breast: float
    trabecular: float
    cortical: float
    bile: float


@dataclass(frozen=True)
class Patient:
    """One synthetic patient.

    scale: patient mm per template mm (z, y, x); the template is a man of 1.75 m. fat_mm: subcutaneous fat at the flank.
    belly_mm: visceral fat as extra depth of the abdomen. breath_mm: how much higher (+) than usual the diaphragm is.
    """

    seed: int
    sex: str
    age_years: int
    scale: Point
    fat_mm: float
    belly_mm: float
    breath_mm: float
    steatosis: bool
    hu: Intensities
    lesions: tuple[Lesion, ...] = ()

    def generator(self, *purpose: int) -> np.random.Generator:
        """A random stream of this patient's own for one purpose: streams never disturb each other."""
        return np.random.Generator(np.random.PCG64([self.seed, *purpose]))

    def cancers(self, organ: str) -> tuple[Lesion, ...]:
        """The malignant lesions in "lung" or "liver"."""
        return tuple(x for x in self.lesions if x.kind.organ == organ and x.kind.is_cancer)


def describe_body(seed: int) -> Patient:
    """A patient without lesions."""
    rng = np.random.Generator(np.random.PCG64([seed, 0]))
    female = bool(rng.random() < 0.5)
    height = float(np.clip(rng.normal(1.62 if female else 1.75, 0.07), 1.45, 1.98))
    habitus = float(np.clip(rng.normal(0, 1), -2, 2.5))
    stature = height / 1.75
    girth = 0.96 + 0.035 * habitus + (0 if female else 0.03)
    age = int(rng.integers(35, 86))
    steatosis = bool(rng.random() < 0.2 + 0.08 * max(habitus, 0))
    return Patient(
        seed=seed,
        sex="F" if female else "M",
        age_years=age,
        scale=(
            stature * float(rng.normal(1, 0.03)),
            girth * float(rng.normal(1, 0.03)),
            girth * float(rng.normal(1, 0.025)) * stature**0.3,
        ),
        fat_mm=float(np.clip(16 + 8 * habitus + (6 if female else 0) + rng.normal(0, 3), 4, 50)),
        belly_mm=float(np.clip(8 + 10 * habitus - (4 if female else 0) + rng.normal(0, 4), -6, 45)),
        breath_mm=float(np.clip(rng.normal(0, 10), -20, 25)),
        steatosis=steatosis,
        hu=_draw_intensities(rng, steatosis, age),
    )


def _draw_intensities(rng: np.random.Generator, steatosis: bool, age: int) -> Intensities:
    def draw(mean: float, sd: float) -> float:
        return float(np.clip(rng.normal(mean, sd), mean - 2.5 * sd, mean + 2.5 * sd))

    blood = draw(42, 3)
    return Intensities(
        fat=draw(-102, 6),
        muscle=draw(52, 5),
        blood=blood,
        heart=blood + draw(-1, 1),
        lung=draw(-825, 30),
        liver=draw(32, 8) if steatosis else draw(58, 5),
        spleen=draw(48, 3),
        kidney=draw(32, 3),
        pancreas=draw(36, 4),
        wall=draw(38, 4),
        breast=draw(30, 6),
        trabecular=draw(230 - 1.6 * (age - 35), 30),
        cortical=draw(750, 80),
        bile=draw(8, 4),
    )


def warp_of(patient: Patient) -> Warp:
    """The warp of `patient`."""
    rng = patient.generator(1)
    amplitude = rng.uniform((1.5, 1.5, 1.5), (5, 4, 4))
    return Warp(
        scale=patient.scale,
        amplitude=(float(amplitude[0]), float(amplitude[1]), float(amplitude[2])),
        wavelength=rng.uniform(150, 320, (3, 2)),
        phase=rng.uniform(0, 2 * np.pi, (3, 2)),
    )
