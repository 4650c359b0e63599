"""The fat between muscles: sheets thinner than the lattice, and the fat of armpits, neck, groins and hips."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from engines.phantom.fields import Array, Axes, Field, Sheet, Windows, cut, union
from engines.phantom.labels import Tissue
from engines.phantom.studio import Studio, smooth_tube

FloatArray = Array | npt.NDArray[np.float64]
_BEYOND_MM = 40.0
"""Template mm of a slab beyond its sheets' ends: outlines wave by some mm, and a spline reads two planes further."""


@dataclass(frozen=True, eq=False)
class _Slab:
    """The lattice's planes that lie between two template heights, and what muscle planes are made of there."""

    studio: Studio
    low: float
    high: float

    @cached_property
    def where(self) -> Windows:
        """Some planes more on either side than any sheet can be read at: a slab's ends are never seen."""
        canvas = self.studio.canvas
        beyond = _BEYOND_MM + canvas.slack_mm
        heights = canvas.straight[0]
        planes = np.flatnonzero((heights > self.low - beyond) & (heights < self.high + beyond))
        _, rows, columns = canvas.lattice.shape
        return (slice(int(planes[0]), int(planes[-1]) + 1), slice(0, rows), slice(0, columns))

    @cached_property
    def axes(self) -> Axes:
        """Template coordinates z, y, x."""
        z, y, x = (t[self.where] for t in self.studio.canvas.template)
        return (z, y, x)

    @cached_property
    def lumps(self) -> FloatArray:
        """Fine waves for outlines."""
        return self.studio.canvas.small_lumps[self.where]

    @cached_property
    def wall(self) -> FloatArray:
        """Distance to the muscles' outside."""
        return self.studio.fields["wall"].on(self.where)

    @cached_property
    def cavity(self) -> FloatArray:
        """Distance to their inside."""
        return self.studio.fields["cavity"].on(self.where)

    @cached_property
    def inside(self) -> FloatArray:
        """Negative in the muscles."""
        return np.asarray(np.maximum(self.wall + 1.5, 1.5 - self.cavity), np.float32)

    def paint(self, surface: FloatArray, half_mm: float, keep: FloatArray) -> None:
        """A thin sheet of fat along the zero level of `surface` where `keep` is negative."""
        lattice = self.studio.canvas.lattice
        fields = [Field(values.astype(np.float32), lattice, self.where) for values in (surface, keep)]
        self.studio.paint(Sheet(fields[0], fields[1], half_mm), self.studio.person.hu.fat + 25, Tissue.FAT)


def muscle_planes(studio: Studio) -> None:
    """Fat between muscles: flank layers, linea alba, back, gluteal planes, pectorals, armpits."""
    person = studio.person
    thick = 0.7 + 0.8 * person.sarcopenia + 0.2 * max(person.habitus, 0)
    _planes_of_the_flanks(_Slab(studio, 115, 330), thick)
    _planes_in_front(_Slab(studio, 90, 390), person.belly_mm)
    _planes_of_the_back(_Slab(studio, 90, 600), thick)
    _planes_of_the_buttocks(_Slab(studio, float(studio.canvas.straight[0].min()), 135), thick)
    _planes_of_the_chest(_Slab(studio, 430, 600), thick)
    _fat_of_armpits_and_neck(studio)
    _pelvic_fat(studio)


def _planes_of_the_flanks(slab: _Slab, thick: float) -> None:
    z, y, x = slab.axes
    share = slab.cavity / np.maximum(slab.cavity - slab.wall, 1)
    flank = cut(np.abs(y) - 52, 75 - np.abs(x), 115 - z, z - 330, slab.inside)
    depth = np.maximum(slab.cavity - slab.wall, 6)
    for level in (0.36, 0.68):
        slab.paint((share - level) * depth + slab.lumps, thick, flank)


def _planes_in_front(slab: _Slab, belly_mm: float) -> None:
    z, y, x = slab.axes
    front = cut(y + 48, 90 - z, z - 390, slab.inside)
    slab.paint(np.abs(x) - (60 + 0.2 * belly_mm) + 3 * slab.lumps, 4.0, front)
    slab.paint(x + slab.lumps, 2.5, front)


