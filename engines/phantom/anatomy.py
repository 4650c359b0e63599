"""The torso as layers painted one over another: body wall, bones, lungs, mediastinum; viscera come from `viscera`.

Template coordinates: x to the Left, y to Posterior, z up from the symphysis (0) past the diaphragm (about 390) to the
lung apices (about 625), in mm, of a man of 1.75 m. Sizes follow common anatomy tables; nobody's scan was copied.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from engines.phantom.labels import Tissue
from engines.phantom.patient import Patient
from engines.phantom.shapes import (
    Array,
    Both,
    Dome,
    Ellipsoid,
    Grid,
    Grown,
    HalfSpace,
    Intensity,
    Point,
    Prism,
    Shape,
    Tube,
    Union,
)

SKIN_MM = 2.0
# z, half width, half depth of the muscular body wall's outside (without subcutaneous fat)
_TRUNK = (
    (-80, 165, 98), (0, 168, 100), (60, 164, 96), (120, 158, 92), (180, 140, 88), (240, 138, 90), (300, 143, 95),
    (360, 150, 100), (420, 156, 105), (480, 160, 107), (540, 166, 100), (590, 178, 86), (625, 150, 72), (655, 75, 62),
    (700, 62, 60),
)  # fmt: skip
# z, half width, half depth, centre y of the inside of the body wall
_CAVITY = (
    (-20, 70, 45, 5), (40, 98, 66, -8), (90, 115, 74, -10), (150, 122, 72, -12), (240, 122, 74, -10),
    (300, 126, 79, -7), (360, 131, 84, -4), (420, 133, 86, -3), (480, 130, 84, -1), (530, 112, 73, 5),
    (575, 82, 56, 14), (610, 52, 36, 22), (632, 22, 15, 26), (645, 3, 3, 26),
)  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """A shape painted over what is there. soft_mm: how gradual its edge is beyond the voxel's own blur."""

    shape: Shape
    hu: Intensity
    tissue: Tissue
    soft_mm: float = 0.0


@dataclass(frozen=True)
class Frame:
    """The spaces that organs live in."""

    body: Shape
    wall: Shape
    cavity: Shape
    below: Dome
    lungs: Shape
    heart: Ellipsoid


class Jitter:
    """Draws each patient's small deviations from the template, in a fixed order."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def point(self, z: float, y: float, x: float, sd: float = 3.0) -> Point:
        d = np.clip(self.rng.normal(0, sd, 3), -2 * sd, 2 * sd)
        return (z + float(d[0]), y + float(d[1]), x + float(d[2]))

    def factor(self, sd: float) -> float:
        return float(np.exp(np.clip(self.rng.normal(0, sd), -2 * sd, 2 * sd)))

    def ellipsoid(self, centre: Point, radii: Point, turn: Point = (0, 0, 0), sd: float = 3.0) -> Ellipsoid:
        size = self.factor(0.04)
        grown = (
            radii[0] * size * self.factor(0.05),
            radii[1] * size * self.factor(0.05),
            radii[2] * size * self.factor(0.05),
        )
        bent = self.rng.normal(0, 0.06, 3)
        return Ellipsoid(
            self.point(*centre, sd=sd),
            grown,
            (turn[0] + float(bent[0]), turn[1] + float(bent[1]), turn[2] + float(bent[2])),
        )

    def tube(self, points: Iterable[Point], radii: Iterable[float], sd: float = 3.0) -> Tube:
        size = self.factor(0.07)
        coarse = [self.point(*p, sd=sd) for p in points]
        return smooth_tube(coarse, [r * size for r in radii])


def smooth_tube(points: list[Point], radii: list[float], per_segment: int = 3) -> Tube:
    """A tube through `points` along Catmull-Rom splines."""
    p = np.asarray(points, np.float64)
    p = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    t = np.arange(per_segment)[:, None] / per_segment
    curve, widths = [], []
    for i in range(len(points) - 1):
        a, b, c, d = p[i : i + 4]
        curve.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
        widths.append(radii[i] + (radii[i + 1] - radii[i]) * t[:, 0])
    curve.append(p[-2:-1])
    widths.append(np.asarray(radii[-1:]))
    return Tube(
        tuple((float(z), float(y), float(x)) for z, y, x in np.vstack(curve)),
        tuple(float(r) for r in np.concatenate(widths)),
    )


def spine_y(z: float | Array) -> Array:
    """y of the vertebral bodies' middle: lumbar lordosis, thoracic kyphosis."""
    knots = ((-40, 60), (60, 58), (170, 38), (260, 42), (400, 52), (480, 55), (580, 44), (650, 28), (700, 18))
    return np.asarray(np.interp(z, [k[0] for k in knots], [k[1] for k in knots]), np.float32)


