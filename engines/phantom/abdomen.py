"""The solid organs of the abdomen, in the order in which they give way to each other, and their vessels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engines.phantom.body import belly
from engines.phantom.fields import Array, Field, cut, union
from engines.phantom.labels import Tissue
from engines.phantom.person import Plan
from engines.phantom.shapes import Ellipsoid, HalfSpace, Union
from engines.phantom.strands import Strands, curve, grow_tree
from engines.phantom.studio import Line, Spot, Studio, smooth_tube

# z, y, x and radius along the pancreas, from the head to the tail
PANCREAS = (
    (250, 8, -30, 10), (268, 4, -36, 13.5), (286, -2, -27, 12), (297, -10, -8, 9), (302, -6, 14, 9.5),
    (308, 6, 38, 9.5), (317, 20, 62, 9), (326, 28, 82, 6.5),
)  # fmt: skip


def build_abdomen(studio: Studio) -> None:
    """Fields: kidneys with their fat, liver, gallbladder, spleen, adrenals' strands, pancreas."""
    person, f = studio.person, studio.fields
    rng, lift = person.rng(40), 0.7 * person.breath_mm
    space = f["cavity"].grown(-2.5).within(f["below"].grown(-2.0))
    f["space"] = space.without(f["spine"], gap_mm=3.0)
    for s, z in ((-1, 266), (1, 280)):
        c = np.asarray((z + 0.5 * lift, 41, s * 63)) + rng.normal(0, 2.5, 3)
        size = float(np.exp(rng.normal(0, 0.06)))
        turn = (s * 0.55, 0.22, s * -0.16)
        kidney = studio.field(
            Ellipsoid((float(c[0]), float(c[1]), float(c[2])), (56 * size, 25 * size, 29 * size), turn), 1.5
        )
        hilum = studio.field(Ellipsoid((float(c[0]), float(c[1] - 9), float(c[2] - s * 20)), (17, 9, 15), turn), 1.0)
        f[f"kidney{s}"] = kidney.without(hilum)
        f[f"sinus{s}"] = studio.field(
            Ellipsoid((float(c[0]), float(c[1] - 3), float(c[2] - s * 10)), (36 * size, 11, 17), turn), 3.0, 2.5
        ).within(kidney.grown(-8))
        studio.lines[f"kidney{s}"] = c[None]
    kidneys = union(f["kidney-1"], f["kidney1"])
    _liver(studio, lift, kidneys)
    f["spleen"] = _spleen(studio, lift, kidneys)
    plan = next(iter(person.cancers("pancreas")), None)
    _pancreas(studio, lift, plan)


def _liver(studio: Studio, lift: float, kidneys: Field) -> None:
    person, f = studio.person, studio.fields
    rng = person.rng(41)
    size = 1.02 * float(np.exp(rng.normal(0, 0.05))) * (1.04 if person.steatosis else 1.0)
    right = Ellipsoid((322 + lift, 2, -76), (88 * size, 78 * size, 66 * size), (0.0, 0.0, 0.1))
    lobe = float(rng.uniform(0.8, 1.2))
    left = Ellipsoid((350 + lift, -44, 12), (33 * lobe, 42, 62 * lobe), (-0.25, 0.12, 0.0))
    whole = studio.field(Union((right, left), blend_mm=26), 3.0, 1.0)
    tilt = float(rng.normal(0, 0.08))
    underside = studio.field(
        HalfSpace((286 + float(rng.normal(0, 6)) + lift, 14, -36), (-0.72, 0.38 + tilt, 0.70)), 3.0
    )
    back = studio.field(HalfSpace((330, 62, 0), (0.1, 1.0, 0.75)), 2.0)
    low_left = studio.field(HalfSpace((324 + lift, -40, 20), (-1.0, -0.3, 0.1)), 2.0)
    left_part = studio.field(HalfSpace((0, 0, -22), (0, 0, -1.0)))
    carved = cut(whole.values, underside.on(whole.where), back.on(whole.where))
    carved = np.maximum(carved, np.where(left_part.on(whole.where) < 0, low_left.on(whole.where), -60))
    fossa = Ellipsoid((278 + lift, -46, -48), (34, 15, 15), (0.15, 0.55, 0.0))
    big = 1.3 if "bile duct dilatation" in _signs(studio, "pancreas") else float(rng.uniform(0.8, 1.1))
    centre = studio.jitter(rng, [fossa.centre], 4)[0]
    f["gallbladder"] = studio.field(Ellipsoid(centre, (33 * big, 15 * big, 14 * big), fossa.turn), 1.5)
    fissure = studio.field(
        smooth_tube([(345 + lift, -72, 6), (322 + lift, -52, 0), (300 + lift, -30, -8)], [3.5, 5, 7]), 1.0
    )
    porta = studio.field(smooth_tube([(300 + lift, 0, -16), (318 + lift, 4, -40)], [11, 7]), 1.0)
    f["liver"] = Field(carved.astype(np.float32), whole.lattice, whole.where).within(f["space"].grown(-0.5)).without(
        kidneys.grown(5), f["gallbladder"].grown(1.5), fissure, porta, f["veins"].grown(-1), f["aorta"].grown(9),
        f["spine"].grown(7),
    )  # fmt: skip
    f["gallbladder"] = f["gallbladder"].within(f["space"])
    studio.lines["porta"] = np.asarray([(316 + lift, 4, -38)])


