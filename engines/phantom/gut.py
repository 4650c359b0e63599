"""Hollow organs: wall, and inside it gas in front, fluid behind, food or stool; and the organs of the pelvis."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from engines.phantom import difficulty
from engines.phantom.body import belly
from engines.phantom.fields import Array, Field, cut, union
from engines.phantom.labels import Tissue
from engines.phantom.person import Plan
from engines.phantom.shapes import Ellipsoid
from engines.phantom.strands import curve, grow_tree, strands
from engines.phantom.studio import Spot, Studio, smooth_tube

# template z, y, x and radius from the caecum to the anus
COLON = (
    (104, -10, -80, 22), (124, -6, -86, 28), (160, 6, -90, 26), (200, 14, -93, 24), (240, 10, -90, 23),
    (258, -16, -76, 22), (238, -50, -46, 21), (230, -58, 0, 21), (248, -54, 44, 20), (292, -16, 84, 19),
    (322, 12, 98, 18), (284, 34, 98, 16), (222, 32, 98, 15), (164, 20, 94, 14.5), (122, 2, 82, 14), (94, -14, 54, 14.5),
    (80, -22, 18, 15), (100, -14, -12, 15), (92, 16, -12, 15), (66, 46, 2, 17), (36, 56, 0, 20), (2, 46, 0, 16),
    (-24, 50, 0, 9),
)  # fmt: skip
_STOMACH = (
    (374, 22, 50, 20), (358, 18, 60, 32), (330, -8, 66, 31), (302, -34, 54, 25), (280, -46, 28, 20), (276, -42, 0, 17),
    (283, -28, -24, 9),
)  # fmt: skip
_DUODENUM = ((283, -28, -26, 12), (288, -10, -44, 13), (262, 2, -54, 12.5), (225, 8, -50, 12), (208, 10, -26, 12),
             (210, 6, 4, 11.5), (226, 2, 26, 11.5), (240, -10, 34, 11))  # fmt: skip


def filled(
    studio: Studio, field: Field, gas: float, fluid: float, mottle: float, shift: float
) -> Callable[[Spot], Array]:
    """Contents of somebody lying on the back: the front `gas` share of the organ's depth is gas."""
    (_, _), (front, back), _ = field.bounds
    level = front + 8 + gas * (back - front - 16)

    def contents(spot: Spot) -> Array:
        y = spot.axes[1][None, :, None]
        matter = fluid + mottle * spot.grain(shift)
        above = np.clip((np.float32(level) - y) * np.float32(0.8) + 0.5, 0, 1)
        return np.asarray(matter + (-970 - matter) * above, np.float32)

    return contents


def stool(hu: float, gas: float, shift: float) -> Callable[[Spot], Array]:
    """Stool of this HU with crumbs and bubbles; `gas` 0..1: how much of the lumen is gas."""

    def contents(spot: Spot) -> Array:
        fine, coarse = spot.grain(shift), spot.mottle(shift + 7)
        bubbles = np.clip((0.8 * fine + 0.35 * coarse - 1.0 + gas) * 1.4, 0, 1)
        matter = hu + 26 * fine + 8 * coarse
        return np.asarray(matter + (-870 - matter) * bubbles, np.float32)

    return contents


def hollow(
    studio: Studio,
    outer: Field,
    wall_mm: float,
    contents: float | Callable[[Spot], Array],
    tissue: Tissue,
    soft: float = 0.3,
) -> Field:
    """Paint an organ's wall and contents; the lumen comes back."""
    lumen = outer.grown(-wall_mm)
    studio.paint(outer, studio.person.hu.wall, tissue)
    studio.paint(lumen, contents, tissue, soft)
    return lumen


