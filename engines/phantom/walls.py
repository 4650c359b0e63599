"""Cancers of oesophagus, stomach, colon and rectum: a wall that thickens, inwards into the lumen and outwards.

Everything follows from the organ's own signed distance s: a diseased wall of thickness t with the share `out` outside
is the shell -(1 - out) t < s < out t, tapering to nothing at the end of its zone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engines.phantom import gut
from engines.phantom.fields import Array, Field, cut
from engines.phantom.findings import Centre, Surgeon, clip, local_lattice, mottled, tangent
from engines.phantom.labels import Tissue
from engines.phantom.person import Plan
from engines.phantom.strands import curve
from engines.phantom.studio import Studio


def paint_walls(studio: Studio) -> None:
    """All planned cancers of hollow organs."""
    painters = {"oesophagus": _oesophagus, "stomach": _stomach, "colorectum": _colon}
    for i, plan in enumerate(studio.person.plans):
        if plan.cancer and plan.organ in painters:
            painters[plan.organ](studio, plan, Surgeon(studio, studio.person.rng(61, i)))


def _shell(
    organ: Field,
    at: Centre,
    plan: Plan,
    out: float,
    along: Centre | None,
    toward: Centre | None,
    keep_out: list[Field],
    rng: np.random.Generator,
) -> Field:
    """The diseased wall around `at`: a stretch along the lumen (`along`), or a patch; thicker `toward` a side."""
    half = plan.diameter_mm / 2
    lattice, axes = local_lattice(at, max(half, 24.0) + plan.thick_mm, min(plan.diameter_mm, 24.0))
    p = np.stack(np.meshgrid(*(a - c for a, c in zip(axes, at, strict=True)), indexing="ij"), axis=-1)
    if along is not None:
        zone = np.abs(p @ along)
        far = np.linalg.norm(p - (p @ along)[..., None] * along, axis=-1) - 34
    else:
        zone = np.linalg.norm(p, axis=-1)
        far = zone - half
    taper = np.sqrt(np.clip(1 - (zone / half) ** 2, 0, 1))
    bump = 1 + 0.18 * np.sin(p @ rng.normal(0, 0.25, 3) + rng.uniform(0, 6)) * np.sin(p @ rng.normal(0, 0.25, 3))
    if toward is not None:
        cosine = (p @ toward) / np.maximum(np.linalg.norm(p, axis=-1), 3)
        bump = bump * np.clip(0.25 + 0.95 * cosine, 0.05, 1.15)
    thick = plan.thick_mm * taper * bump
    s = organ.at(axes)
    inner, outer = -(s + (1 - out) * thick), s - out * thick
    shell = np.maximum(np.maximum(inner, outer), np.maximum(far, zone - half))
    return clip(lattice, shell, outside=keep_out)


def _paint(studio: Studio, plan: Plan, surgeon: Surgeon, shape: Field, at: Centre, tissue: Tissue) -> None:
    wall = studio.person.hu.wall
    hu = wall + plan.hu
    if "fat stranding" in plan.signs:
        surgeon.haze(shape, 10.0, 0.3)
    surgeon.add(plan, shape, mottled(hu, 2.5, 153), at, mean_hu=hu, around_hu=wall, tissue=tissue, soft_mm=0.3)


def _oesophagus(studio: Studio, plan: Plan, surgeon: Surgeon) -> None:
    f, person = studio.fields, studio.person
    line = person.to_patient(curve(studio.lines["oesophagus"], 5))
    index = min(int(gut.oesophagus_at(plan) * (len(line) - 1)), len(line) - 4)
    at, along = line[index], tangent(line, index)
    keep_out = [f["airway"].grown(1.4), f["aorta"].grown(0.4), f["spine"].grown(1.5), f["heart"].grown(0.5), f["veins"]]
    sides: list[Centre | None] = [None]
    if plan.kind == "eccentric":
        across = [np.cross(along, v) for v in surgeon.rng.normal(0, 1, (6, 3))]
        sides = [v / np.linalg.norm(v) for v in across]
    share = max((plan.thick_mm - 6.0) / plan.thick_mm, 0.2)
    # Heart, aorta and spine leave room on some sides only: it grows where most of it fits.
    shapes = [_shell(f["oesophagus"], at, plan, share, along, side, keep_out, surgeon.rng) for side in sides]
    shape = max(shapes, key=lambda s: int((s.values < -0.5).sum()))
    _paint(studio, plan, surgeon, shape, at, Tissue.OESOPHAGUS)
    if "regional nodes" in plan.signs:
        surgeon.nodes(at + np.asarray((0, -4, 8)), 2, (9, 14), 9)


def _stomach(studio: Studio, plan: Plan, surgeon: Surgeon) -> None:
    f, stomach = studio.fields, studio.fields["stomach"]
    rows = studio.person.to_patient(studio.lines["stomach"][:, :3])
    goal = rows[int((0.15 + 0.8 * plan.at) * (len(rows) - 1))]
    surface = Field(np.abs(stomach.values + 1.5), stomach.lattice, stomach.where)
    near = np.argwhere(surface.values < 2.2)
    start = np.asarray([w.start for w in stomach.where])
    points = np.asarray(stomach.lattice.origin) + stomach.lattice.pitch * (near + start)
    order = np.argsort(np.linalg.norm(points - goal, axis=1))
    at = points[order[int(surgeon.rng.integers(0, max(len(order) // 12, 1)))]]
    keep_out = [
        f["liver"].grown(0.5),
        f["spleen"].grown(0.5),
        f["pancreas"].grown(0.5),
        f["aorta"],
        f["colon"].grown(0.5),
    ]
    wide = plan
    if plan.kind == "diffuse":
        wide = replace(plan, diameter_mm=max(plan.diameter_mm * 1.3, 45.0), thick_mm=max(plan.thick_mm * 0.8, 9.0))
    shape = _shell(stomach, np.asarray(at), wide, 0.2, None, None, keep_out, surgeon.rng)
    _paint(studio, wide, surgeon, shape, np.asarray(at), Tissue.STOMACH)
    if "regional nodes" in plan.signs:
        surgeon.nodes(
            np.asarray(at), 3, (8, 14), 16, f["space"].without(stomach, f["liver"], f["spleen"], f["colon"], gap_mm=6)
        )


def _colon(studio: Studio, plan: Plan, surgeon: Surgeon) -> None:
    f, person = studio.fields, studio.person
    line = person.to_patient(studio.lines["colon"][:, :3])
    index = int(gut.tumour_at(plan) * (len(line) - 1))
    at, along = line[index], tangent(line, index)
    keep_out = [f[k].grown(0.5) for k in ("bladder", "uterus", "prostate", "stomach", "liver", "spleen") if k in f]
    colon = f["colon"]
    if plan.kind == "annular":
        shape = _shell(colon, at, plan, 0.3, along, None, keep_out, surgeon.rng)
    else:
        radius = float(studio.lines["colon"][index, 3]) * person.mean_scale
        side = np.cross(along, surgeon.rng.normal(0, 1, 3))
        side /= np.linalg.norm(side)
        inside = surgeon.place(colon, 0.0, 3.0, near=at + side * radius * 0.75)
        at = at if inside is None else inside
        shape = surgeon.lump(at, plan.diameter_mm, 0.16, inside=[colon.grown(2.0)], outside=keep_out)
        _base(studio, plan, shape, colon)
    _paint(studio, plan, surgeon, shape, at, Tissue.COLON)
    if "regional nodes" in plan.signs:
        surgeon.nodes(at, 3, (7, 12), 16, f["space"].without(colon, f["stomach"], gap_mm=5))


def _base(studio: Studio, plan: Plan, shape: Field, colon: Field) -> None:
    """A polyp's own wall is thickened a little around it."""
    axes = (shape.lattice.axis(0), shape.lattice.axis(1), shape.lattice.axis(2))
    s: Array = colon.at(axes)
    collar = cut(shape.values - 4, s, -(s + 4.5))
    studio.paint(clip(shape.lattice, collar), studio.person.hu.wall + plan.hu, Tissue.COLON, 0.5)
