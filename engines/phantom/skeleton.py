"""Spine with discs, ribs with their cartilages, sternum, shoulder girdle, pelvis, femora."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from engines.phantom.body import CAVITY, belly
from engines.phantom.fields import Array, Field, union
from engines.phantom.labels import Tissue
from engines.phantom.person import Person, Points
from engines.phantom.shapes import Ellipsoid
from engines.phantom.strands import curve
from engines.phantom.studio import Knot, Spot, Studio, smooth_tube

# z of the lower end plates: L5 to L1, T12 to T1, C7 to C5; then the top of C5
ENDPLATES = (
    90, 126, 162, 197, 232, 266, 298, 329, 359, 388, 416, 443, 469, 494, 518, 541, 563, 584, 602, 619, 636, 653,
)  # fmt: skip
_SPINE = ((80, 46), (110, 38), (180, 26), (250, 32), (345, 47), (425, 53), (510, 52), (595, 36), (640, 22), (700, 14))
_BODY = ((80, 25, 17), (250, 22.5, 16), (345, 18, 15), (510, 14.5, 12), (595, 14, 9.5), (700, 12, 8))
DISC = 0.24
"""The share of a level that its disc takes."""


def spine_y(z: float | Array | npt.NDArray[np.float64]) -> Array:
    """y of the vertebral bodies' middle (template mm): lumbar lordosis, thoracic kyphosis."""
    return np.asarray(np.interp(z, [k[0] for k in _SPINE], [k[1] for k in _SPINE]), np.float32)


def body_half(z: float | Array | npt.NDArray[np.float64]) -> tuple[Array, Array]:
    """Half width and half depth of a vertebral body at z."""
    knots = [k[0] for k in _BODY]
    return (
        np.asarray(np.interp(z, knots, [k[1] for k in _BODY]), np.float32),
        np.asarray(np.interp(z, knots, [k[2] for k in _BODY]), np.float32),
    )


def bone(person: Person, shell_mm: float, marrow: float = 1.0) -> Callable[[Spot], Array]:
    """Cortical shell over trabecular bone, by depth."""

    def colour(spot: Spot) -> Array:
        depth = np.clip(-spot.distance / np.float32(shell_mm), 0, 1)
        inner = person.hu.trabecular * marrow + 28 * spot.grain(3)
        return np.asarray(person.hu.cortical + (inner - person.hu.cortical) * depth**1.5, np.float32)

    return colour


def build_spine(studio: Studio) -> None:
    """Fields: spine (bodies and discs), canal."""
    zs = np.arange(60.0, 701.0, 20.0)
    middle = spine_y(zs)
    tube = smooth_tube([(float(a), float(b), 0.0) for a, b in zip(zs, middle, strict=True)], [26.0] * len(zs), 1)
    box = studio.canvas.field(tube).where
    z, y, x = (t[box] for t in studio.canvas.template)
    wide, deep = body_half(z)
    level = np.interp(z, ENDPLATES, np.arange(len(ENDPLATES))).astype(np.float32)
    waist = 1 - 0.09 * np.sin(np.pi * np.clip((level % 1) / (1 - DISC), 0, 1))
    u, v = np.abs(x) / (wide * waist), np.abs(y - spine_y(z)) / (deep * waist)
    distance = ((u**2.5 + v**2.5) ** 0.4 - 1) * np.minimum(wide, deep) * np.float32(studio.canvas.scale)
    top = np.maximum(distance, 86 - z)
    canal = smooth_tube([(float(a), float(spine_y(a) + body_half(a)[1] + 8.0), 0.0) for a in zs], [8.5] * len(zs), 1)
    studio.fields["canal"] = studio.field(canal)
    studio.fields["spine"] = Field(top, studio.canvas.lattice, box).without(studio.fields["canal"], gap_mm=1.0)
    studio.fields["level"] = Field(level, studio.canvas.lattice, box)


def paint_skeleton(studio: Studio) -> None:
    """All bones, over the walls."""
    _girdle(studio)
    _pelvis(studio)
    _spine(studio)
    _ribs(studio)


