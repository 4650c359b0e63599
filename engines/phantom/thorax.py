"""Heart, great vessels, airways, lungs with lobes, vessels and bronchi, and the mediastinum's small things.

The lungs fill what heart, vessels, oesophagus, spine and diaphragm leave of the chest, as lungs do.
"""

from __future__ import annotations

import numpy as np

from engines.phantom.fields import Array, Field, Sheet, union
from engines.phantom.labels import Tissue
from engines.phantom.person import Points
from engines.phantom.shapes import Ellipsoid
from engines.phantom.skeleton import spine_y
from engines.phantom.strands import grow_tree
from engines.phantom.studio import Line, Spot, Studio, smooth_tube

_LOBES = {-1: (Tissue.LUNG_RIGHT_UPPER, Tissue.LUNG_RIGHT_LOWER), 1: (Tissue.LUNG_LEFT_UPPER, Tissue.LUNG_LEFT_LOWER)}


def build_thorax(studio: Studio) -> None:
    """Fields: heart (its sac), chambers, great vessels, trachea, oesophagus, lungs."""
    person, f = studio.person, studio.fields
    rng, lift = person.rng(30), 0.6 * person.breath_mm
    big = float(np.exp(rng.normal(0, 0.05))) * (1 + 0.04 * max(person.habitus, 0))
    at = np.asarray((430 + lift, -32, 20)) + rng.normal(0, 2.5, 3)
    sac = Ellipsoid((float(at[0]), float(at[1]), float(at[2])), (51 * big, 46 * big, 62 * big), (0.5, 0.25, 0.1))
    f["heart"] = studio.field(sac, 2.0, name="heart").without(f["below"], gap_mm=0.5).within(f["cavity"].grown(-3))
    _chambers(studio, at, big)
    _great_vessels(studio, lift)
    airway = [
        smooth_tube([(690, -12, 0), (600, 6, 2), (520, 14, 3), (508, 15, 3)], [8.5, 8.2, 8.2, 8.5]),
        smooth_tube([(511, 15, 3), (490, 17, -22), (478, 16, -40)], [8, 7, 6]),
        smooth_tube([(511, 15, 3), (490, 19, 24), (476, 20, 48)], [7.5, 6.5, 5.5]),
    ]
    f["airway"] = union(*(studio.field(a) for a in airway), blend_mm=4)
    path = studio.jitter(
        rng, [(665, 16, 3), (590, 27, 6), (520, 34, 7), (470, 35, 6), (430, 28, 12), (400, 16, 22), (380, 8, 34)], 1.5
    )
    studio.lines["oesophagus"] = np.asarray(path)
    f["oesophagus"] = studio.field(smooth_tube(path, [8.5] * 7))
    _lungs(studio)


def _chambers(studio: Studio, at: Points, big: float) -> None:
    def part(dz: float, dy: float, dx: float, rz: float, ry: float, rx: float, turn: float) -> Field:
        centre = (float(at[0] + dz), float(at[1] + dy), float(at[2] + dx))
        return studio.field(
            Ellipsoid(centre, (1.08 * rz * big, 1.08 * ry * big, 1.08 * rx * big), (turn, 0.2, 0.0)), 1.0
        )

    left = part(-8, 4, 22, 36, 31, 40, 0.6)
    right = part(-6, -16, -12, 36, 24, 38, 0.4)
    atrium_right = part(6, 6, -38, 34, 26, 21, 0.2)
    atrium_left = part(24, 30, 0, 24, 18, 30, 0.1)
    outflow = part(34, -22, 6, 22, 18, 22, 0.0)
    studio.fields["chambers"] = union(
        union(left, right, blend_mm=3), union(atrium_right, atrium_left, outflow, blend_mm=3), blend_mm=1.5
    )


def _great_vessels(studio: Studio, lift: float) -> None:
    rng = studio.person.rng(31)
    wide = 1 + 0.12 * np.clip((studio.person.age_years - 50) / 40, 0, 1) + float(rng.normal(0, 0.03))
    arch = [(448 + lift, -20, 2), (490, -32, -16), (528, -22, -12), (541, 2, 8), (524, 32, 22), (470, 40, 25),
            (410, 36, 18), (330, 20, 9), (260, 12, 6), (182, 4, 4)]  # fmt: skip
    path = studio.jitter(rng, arch, 1.5)
    radii = [
        15.5 * wide,
        16 * wide,
        14.5 * wide,
        14 * wide,
        13 * wide,
        12.5 * wide,
        12 * wide,
        11 * wide,
        9.5 * wide,
        9 * wide,
    ]
    studio.lines["aorta"] = np.asarray(path)
    studio.fields["aorta"] = studio.field(smooth_tube(path, radii))
    veins = [
        smooth_tube([(585, -14, -26), (520, -20, -32), (460 + lift, -16, -32)], [8, 10, 10.5]),
        smooth_tube([(568, -34, 48), (556, -42, 10), (545, -32, -24)], [7, 7.5, 8]),
        smooth_tube(
            [(430 + lift, -6, -30), (396 + lift, 2, -26), (330, 18, -24), (262, 22, -23), (188, 18, -16)],
            [13, 13, 12, 11.5, 11],
        ),
    ]
    studio.fields["veins"] = union(*(studio.field(v) for v in veins))
    trunk = [
        smooth_tube([(462 + lift, -46, 10), (488, -38, 22), (500, -14, 26)], [15, 14.5, 13]),
        smooth_tube([(498, -16, 24), (492, -6, -12), (484, 6, -46)], [12, 11.5, 9.5]),
        smooth_tube([(500, -12, 28), (497, 12, 44), (482, 22, 56)], [12, 11, 9]),
        smooth_tube([(462 + lift, 6, -42), (452 + lift, 8, -18)], [7, 8]),
        smooth_tube([(462 + lift, 10, 46), (452 + lift, 12, 18)], [7, 8]),
    ]
    studio.fields["pulmonary"] = union(*(studio.field(t) for t in trunk), blend_mm=3)


