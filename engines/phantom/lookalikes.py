"""What must not be called cancer: cysts, haemangiomas, granulomas, scars, nodes, stones, hernias, metal; breasts."""

from __future__ import annotations

import numpy as np

from engines.phantom import difficulty
from engines.phantom.body import SKIN_MM, breasts
from engines.phantom.fields import Array, Field, union
from engines.phantom.findings import Surgeon, mottled
from engines.phantom.gut import filled
from engines.phantom.labels import Tissue
from engines.phantom.person import Plan, Points
from engines.phantom.shapes import Ellipsoid
from engines.phantom.strands import curve, strands
from engines.phantom.studio import Spot, Studio, smooth_tube


def paint_breasts(studio: Studio) -> None:
    """Glandular tissue in fat behind the nipples; a man's small disc of it."""
    person, f = studio.person, studio.fields
    if person.sex == "F":
        shapes = [studio.field(b, 2.5) for b in breasts(person, inside_mm=9 + 10 * (1 - person.breast_density))]
        f["gland"] = union(*shapes).within(f["body"].grown(-7)).without(f["wall"], gap_mm=4)
    density = person.breast_density if person.sex == "F" else 0.8

    def glandular(spot: Spot) -> Array:
        uneven = 0.34 * spot.clouds(107) + 0.34 * spot.mottle(101) + 0.26 * spot.grain(103)
        share = np.clip(density * 1.25 - 0.35 + uneven, 0, 1)
        rim = np.clip(-spot.distance / 6, 0, 1)
        return np.asarray(person.hu.fat + share * rim * (person.hu.gland - person.hu.fat), np.float32)

    if person.sex == "F":
        studio.paint(f["gland"], glandular, Tissue.BREAST, 2.0)
        return
    plan = next((p for p in person.plans if p.kind == "gynaecomastia"), None)
    size = plan.diameter_mm if plan else 8.0
    surgeon = Surgeon(studio, person.rng(62))
    depth = -(SKIN_MM + 1.5 + 0.3 * size)
    for side in (-1, 1):
        centre = _under_skin(studio, person.to_patient([(478.0, -95.0, side * 78.0)])[0], depth)
        disc = surgeon.lump(centre, size, 0.1, 0.2, inside=[f["body"].grown(-2.5)], outside=[f["wall"]])
        if plan is None:
            studio.paint(disc, glandular, Tissue.BREAST, 2.0)
        else:
            hu = person.hu.gland
            surgeon.add(
                plan, disc, glandular, centre, mean_hu=hu, around_hu=person.hu.fat, tissue=Tissue.BREAST, soft_mm=2.0
            )


def _under_skin(studio: Studio, start: Points, depth: float) -> Points:
    """The point in front of `start` where the body's distance is `depth`."""
    steps = np.arange(0.0, 120.0, 1.0)
    line = start + steps[:, None] * np.asarray((0.0, -1.0, 0.0))
    inside = studio.fields["body"].value_at(line) < depth
    return np.asarray(line[int(np.flatnonzero(inside)[-1])] if inside.any() else start)


def paint_lookalikes(studio: Studio) -> None:
    """All planned look-alikes that are painted on top of their organ."""
    painters = {
        "liver": _liver, "kidney": _kidney, "lung": _lung, "pancreas": _pancreas, "breast": _breast, "nodes": _nodes,
        "stomach": _stomach, "colon": _colon, "gallbladder": _stone, "pleura": _effusion, "anywhere": _metal,
    }  # fmt: skip
    for i, plan in enumerate(studio.person.plans):
        if not plan.cancer:
            painters[plan.organ](studio, plan, Surgeon(studio, studio.person.rng(63, i)))


def _liver(studio: Studio, plan: Plan, surgeon: Surgeon) -> None:
    liver, hu = studio.fields["liver"], studio.person.hu
    at = surgeon.place(liver, plan.diameter_mm, min(0.4 * plan.diameter_mm, 15) + 2)
    if at is None:
        return
    inside = [liver.grown(1.0)]
    if plan.kind == "liver cyst":
        value = float(surgeon.rng.uniform(0, 9))
        surgeon.add(
            plan,
            surgeon.lump(at, plan.diameter_mm, 0.02, inside=inside),
            value,
            at,
            mean_hu=value,
            around_hu=hu.liver,
            tissue=Tissue.LIVER,
        )
    elif plan.kind == "liver haemangioma":
        value = hu.blood - 1
        shape = surgeon.lump(at, plan.diameter_mm, 0.2, inside=inside)
        added = surgeon.add(plan, shape, value, at, mean_hu=value, around_hu=hu.liver, tissue=Tissue.LIVER)
        if added and plan.diameter_mm > 25:
            studio.paint(surgeon.lump(at, 0.3 * plan.diameter_mm, 0.3), 20.0, None, 1.0, added)
    else:
        value = float(surgeon.rng.uniform(250, 700))
        surgeon.add(
            plan,
            surgeon.lump(at, plan.diameter_mm, 0.2),
            value,
            at,
            mean_hu=value,
            around_hu=hu.liver,
            tissue=Tissue.LIVER,
        )