def build_frame(patient: Patient) -> Frame:
    """Body outline, cavities, lungs and heart of `patient`."""
    jitter = Jitter(patient.generator(2))
    fat = patient.fat_mm

    def belly(z: float) -> float:
        return patient.belly_mm * float(np.exp(-(((z - 170) / 110) ** 2)))

    def padding(z: float) -> float:
        return fat * (1.0 if z < 300 else 0.55)

    wall = Prism(tuple((z, a + 0.4 * belly(z), b + 0.5 * belly(z), -0.5 * belly(z)) for z, a, b in _TRUNK), 0.35)
    skin = Prism(
        tuple(
            (z, a + 0.4 * belly(z) + padding(z), b + 0.5 * belly(z) + 0.8 * padding(z), -0.5 * belly(z))
            for z, a, b in _TRUNK
        ),
        0.3,
    )
    cavity = Prism(
        tuple((z, a + 0.4 * belly(z), b + 0.5 * belly(z), c - 0.5 * belly(z)) for z, a, b, c in _CAVITY), 0.3
    )
    lift = patient.breath_mm
    below = Dome(
        jitter.point(402 + lift, -8, -72, sd=4),
        jitter.point(389 + lift, -8, 72, sd=4),
        recess_mm=92 * jitter.factor(0.08),
    )
    heart = jitter.ellipsoid((428 + 0.6 * lift, -28, 24), (50, 44, 60), turn=(0.35, 0.2, 0.0), sd=4)
    lungs = Both(
        (Grown(cavity, -1.5), _apex_cap()), without=(Grown(below, 2.0), _mediastinum(heart), _spine_column(8.0))
    )
    body: Shape = skin
    if patient.sex == "F":
        body = Union((skin, *breasts(patient, grown=0.0)), blend_mm=12)
    return Frame(body, wall, cavity, below, lungs, heart)


def _apex_cap() -> Shape:
    return HalfSpace((632, 0, 0), (1, 0, 0))


def _mediastinum(heart: Ellipsoid) -> Shape:
    column = Prism(
        ((380, 26, 80, 10), (430, 26, 75, 8), (470, 34, 62, 6), (520, 34, 58, 6), (580, 26, 52, 6), (640, 24, 50, 6)),
        0.0,
    )
    return Union((column, Grown(heart, 3.0)), blend_mm=8)


def _spine_column(margin: float) -> Shape:
    zs = range(-40, 701, 30)
    return Tube(tuple((float(z), float(spine_y(z)), 0.0) for z in zs), tuple(19.0 + margin - 0.008 * z for z in zs))


def breasts(patient: Patient, grown: float) -> tuple[Ellipsoid, ...]:
    """The two breasts of a woman lying on her back."""
    rng = patient.generator(3)
    size = float(np.exp(rng.normal(0, 0.15))) * (0.85 + patient.fat_mm / 80)
    front = -105 - 0.35 * patient.fat_mm
    return tuple(
        Ellipsoid(
            (472.0, front + 12, side * 82.0),
            (62 * size + grown, 34 * size + grown, 64 * size + grown),
            (side * 0.35, 0.0, 0.0),
        )
        for side in (-1, 1)
    )