def _spine(studio: Studio) -> None:
    person, rng = studio.person, studio.person.rng(20)
    lines: list[tuple[list[tuple[float, ...]], list[float]]] = []
    for i, low in enumerate(ENDPLATES[:-1]):
        high = ENDPLATES[i + 1]
        z = low + 0.45 * (high - low)
        y, (wide, deep) = float(spine_y(z)), (float(v) for v in body_half(z))
        back, lumbar, tall = y + deep + 8, i < 5, high - low
        tip = min(back + (30 if lumbar else 26), 90 + 0.1 * z if z < 90 else 90)
        lines.append(([(z - 2, back + 9, 0), (z - (6 if lumbar else 14), tip, 0)], [4.2, 3.2]))
        for s in (-1, 1):
            lines.append(([(z + 5, y + deep - 3, s * (wide - 7)), (z + 3, back, s * 12)], [5.0, 4.0]))
            lines.append(([(z + 3, back, s * 12), (z - 2, back + 9, s * 3)], [4.0, 3.6]))
            lines.append(([(z + 0.3 * tall, back + 1, s * 14), (z - 0.35 * tall, back + 3, s * 13)], [4.5, 4.5]))
            reach = 40 if lumbar else 30
            lines.append(([(z + 3, back, s * 14), (z + 4, back + (-3 if lumbar else 8), s * reach)], [4.0, 3.0]))
    arches = studio.thin(*lines, smooth=1)
    studio.paint(arches, bone(person, 1.8, 0.9), Tissue.BONE)
    level = studio.fields["level"]
    worn = np.clip(rng.normal(0.0, 0.03, 30), -0.05, 0.08)

    def bodies(spot: Spot) -> Array:
        t = level.at(spot.axes) % 1
        disc = np.clip((t - (1 - DISC) - float(worn[0])) * 26 + 0.5, 0, 1)
        plate = np.exp(-(((t - (1 - DISC) + 0.02) / 0.022) ** 2)) + np.exp(-((np.minimum(t, 1 - t) / 0.028) ** 2))
        depth = np.clip(-spot.distance / 1.8, 0, 1)
        body = (
            person.hu.cortical * 0.62 + (person.hu.trabecular + 30 * spot.grain(7) - person.hu.cortical * 0.62) * depth
        )
        body = body + plate * 230
        return np.asarray(body + (82 - body) * disc, np.float32)

    studio.paint(studio.fields["spine"], bodies, Tissue.BONE)
    studio.paint(studio.fields["canal"].grown(-0.5), 12.0, Tissue.SPINAL_CANAL)
    cord = studio.thin(([(float(z), float(spine_y(z) + body_half(z)[1] + 7.5), 0.0) for z in range(250, 690, 40)], 4.8))
    studio.paint(cord, 36.0, Tissue.SPINAL_CANAL, 0.5)


def _cavity_at(person: Person, z: float) -> tuple[float, float, float]:
    knots = np.asarray(CAVITY)
    a, b, c = (float(np.interp(z, knots[:, 0], knots[:, i])) for i in (1, 2, 3))
    out = belly(person, z)
    return a + 0.45 * out, b + 0.5 * out, c - 0.5 * out


def _on_wall(person: Person, z: float, angle: float, side: int, out_mm: float) -> tuple[float, float, float]:
    """A point outside the cavity's wall: angle 0 at the back, π in front."""
    a, b, c = _cavity_at(person, z)
    cos, sin = np.cos(angle), np.sin(angle)
    # the wall is squarer than an ellipse: follow the same squircle as `Prism`
    k = np.sqrt((cos**2 + sin**2) / max(1 - 0.3 * (cos * sin) ** 2 * 1.15, 0.3))
    return (z, c + (b + out_mm) * cos * k, side * (a + out_mm) * sin * k)