def _lungs(studio: Studio) -> None:
    f = studio.fields
    arch = [
        studio.field(smooth_tube([(600, -4, 0), (550, -20, 0), (515, -22, 0)], [24, 25, 17]), 2.0),
        studio.field(smooth_tube([(560, -60, 0), (480, -80, 4), (430, -82, 14)], [9, 5, 9]), 2.0),
    ]
    hila = [studio.field(Ellipsoid((482, 14, s * 44), (17, 11, 9)), 2.0) for s in (-1, 1)]
    column = [
        studio.field(smooth_tube([(float(z), float(spine_y(z)), 0.0) for z in (400, 470, 540, 600)], [20, 19, 18, 16]))
    ]
    centre = union(
        f["heart"].grown(2.5), f["aorta"].grown(2.5), f["veins"].grown(2), f["pulmonary"].grown(1.5),
        f["oesophagus"].grown(2), f["airway"].grown(3.0), *arch, *hila, *column, f["spine"].grown(4), blend_mm=6,
    )  # fmt: skip
    space = f["cavity"].grown(-2.0).without(f["below"], gap_mm=2.0).without(centre)
    x = studio.canvas.template[2][space.where]
    for side in (-1, 1):
        half = Field(np.maximum(space.values, (-side * x + 0.7).astype(np.float32)), space.lattice, space.where)
        f[f"lung{side}"] = half
    f["lungs"] = union(f["lung-1"], f["lung1"])
    f["centre"] = centre


def paint_thorax(studio: Studio) -> None:
    """Everything in the chest but the oesophagus and what is wrong with it."""
    person, f = studio.person, studio.fields
    blood = person.hu.blood
    studio.paint(f["cavity"].without(f["below"], gap_mm=2.0), person.hu.fat + 8, Tissue.MEDIASTINUM)
    _paint_lungs(studio)

    def heart(spot: Spot) -> Array:
        return np.asarray(blood + 1 + spot.texture("blood", 41), np.float32)

    studio.paint(f["heart"], 12.0, Tissue.MEDIASTINUM)
    studio.paint(f["heart"].grown(-1.5), person.hu.fat + 15, Tissue.MEDIASTINUM)
    studio.paint(f["chambers"].within(f["heart"].grown(-2.0 - 0.8 * max(person.habitus, 0))), heart, Tissue.HEART)
    studio.paint(f["pulmonary"], blood, Tissue.ARTERY)
    studio.paint(f["veins"], blood, Tissue.VEIN)
    _small_vessels(studio)
    studio.paint(f["aorta"], blood + 3, Tissue.AORTA)
    studio.paint(f["aorta"].grown(-1.6), blood, Tissue.AORTA)
    _plaques(studio)
    studio.paint(f["airway"].grown(1.6), person.hu.wall, Tissue.MEDIASTINUM)
    studio.paint(f["airway"], -990.0, Tissue.AIRWAY)
    thyroid = studio.thin(
        ([(612, -8, -17), (640, -10, -19)], [9, 6]),
        ([(612, -8, 17), (640, -10, 19)], [9, 6]),
        ([(614, -18, -12), (614, -18, 12)], 4),
    )
    studio.paint(thyroid, 98.0, Tissue.THYROID)


def _small_vessels(studio: Studio) -> None:
    blood = studio.person.hu.blood
    neck: list[Line] = []
    for s in (-1, 1):
        neck += [
            ([(545, -14, -4 + 10 * s), (590, -6, s * 20), (650, 0, s * 27)], [5.5, 4.5, 4]),
            ([(575, -22, s * 34), (612, -16, s * 34), (660, -6, s * 36)], [7, 7, 6]),
        ]
        neck.append(([(575, -6, s * 26), (600, -16, s * 62), (590, -8, s * 105)], [5, 5, 4.5]))
        neck.append(([(580, -34, s * 40), (592, -34, s * 75), (582, -16, s * 112)], [6, 6, 5.5]))
        neck += [([(545, -84, s * 14), (440, -88, s * 16)], 1.6)]
    studio.paint(studio.thin(*neck), blood, Tissue.ARTERY)
    azygos = studio.thin(
        ([(530, 4, -26), (534, 24, -18), (515, 40, -10), (420, 44, -8), (300, 36, -8)], [4.5, 4.5, 4, 3.5, 2.5])
    )
    studio.paint(azygos, blood, Tissue.VEIN)