def _signs(studio: Studio, organ: str) -> tuple[str, ...]:
    return tuple(s for p in studio.person.cancers(organ) for s in p.signs)


def _spleen(studio: Studio, lift: float, kidneys: Field) -> Field:
    rng = studio.person.rng(42)
    size = float(np.exp(rng.normal(0, 0.1)))
    c = studio.jitter(rng, [(342 + lift, 36, 100)], 4)[0]
    whole = studio.field(Ellipsoid(c, (66 * size, 57 * size, 40 * size), (0.55, 0.35, 0.0)), 2.5, 1.0)
    hollow = studio.field(Ellipsoid((c[0] - 4, c[1] - 30, c[2] - 40), (46, 40, 28), (0.5, 0.0, 0.0)), 2.0)
    return whole.within(studio.fields["space"].grown(-0.5)).without(hollow, kidneys.grown(4))


def _pancreas(studio: Studio, lift: float, plan: Plan | None) -> None:
    person, rng = studio.person, studio.person.rng(43)
    knots = np.asarray(PANCREAS, np.float64)
    knots[:, :3] += np.clip(rng.normal(0, 2.2, (len(knots), 3)), -5, 5)
    knots[:, 0] += lift * 0.6
    knots[:, 1] -= 0.25 * max(belly(person, 290), 0)
    rows = curve(knots, 5)
    radii = (
        rows[:, 3] * 1.1 * float(np.exp(rng.normal(0, 0.08))) * (1 - 0.12 * np.clip((person.age_years - 60) / 30, 0, 1))
    )
    u = np.linspace(0, 1, len(rows))
    if plan and "upstream atrophy" in plan.signs:
        radii *= 1 - 0.45 * np.clip((u - tumour_at(plan)) / 0.08, 0, 1)
    studio.lines["pancreas"] = np.column_stack([rows[:, :3], radii])
    tube = smooth_tube(rows[:, :3].tolist(), radii.tolist(), 1)
    studio.fields["pancreas"] = studio.field(tube, 0.6, 1.9)


def tumour_at(plan: Plan) -> float:
    """Where along the pancreas (0 head, 1 tail) a cancer sits: two thirds in the head."""
    return 0.10 + 0.25 * plan.at / 0.66 if plan.at < 0.66 else 0.42 + 0.48 * (plan.at - 0.66) / 0.34


def parenchyma(hu: float, of: str, shift: float) -> Callable[[Spot], Array]:
    """A solid organ: its HU and the unevenness that the law gives it."""
    return lambda spot: np.asarray(hu + spot.texture(of, shift), np.float32)


def _kidney(hu: float, shift: float) -> Callable[[Spot], Array]:
    """A kidney without contrast medium: pyramids a little darker than cortex and columns."""

    def colour(spot: Spot) -> Array:
        deep = np.clip((-spot.distance - 6) / 2, 0, 1)
        pyramids = np.clip(0.5 + 1.5 * spot.mottle(shift + 1), 0, 1)
        return np.asarray(hu + 1 - 4.5 * deep * pyramids + spot.texture("kidney", shift), np.float32)

    return colour


