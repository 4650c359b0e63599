"""Organs of abdomen and mediastinum, and the vessel trees of liver and lungs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.phantom.anatomy import Frame, Jitter, Layer, spine_y
from engines.phantom.labels import Tissue
from engines.phantom.patient import Patient
from engines.phantom.shapes import (
    Array,
    Both,
    Ellipsoid,
    Grid,
    Grown,
    HalfSpace,
    Intensity,
    Lumpy,
    Point,
    Shape,
    Tube,
    Union,
    points_grid,
)

Points = npt.NDArray[np.float64]
"""Template positions (n, 3) z-y-x in mm."""


@dataclass(frozen=True)
class Organs:
    """The organs that lesions and vessels are put into."""

    liver: Shape
    lungs: Shape


def build_organs(patient: Patient, frame: Frame) -> Organs:
    """Liver and lungs of `patient`."""
    return Organs(liver=_liver(patient, frame), lungs=frame.lungs)


def _liver(patient: Patient, frame: Frame) -> Shape:
    jitter = Jitter(patient.generator(10))
    lift = 0.7 * patient.breath_mm
    right = jitter.ellipsoid((325 + lift, 0, -76), (92, 76, 68), turn=(0.0, 0.0, 0.1))
    left = jitter.ellipsoid((352 + lift, -42, 10), (36, 40, 72), turn=(-0.2, 0.15, 0.0))
    visceral = HalfSpace(jitter.point(285, 22, -40, sd=5), (-0.75, 0.35, 0.75))
    whole = Union((Both((right, visceral)), left), blend_mm=14)
    space = (Grown(frame.cavity, -2.5), Grown(frame.below, -3.0))
    bed = Ellipsoid((318 + lift, 60, -62), (46, 20, 28))  # the right kidney's impression
    rng = jitter.rng
    phase = (float(rng.uniform(0, 6.28)), float(rng.uniform(0, 6.28)), float(rng.uniform(0, 6.28)))
    return Both((Lumpy(whole, 5.0, 75.0, phase), *space), without=(bed, _spine_hull()))


def _spine_hull() -> Shape:
    return Tube(tuple((float(z), float(spine_y(z)), 0.0) for z in range(100, 460, 30)), (27.0,) * 12)


def mediastinal_layers(patient: Patient, frame: Frame) -> list[Layer]:
    """Heart, great vessels, airways and oesophagus."""
    hu, jitter = patient.hu, Jitter(patient.generator(11))
    lift = 0.5 * patient.breath_mm
    layers = [
        Layer(frame.heart, hu.heart, Tissue.HEART, 1.0),
        Layer(jitter.tube([(468 + lift, -28, 12), (485, -18, 5), (478, 2, -50)], [13, 12, 8]), hu.blood, Tissue.VESSEL),
        Layer(jitter.tube([(480, -16, 10), (486, 4, 50)], [12, 8]), hu.blood, Tissue.VESSEL),
        Layer(jitter.tube([(455 + lift, 12, -38), (450 + lift, 8, 36)], [8, 8]), hu.blood, Tissue.VESSEL),
        Layer(
            jitter.tube([(570, -18, -28), (500, -12, -28), (440 + lift, -12, -26)], [7, 9, 9]), hu.blood, Tissue.VESSEL
        ),
        Layer(_aorta(jitter), hu.blood, Tissue.VESSEL),
        Layer(
            jitter.tube([(400 + lift, 2, -24), (330, 22, -26), (250, 26, -24), (180, 26, -18)], [11, 12, 11, 10]),
            hu.blood,
            Tissue.VESSEL,
        ),
    ]
    trachea = jitter.tube([(690, -14, 0), (600, 4, 2), (512, 12, 2)], [8.5, 8, 8], 2)
    mains = [
        jitter.tube([(512, 12, 2), (488, 14, -26), (478, 12, -44)], [7, 6, 5], 2),
        jitter.tube([(512, 12, 2), (486, 16, 26), (476, 16, 48)], [7, 6, 5], 2),
    ]
    airway = Union((trachea, *mains))
    layers += [Layer(Grown(airway, 2.0), hu.wall, Tissue.MEDIASTINUM), Layer(airway, -985.0, Tissue.AIRWAY)]
    layers.append(Layer(Ellipsoid((625, -22, -18), (18, 9, 9)), 95.0, Tissue.MEDIASTINUM, 1.0))
    layers.append(Layer(Ellipsoid((625, -22, 18), (18, 9, 9)), 95.0, Tissue.MEDIASTINUM, 1.0))
    layers += _oesophagus(patient, jitter)
    return layers


def _aorta(jitter: Jitter) -> Tube:
    path: list[Point] = [
        (448, -18, 0), (490, -28, -16), (524, -16, -8), (536, 4, 8), (518, 28, 22), (470, 36, 26), (400, 34, 20),
        (330, 16, 8), (260, 10, 6), (185, 4, 2),
    ]  # fmt: skip
    return jitter.tube(path, [15, 15, 14, 13, 12.5, 12, 11.5, 10.5, 9.5, 8.5], 2)


def _oesophagus(patient: Patient, jitter: Jitter) -> list[Layer]:
    path: list[Point] = [(660, 14, 4), (580, 24, 6), (500, 30, 8), (440, 28, 12), (395, 18, 18), (372, 10, 32)]
    tube = jitter.tube(path, [7, 7, 7.5, 8, 8, 8], 2)
    layers = [Layer(tube, patient.hu.wall, Tissue.OESOPHAGUS)]
    if jitter.rng.random() < 0.5:
        layers.append(Layer(Tube(tube.points[3:9], (2.5,) * 6), -600.0, Tissue.OESOPHAGUS, 1.0))
    return layers


def _filled(gas_above_y: float, fluid: float, mottle: float, phase: Array) -> Intensity:
    """Contents of a hollow organ of somebody lying on the back: gas in front, fluid or stool behind."""

    def contents(grid: Grid, distance: Array) -> Array:
        wave = np.sin(grid.z * 0.31 + phase[0]) * np.sin(grid.y * 0.37 + phase[1]) * np.sin(grid.x * 0.29 + phase[2])
        matter = fluid + mottle * wave
        gas = np.clip((np.float32(gas_above_y) - grid.y) * np.float32(0.7) + 0.5, 0, 1)
        return np.asarray(matter + (-960 - matter) * gas, np.float32)

    return contents


def abdominal_layers(patient: Patient, frame: Frame, organs: Organs) -> list[Layer]:
    """Liver, spleen, kidneys, stomach, pancreas, bowel and the pelvis' organs."""
    hu, jitter = patient.hu, Jitter(patient.generator(12))
    lift = 0.6 * patient.breath_mm
    below = Grown(frame.below, -2.5)
    inside = Grown(frame.cavity, -2.0)
    layers = _muscles(patient)
    layers += _bowel(patient, frame)
    for side, z in ((-1, 268), (1, 284)):
        kidney = jitter.ellipsoid((z + 0.5 * lift, 44, side * 64), (54, 25, 28), turn=(side * 0.5, 0.25, side * -0.15))
        c = kidney.centre
        layers.append(Layer(Both((Grown(kidney, 9.0), inside)), hu.fat - 4, Tissue.FAT))
        layers.append(Layer(kidney, hu.kidney, Tissue.KIDNEY))
        layers.append(
            Layer(
                Ellipsoid((c[0], c[1] - 4, c[2] - side * 14), (26, 9, 13), kidney.turn), hu.fat + 45, Tissue.KIDNEY, 2.0
            )
        )
    layers += _stomach(patient, jitter, inside, below, lift)
    spleen = jitter.ellipsoid((346 + lift, 38, 98), (54, 47, 31), turn=(0.5, 0.3, 0.0), sd=4)
    layers.append(Layer(Both((spleen, inside, below)), hu.spleen, Tissue.SPLEEN))
    pancreas = jitter.tube(
        [(252, 6, -34), (275, 2, -28), (288, -10, -4), (296, -4, 26), (308, 16, 58), (320, 28, 78)],
        [10, 14, 9.5, 10, 10, 8],
    )
    phase = (float(jitter.rng.uniform(0, 6.28)), 1.0, float(jitter.rng.uniform(0, 6.28)))
    fat_share = float(np.clip((patient.age_years - 50) / 120, 0, 0.35))
    layers.append(
        Layer(
            Lumpy(pancreas, 2.5, 16.0, phase),
            hu.pancreas + fat_share * (hu.fat - hu.pancreas) * 0.4,
            Tissue.PANCREAS,
            1.0,
        )
    )
    liver = Layer(organs.liver, hu.liver, Tissue.LIVER)
    gallbladder = jitter.ellipsoid((276 + lift, -40, -56), (32, 15, 15), turn=(0, 0.5, 0), sd=5)
    layers += [
        liver,
        Layer(Grown(gallbladder, 1.5), hu.wall, Tissue.GALLBLADDER),
        Layer(gallbladder, hu.bile, Tissue.GALLBLADDER),
    ]
    return layers