def build_gut(studio: Studio) -> None:
    """Fields: stomach, duodenum, colon, bowel loops, bladder, pelvic organs."""
    f, person = studio.fields, studio.person
    rng, lift = person.rng(50), 0.65 * person.breath_mm
    solid = union(f["liver"], f["spleen"], f["kidney-1"].grown(4), f["kidney1"].grown(4), f["gallbladder"].grown(1.4))
    knots = np.asarray(_STOMACH, np.float64)
    knots[:, :3] += np.clip(rng.normal(0, 3.5, (len(knots), 3)), -7, 7)
    knots[:4, 0] += lift
    knots[:, 1] -= 0.35 * belly(person, 290)
    fill = 0.55 if person.has("collapsed stomach") else float(rng.uniform(0.8, 1.15))
    knots[:-1, 3] *= fill
    rows = curve(knots, 4)
    studio.lines["stomach"] = rows
    tube = smooth_tube(rows[:, :3].tolist(), rows[:, 3].tolist(), 1)
    f["stomach"] = studio.field(tube, 2.5, 1.0).within(f["space"].grown(-0.5)).without(solid, f["pancreas"], gap_mm=1.5)
    gullet = studio.lines["oesophagus"][-1]
    cardia = studio.field(
        smooth_tube(np.stack([gullet, knots[0, :3] * 0.4 + gullet * 0.6, knots[1, :3]]).tolist(), [8.0, 8.5, 10])
    )
    f["cardia"] = cardia.without(solid, gap_mm=1)
    f["pancreas"] = f["pancreas"].without(solid, gap_mm=1.0)
    duodenum = np.asarray(_DUODENUM, np.float64)
    duodenum[:, :3] += np.clip(rng.normal(0, 2, (len(duodenum), 3)), -4, 4)
    duodenum[0, :3] = knots[-1, :3]
    tube = smooth_tube(duodenum[:, :3].tolist(), duodenum[:, 3].tolist())
    f["duodenum"] = studio.field(tube, 1.0, 1.0).without(f["pancreas"], solid, gap_mm=0.5)
    _pelvis(studio, rng)
    _colon(studio, rng, union(solid, f["stomach"]))
    _loops(studio)


def _pelvis(studio: Studio, rng: np.random.Generator) -> None:
    f, female = studio.fields, studio.person.sex == "F"
    full = float(rng.uniform(0.6, 1.25))
    f["bladder"] = studio.field(
        Ellipsoid((26 + 14 * full, -30, 0), (26 * full, 24 * full**0.5, 38 * full**0.6)), 1.5
    ).within(f["cavity"].grown(-2))
    if female:
        size = 1.0 if studio.person.age_years < 55 else 0.75
        lean = float(rng.normal(0, 5))
        f["uterus"] = studio.field(
            Ellipsoid((56, 8, lean), (22 * size, 34 * size, 27 * size), (0.0, 0.5, 0.0)), 1.5
        ).without(f["bladder"], gap_mm=2)
    else:
        f["prostate"] = studio.field(Ellipsoid((0, -6, 0), (19, 17, 23)), 1.0).without(f["bladder"], gap_mm=0.5)


def _colon(studio: Studio, rng: np.random.Generator, solid: Field) -> None:
    f, person = studio.fields, studio.person
    knots = np.asarray(COLON, np.float64)
    knots[:-3, :3] += np.clip(rng.normal(0, 4, (len(knots) - 3, 3)), -8, 8)
    knots[6:9, 0] -= rng.uniform(0, 40)
    for k in knots[5:10]:
        k[1] -= 0.8 * belly(person, float(k[0]))
    knots[:, 3] *= rng.uniform(0.82, 1.12) * np.exp(rng.normal(0, 0.09, len(knots)))
    rows = curve(knots, 9)
    u = np.linspace(0, 1, len(rows))
    plan = next(iter(person.cancers("colorectum")), None)
    if plan is not None and "upstream distension" in plan.signs:
        rows[:, 3] *= np.where(u < tumour_at(plan), 1.22, 0.85)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(rows[:, :3], axis=0), axis=1))])
    folds = np.abs(np.sin(np.pi * along / 30 + 0.5 * np.sin(along / 70))) ** 0.7
    depth = np.interp(u, (0, 0.5, 0.65, 0.88, 1), (0.30, 0.30, 0.18, 0.08, 0.0))
    rows[:, 3] *= 1 - depth * (1 - folds)
    studio.lines["colon"] = rows
    tube = smooth_tube(rows[:, :3].tolist(), rows[:, 3].tolist(), 1)
    own = studio.field(tube, 1.2, 1.2)
    blocks = [f["bladder"].grown(2)] + [f[k].grown(2) for k in ("uterus", "prostate") if k in f]
    f["colon"] = own.within(union(f["space"].grown(-1), f["cavity"].grown(-1.5))).without(solid, *blocks, gap_mm=1.5)
    f["colon"] = f["colon"].within(f["below"].grown(-3))


def tumour_at(plan: Plan) -> float:
    """Where along the colon a cancer sits: half of them from the sigmoid on, as in people."""
    return 0.08 + 0.62 * plan.at / 0.5 if plan.at < 0.5 else 0.70 + 0.24 * (plan.at - 0.5) / 0.5


