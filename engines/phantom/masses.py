"""Cancers of lung, breast, liver and pancreas: masses in an organ, with what they do around them."""

from __future__ import annotations

import numpy as np

from engines.phantom import difficulty
from engines.phantom.abdomen import tumour_at
from engines.phantom.fields import Field, cut
from engines.phantom.findings import Surgeon, clip, local_lattice, mottled
from engines.phantom.labels import Tissue
from engines.phantom.person import Plan
from engines.phantom.strands import grow_tree, strands
from engines.phantom.studio import Studio


def paint_masses(studio: Studio) -> None:
    """All planned cancers of solid organs."""
    painters = {"lung": _lung, "breast": _breast, "liver": _liver, "pancreas": _pancreas}
    for i, plan in enumerate(studio.person.plans):
        if plan.cancer and plan.organ in painters:
            painters[plan.organ](studio, plan, Surgeon(studio, studio.person.rng(60, i)))


def _lung(studio: Studio, plan: Plan, surgeon: Surgeon) -> None:
    f, person, d = studio.fields, studio.person, plan.diameter_mm
    side = -1 if plan.at < 0.55 else 1
    lung = f[f"lung{side}"]
    if plan.kind == "obstructing":
        _obstructing(studio, plan, surgeon, side)
        return
    at = surgeon.place(lung, d, min(0.4 * d, 12.0) + 2)
    if at is None:
        return
    fits = [lung.grown(0.6)]
    around = person.hu.lung
    if plan.kind in ("ground-glass", "part-solid"):
        veil_hu = plan.hu if plan.kind == "ground-glass" else -610.0
        veil = surgeon.lump(at, d, 0.16, inside=fits)
        number = surgeon.add(
            plan, veil, mottled(veil_hu, 35, 141), at, mean_hu=veil_hu, around_hu=around, soft_mm=3.0, opacity=0.85
        )
        if plan.kind == "part-solid":
            core = surgeon.lump(at + surgeon.rng.normal(0, 0.06 * d, 3), 0.55 * d, 0.15, inside=fits)
            studio.paint(core, mottled(plan.hu, 8, 143), None, 0.6, number)
        return
    body = surgeon.lump(at, d, 0.16 if plan.kind == "solid" else 0.2, inside=fits)
    spikes = []
    if plan.kind == "spiculated":
        spikes.append(surgeon.spikes(at, d, int(surgeon.rng.integers(10, 20))))
    if "pleural tail" in plan.signs:
        edge = lung.points(surgeon.rng, 400, 0.0)
        edge = edge[lung.value_at(edge) > -4]
        if len(edge):
            goal = edge[np.argmin(np.linalg.norm(edge - at, axis=1))]
            if np.linalg.norm(goal - at) < 45:
                tail = strands([(np.stack([at, goal]), [1.6, 0.7])])
                studio.paint(tail, -80.0, None, 0.3)
    surgeon.add(plan, body, mottled(plan.hu, 8, 143), at, mean_hu=plan.hu, around_hu=around, more=spikes)
    if "regional nodes" in plan.signs:
        hilum = person.to_patient([(482, 14, side * 34)])[0]
        surgeon.nodes(hilum, 2, (11, 18), 9)


def _obstructing(studio: Studio, plan: Plan, surgeon: Surgeon, side: int) -> None:
    """A mass at the hilum that shuts a bronchus: the lung beyond it collapses."""
    f, d = studio.fields, max(plan.diameter_mm, 18.0)
    up = 1 if surgeon.rng.random() < 0.6 else -1
    at = studio.person.to_patient([(480 + up * 10, 10, side * (56 + 0.25 * d))])[0]
    axis = np.asarray((up * 0.75, -0.35 * up, side * 0.5))
    axis /= np.linalg.norm(axis)
    lung = f[f"lung{side}"]
    reach = float(surgeon.rng.uniform(50, 85))
    lattice, axes = local_lattice(at + axis * reach / 2, reach * 0.8, 40)
    p = np.stack(np.meshgrid(*(a - c for a, c in zip(axes, at, strict=True)), indexing="ij"), axis=-1)
    along = p @ axis
    across = np.linalg.norm(p - along[..., None] * axis, axis=-1)
    wedge = np.maximum(across - 7 - 0.38 * along, np.abs(along - reach / 2) - reach / 2)
    collapse = clip(lattice, wedge, inside=[lung.grown(0.5)])
    studio.paint(collapse, mottled(28, 6, 145), None, 2.0)
    body = surgeon.lump(at, d, 0.16, outside=[f["airway"].grown(1.5), f["heart"].grown(1.0), f["aorta"], f["spine"]])
    surgeon.add(
        plan,
        body,
        mottled(plan.hu, 6, 143),
        at,
        mean_hu=plan.hu,
        around_hu=studio.person.hu.lung,
        diameter=d,
        signs=(*plan.signs, "obstruction"),
    )
    if "regional nodes" in plan.signs:
        surgeon.nodes(at - (0, 0, side * 20.0), 2, (11, 18), 9)


