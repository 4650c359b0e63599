"""Who is scanned: a frozen description, drawn from a seed, from which anatomy, findings and noise follow.

`sample_person` draws body, habits of tissue and what is wrong; `Plan` says which cancer or look-alike, how large and
how faint, by the law in `difficulty`. Where exactly it lies is decided when the anatomy stands (`build`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from core.finding import Cancer
from engines.phantom import difficulty
from engines.phantom.warp import Warp

Key = TypeVar("Key")
Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """A finding to come. kind: subtype of a cancer, or the look-alike's name. at: 0..1, where along or in its organ.

    hu: contrast to the parenchyma, or absolute where the law says so. thick_mm: of a diseased wall. signs: secondary.
    """

    organ: str
    kind: str
    cancer: bool
    diameter_mm: float
    hu: float
    at: float
    thick_mm: float = 0.0
    signs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tissues:
    """HU of the person's tissues in a scan without contrast medium and noise."""

    fat: float
    muscle: float
    blood: float
    lung: float
    liver: float
    spleen: float
    kidney: float
    pancreas: float
    wall: float
    gland: float
    trabecular: float
    cortical: float
    bile: float


@dataclass(frozen=True)
class Person:
    """One synthetic person. Lengths in mm, z-y-x.

    scale: patient mm per template mm; the template is a man of 1.75 m. fat_mm: subcutaneous fat at the flank. belly_mm:
    how far visceral fat pushes the belly out. breath_mm: how much higher (+) than usual the diaphragm is. sarcopenia,
    emphysema, calcium, breast_density: 0..1. pancreas_fat: share of fat in the pancreas.
    """

    seed: int
    sex: str
    age_years: int
    height_m: float
    habitus: float
    scale: tuple[float, float, float]
    fat_mm: float
    belly_mm: float
    breath_mm: float
    steatosis: bool
    pancreas_fat: float
    sarcopenia: float
    emphysema: float
    calcium: float
    breast_density: float
    arms_up: bool
    hu: Tissues
    plans: tuple[Plan, ...] = ()

    def rng(self, *purpose: int) -> np.random.Generator:
        """A random stream for one purpose: streams never disturb each other."""
        return np.random.Generator(np.random.PCG64([self.seed, 77, *purpose]))

    @property
    def mean_scale(self) -> float:
        """Patient mm per template mm, geometric mean of the axes."""
        return float(np.cbrt(np.prod(self.scale)))

    def has(self, kind: str) -> bool:
        """Whether a look-alike or cancer of this kind is planned."""
        return any(p.kind == kind for p in self.plans)

    def cancers(self, organ: str | None = None) -> tuple[Plan, ...]:
        """The cancers planned, of one organ or of all."""
        return tuple(p for p in self.plans if p.cancer and organ in (None, p.organ))

    def warp(self) -> Warp:
        """The smooth shears that make organs this person's own."""
        rng = self.rng(1)
        amplitude = rng.uniform((1.0, 1.0, 1.0), (4.0, 3.0, 3.0))
        return Warp(
            self.scale,
            (float(amplitude[0]), float(amplitude[1]), float(amplitude[2])),
            rng.uniform(150, 320, (3, 2)),
            rng.uniform(0, 2 * np.pi, (3, 2)),
        )

    def to_patient(self, points: npt.ArrayLike) -> Points:
        """Patient positions (n, 3) z-y-x mm of template points, by fixed-point iteration (the warp is gentle)."""
        goal = np.asarray(points, np.float64).reshape(-1, 3)
        warp, scale = self.warp(), np.asarray(self.scale)
        here = goal * scale
        for _ in range(12):
            z, y, x = here.T.astype(np.float32)
            here = here + (goal - np.stack(warp.to_template(z, y, x), axis=1)) * scale
        return np.asarray(here, np.float64)