def body_layers(patient: Patient, frame: Frame) -> list[Layer]:
    """Skin, fat, muscle, the abdomen's fat, lungs and mediastinum, then bones."""
    hu = patient.hu
    layers = [
        Layer(frame.body, 20.0, Tissue.FAT),
        Layer(Grown(frame.body, -SKIN_MM), hu.fat, Tissue.FAT),
        Layer(frame.wall, hu.muscle, Tissue.MUSCLE),
        *_intermuscular_fat(patient),
    ]
    if patient.sex == "F":
        layers += [_gland(patient, frame, side) for side in breasts(patient, grown=-9.0)]
    layers += [
        Layer(frame.cavity, hu.fat, Tissue.FAT),
        Layer(Both((frame.cavity,), without=(Grown(frame.below, 2.0),)), hu.fat + 12, Tissue.MEDIASTINUM),
        Layer(
            Both((Grown(frame.cavity, 0.5), Grown(frame.below, 2.0)), without=(Grown(frame.below, -1.5),)),
            hu.muscle - 6,
            Tissue.MUSCLE,
        ),
        Layer(frame.lungs, _lung_texture(patient), Tissue.LUNG),
    ]
    return layers


def _gland(patient: Patient, frame: Frame, inner: Ellipsoid) -> Layer:
    rng = patient.generator(4)
    density = float(rng.uniform(0.15, 0.9))
    phase = rng.uniform(0, 6.28, 3).astype(np.float32)

    def streaky(grid: Grid, distance: Array) -> Array:
        wave = np.sin(grid.z * 0.25 + phase[0]) * np.sin(grid.x * 0.3 + phase[1]) + np.sin(grid.y * 0.4 + phase[2])
        share = np.clip(density + 0.5 * wave, 0, 1)
        return np.asarray(patient.hu.fat + share * (patient.hu.breast - patient.hu.fat), np.float32)

    return Layer(Both((inner,), without=(Grown(frame.wall, 3.0),)), streaky, Tissue.BREAST, soft_mm=2.0)


def _intermuscular_fat(patient: Patient) -> list[Layer]:
    """Thin fat planes in the back and flank, which keep the wall from looking like one muscle."""
    layers = []
    for side in (-1, 1):
        plane = Tube(((100.0, 78.0, side * 60.0), (330.0, 84.0, side * 70.0)), (5.0, 4.0))
        layers.append(Layer(plane, patient.hu.fat + 20, Tissue.FAT))
    return layers


def _lung_texture(patient: Patient) -> Intensity:
    phase = patient.generator(5).uniform(0, 6.28, 3).astype(np.float32)
    base = np.float32(patient.hu.lung)

    def texture(grid: Grid, distance: Array) -> Array:
        dependent = np.float32(0.38) * grid.y  # denser at the back: supine gravity gradient
        mottled = np.sin(grid.z * 0.21 + phase[0]) * np.sin(grid.y * 0.26 + phase[1]) * np.sin(grid.x * 0.23 + phase[2])
        return np.asarray(base + dependent + 14 * mottled, np.float32)

    return texture


def _bone(patient: Patient, shell_mm: float) -> Intensity:
    def marrow(grid: Grid, distance: Array) -> Array:
        depth = np.clip(-distance / np.float32(shell_mm), 0, 1)
        return np.asarray(patient.hu.cortical + (patient.hu.trabecular - patient.hu.cortical) * depth, np.float32)

    return marrow