def _loops(studio: Studio) -> None:
    """Small bowel: a self-avoiding walk through what is left of the belly."""
    f, person = studio.fields, studio.person
    rng = person.rng(51)
    others = [
        f[k]
        for k in (
            "liver",
            "spleen",
            "stomach",
            "colon",
            "pancreas",
            "duodenum",
            "bladder",
            "kidney-1",
            "kidney1",
            "uterus",
            "gallbladder",
            "aorta",
            "veins",
        )
        if k in f
    ]
    room = f["space"].grown(-2)
    z, y, x = (t[room.where] for t in studio.canvas.template)
    limits = cut(z - 262, 62 - z, y - 26, np.abs(x) - 96).astype(np.float32)
    psoas = (30 - (np.abs(x) + (30 - y) * 0.9)).astype(np.float32)
    room = Field(cut(room.values, limits, psoas), room.lattice, room.where).without(*others, gap_mm=2.0)
    f["belly room"] = room
    goals = room.points(rng, 700, 6.0)
    if not len(goals):
        return
    path = _walk(rng, goals)
    loops: list[Field] = []
    parts = _split(path)
    for part in parts:
        rows = curve(part, 3) if len(part) > 2 else part
        wide = np.clip(rng.normal(11.5, 1.6) + rng.normal(0, 0.8, len(rows)), 8, 16)
        loops.append(studio.pipe_field(strands([(rows, wide)])))
    studio.lines["bowel"] = np.concatenate(parts)
    f["bowel"] = union(*loops).within(room.grown(8)).without(*others, gap_mm=1.2)
    squeezed = f["bowel"].values + 1.5 * np.clip(studio.canvas.small_lumps[f["bowel"].where], -1, 1)
    f["bowel"] = Field(np.asarray(squeezed, np.float32), f["bowel"].lattice, f["bowel"].where).within(
        f["space"].grown(-1)
    )