def _muscles(patient: Patient) -> list[Layer]:
    jitter = Jitter(patient.generator(13))
    layers = []
    for side in (-1, 1):
        psoas = jitter.tube(
            [(290, 48, side * 24), (200, 42, side * 36), (110, 22, side * 58), (20, -10, side * 80)], [8, 18, 21, 15]
        )
        layers.append(Layer(psoas, patient.hu.muscle, Tissue.MUSCLE))
        crus = Tube(((380, 26, side * 16), (260, 30, side * 18)), (6, 5))
        layers.append(Layer(crus, patient.hu.muscle - 5, Tissue.MUSCLE))
    return layers


def _stomach(patient: Patient, jitter: Jitter, inside: Shape, below: Shape, lift: float) -> list[Layer]:
    fill = jitter.factor(0.2)
    path: list[Point] = [
        (368 + lift, 14, 58), (345 + lift, 8, 66), (312, -18, 62), (280, -36, 38), (268, -36, 8), (272, -26, -22),
    ]  # fmt: skip
    radii = [24 * fill, 34 * fill, 29 * fill, 23 * fill, 18 * fill, 11]
    outside = jitter.tube(path, radii, 4)
    whole = Both((outside, Grown(inside, -1.0), below))
    lumen = Both((Grown(outside, -4.0), Grown(inside, -5.0), Grown(below, -4.0)))
    rng = jitter.rng
    gas_line = float(rng.uniform(-60, 0))
    contents = _filled(
        gas_line, float(rng.uniform(5, 45)), float(rng.uniform(0, 30)), rng.uniform(0, 6.28, 3).astype(np.float32)
    )
    return [Layer(whole, patient.hu.wall, Tissue.STOMACH), Layer(lumen, contents, Tissue.STOMACH, 0.5)]