def _kidney(studio: Studio, plan: Plan, surgeon: Surgeon) -> None:
    kidney = studio.fields["kidney-1" if plan.at < 0.5 else "kidney1"]
    rim = np.maximum(np.abs(kidney.values) - 3, studio.fields["space"].on(kidney.where) + 4)
    at = surgeon.place(Field(rim, kidney.lattice, kidney.where), plan.diameter_mm, 0.0)
    if at is None:
        return
    keep_out = [studio.fields[k].grown(1) for k in ("liver", "spleen", "spine", "colon")]
    shape = surgeon.lump(at, plan.diameter_mm, 0.02, inside=[studio.fields["space"]], outside=keep_out)
    value = float(surgeon.rng.uniform(0, 10))
    surgeon.add(plan, shape, value, at, mean_hu=value, around_hu=studio.person.hu.kidney, tissue=Tissue.KIDNEY)


def _lung(studio: Studio, plan: Plan, surgeon: Surgeon) -> None:
    lung = studio.fields["lung-1" if plan.at < 0.52 else "lung1"]
    around = studio.person.hu.lung
    if plan.kind in ("lung dependent atelectasis", "lung apical cap"):
        _pleural(studio, plan, surgeon)
        return
    if plan.kind == "lung granuloma":
        at = surgeon.place(lung, plan.diameter_mm, 5.0)
        if at is not None:
            value = float(surgeon.rng.uniform(300, 750))
            surgeon.add(plan, surgeon.lump(at, plan.diameter_mm, 0.08), value, at, mean_hu=value, around_hu=around)
        return
    if plan.kind == "intrapulmonary node":
        at = surgeon.place(Field(np.abs(lung.values + 6) - 2, lung.lattice, lung.where), plan.diameter_mm, 0.0)
        if at is not None:
            shape = surgeon.lump(at, plan.diameter_mm, 0.03, 0.3, inside=[lung])
            surgeon.add(plan, shape, 15.0, at, mean_hu=15.0, around_hu=around)
        return
    at = surgeon.place(Field(np.abs(lung.values + 10) - 4, lung.lattice, lung.where), plan.diameter_mm, 0.0)
    if at is None:
        return
    lines = []
    for _ in range(int(surgeon.rng.integers(2, 5))):
        direction = surgeon.rng.normal(0, 1, 3)
        direction /= np.linalg.norm(direction)
        half = plan.diameter_mm / 2 * direction
        bend = surgeon.rng.normal(0, 2, 3)
        lines.append((curve(np.stack([at - half, at + bend, at + half]), 4), float(surgeon.rng.uniform(0.6, 1.3))))
    surgeon.add(plan, strands(lines), -60.0, at, mean_hu=-60.0, around_hu=around, soft_mm=0.4)


def _pleural(studio: Studio, plan: Plan, surgeon: Surgeon) -> None:
    """Lung that lies on the back is ill aired, and old lungs have caps of scar at their tops: layers on the pleura."""
    dependent = plan.kind == "lung dependent atelectasis"
    value = float(surgeon.rng.uniform(-560, 10) if dependent else surgeon.rng.uniform(-60, 40))
    low = float(surgeon.rng.uniform(430, 520))
    for side in (-1, 1):
        lung = studio.fields[f"lung{side}"]
        z, y, _ = (t[lung.where] for t in studio.canvas.template)
        # How thick the layer is at each place: thickest behind and below (or at the top), waving, gone elsewhere.
        share = (
            np.clip((y - 28) / 30, 0, 1) * np.clip((low - z) / 60, 0, 1) if dependent else np.clip((z - 560) / 25, 0, 1)
        )
        waves = 1 + 0.5 * studio.canvas.small_lumps[lung.where] + 0.3 * studio.canvas.lumps[lung.where]
        thick = plan.diameter_mm * share * np.clip(waves, 0.1, 1.8) * float(surgeon.rng.uniform(0.5, 1.0))
        layer = np.maximum(lung.values - 0.3, -lung.values - thick)
        field = Field(layer.astype(np.float32), lung.lattice, lung.where)
        points = field.points(surgeon.rng, 1)
        if len(points):
            surgeon.add(
                plan, field, mottled(value, 30, 157), points[0], mean_hu=value, around_hu=studio.person.hu.lung,
                soft_mm=4.0 if dependent else 0.8,
            )  # fmt: skip