def bone_layers(patient: Patient, frame: Frame) -> list[Layer]:
    """Ribs, sternum, spine, shoulder girdle and pelvis."""
    jitter = Jitter(patient.generator(6))
    bone = _bone(patient, 2.5)
    layers = [Layer(rib, _bone(patient, 2.0), Tissue.BONE) for rib in _ribs(patient, frame)]
    front = -0.5 * patient.belly_mm * 0.1 - 96
    layers.append(
        Layer(jitter.tube([(395, front, 0), (470, front, 0), (540, front + 16, 0)], [9, 9, 12], 2), bone, Tissue.BONE)
    )
    for side in (-1, 1):
        layers.append(
            Layer(
                Tube(((560, -68, side * 18), (600, -30, side * 90), (612, 0, side * 140)), (6, 5, 6)), bone, Tissue.BONE
            )
        )
        layers.append(
            Layer(
                Tube(((595, 55, side * 150), (540, 86, side * 105), (480, 92, side * 88)), (8, 5, 4)), bone, Tissue.BONE
            )
        )
        layers.append(Layer(Ellipsoid((605, 10, side * 158), (22, 22, 18)), bone, Tissue.BONE))
        wing = Ellipsoid((95, 20, side * 98), (72, 62, 26), (side * 0.5, 0.0, side * -0.35))
        layers.append(
            Layer(
                Both(
                    (wing,),
                    without=(Grown(Ellipsoid((105, 0, side * 78), (80, 70, 28), (side * 0.5, 0.0, side * -0.35)), 0),),
                ),
                bone,
                Tissue.BONE,
            )
        )
        layers.append(Layer(Ellipsoid((8, 0, side * 92), (25, 25, 25)), bone, Tissue.BONE))
        layers.append(
            Layer(Tube(((5, -20, side * 70), (0, -62, side * 20), (-2, -66, side * 2)), (13, 9, 9)), bone, Tissue.BONE)
        )
    layers.append(Layer(Ellipsoid((85, 68, 0), (52, 24, 52), (0, 0, 0.35)), bone, Tissue.BONE))
    layers += _spine(patient)
    return layers


def _ribs(patient: Patient, frame: Frame) -> list[Tube]:
    """Twelve pairs, sloping forward and down along the inside of the chest wall."""
    knots = np.asarray(_CAVITY)
    ribs = []
    for number in range(12):
        back_z = 612 - 25.5 * number
        reach = np.pi * (0.93 if number < 7 else 0.93 - 0.11 * (number - 6))
        angles = np.linspace(0.22, reach, 13)
        for side in (-1, 1):
            points = []
            for angle in angles:
                z = back_z - (38 + 4 * min(number, 6)) * (1 - np.cos(angle)) * 0.62
                half_x, half_y, mid = (np.interp(z, knots[:, 0], knots[:, i]) for i in (1, 2, 3))
                bulge = 0.4 * patient.belly_mm * np.exp(-(((z - 170) / 110) ** 2))
                y = mid + (half_y + 7 + bulge) * np.cos(angle)
                x = side * (half_x + 8 + bulge) * np.sin(angle) ** 0.75
                points.append((float(z), float(y), float(x)))
            ribs.append(Tube(tuple(points), (5.0,) * len(points)))
    return ribs


def _spine(patient: Patient) -> list[Layer]:
    zs = [float(z) for z in range(-40, 701, 20)]
    column = Tube(tuple((z, float(spine_y(z)), 0.0) for z in zs), tuple(22.0 - 0.012 * z for z in zs))
    canal = Tube(tuple((z, float(spine_y(z)) + 28 - 0.01 * z, 0.0) for z in zs), (8.5,) * len(zs))
    layers = []
    for z in range(110, 690, 29):
        y = float(spine_y(z))
        layers.append(Layer(Tube(((z, y + 30, 0), (z - 9, y + 48, 0)), (8, 5)), _bone(patient, 3.0), Tissue.BONE))
        for side in (-1, 1):
            layers.append(
                Layer(Tube(((z, y + 18, side * 12), (z, y + 30, side * 30)), (7, 5)), _bone(patient, 3.0), Tissue.BONE)
            )

    def bodies_and_discs(grid: Grid, distance: Array) -> Array:
        disc = np.clip((np.cos(grid.z * np.float32(2 * np.pi / 29)) - 0.72) * 5, 0, 1)
        depth = np.clip(-distance / 2.5, 0, 1)
        vertebra = patient.hu.cortical * 0.6 + (patient.hu.trabecular - patient.hu.cortical * 0.6) * depth
        return np.asarray(vertebra + (85 - vertebra) * disc, np.float32)

    layers.append(Layer(column, bodies_and_discs, Tissue.BONE))
    layers.append(Layer(Grown(canal, 2.5), patient.hu.cortical * 0.5, Tissue.BONE))
    layers.append(Layer(canal, 22.0, Tissue.FAT))
    return layers