def _sinus(fat: float, shift: float) -> Callable[[Spot], Array]:
    """Fat in the kidney's sinus, with calyces (urine) and vessels in it."""

    def colour(spot: Spot) -> Array:
        wet = np.clip(2.2 * spot.mottle(shift) - 1.3, 0, 1)
        vessels = np.clip(spot.grain(shift) - 0.5, 0, 1)
        soft = np.maximum(wet, vessels)
        return np.asarray(fat + 6 + soft * (104 + 20 * vessels), np.float32)

    return colour


def paint_abdomen(studio: Studio) -> None:
    """Solid organs over the fat, vessels over those."""
    person, f = studio.person, studio.fields
    hu = person.hu
    for s in (-1, 1):
        halo = f[f"kidney{s}"].grown(7).within(f["space"])
        studio.paint(halo, hu.fat - 5, Tissue.FAT, 1.0)
        studio.paint(f[f"kidney{s}"], _kidney(hu.kidney, 61), Tissue.KIDNEY)
        studio.paint(f[f"sinus{s}"], _sinus(hu.fat, 63), Tissue.KIDNEY, 1.5)
    studio.paint(f["spleen"], parenchyma(hu.spleen, "spleen", 65), Tissue.SPLEEN)
    studio.paint(f["liver"], parenchyma(hu.liver, "liver", 67), Tissue.LIVER)
    _liver_vessels(studio)
    studio.paint(f["gallbladder"].grown(1.4), hu.wall - 6, Tissue.GALLBLADDER)
    studio.paint(f["gallbladder"], hu.bile, Tissue.GALLBLADDER)
    _adrenals(studio)
    _vessels(studio)
    _paint_pancreas(studio)


def _paint_pancreas(studio: Studio) -> None:
    person, f = studio.person, studio.fields
    share = person.pancreas_fat

    def lobules(spot: Spot) -> Array:
        """Glandular lobules in fat: the fatter, the more the clefts open; the mean keeps the share of fat."""
        lobules = np.abs(spot.grain(71) + 0.5 * spot.mottle(73))
        clefts = np.clip(1.15 * share + 0.18 - lobules, 0, 0.6) * 1.5
        rim = np.clip((spot.distance + 2.2) / 3, 0, 1) * (0.3 + share)
        fat = np.clip(clefts * (0.4 + 1.2 * share) + rim * 0.6, 0, 1)
        return np.asarray(person.hu.pancreas + fat * (person.hu.fat + 12 - person.hu.pancreas), np.float32)

    studio.paint(f["pancreas"], lobules, Tissue.PANCREAS, 0.8)
    plan = next((p for p in person.cancers("pancreas") if "duct dilatation" in p.signs), None)
    line = studio.lines["pancreas"]
    u = np.linspace(0, 1, len(line))
    rng = person.rng(44)
    duct = np.full(len(line), 0.9 + 0.4 * np.clip((person.age_years - 60) / 30, 0, 1))
    if plan is not None:
        wide = float(rng.uniform(2.2, 4.2))
        duct = np.where(u > tumour_at(plan), wide * (1 + 0.15 * np.sin(u * 60)), duct)
    keep = (u > 0.12) & (u < 0.95)
    studio.paint(studio.thin((line[keep, :3], np.asarray(duct)[keep].tolist()), smooth=1), 9.0, Tissue.PANCREAS)
    bile = 6.0 if "bile duct dilatation" in _signs(studio, "pancreas") else 2.4
    head = line[int(0.2 * len(line)), :3]
    top = studio.lines["porta"][0]
    duct_line = [top, (top + head) / 2 + np.asarray((2, 6, 2)), head + np.asarray((0, 4, -6))]
    studio.paint(studio.thin((duct_line, [bile, bile, bile * 0.8])), person.hu.bile, Tissue.BILE_DUCT)