def _liver(studio: Studio, plan: Plan, surgeon: Surgeon) -> None:
    liver, person = studio.fields["liver"], studio.person
    contrast = plan.hu
    if person.hu.liver < 34 and surgeon.rng.random() < 0.6:
        contrast = abs(contrast)  # in a fatty liver many lesions are the brighter ones
    count = int(surgeon.rng.integers(2, 6)) if plan.kind == "metastases" else 1
    for i in range(count):
        d = plan.diameter_mm if i == 0 else float(max(plan.diameter_mm * surgeon.rng.uniform(0.4, 0.95), 8))
        at = surgeon.place(liver, d, min(0.45 * d, 18.0) + 2)
        if at is None:
            continue
        hu = person.hu.liver + contrast * float(surgeon.rng.uniform(0.9, 1.1))
        lumps = {"cholangiocarcinoma": 0.22, "metastases": 0.1}.get(plan.kind, 0.08)
        body = surgeon.lump(at, d, lumps, inside=[liver.grown(1.5)])
        if "capsule" in plan.signs:  # it belongs to the tumour, and so to its truth
            studio.paint(body.grown(1.6), person.hu.liver + contrast - 7, Tissue.LIVER, 0.5, surgeon.next_number)
        number = surgeon.add(
            plan,
            body,
            mottled(hu, 2.5, 147),
            at,
            mean_hu=hu,
            around_hu=person.hu.liver,
            tissue=Tissue.LIVER,
            soft_mm=2.0,
            diameter=d,
        )
        if d > 28 and surgeon.rng.random() < 0.5:
            rotten = surgeon.lump(at, 0.45 * d, 0.25)
            studio.paint(rotten, hu - 9, None, 4.0, number)
        if "bile duct dilatation" in plan.signs:
            outer = liver.points(surgeon.rng, 60, 3)
            outer = outer[np.linalg.norm(outer - at, axis=1) < 0.5 * d + 55][:14]
            if len(outer):
                studio.paint(grow_tree(surgeon.rng, at, outer, 3.6, 1.6), person.hu.bile + 4, None, 0.4)
                studio.paint(body, mottled(hu, 2.5, 147), Tissue.LIVER, 2.0, number)


def _pancreas(studio: Studio, plan: Plan, surgeon: Surgeon) -> None:
    f, person, d = studio.fields, studio.person, plan.diameter_mm
    line = studio.lines["pancreas"]
    index = round(tumour_at(plan) * (len(line) - 1))
    goal = person.to_patient(line[index, :3])[0]
    hu = person.hu.pancreas + plan.hu
    keep_out = [
        f["aorta"].grown(0.5),
        f["veins"].grown(0.5),
        f["spine"].grown(2),
        f["kidney-1"],
        f["kidney1"],
        f["liver"].grown(0.5),
    ]
    at = surgeon.place(f["pancreas"].without(*keep_out, gap_mm=1.0), 0.0, 2.0, near=goal)
    if at is None:
        return
    ductal = plan.kind == "ductal adenocarcinoma"
    body = surgeon.lump(at, d, 0.16 if ductal else 0.04, 0.15 if ductal else 0.05, outside=keep_out)
    if "fat stranding" in plan.signs:
        surgeon.haze(body, 9.0)
    surgeon.add(
        plan,
        body,
        mottled(hu, 2.5, 149),
        at,
        mean_hu=hu,
        around_hu=person.hu.pancreas,
        tissue=Tissue.PANCREAS,
        soft_mm=1.5 if ductal else 0.3,
    )


def _breast(studio: Studio, plan: Plan, surgeon: Surgeon) -> None:
    f, person, d = studio.fields, studio.person, plan.diameter_mm
    gland = f["gland"]
    side = -1 if plan.at < 0.5 else 1
    x = studio.canvas.template[2][gland.where]
    half = Field(np.maximum(gland.values, -side * x).astype(np.float32), gland.lattice, gland.where)
    at = surgeon.place(half, d, min(0.3 * d, 8) + 1)
    if at is None:
        return
    fits = [f["body"].grown(-2.5)]
    spiky = plan.kind == "spiculated"
    hu = max(plan.hu, person.hu.gland + difficulty.ABOVE_GLAND_HU)
    body = surgeon.lump(at, d, 0.18 if spiky else 0.1, inside=fits, outside=[f["wall"]])
    spikes = [surgeon.spikes(at, d, int(surgeon.rng.integers(9, 16)), (1.1, 1.6))] if spiky else []
    surgeon.add(
        plan,
        body,
        mottled(hu, 3, 151),
        at,
        mean_hu=hu,
        around_hu=person.hu.fat,
        tissue=Tissue.BREAST,
        soft_mm=0.5,
        more=spikes,
    )
    if "skin thickening" in plan.signs:
        lattice, axes = local_lattice(at, 45, 40)
        p = np.stack(np.meshgrid(*(a - c for a, c in zip(axes, at, strict=True)), indexing="ij"), axis=-1)
        shell = f["body"].at(axes)
        near = np.linalg.norm(p, axis=-1) - 38
        studio.paint(clip(lattice, cut(shell, -(shell + 4.5), near)), 32.0, Tissue.SKIN, 1.0)
    if "regional nodes" in plan.signs:
        armpit = person.to_patient([(540, 2, side * 130)])[0]
        surgeon.nodes(armpit, 3, (11, 20), 9)