def _bowel(patient: Patient, frame: Frame) -> list[Layer]:
    """Colon as a frame, small bowel as coils within it, bladder and a pelvic organ."""
    hu, jitter = patient.hu, Jitter(patient.generator(14))
    rng = jitter.rng
    inside = Both((Grown(frame.cavity, -3.0), Grown(frame.below, -4.0)))
    layers = []
    for _ in range(int(rng.integers(13, 20))):
        steps = rng.uniform((-30, -22, -55), (30, 22, 55), (9, 3))
        start = rng.uniform((85, -60, -75), (225, 0, 75))
        walk = np.clip(start + np.cumsum(steps, axis=0) * 0.7, (70, -66, -92), (240, 12, 92))
        walk[:, 1] -= 0.5 * patient.belly_mm * np.exp(-(((walk[:, 0] - 170) / 110) ** 2))
        coil = jitter.tube([(float(z), float(y), float(x)) for z, y, x in walk], [float(rng.uniform(9, 13))] * 9, 1)
        layers.append(Layer(Both((coil, inside)), hu.wall, Tissue.SMALL_BOWEL))
        gas = _filled(
            float(walk[:, 1].min() - rng.uniform(-8, 12)),
            float(rng.uniform(8, 40)),
            20.0,
            rng.uniform(0, 6.28, 3).astype(np.float32),
        )
        layers.append(Layer(Both((Grown(coil, -2.5), Grown(inside, -2.5))), gas, Tissue.SMALL_BOWEL, 1.0))
    layers += _colon(patient, jitter, inside)
    bladder = jitter.ellipsoid((34, -28, 0), (30 * jitter.factor(0.2), 26, 36), sd=4)
    layers += [Layer(bladder, hu.wall, Tissue.BLADDER), Layer(Grown(bladder, -3.0), 6.0, Tissue.BLADDER)]
    centre: Point = (48, 14, 0) if patient.sex == "F" else (4, -8, 0)
    layers.append(Layer(jitter.ellipsoid(centre, (24, 20, 24)), hu.muscle - 8, Tissue.PELVIC_ORGAN))
    return layers


def _colon(patient: Patient, jitter: Jitter, inside: Shape) -> list[Layer]:
    front = -0.4 * patient.belly_mm
    sag = float(jitter.rng.uniform(0, 45))
    path: list[Point] = [
        (118, -8, -92), (165, 4, -100), (215, 10, -100), (250, -8, -92), (235 - sag, -48 + front, -50),
        (228 - sag, -56 + front, 0), (245 - sag, -50 + front, 50), (300, -8, 100), (322, 14, 108), (270, 34, 106),
        (200, 28, 106), (130, 16, 96), (85, -4, 74), (72, -14, 34), (92, 4, 4), (64, 38, 8), (20, 44, 0), (-20, 48, 0),
    ]  # fmt: skip
    width = [26, 25, 23, 21, 20, 20, 20, 19, 18, 16, 15, 15, 14, 14, 15, 18, 20, 16]
    tube = jitter.tube(path, width, 5)
    haustra = Lumpy(tube, 5.0, 34.0, (float(jitter.rng.uniform(0, 6)), 1.0, 2.0))
    rng = jitter.rng
    stool = _stool(float(rng.uniform(0, 0.6)), rng.uniform(0, 6.28, 3).astype(np.float32))
    return [
        Layer(Both((haustra, inside)), patient.hu.wall, Tissue.COLON),
        Layer(Both((Grown(haustra, -2.5), Grown(inside, -2.5))), stool, Tissue.COLON, 1.5),
    ]