def _walk(rng: np.random.Generator, goals: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
    """A path through some of the goals that keeps clear of itself; a NaN row where it had to begin elsewhere."""
    path, used = [goals[0]], np.zeros(len(goals), bool)
    for _ in range(130):
        gaps = np.linalg.norm(goals - path[-1], axis=1)
        apart = np.min(np.linalg.norm(goals[:, None] - np.asarray(path[:-1] or [[1e4] * 3])[None], axis=2), axis=1)
        fit = (gaps > 16) & (gaps < 44) & ~used
        score = gaps * 0.4 - np.minimum(apart, 24) * 2.2 + np.where(fit, 0, 1e3)
        best = int(np.argmin(score + rng.uniform(0, 10, len(goals))))
        used[best] = True
        if not fit[best]:
            best = int(np.argmax(np.minimum(apart, 30) + rng.uniform(0, 4, len(goals))))
            path.append(np.full(3, np.nan))
        path.append(goals[best])
    return path


def _split(path: Sequence[npt.NDArray[np.float64]]) -> list[npt.NDArray[np.float64]]:
    parts: list[list[npt.NDArray[np.float64]]] = [[]]
    for p in path:
        if np.isnan(p).any():
            parts.append([])
        else:
            parts[-1].append(p)
    return [np.asarray(p) for p in parts if len(p) > 1]


def paint_gut(studio: Studio) -> None:
    """All hollow organs."""
    f, person = studio.fields, studio.person
    rng = person.rng(52)
    _mesentery(studio)
    if "bowel" in f:
        gas = np.clip(rng.normal(-0.25, 0.2), -0.6, 0.3)

        def inside(spot: Spot) -> Array:
            slow = spot.mottle(85)
            bubbles = np.clip((slow * 0.9 + 0.3 * spot.grain(83) - 2.15 + gas) * 5, 0, 1)
            matter = 24 + 7 * slow + 5 * spot.grain(87)
            return np.asarray(matter + (-900 - matter) * bubbles, np.float32)

        hollow(studio, f["bowel"], 2.6, inside, Tissue.SMALL_BOWEL)
    hollow(
        studio,
        f["duodenum"],
        2.8,
        filled(studio, f["duodenum"], float(rng.uniform(-0.3, 0.25)), 18, 8, 89),
        Tissue.DUODENUM,
    )
    _paint_oesophagus(studio, rng)
    _paint_stomach(studio, rng)
    _paint_colon(studio, rng)
    hollow(studio, f["bladder"], 2.5 + float(rng.uniform(0, 1.5)), 4.0, Tissue.BLADDER)
    for name, tissue in (("uterus", Tissue.UTERUS), ("prostate", Tissue.PROSTATE)):
        if name in f:
            studio.paint(f[name], person.hu.muscle - 8, tissue)


def _mesentery(studio: Studio) -> None:
    """The vessels of the fat between the loops."""
    if "bowel" not in studio.lines:
        return
    rng = studio.person.rng(53)
    root = studio.person.to_patient([(215, -20, -6)])[0]
    goals = studio.lines["bowel"]
    tree = grow_tree(rng, root, goals[rng.permutation(len(goals))[:70]], 2.6, 0.75)
    studio.paint(tree, studio.person.hu.blood - 4, Tissue.VEIN, 0.4)


def _paint_oesophagus(studio: Studio, rng: np.random.Generator) -> None:
    f, person = studio.fields, studio.person
    plan = next(iter(person.cancers("oesophagus")), None)
    line = curve(studio.lines["oesophagus"], 5)
    if plan is not None and "upstream distension" in plan.signs:
        start = 6
        wide = np.linspace(8, 15, len(line))[start : max(int(len(line) * oesophagus_at(plan)), start + 3)]
        above = studio.field(smooth_tube(line[start : start + len(wide)].tolist(), wide.tolist(), 1))
        f["oesophagus"] = union(
            f["oesophagus"], above.without(f["airway"].grown(2), f["aorta"], f["spine"], f["heart"]), blend_mm=4
        )
        studio.paint(f["oesophagus"], person.hu.wall, Tissue.OESOPHAGUS)
        studio.paint(
            above.grown(-2.8).within(f["oesophagus"].grown(-2.8)),
            filled(studio, above, 0.5, 15, 4, 91),
            Tissue.OESOPHAGUS,
        )
    whole = union(f["oesophagus"], f["cardia"], blend_mm=4)
    f["oesophagus"] = whole
    studio.paint(whole, person.hu.wall, Tissue.OESOPHAGUS)
    for _ in range(int(rng.integers(0, 5))):
        i = int(rng.integers(3, len(line) - 5))
        gas = studio.thin((line[i : i + 3], [1.5, float(rng.uniform(2, 3.6)), 1.5]), smooth=1)
        studio.paint(gas, -800.0, Tissue.OESOPHAGUS, 0.8)


def oesophagus_at(plan: Plan) -> float:
    """Where along the oesophagus (0 neck, 1 cardia) a cancer sits: mostly its middle and lower third."""
    return 0.32 + 0.56 * float(plan.at**0.8)


def _paint_stomach(studio: Studio, rng: np.random.Generator) -> None:
    f, person = studio.fields, studio.person
    empty = person.has("collapsed stomach")
    wall = 5.0 if empty else float(rng.uniform(3.0, 4.2))
    rugae = np.clip(studio.canvas.small_lumps[f["stomach"].where], -1, 1.5) * (1.6 if empty else 0.8)
    lumen = f["stomach"].grown(-wall)
    lumen = Field((lumen.values + rugae).astype(np.float32), lumen.lattice, lumen.where)
    f["stomach lumen"] = lumen
    food = float(rng.random() < 0.35) * float(rng.uniform(8, 22))
    gas = float(rng.uniform(0.15, 0.6)) if not empty else float(rng.uniform(0.1, 0.4))
    studio.paint(f["stomach"], person.hu.wall, Tissue.STOMACH)
    studio.paint(lumen, filled(studio, f["stomach"], gas, float(rng.uniform(4, 35)), food, 93), Tissue.STOMACH, 0.3)


def _paint_colon(studio: Studio, rng: np.random.Generator) -> None:
    f, person = studio.fields, studio.person
    studio.paint(f["colon"], person.hu.wall - 4, Tissue.COLON)
    lumen = f["colon"].grown(-2.2)
    full = float(rng.uniform(0.1, 0.75))
    solid = float(person.rng(54).uniform(*difficulty.STOOL_HU))
    studio.paint(lumen, stool(solid, full, 95), Tissue.COLON, 0.4)
    # Whole stretches hold gas, with stool or fluid below: mostly the transverse colon and the flexures.
    rows = studio.lines["colon"]
    n = len(rows)
    for start, chance in ((0.14, 0.4), (0.30, 0.85), (0.40, 0.85), (0.5, 0.35), (0.86, 0.6)):
        if rng.random() > chance:
            continue
        a, b = int(start * n), int((start + float(rng.uniform(0.06, 0.12))) * n)
        stretch = studio.field(smooth_tube(rows[a:b, :3].tolist(), (rows[a:b, 3] + 6).tolist(), 1))
        part = lumen.within(stretch)
        studio.paint(part, filled(studio, part, float(rng.uniform(0.45, 0.95)), 28, 16, 97 + start), Tissue.COLON, 0.3)