def _ribs(studio: Studio) -> None:
    person = studio.person
    ribs, cartilages = [], []
    margin: dict[int, tuple[float, float, float]] = {}
    for n in range(12):
        back = 597 - 26.2 * n - (4 if n == 0 else 0)
        reach = np.pi * (0.80 if n == 0 else 0.84 - 0.012 * abs(n - 3) if n < 7 else 0.80 - 0.10 * (n - 6))
        drop = (26 + 7 * min(n, 7)) * 0.78
        for side in (-1, 1):
            points = []
            for angle in np.linspace(0.30, reach, 14):
                z = back + 4 - drop * (1 - np.cos(angle))
                points.append(_on_wall(person, z, float(angle), side, 6.0 if n else 4.0))
            head = (back, float(spine_y(back)) + 6, side * (float(body_half(back)[0]) + 4))
            ribs.append(([head, *points], [3.6] + [4.6] * 5 + [5.0] * 6 + [5.2] * 3))
            end = points[-1]
            if n < 7:
                goal = 545 - 17 * n
                steps = np.linspace(reach, 0.95 * np.pi, 5)
                line = [
                    _on_wall(person, end[0] + (goal - end[0]) * t, float(a), side, 6.0)
                    for t, a in zip(np.linspace(0, 1, 5), steps, strict=True)
                ]
                cartilages.append((line, [5.0] * 5))
                margin[side] = line[2]
            elif n < 10:
                cartilages.append(
                    ([end, tuple((np.asarray(end) + margin[side]) / 2 - (4, 0, 0)), margin[side]], [4.5, 4.5, 4.5])
                )
                margin[side] = tuple(np.asarray(end) * 0.4 + np.asarray(margin[side]) * 0.6)
    studio.paint(studio.thin(*ribs, smooth=2), bone(person, 1.9, 0.8), Tissue.BONE)
    age = np.clip((person.age_years - 40) / 40, 0, 1)

    def cartilage(spot: Spot) -> Array:
        rim = np.clip(spot.distance + 1.6, 0, 1) * age
        return np.asarray(105 + 260 * rim + age * 120 * np.clip(spot.mottle(9) - 0.8, 0, 1.5), np.float32)

    studio.paint(studio.thin(*cartilages, smooth=2), cartilage, Tissue.CARTILAGE)
    front = {z: _on_wall(person, z, np.pi, 1, 9.0)[1] for z in (385, 420, 480, 535, 556)}
    body = studio.field(
        smooth_tube([(420, front[420], 0), (480, front[480], 0), (534, front[535], 0)], [7.0, 7.0, 7.0])
    )
    z, y, x = (t[body.where] for t in studio.canvas.template)
    flat = np.maximum(
        np.abs(y - np.interp(z, sorted(front), [front[k] for k in sorted(front)])) - 5.5,
        np.abs(x) - np.interp(z, (420, 470, 530, 545, 556), (13, 15, 12, 24, 27)),
    )
    sternum = Field(
        np.maximum(np.maximum(flat, 412 - z), z - 556).astype(np.float32), studio.canvas.lattice, body.where
    )
    studio.paint(sternum, bone(person, 1.8, 0.75), Tissue.BONE)


def _fan(studio: Studio, hub: Knot, ends: Sequence[Knot], hub_mm: float, end_mm: float) -> Field:
    """A bony plate: struts from a hub to the points of a rim, close enough to be one, and the rim."""
    rim = curve(np.asarray(ends, np.float64), 5)
    start = np.asarray(hub, np.float64)
    lines: list[tuple[Points, Sequence[float]]] = [(np.stack([start, end]), (hub_mm, end_mm)) for end in rim]
    lines.append((rim, (end_mm + 1.2,) * len(rim)))
    return studio.pipes(lines)


def _girdle(studio: Studio) -> None:
    person, up = studio.person, studio.person.arms_up
    colour = bone(person, 2.0)
    for s in (-1, 1):
        joint = (588, 26, s * (148 if up else 150))
        swing = 14 if up else 0
        rim = [
            (592, 62, s * 84.0),
            (555, 78, s * (82.0 + swing * 0.3)),
            (510, 86, s * (84.0 + swing)),
            (474, 84, s * (92.0 + 1.8 * swing)),
        ]
        studio.paint(_fan(studio, (575, 36, s * 136), rim, 6.5, 2.6), colour, Tissue.BONE)
        ridge = studio.thin(
            ([(572, 82, s * 88), (588, 74, s * 120), (606, 48, s * 158), (608, 24, s * 168)], [3, 4.5, 6, 5]),
            ([(580, 34, s * 138), (598, 6, s * 132), (594, -8, s * 130)], [5, 4.5, 4]),
        )
        studio.paint(ridge, bone(person, 1.6), Tissue.BONE)
        studio.paint(
            studio.thin(
                ([(556, -78, s * 20), (578, -62, s * 55), (598, -18, s * 105), (606, 14, s * 155)], [8, 6, 5, 5.5])
            ),
            bone(person, 1.8),
            Tissue.BONE,
        )
        head = studio.field(Ellipsoid((joint[0] + 4, 8, s * 166), (24, 23, 22)))
        elbow = (
            [(600, 8, s * 168), (655, -12, s * 182), (720, -30, s * 192)]
            if up
            else [(585, 10, s * 170), (480, 24, s * 222), (300, 30, s * 238)]
        )
        shaft = studio.field(smooth_tube(elbow, [14, 11, 11]))
        studio.paint(union(head, shaft, blend_mm=8), bone(person, 2.6, 0.7), Tissue.BONE)
        if not up:
            forearm = studio.thin(
                ([(290, 34, s * 244), (60, 2, s * 236)], [8, 6]), ([(285, 22, s * 232), (60, -14, s * 226)], [7, 8])
            )
            studio.paint(forearm, bone(person, 2.4, 0.7), Tissue.BONE)