def _plaques(studio: Studio) -> None:
    """Calcium in the walls of aorta and coronaries."""
    person, rng = studio.person, studio.person.rng(32)
    aorta = studio.person.to_patient(studio.lines["aorta"])
    count = int(18 * person.calcium**1.5)
    lines = []
    for _ in range(count):
        i = int(rng.choice(9, p=np.asarray((1, 2, 4, 4, 3, 3, 4, 6, 6)) / 33))
        t, turn = rng.random(), rng.uniform(0, 2 * np.pi)
        axis = aorta[i + 1] - aorta[i]
        across = np.cross(axis, (0.3, 0.2, 1.0))
        across /= np.linalg.norm(across)
        other = np.cross(axis / np.linalg.norm(axis), across)
        radius = (15, 14.5, 13.5, 13, 12, 11.5, 11, 9.5, 8.5)[i] * person.mean_scale
        centre = aorta[i] + t * axis + radius * (np.cos(turn) * across + np.sin(turn) * other)
        lines.append((np.stack([centre, centre + rng.normal(0, 3, 3)]), float(rng.uniform(0.7, 1.9))))
    heart = studio.person.to_patient([(455, -50, 18), (448, -60, 34), (438, -66, 46), (452, -34, -26)])
    for point in heart[: int(4.9 * person.calcium)]:
        lines.append((np.stack([point, point + rng.normal(0, 4, 3)]), float(rng.uniform(0.6, 1.5))))
    if lines:
        from engines.phantom.strands import strands

        studio.paint(strands(lines), 420.0, Tissue.AORTA, 0.3)


def fissure(studio: Studio, side: int, z: Array, y: Array, x: Array) -> Array:
    """Positive above the oblique fissure of a side (template mm): it runs from T4 behind to the diaphragm in front."""
    return np.asarray(z - 440 - 0.62 * (y + 15) + 0.10 * (np.abs(x) - 70), np.float32)


def _paint_lungs(studio: Studio) -> None:
    person, f = studio.person, studio.fields

    def air(spot: Spot) -> Array:
        y = spot.axes[1][None, :, None]
        base = person.hu.lung + 0.42 * (y + 10) + 11 * spot.grain(51) + 12 * spot.mottle(53)
        if person.emphysema > 0.12:
            holes = np.clip(spot.mottle(57) * 1.2 - 1.9 + 1.6 * person.emphysema, 0, 1)
            base = base + (-975 - base) * holes * 0.8
        return np.asarray(base, np.float32)

    for side in (-1, 1):
        lung = f[f"lung{side}"]
        z, y, x = (np.asarray(t[lung.where]) for t in studio.canvas.template)
        upper, lower = _LOBES[side]
        oblique = fissure(studio, side, z, y, x)
        studio.paint(lung, air, lower)
        above = Field(np.maximum(lung.values, -oblique), lung.lattice, lung.where)
        studio.paint(above, air, upper)
        if side < 0:
            horizontal = z - 478 - 0.05 * (y + 40)
            middle = Field(np.maximum(above.values, horizontal), lung.lattice, lung.where)
            studio.paint(middle, air, Tissue.LUNG_RIGHT_MIDDLE)
            keep = Field(np.maximum(-oblique, lung.values + 1), lung.lattice, lung.where)
            minor = Sheet(Field(horizontal.astype(np.float32), lung.lattice, lung.where), keep, 0.45)
            studio.paint(minor, -600.0, None, 0.6, opacity=0.6)
        major = Sheet(Field(oblique * np.float32(0.85), lung.lattice, lung.where), lung.grown(-1), 0.45)
        studio.paint(major, -600.0, None, 0.6, opacity=0.6)
    _lung_trees(studio)


def _lung_trees(studio: Studio) -> None:
    person, f = studio.person, studio.fields
    for side in (-1, 1):
        rng, lung = person.rng(33, side + 1), f[f"lung{side}"]
        root = person.to_patient([(480, 14, side * 46)])[0]
        goals = lung.points(rng, 300, 4.0)
        arteries = grow_tree(rng, root, goals, 8.0, 0.9)
        low = person.to_patient([(460, 10, side * 42)])[0]
        veins = grow_tree(rng, low, lung.points(rng, 170, 5.0), 7.0, 0.9)
        bronchi = grow_tree(rng, person.to_patient([(477, 17, side * 46)])[0], lung.points(rng, 16, 22.0), 4.2, 1.1)
        for tree in (arteries, veins):
            studio.paint(tree, person.hu.blood - 6, None, 0.2)
        studio.paint(bronchi.grown(0.7), -250.0, None, 0.3)
        studio.paint(bronchi, -960.0, Tissue.AIRWAY, 0.2)