def _stool(gas_share: float, phase: Array) -> Intensity:
    def contents(grid: Grid, distance: Array) -> Array:
        fine = np.sin(grid.z * 0.55 + phase[0] + 1.3 * np.sin(grid.x * 0.23)) * np.sin(
            grid.y * 0.61 + phase[1] + 1.7 * np.sin(grid.z * 0.19)
        )
        coarse = np.sin(grid.z * 0.04 + phase[1]) + np.sin(grid.x * 0.035 + phase[2]) + 2 * gas_share - 1.3
        gas = np.clip(coarse * 2 + 0.8 * fine, 0, 1)
        return np.asarray(25 + 45 * fine + (-930 - 25 - 45 * fine) * gas, np.float32)

    return contents


def liver_vessels(patient: Patient, organs: Organs) -> list[Layer]:
    """Portal and hepatic veins: darker than a healthy liver, brighter than a fatty one."""
    rng = patient.generator(15)
    lift = 0.6 * patient.breath_mm
    inside = Grown(organs.liver, -3.0)
    layers = [Layer(Tube(((262, 6, -12), (300 + lift, 2, -36)), (7, 7)), patient.hu.blood, Tissue.VESSEL)]
    for root, first, tips in (((302 + lift, 2, -38), 5.5, 26), ((388 + lift, 4, -26), 5.5, 18)):
        tree = grow_tree(rng, root, organs.liver, tips, first, 1.2)
        layers += [Layer(Both((branch, inside)), patient.hu.blood, Tissue.LIVER, 0.8) for branch in tree]
    return layers


def lung_vessels(patient: Patient, organs: Organs) -> list[Layer]:
    """Pulmonary vessels, seen end-on as dots, and segmental bronchi."""
    rng = patient.generator(16)
    layers = []
    for side in (-1, 1):
        half = Both((organs.lungs, HalfSpace((0, 0, 0), (0, 0, -side))))
        tree = grow_tree(rng, (472.0, 10.0, side * 42.0), half, 110, 6.0, 0.8)
        layers += [Layer(branch, patient.hu.blood - 5, Tissue.LUNG, 0.3) for branch in tree]
        bronchi = grow_tree(rng, (476.0, 14.0, side * 46.0), half, 6, 3.5, 1.2)
        for branch in bronchi:
            layers += [Layer(Grown(branch, 1.2), -100.0, Tissue.LUNG, 0.5), Layer(branch, -950.0, Tissue.AIRWAY)]
    return layers


def grow_tree(
    rng: np.random.Generator, root: Point, space: Shape, tips: int, first_mm: float, last_mm: float
) -> list[Tube]:
    """A vessel tree from `root`: each tip in `space`, nearest first, joins the nearest point that stands already.

    Radii follow Murray's law (PNAS 12:207, 1926): a parent's radius cubed is the sum of its branches' cubed.
    """
    goals = sample_inside(rng, space, tips, depth_mm=2.0)
    goals = goals[np.argsort(np.linalg.norm(goals - root, axis=1))]
    nodes = [np.asarray(root, np.float64)]
    parent = [-1]
    for goal in goals:
        gaps = np.linalg.norm(np.asarray(nodes) - goal, axis=1)
        near = int(np.argmin(gaps))
        if gaps[near] < 4:
            continue
        bend = rng.normal(0, 0.08 * gaps[near], 3)
        nodes += [(nodes[near] + goal) / 2 + bend, goal]
        parent += [near, len(nodes) - 2]
    load = np.full(len(nodes), last_mm**3)
    for i in range(len(nodes) - 1, 0, -1):
        load[parent[i]] += load[i] * (0.5 if i % 2 else 1)
    radii = np.minimum(np.cbrt(load), first_mm)
    return [
        Tube(
            (_as_point(nodes[parent[i]]), _as_point(nodes[i])),
            (float(min(radii[parent[i]], radii[i] * 1.3)), float(radii[i])),
        )
        for i in range(1, len(nodes))
    ]


def _as_point(p: Points) -> Point:
    return (float(p[0]), float(p[1]), float(p[2]))


def sample_inside(rng: np.random.Generator, space: Shape, count: int, depth_mm: float) -> Points:
    """`count` points (count, 3) z-y-x, uniform in `space`, at least `depth_mm` below its surface."""
    (z0, z1), (y0, y1), (x0, x1) = space.bounds
    low, high = (
        np.array([max(z0, 0), max(y0, -150), max(x0, -160)]),
        np.array([min(z1, 640), min(y1, 150), min(x1, 160)]),
    )
    kept: list[Points] = []
    found = 0
    for _ in range(400):
        points = rng.uniform(low, high, (4096, 3))
        points = points[space.distance(points_grid(points)) < -depth_mm]
        kept.append(points)
        found += len(points)
        if found >= count:
            break
    return np.concatenate(kept)[:count]