def _planes_of_the_back(slab: _Slab, thick: float) -> None:
    z, y, x = slab.axes
    back = cut(38 - y, 90 - z, z - 600, slab.inside, np.abs(x) - 95)
    middle = np.abs(x) - 8 - 0.25 * np.maximum(96 - y, 0) + 3 * slab.lumps
    slab.paint(middle, 1.2 + thick, np.maximum(back, 72 - y))
    slab.paint(np.abs(x) - 60 + 2.5 * slab.lumps, 1.0 + thick, back)


def _planes_of_the_buttocks(slab: _Slab, thick: float) -> None:
    z, y, x = slab.axes
    gluteal = cut(18 - y, z - 135, slab.inside - 1, 40 - np.abs(x))
    slab.paint(slab.wall + 30 + 0.06 * z + 2 * slab.lumps, 1.6 + thick, gluteal)
    slab.paint(slab.wall + 52 + 0.1 * z + 2 * slab.lumps, 1.2 + thick, np.maximum(gluteal, z - 110))


def _planes_of_the_chest(slab: _Slab, thick: float) -> None:
    z, y, x = slab.axes
    chest = cut(y + 35, 465 - z, z - 590, 12 - np.abs(x), np.abs(x) - 150, slab.wall + 1.5)
    slab.paint(slab.wall + 11 + 1.5 * slab.lumps, 1.0 + thick, chest)
    side = cut(np.abs(y - 25) - 60, 430 - z, z - 600, 100 - np.abs(x), slab.wall + 2, 3 - slab.cavity)
    slab.paint(slab.wall + 20 + 2 * slab.lumps, 1.2 + thick, side)


def _fat_of_armpits_and_neck(studio: Studio) -> None:
    hu = studio.person.hu.fat
    armpits = [
        studio.field(smooth_tube([(500, -8, s * 140), (545, 2, s * 132), (580, 2, s * 112)], [6, 15, 11]), 4.0, 2.0)
        for s in (-1, 1)
    ]
    studio.paint(union(*armpits), hu, Tissue.FAT)
    neck = [
        studio.field(smooth_tube([(592, -28, s * 60), (612, -5, s * 58), (640, 12, s * 44)], [11, 14, 9]), 4.0, 2.0)
        for s in (-1, 1)
    ]
    studio.paint(union(*neck), hu + 8, Tissue.FAT)


def _pelvic_fat(studio: Studio) -> None:
    """Groins, the fossae beside the rectum, the cleft, and the fat between the muscles around the hip."""
    hu = studio.person.hu.fat + 8
    parts, thin = [], 1.5 + 2.0 * studio.person.sarcopenia + 0.8 * max(studio.person.habitus, 0)
    for s in (-1, 1):
        groin = [(70, -52, s * 66), (35, -62, s * 68), (5, -68, s * 68), (-70, -70, s * 62)]
        parts.append(studio.field(smooth_tube(groin, [7, 13, 15, 17]), 4.0, 2.5))
        parts.append(
            studio.field(smooth_tube([(30, 50, s * 40), (0, 52, s * 34), (-30, 56, s * 24)], [7, 13, 13]), 3.0, 2.0)
        )
        between = [
            [(60, -28, s * 122), (25, -44, s * 112), (-20, -50, s * 112), (-80, -50, s * 112)],
            [(45, 30, s * 130), (15, 42, s * 112), (-10, 44, s * 104), (-80, 40, s * 118)],
            [(30, -24, s * 60), (-10, -30, s * 72), (-75, -10, s * 84)],
            [(10, -44, s * 32), (-40, -30, s * 50), (-85, -15, s * 50)],
        ]
        parts += [
            studio.field(smooth_tube(line, [thin, thin + 3, thin + 4, thin + 4][: len(line)]), 4.0, 3.0)
            for line in between
        ]
    parts.append(
        studio.field(smooth_tube([(60, 106, 0), (20, 100, 0), (-30, 84, 0), (-80, 70, 0)], [3, 8, 12, 14]), 1.5, 1.0)
    )
    studio.paint(union(*parts).within(studio.fields["body"].grown(-3)), hu, Tissue.FAT)