def sample_person(
    seed: int,
    wanted: Mapping[Cancer, int] | None = None,
    *,
    shifted: bool = False,
    diameter_mm: float | None = None,
    lookalikes: Mapping[str, float] | None = None,
) -> Person:
    """Draw a person. wanted: how many cancers of which organ; None: healthy in 45 %, else one, rarely two.
    Who gets a breast cancer is a woman.

    shifted: by the shifted cohort's law. diameter_mm: of every cancer, instead of drawing it. lookalikes: chance of
    kinds of look-alikes instead of the law's, for who learns to tell them from cancers; up to three of a kind then.
    """
    rng = np.random.Generator(np.random.PCG64([seed, 77, 0]))
    mean = float(difficulty.SHIFTED["habitus_mean"]) if shifted else 0.0  # type: ignore[arg-type]
    person = _body(seed, rng, mean)
    if wanted is None:
        number = int(rng.choice(3, p=(0.45, 0.50, 0.05)))
        chosen = [list(Cancer)[int(i)] for i in rng.choice(7, number, replace=False)]
        wanted = dict.fromkeys(chosen, 1)
    if wanted.get(Cancer.BREAST) and person.sex == "M":
        person = _body(seed, np.random.Generator(np.random.PCG64([seed, 77, 0])), mean, sex="F")
    plans = [
        _cancer(person.rng(2, i), c.value, shifted, diameter_mm)
        for i, c in enumerate(Cancer)
        for _ in range(wanted.get(c, 0))
    ]
    plans += _lookalikes(person.rng(3), person, lookalikes or {})
    return replace(person, plans=tuple(plans))


def _body(seed: int, rng: np.random.Generator, habitus_mean: float, sex: str | None = None) -> Person:
    drawn = "F" if rng.random() < 0.5 else "M"
    sex = sex or drawn
    female = sex == "F"
    height = float(np.clip(rng.normal(1.62 if female else 1.75, 0.07), 1.45, 1.98))
    habitus = float(np.clip(rng.normal(habitus_mean, 1), -2, 2.6))
    age = int(rng.integers(30, 90))
    stature = height / 1.75
    girth = 1.06 + 0.03 * habitus - (0.06 if female else 0)
    steatosis = bool(rng.random() < 0.2 + 0.08 * max(habitus, 0))
    old = np.clip((age - 45) / 45, 0, 1)
    return Person(
        seed=seed,
        sex=sex,
        age_years=age,
        height_m=round(height, 2),
        habitus=habitus,
        scale=(
            stature * float(rng.normal(1, 0.02)),
            girth * float(rng.normal(1, 0.025)),
            girth * float(rng.normal(1, 0.02)) * stature**0.3,
        ),
        fat_mm=float(np.clip(17 + 8 * habitus + (6 if female else 0) + rng.normal(0, 3), 4, 52)),
        belly_mm=float(np.clip(13 + 11 * habitus - (5 if female else 0) + 6 * old + rng.normal(0, 4), -8, 52)),
        breath_mm=float(np.clip(rng.normal(0, 9), -18, 22)),
        steatosis=steatosis,
        pancreas_fat=float(
            np.clip(0.10 + 0.35 * old * rng.random() + 0.07 * max(habitus, 0) + rng.normal(0, 0.06), 0.02, 0.6)
        ),
        sarcopenia=float(np.clip(0.15 + 0.55 * old + rng.normal(0, 0.12), 0, 1)),
        emphysema=float(np.clip(rng.exponential(0.12) * (0.3 + old), 0, 1)),
        calcium=float(np.clip(old * rng.uniform(0.2, 1.6), 0, 1)),
        breast_density=float(np.clip(0.75 - 0.5 * old + rng.normal(0, 0.18), 0.08, 0.95)),
        arms_up=bool(rng.random() < 0.85),
        hu=_tissues(rng, steatosis, age),
    )


def _tissues(rng: np.random.Generator, steatosis: bool, age: int) -> Tissues:
    def draw(mean: float, sd: float) -> float:
        return float(np.clip(rng.normal(mean, sd), mean - 2.5 * sd, mean + 2.5 * sd))

    return Tissues(
        fat=draw(-104, 4),
        muscle=draw(54, 4),
        blood=draw(42, 3),
        lung=draw(-845, 22),
        liver=max(draw(30, 9), 5.0) if steatosis else draw(58, 5),
        spleen=draw(48, 3),
        kidney=draw(33, 3),
        pancreas=draw(39, 3),
        wall=draw(38, 3),
        gland=draw(32, 5),
        trabecular=draw(215 - 1.9 * max(age - 35, 0), 28),
        cortical=draw(780, 70),
        bile=draw(8, 4),
    )


def pick(rng: np.random.Generator, shares: Mapping[Key, float]) -> Key:
    """A key of `shares`, as often as its value says."""
    keys = list(shares)
    weights = np.asarray([shares[k] for k in keys], np.float64)
    return keys[int(rng.choice(len(keys), p=weights / weights.sum()))]


