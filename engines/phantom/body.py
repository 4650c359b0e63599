"""The outside of the torso: skin, fat, muscular wall, shoulders and arms, breasts; and the cavities inside.

Template coordinates: x to the Left, y to Posterior, z up from the symphysis (0) past the diaphragm (about 395) to the
lung apices (about 600), in mm, of a man of 1.75 m. Sizes follow common anatomy tables; nobody's scan was copied.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engines.phantom.fields import Array, Field, union
from engines.phantom.labels import Tissue
from engines.phantom.person import Person
from engines.phantom.planes import muscle_planes
from engines.phantom.shapes import Dome, Ellipsoid, Prism, Shape, Union
from engines.phantom.strands import Strands
from engines.phantom.studio import Intensity, Spot, Studio, smooth_tube

Knots = tuple[tuple[float, float, float, float], ...]
FloatArray = Array | npt.NDArray[np.float64]
SKIN_MM = 1.8
# z, half width, half depth, centre y of the outside of the muscular wall
TRUNK = (
    (-90, 172, 96, 6), (0, 170, 98, 4), (60, 166, 97, 4), (100, 158, 95, 5), (150, 143, 94, 6), (200, 137, 95, 7),
    (260, 137, 96, 7), (320, 142, 98, 5), (380, 147, 99, 1), (440, 150, 102, 1), (500, 148, 101, 3), (550, 140, 92, 8),
    (590, 118, 74, 14), (615, 84, 63, 12), (640, 62, 58, 6), (700, 57, 58, 0),
)  # fmt: skip
# z, half width, half depth, centre y of the inside of the wall
CAVITY = (
    (-30, 20, 20, 22), (0, 50, 46, 8), (40, 64, 60, 0), (65, 78, 66, -6), (95, 98, 70, -9), (125, 111, 70, -9),
    (160, 119, 71, -9), (220, 121, 72, -9), (280, 124, 75, -8), (340, 128, 80, -6), (390, 131, 85, -4),
    (440, 132, 86, -3), (490, 127, 82, 0), (530, 113, 73, 6), (565, 88, 57, 13), (590, 62, 41, 20), (606, 34, 22, 24),
    (614, 3, 3, 26),
)  # fmt: skip


def belly(person: Person, z: float) -> float:
    """How far visceral fat pushes the wall out at template z, mm."""
    return person.belly_mm * float(np.exp(-(((z - 185) / 105) ** 2)))


def _grown_knots(person: Person, knots: Knots, fat: bool) -> Knots:
    rows = []
    for z, a, b, c in knots:
        out = belly(person, z)
        pad = person.fat_mm * (1.0 if z < 280 else max(1 - (z - 280) / 260, 0.45)) if fat else 0.0
        rows.append(
            (z, a + 0.45 * out + pad, b + 0.5 * out + 0.85 * pad, c - 0.5 * out + (0.1 * pad if z < 120 else 0))
        )
    return tuple(rows)


def build_body(studio: Studio) -> None:
    """Fields: wall, body, cavity, below, arms."""
    person = studio.person
    trunk = Prism(_grown_knots(person, TRUNK, False), 0.32)
    shoulders = [s for side in (-1, 1) for s in _shoulder(side, person.arms_up, 0.0)]
    wall = studio.field(Union((trunk, *shoulders), blend_mm=22), lumps_mm=1.2)
    studio.fields["wall"] = wall
    fat = 0.5 * person.fat_mm
    outline: list[Shape] = [Prism(_grown_knots(person, TRUNK, True), 0.28)]
    outline += [s for side in (-1, 1) for s in _shoulder(side, person.arms_up, fat + 2)]
    body = studio.field(Union(tuple(outline), blend_mm=25), lumps_mm=1.5)
    body = union(body, wall.grown(SKIN_MM + 1.5), blend_mm=6)
    if person.sex == "F":
        body = union(body, *(studio.field(b, lumps_mm=2) for b in breasts(person)), blend_mm=26)
    else:
        body = union(body, *(studio.field(b) for b in _male_chest(person)), blend_mm=28)
    studio.fields["body"] = body
    studio.fields["cavity"] = studio.field(Prism(_grown_knots(person, CAVITY, False), 0.3), lumps_mm=1.0)
    rng, lift = person.rng(10), person.breath_mm
    dome = Dome(
        (404 + lift + float(rng.normal(0, 4)), -8, -70),
        (390 + lift + float(rng.normal(0, 4)), -6, 72),
        recess_mm=float(rng.uniform(82, 100)),
    )
    studio.fields["below"] = _saturated(studio, dome)


def _saturated(studio: Studio, dome: Dome) -> Field:
    """What is below the diaphragm, whose recesses end in a curve and not in a plane."""
    z, y, x = studio.canvas.template
    tops = []
    for (tz, ty, tx), side in ((dome.right, -1), (dome.left, 1)):
        lateral, back = (x - tx) * side, y - ty
        drop = np.where(lateral > 0, (lateral / 58) ** 2 * (0.75 * dome.recess_mm), (lateral / 80) ** 2 * 16)
        drop = drop + np.where(back > 0, (back / 78) ** 2 * dome.recess_mm, (back / 75) ** 2 * 38)
        limit = 1.9 * dome.recess_mm
        tops.append(tz - limit * (1 - np.exp(-drop / limit)))
    values = (z - np.maximum(*tops)) * np.float32(0.65) - 1.5 * studio.canvas.lumps
    return studio.canvas.constant(np.minimum(values, 60).astype(np.float32))


def _shoulder(side: int, arms_up: bool, pad: float) -> list[Shape]:
    """Shoulder and arm of one side, and the muscles at the side of the chest."""
    lat = smooth_tube(
        [(400, 30, side * 128), (470, 42, side * 132), (540, 34, side * 140)], [20 + pad, 32 + pad, 40 + pad]
    )
    if arms_up:
        arm = smooth_tube(
            [(540, 30, side * 140), (590, 22, side * 165), (640, -8, side * 180), (720, -30, side * 190)],
            [42 + pad, 46 + pad, 46 + pad, 42 + pad],
        )
    else:
        arm = smooth_tube(
            [(560, 22, side * 150), (585, 18, side * 180), (500, 24, side * 222), (300, 30, side * 238),
             (150, 0, side * 236), (-80, -15, side * 225)],
            [44 + pad, 48 + pad, 44 + pad, 36 + pad, 36 + pad, 26 + pad],
        )  # fmt: skip
    return [lat, arm]


def breasts(person: Person, inside_mm: float = 0.0) -> tuple[Ellipsoid, ...]:
    """The two breasts of a woman lying on her back, template mm; smaller by `inside_mm`."""
    rng = person.rng(11)
    size = min(float(np.exp(rng.normal(0, 0.14))) * (0.82 + person.fat_mm / 110), 1.3)
    front = -101 - 0.5 * person.fat_mm
    return tuple(
        Ellipsoid(
            (470.0, front + 8, side * (80.0 + 8 * size)),
            (60 * size - inside_mm, 27 * size - inside_mm, 68 * size - inside_mm),
            (side * 0.42, 0.0, 0.0),
        )
        for side in (-1, 1)
    )


def _male_chest(person: Person) -> tuple[Ellipsoid, ...]:
    front = -96 - 0.45 * person.fat_mm
    depth = 5 + 0.16 * person.fat_mm
    return tuple(
        Ellipsoid((478.0, front + 4, side * 70.0), (48, depth, 46), (side * 0.3, 0.0, 0.0)) for side in (-1, 1)
    )


def streaky_muscle(person: Person, shift: float = 0.0) -> Intensity:
    """Muscle with streaks of fat: the older and the weaker, the more."""

    def colour(spot: Spot) -> Array:
        fibres = spot.fibres(shift + 3)
        streaks = np.clip((fibres * 0.5 + spot.mottle(shift + 5) * 0.3 - 0.75 + 0.6 * person.sarcopenia), 0, 1)
        flesh = person.hu.muscle - 4 * person.sarcopenia + 2.5 * fibres
        return np.asarray(flesh + streaks * (person.hu.fat - person.hu.muscle) * 0.45, np.float32)

    return colour


def paint_body(studio: Studio) -> None:
    """Skin, subcutaneous fat with septa, muscles with the fat between them, the fat inside."""
    person, f = studio.person, studio.fields

    def fat(spot: Spot) -> Array:
        # Septa are where a smooth noise is 0: connected sheets around lobules of fat.
        mottle = spot.mottle(11)
        septa = np.clip(1 - 7 * np.abs(mottle), 0, 1) * np.clip(1.2 * spot.clouds(13), 0, 1) * 42
        return np.asarray(person.hu.fat + 2 * mottle + septa, np.float32)

    studio.paint(f["body"], 15.0, Tissue.SKIN)
    studio.paint(f["body"].grown(-SKIN_MM), fat, Tissue.FAT)
    studio.paint(f["wall"], streaky_muscle(person), Tissue.MUSCLE)
    muscle_planes(studio)
    studio.paint(f["cavity"], _visceral_fat(person), Tissue.FAT)


def _visceral_fat(person: Person) -> Intensity:
    def colour(spot: Spot) -> Array:
        strands = np.clip(np.abs(spot.grain(21)) * -6 + 1, 0, 1) * 38 + np.clip(spot.mottle(23) - 1.2, 0, 1) * 25
        return np.asarray(person.hu.fat - 2 + strands, np.float32)

    return colour


def muscles_inside(studio: Studio) -> None:
    """Psoas, iliacus, quadratus lumborum, the diaphragm's crura and leaf: over the fat inside."""
    person = studio.person
    weak = 1 - 0.3 * person.sarcopenia
    rng = person.rng(12)
    colour = streaky_muscle(person, 31)
    parts = []
    for side in (-1, 1):
        psoas = studio.jitter(
            rng,
            [
                (272, 44, side * 22),
                (215, 40, side * 34),
                (160, 36, side * 43),
                (100, 14, side * 58),
                (30, -28, side * 78),
            ],
            2,
        )
        parts.append(studio.field(smooth_tube(psoas, [7, 15 * weak, 20 * weak, 19 * weak, 14])))
        iliacus = studio.jitter(rng, [(150, 22, side * 92), (110, 20, side * 84), (60, -8, side * 84)], 2)
        parts.append(studio.field(smooth_tube(iliacus, [8, 14 * weak, 14])))
        quadratus = [(262, 62, side * 52), (205, 58, side * 66), (160, 58, side * 74)]
        parts.append(studio.field(smooth_tube(quadratus, [8, 11, 12])))
    studio.paint(union(*parts), colour, Tissue.MUSCLE)
    crura: Strands = studio.thin(
        ([(388, 26, -14), (330, 34, -15), (265, 26, -17), (232, 24, -16)], [4, 7, 6, 2.5]),
        ([(388, 26, 22), (330, 34, 20), (265, 28, 17), (240, 26, 15)], [4, 6, 5, 2.5]),
    )
    studio.paint(crura, person.hu.muscle - 4, Tissue.MUSCLE)
    below, cavity = studio.fields["below"], studio.fields["cavity"]
    leaf = studio.canvas.constant(np.maximum(np.abs(below.values + 0.4) - 1.6, cavity.on(below.where) - 1.0))
    studio.paint(leaf, person.hu.muscle - 6, Tissue.MUSCLE)