def _pelvis(studio: Studio) -> None:
    person, female = studio.person, studio.person.sex == "F"
    wide = 1.05 if female else 1.0
    parts = []
    for s in (-1, 1):
        crest = [
            (118, 78, s * 44.0),
            (150, 62, s * 66.0),
            (160, 34, s * 100.0),
            (152, 0, s * 118 * wide),
            (128, -38, s * 122 * wide),
            (100, -42, s * 116 * wide),
        ]
        wing = _fan(studio, (48, 16, s * 92.0 * wide), crest, 8.5, 3.4)
        si = studio.field(smooth_tube([(100, 62, s * 50), (66, 48, s * 62), (46, 24, s * 84)], [8, 9, 11]))
        cup = studio.field(Ellipsoid((14, 2, s * 92 * wide), (32, 32, 30)))
        ramus = studio.field(smooth_tube([(22, -26, s * 76), (14, -48, s * 44), (2, -58, s * 11)], [10, 7, 8]))
        ischium = studio.field(smooth_tube([(0, 22, s * 86), (-40, 38, s * 64), (-62, 26, s * 50)], [13, 12, 12]))
        lower = studio.field(smooth_tube([(-55, 20, s * 48), (-40, -18, s * 32), (-16, -52, s * 12)], [6, 5.5, 7]))
        head = Ellipsoid((10, 0, s * 98 * wide), (25, 25, 25))
        socket = studio.field(Ellipsoid(head.centre, (27.5, 27.5, 27.5)))
        parts.append(union(union(wing, si, cup, ischium, ramus, blend_mm=8), lower).without(socket))
        joint = studio.field(head)
        studio.fields[f"hip{s}"] = joint
        neck = studio.field(
            smooth_tube(
                [(10, 0, s * 98 * wide), (-12, 8, s * 132), (-34, 12, s * 150), (-90, 8, s * 150)], [16, 14, 18, 16]
            )
        )
        studio.paint(union(joint, neck, blend_mm=6), bone(person, 2.2, 1.15), Tissue.BONE)
    studio.paint(union(*parts), bone(person, 2.2, 0.95), Tissue.BONE)
    sacrum = union(
        studio.field(smooth_tube([(88, 48, 0), (62, 66, 0), (32, 80, 0), (8, 76, 0), (-6, 64, 0)], [22, 19, 12, 7, 4])),
        *(studio.field(Ellipsoid((78, 64, s * 34), (26, 13, 22), (s * -0.5, 0.5, 0.0))) for s in (-1, 1)),
        blend_mm=8,
    )
    holes = studio.thin(
        *(
            ([(z, y - 10, s * x), (z, y + 7, s * x)], 3.4)
            for s in (-1, 1)
            for z, y, x in ((72, 62, 25), (50, 76, 20), (32, 84, 16))
        )
    )
    sacral = studio.thin(([(95, 68, 0), (60, 86, 0), (35, 90, 0)], [8, 6, 4]))
    studio.paint(sacrum, bone(person, 1.8, 0.7), Tissue.BONE)
    studio.paint(sacral, 10.0, Tissue.SPINAL_CANAL)
    studio.paint(holes, person.hu.fat + 40, Tissue.FAT, 0.6)