def _cancer(rng: np.random.Generator, organ: str, shifted: bool, diameter_mm: float | None) -> Plan:
    kind = pick(rng, difficulty.SUBTYPES[organ])
    classes = dict(enumerate(difficulty.SIZE_SHARES[organ]))
    low, high = difficulty.SIZE_CLASSES_MM[pick(rng, classes)]
    diameter = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    if shifted:
        diameter *= float(difficulty.SHIFTED["smaller"])  # type: ignore[arg-type]
    diameter = diameter_mm or diameter
    thick = 0.0
    if organ in difficulty.WALL_MM:
        thin, wide = difficulty.WALL_MM[organ]
        reach = np.clip((diameter - 10) / 45, 0, 1)  # longer tumours are thicker
        thick = float(thin + (wide - thin) * np.clip(reach + rng.normal(0, 0.2), 0, 1))
    signs = tuple(s for s in _possible_signs(organ, kind) if rng.random() < difficulty.SIGNS[s])
    hu = _contrast(rng, organ, kind, diameter, signs)
    if shifted and organ not in ("lung", "breast"):
        hu *= float(difficulty.SHIFTED["contrast_factor"])  # type: ignore[arg-type]
    return Plan(organ, kind, True, diameter, hu, float(rng.random()), thick, signs)


def _contrast(rng: np.random.Generator, organ: str, kind: str, diameter: float, signs: tuple[str, ...]) -> float:
    if organ == "lung":
        return float(
            rng.uniform(*difficulty.ABSOLUTE_HU["lung ground glass" if kind == "ground-glass" else "lung solid"])
        )
    if organ == "breast":
        return float(rng.uniform(*difficulty.ABSOLUTE_HU["breast"]))
    hu = float(rng.uniform(*difficulty.CONTRAST_HU.get(kind, difficulty.CONTRAST_HU["hollow"])))
    if organ in difficulty.FAINTEST_HU_MM:
        hu = float(np.copysign(max(abs(hu), difficulty.FAINTEST_HU_MM[organ] / diameter), hu))
    if organ in difficulty.FAINTEST_WITHOUT_SIGN_HU and not {"duct dilatation", "upstream atrophy"} & set(signs):
        hu = float(np.copysign(max(abs(hu), difficulty.FAINTEST_WITHOUT_SIGN_HU[organ]), hu))
    return hu


def _possible_signs(organ: str, kind: str) -> tuple[str, ...]:
    if organ == "pancreas":
        ductal = ("duct dilatation", "upstream atrophy", "bile duct dilatation", "fat stranding")
        return ductal if kind == "ductal adenocarcinoma" else ()
    table = {
        "oesophagus": ("upstream distension", "regional nodes"),
        "stomach": ("fat stranding", "regional nodes"),
        "colorectum": ("upstream distension", "fat stranding", "regional nodes"),
        "lung": ("pleural tail", "regional nodes"),
        "breast": ("skin thickening", "regional nodes"),
        "liver": {"hepatocellular carcinoma": ("capsule",), "cholangiocarcinoma": ("bile duct dilatation",)}.get(
            kind, ()
        ),
    }
    return tuple(table[organ])


_SITE = {
    "liver": "liver", "kidney": "kidney", "lung": "lung", "intrapulmonary": "lung", "pancreatic": "pancreas",
    "breast": "breast", "gynaecomastia": "breast", "collapsed": "stomach", "hiatal": "stomach", "diverticula": "colon",
    "gallstones": "gallbladder", "effusion": "pleura", "lymph": "nodes", "metal": "anywhere",
}  # fmt: skip
_TIMES = {"liver cyst": 3, "lung granuloma": 3, "kidney cyst": 3, "lymph nodes": 7, "diverticula": 6, "gallstones": 3}


def site_of(kind: str) -> str:
    """Where a look-alike of this kind is."""
    return _SITE[kind.split()[0]]


def _lookalikes(rng: np.random.Generator, person: Person, chances: Mapping[str, float]) -> list[Plan]:
    plans = []
    for kind, (chance, low, high) in difficulty.LOOKALIKES.items():
        site = site_of(kind)
        hit = rng.random() < chances.get(kind, chance)
        most = max(_TIMES.get(kind, 1), 3 if kind in chances else 1)
        count = int(rng.integers(1, most + 1))
        if not hit or ((site == "breast") and (kind == "gynaecomastia") != (person.sex == "M")):
            continue
        for _ in range(count):
            size = float(np.exp(rng.uniform(np.log(low), np.log(high)))) if high else 0.0
            plans.append(Plan(site, kind, False, size, 0.0, float(rng.random())))
    return plans