def _pancreas(studio: Studio, plan: Plan, surgeon: Surgeon) -> None:
    pancreas = studio.fields["pancreas"]
    at = surgeon.place(pancreas, plan.diameter_mm, 2.0)
    if at is not None:
        shape = surgeon.lump(at, plan.diameter_mm, 0.04, outside=[studio.fields["aorta"], studio.fields["veins"]])
        surgeon.add(plan, shape, 9.0, at, mean_hu=9.0, around_hu=studio.person.hu.pancreas, tissue=Tissue.PANCREAS)


def _breast(studio: Studio, plan: Plan, surgeon: Surgeon) -> None:
    if plan.kind == "gynaecomastia":
        return
    at = surgeon.place(studio.fields["gland"], plan.diameter_mm, 4.0)
    if at is None:
        return
    shape = surgeon.lump(at, plan.diameter_mm, 0.04, 0.2, inside=[studio.fields["body"].grown(-3)])
    value = 7.0 if plan.kind == "breast cyst" else float(surgeon.rng.uniform(*difficulty.FIBROADENOMA_HU))
    number = surgeon.add(plan, shape, value, at, mean_hu=value, around_hu=studio.person.hu.fat, tissue=Tissue.BREAST)
    if plan.kind == "breast fibroadenoma calcified":
        for _ in range(5):
            flake = at + surgeon.rng.normal(0, 0.16 * plan.diameter_mm, 3)
            studio.paint(surgeon.lump(flake, 0.32 * plan.diameter_mm, 0.25), 480.0, None, 0.3, number)


_STATIONS = ((505, 12, -16), (520, 4, -24), (478, 26, 2), (515, -4, 26), (545, -2, 112), (545, -2, -112),
             (228, -18, -2), (100, 12, 58), (100, 12, -58), (8, -52, 58), (8, -52, -58), (322, 2, -8))  # fmt: skip


def _nodes(studio: Studio, plan: Plan, surgeon: Surgeon) -> None:
    """Normal nodes at their usual stations: found, short, with fat inside."""
    at = studio.person.to_patient([_STATIONS[int(plan.at * len(_STATIONS))]])[0] + surgeon.rng.normal(0, 4, 3)
    hu = studio.person.hu
    f = studio.fields
    keep_out = [f[k].grown(0.5) for k in ("aorta", "veins", "airway", "spine", "heart", "pulmonary", "oesophagus")]
    shape = surgeon.lump(at, plan.diameter_mm, 0.04, 0.28, outside=keep_out)
    surgeon.add(plan, shape, hu.muscle - 12, at, mean_hu=hu.muscle - 12, around_hu=hu.fat, tissue=Tissue.LYMPH_NODE)
    if plan.diameter_mm > 6:
        studio.paint(surgeon.lump(at, 0.4 * plan.diameter_mm, 0.0), hu.fat + 55, None, 0.6)


def _stomach(studio: Studio, plan: Plan, surgeon: Surgeon) -> None:
    """A hiatal hernia: a pouch of stomach above the diaphragm. The collapsed stomach was built so."""
    if plan.kind != "hiatal hernia":
        return
    f, d = studio.fields, plan.diameter_mm
    at = studio.person.to_patient([(404, 12, 18)])[0]
    keep_out = [f[k].grown(1.0) for k in ("aorta", "spine", "heart", "veins")]
    pouch = surgeon.lump(at, d, 0.1, outside=keep_out)
    number = surgeon.add(
        plan,
        pouch,
        studio.person.hu.wall,
        at,
        mean_hu=studio.person.hu.wall,
        around_hu=studio.person.hu.fat,
        tissue=Tissue.STOMACH,
    )
    if not number:
        return
    inner = pouch.grown(-3.5)
    studio.paint(
        inner,
        filled(studio, pouch, float(surgeon.rng.uniform(0.2, 0.7)), 18, 5, 105),
        Tissue.STOMACH,
        0.4,
        number,
    )