def _liver_vessels(studio: Studio) -> None:
    """Portal and hepatic veins: darker than a healthy liver, brighter than a fatty one."""
    person, f = studio.person, studio.fields
    rng, lift = person.rng(45), 0.7 * person.breath_mm
    porta = person.to_patient(studio.lines["porta"])[0]
    hepatic = person.to_patient([(388 + 0.6 * lift, 0, -26)])[0]
    portal = grow_tree(rng, porta, f["liver"].points(rng, 70, 8), 6.0, 1.0)
    veins = grow_tree(rng, hepatic, f["liver"].points(rng, 46, 10), 6.0, 1.1)
    studio.paint(portal, person.hu.blood, None, 0.5)
    studio.paint(veins, person.hu.blood, None, 0.5)
    if any(p.kind == "cholangiocarcinoma" and "bile duct dilatation" in p.signs for p in person.cancers("liver")):
        aside = np.asarray((0, -4, 3))
        beside = Strands(portal.a + aside, portal.b + aside, portal.ra * 0.8, portal.rb * 0.8)
        studio.paint(beside, person.hu.bile + 4, None)


def _adrenals(studio: Studio) -> None:
    limbs: list[Line] = []
    for s, z in ((-1, 312), (1, 316)):
        x = s * (32 if s < 0 else 36)
        top = (z, 32.0, x)
        outer, inner = (z - 16, 46, x + s * 10), (z - 16, 51, x + s * 0.5)
        limbs += [([top, outer], [3.8, 3.0]), ([top, inner], [3.8, 3.0]), ([(z + 9, 22, x - s * 4), top], [3.2, 4.0])]
    studio.paint(studio.thin(*limbs, smooth=1), studio.person.hu.kidney - 8, Tissue.ADRENAL, 0.4)


def _vessels(studio: Studio) -> None:
    """Aorta's and cava's branches down to the groins."""
    blood, f = studio.person.hu.blood, studio.fields
    line = studio.lines["pancreas"][:, :3]
    n = len(line)
    arteries: list[Line] = [
        ([(312, 4, 6), (300, -12, 4), (270, -16, 0), (215, -22, -6), (170, -24, -14)], [4, 4, 4, 3, 2]),
        ([(318, 6, 6), (322, -10, 4), (324, -12, -10), (318, -4, -30)], [3.8, 3.6, 2.8, 2.2]),
        ([(322, -10, 4), (318, 2, 30), (330, 18, 62), (340, 26, 80)], [3.2, 2.8, 2.6, 2.2]),
        ([(285, 12, 14), (282, 26, 32), (280, 38, 50)], 2.8),
        ([(283, 12, -2), (276, 32, -22), (268, 40, -46)], 2.8),
        ([(222, -2, 6), (190, -6, 14), (120, 2, 22)], [2.2, 2, 1.5]),
    ]
    veins: list[Line] = [
        ([(170, -26, -22), (230, -22, -16), (272, -12, -14), (292, 2, -16)], [3, 4.5, 5.5, 6.5]),
        ([(292, 2, -16), (306, 4, -28), tuple(studio.lines["porta"][0])], [7.5, 7.5, 6.5]),
        ([(292, 4, -16), *(tuple(p + np.asarray((2, 9, 0))) for p in line[int(0.5 * n) :: 6]), (338, 30, 84)], 4.2),
        ([(282, 22, -22), (284, 0, 4), (281, 14, 24), (279, 34, 48)], [5, 4, 4.5, 4.5]),
        ([(272, 26, -28), (268, 36, -46)], 4.8),
    ]
    for s in (-1, 1):
        groin = [(95, 22, s * 40), (60, -6, s * 60), (30, -40, s * 66), (5, -58, s * 66), (-70, -62, s * 62)]
        arteries.append(([(184, 4, 4), (150, 14, s * 20 + 2), *groin], [6.5, 6, 5.5, 5, 4.8, 4.8, 4.5]))
        arteries.append(([(110, 20, s * 34), (80, 44, s * 44), (50, 52, s * 48)], [4, 3.4, 2.5]))
        veins.append(
            (
                [(190, 18, -16), (150, 26, s * 22 - 6), *((z - 2, y + 9, x - s * 7) for z, y, x in groin)],
                [8, 7.5, 7, 6.5, 6, 6, 5.5],
            )
        )
        veins.append(([(110, 32, s * 36), (80, 54, s * 48), (50, 60, s * 52)], [4, 3.6, 2.5]))
    studio.paint(studio.thin(*veins), blood, Tissue.VEIN)
    studio.paint(f["veins"].without(f["heart"]), blood, Tissue.VEIN)
    studio.paint(studio.thin(*arteries), blood, Tissue.ARTERY)
    studio.paint(f["aorta"].grown(0.0), blood + 2, Tissue.AORTA)