def _colon(studio: Studio, plan: Plan, surgeon: Surgeon) -> None:
    """A diverticulum of the sigmoid: a bud with gas in it."""
    rows = studio.lines["colon"]
    i = int((0.70 + 0.14 * plan.at) * (len(rows) - 1))
    centre = studio.person.to_patient(rows[i, :3])[0]
    direction = surgeon.rng.normal(0, 1, 3)
    direction /= np.linalg.norm(direction)
    at = centre + direction * (rows[i, 3] * studio.person.mean_scale + 0.2 * plan.diameter_mm)
    hu = studio.person.hu
    shape = surgeon.lump(at, plan.diameter_mm, 0.03)
    number = surgeon.add(plan, shape, hu.wall, at, mean_hu=hu.wall, around_hu=hu.fat, tissue=Tissue.COLON)
    studio.paint(shape.grown(-1.4), -750.0 if surgeon.rng.random() < 0.7 else 40.0, Tissue.COLON, 0.4, number)


def _stone(studio: Studio, plan: Plan, surgeon: Surgeon) -> None:
    bladder = studio.fields["gallbladder"]
    points = bladder.points(surgeon.rng, 60, 0.4 * plan.diameter_mm)
    if not len(points):
        return
    at = points[np.argmax(points[:, 1])]  # stones sink to the back
    value = float(surgeon.rng.choice((60.0, 130.0, 320.0)))
    surgeon.add(
        plan,
        surgeon.lump(at, plan.diameter_mm, 0.1, inside=[bladder]),
        value,
        at,
        mean_hu=value,
        around_hu=studio.person.hu.bile,
        tissue=Tissue.GALLBLADDER,
    )


def _effusion(studio: Studio, plan: Plan, surgeon: Surgeon) -> None:
    """Fluid behind one or both lungs."""
    sides = [(-1,), (1,), (-1, 1)][int(plan.at * 3)]
    for side in sides:
        lung = studio.fields[f"lung{side}"]
        z, y, _ = (t[lung.where] for t in studio.canvas.template)
        level = float(surgeon.rng.uniform(42, 66))
        pool = np.maximum(lung.values - 0.5, level + 0.10 * (z - 360) - y)
        field = Field(pool.astype(np.float32), lung.lattice, lung.where)
        points = field.points(surgeon.rng, 1)
        if not len(points):
            continue
        surgeon.add(
            plan,
            field,
            mottled(9, 1.5, 155),
            points[0],
            mean_hu=9.0,
            around_hu=studio.person.hu.lung,
            tissue=Tissue.EFFUSION,
            diameter=60.0,
        )


def _metal(studio: Studio, plan: Plan, surgeon: Surgeon) -> None:
    """A hip prosthesis, a row of clips, or a pacemaker with its lead."""
    person = studio.person
    if plan.at < 0.35:
        s = -1 if plan.at < 0.17 else 1
        wide = 1.05 if person.sex == "F" else 1.0
        joint = studio.field(Ellipsoid((10, 0, s * 98 * wide), (17, 17, 17)))
        stem = studio.field(
            smooth_tube(
                [(10, 0, s * 98 * wide), (-12, 8, s * 132), (-34, 12, s * 148), (-90, 8, s * 150)], [7, 7, 7, 6]
            )
        )
        at = person.to_patient([(10, 0, s * 98 * wide)])[0]
        surgeon.add(
            plan, union(joint, stem), 3000.0, at, mean_hu=3000.0, around_hu=200.0, tissue=Tissue.METAL, diameter=34.0
        )
    elif plan.at < 0.75:
        at = person.to_patient(
            [(280 if plan.at < 0.55 else 105, -30 if plan.at < 0.55 else 0, -50 if plan.at < 0.55 else 30)]
        )[0]
        points = at + surgeon.rng.normal(0, 7, (5, 3))
        clips = strands((np.stack([p, p + surgeon.rng.normal(0, 2, 3)]), 0.8) for p in points)
        surgeon.add(plan, clips, 2600.0, at, mean_hu=2600.0, around_hu=person.hu.fat, tissue=Tissue.METAL, diameter=6.0)
    else:
        can = studio.field(Ellipsoid((545, -88, 82), (20, 6, 22))).within(studio.fields["body"].grown(-4))
        at = person.to_patient([(545, -88, 82)])[0]
        lead = studio.thin(
            ([(548, -82, 70), (585, -34, 60), (556, -42, 10), (520, -20, -32), (450, -24, -30), (425, -46, 0)], 1.1)
        )
        surgeon.add(
            plan,
            can,
            2800.0,
            at,
            mean_hu=2800.0,
            around_hu=person.hu.fat,
            tissue=Tissue.METAL,
            more=[lead],
            diameter=42.0,
        )
