"""Where anatomy is put together: a person's lattice, the layers painted so far, and the names of what stands.

A layer is a shape painted over what is there. Shapes are `Field` (smooth organs), `Strands` (thin tubes); how bright a
layer is may depend on depth, position and smooth noise, always as a function of place, never of the voxel grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from engines.phantom import difficulty
from engines.phantom.fields import FAR_MM, Array, Axes, Canvas, Field, Lattice, Noise, Sheet
from engines.phantom.labels import Tissue
from engines.phantom.person import Person, Points
from engines.phantom.shapes import Box, Grid, Shape, Tube
from engines.phantom.strands import Strands, curve, strands

Knot = Sequence[float]
Line = tuple[Sequence[Knot] | Points, float | Sequence[float]]
"""A polyline of template points with its radius, or one a point."""


@dataclass(frozen=True, eq=False)
class Spot:
    """A block of the image that a layer colours: its axes (mm), the layer's distance there, the person's noises."""

    axes: Axes
    distance: Array
    fine: Noise
    coarse: Noise

    def grain(self, shift: float = 0.0) -> Array:
        """Noise with a grain of 3 mm."""
        return self.fine.at(self.axes, shift)

    def mottle(self, shift: float = 0.0) -> Array:
        """Noise with a grain of 9 mm."""
        return self.coarse.at(self.axes, shift)

    def clouds(self, shift: float) -> Array:
        """Noise with a grain of 27 mm. shift: not 0."""
        z, y, x = self.axes
        return self.coarse.at((z / np.float32(3), y / np.float32(3), x / np.float32(3)), shift)

    def fibres(self, shift: float) -> Array:
        """Noise with a grain of 3 mm across the body and 12 mm along it. shift: not 0."""
        z, y, x = self.axes
        return self.fine.at((z / np.float32(4), y, x), shift)

    def texture(self, of: str, shift: float) -> Array:
        """The unevenness of an organ by the law (`difficulty.TEXTURE_HU`), HU. shift: not 0."""
        grains = {3.0: self.grain, 9.0: self.mottle, 27.0: self.clouds}
        parts = [np.float32(sd) * grains[grain](shift) for grain, sd in difficulty.TEXTURE_HU[of].items()]
        return np.asarray(sum(parts, np.float32(0)), np.float32)


Intensity = float | Callable[[Spot], Array]


@dataclass(frozen=True, eq=False)
class Layer:
    """soft_mm: how gradual the edge is beyond the voxel's own blur. tissue None: the label below stays.

    lesion: number of the finding, 0 for none. opacity: how much of what is below is replaced.
    """

    shape: Field | Sheet | Strands
    hu: Intensity
    tissue: Tissue | None
    soft_mm: float = 0.0
    lesion: int = 0
    opacity: float = 1.0

    @cached_property
    def bounds(self) -> Box:
        """Where it can matter, z-y-x mm."""
        return self.shape.bounds


class Studio:
    """The person's anatomy under construction."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.layers: list[Layer] = []
        self.fields: dict[str, Field] = {}
        self.lines: dict[str, Points] = {}
        self.findings: list[Found] = []
        lattice = _lattice(person)
        box = _box(lattice)
        warp = person.warp()
        z, y, x = (lattice.axis(i) for i in range(3))
        template = warp.to_template(z[:, None, None], y[None, :, None], x[None, None, :])
        whole = tuple(np.ascontiguousarray(np.broadcast_to(t, lattice.shape)) for t in template)
        self.canvas = Canvas(
            lattice, (whole[0], whole[1], whole[2]), person.mean_scale, Noise(person.rng(5), box, 26.0)
        )
        self.fine = Noise(person.rng(6), box, 3.0)
        self.coarse = Noise(person.rng(7), box, 9.0)

    def paint(
        self,
        shape: Field | Sheet | Strands,
        hu: Intensity,
        tissue: Tissue | None,
        soft_mm: float = 0.0,
        lesion: int = 0,
        opacity: float = 1.0,
    ) -> None:
        """Put a layer over all so far."""
        self.layers.append(Layer(shape, hu, tissue, soft_mm, lesion, opacity))

    def field(self, shape: Shape, lumps_mm: float = 0.0, small_mm: float = 0.0, name: str = "") -> Field:
        """A template shape on the lattice, kept under `name`."""
        made = self.canvas.field(shape, lumps_mm, small_mm)
        if name:
            self.fields[name] = made
        return made

    def thin(self, *lines: Line, smooth: int = 4) -> Strands:
        """Strands through template points: (points, radius or radii), radii in patient mm."""
        ready: list[tuple[Points, npt.NDArray[np.float64]]] = []
        for points, radii in lines:
            p = np.asarray(points, np.float64)
            r = np.broadcast_to(np.asarray(radii, np.float64), (len(p),))
            both = curve(np.column_stack([p, r]), smooth) if len(p) > 2 else np.column_stack([p, r])
            ready.append((self.person.to_patient(both[:, :3]), np.maximum(both[:, 3], 0.2)))
        return strands(ready)

    def pipes(self, lines: Iterable[tuple[Points, Sequence[float]]]) -> Field:
        """Many tubes through template points as one field, quicker than one by one; radii in template mm."""
        scale = self.person.mean_scale
        ready = [(self.person.to_patient(p), np.asarray(r, np.float64) * scale) for p, r in lines]
        return self.pipe_field(strands(ready))

    def pipe_field(self, tubes: Strands) -> Field:
        """Strands as a field on the lattice, exact to 12 mm from their surface."""
        where = self.canvas.lattice.windows(tubes.bounds, 12)
        part = self.canvas.lattice.part(where)
        distance = tubes.distance((part.axis(0), part.axis(1), part.axis(2)), 0.0, reach_mm=12.0)
        return Field(np.minimum(distance, np.float32(FAR_MM)), self.canvas.lattice, where)

    def jitter(
        self, rng: np.random.Generator, points: Iterable[Knot], sd: float = 3.0
    ) -> list[tuple[float, float, float]]:
        """Template points, each moved a little."""
        p = np.asarray(list(points), np.float64)
        p = p + np.clip(rng.normal(0, sd, p.shape), -2 * sd, 2 * sd)
        return [(float(z), float(y), float(x)) for z, y, x in p]


@dataclass(frozen=True)
class Found:
    """A finding in place. number: its label in the lesion map. centre: patient mm z-y-x. hu: as painted.

    contrast_hu: minus what surrounds it. signs: the secondary ones that were painted.
    """

    number: int
    organ: str
    kind: str
    cancer: bool
    diameter_mm: float
    hu: float
    contrast_hu: float
    centre: tuple[float, float, float]
    signs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pipe(Tube):
    """A tube whose distance holds as far as the lattice's splines reach: 12 mm beyond its surface."""

    def distance(self, grid: Grid) -> Array:
        """Signed distance in mm, 1000 far away."""
        result = np.full(grid.shape, 1e3, np.float32)
        for a, b, ra, rb in zip(self.points, self.points[1:], self.radii, self.radii[1:], strict=False):
            cone = Tube((a, b), (ra, rb))
            where = grid.window(cone.bounds, 12.0) if grid.axes is not None else None
            if where is None:
                np.minimum(result, _cone_distance(grid, a, b, ra, rb), out=result)
                continue
            view = result[where]
            np.minimum(view, _cone_distance(grid.crop(where), a, b, ra, rb), out=view)
        return result


def _cone_distance(grid: Grid, a: Knot, b: Knot, ra: float, rb: float) -> Array:
    axis = np.subtract(b, a)
    length2 = max(float(axis @ axis), 1e-6)
    d = axis.astype(np.float32)
    z, y, x = grid.z - np.float32(a[0]), grid.y - np.float32(a[1]), grid.x - np.float32(a[2])
    t = np.clip((z * d[0] + y * d[1] + x * d[2]) * np.float32(1 / length2), 0, 1)
    z -= t * d[0]
    y -= t * d[1]
    x -= t * d[2]
    return np.asarray(np.sqrt(z * z + y * y + x * x) - (np.float32(ra) + t * np.float32(rb - ra)), np.float32)


def smooth_tube(points: Sequence[Knot], radii: Sequence[float], per_segment: int = 3) -> Pipe:
    """A tube along a Catmull-Rom curve through template points."""
    rows = curve(np.column_stack([np.asarray(points, np.float64), np.asarray(radii, np.float64)]), per_segment)
    return Pipe(
        tuple((float(r[0]), float(r[1]), float(r[2])) for r in rows), tuple(float(max(r[3], 0.3)) for r in rows)
    )


def _lattice(person: Person) -> Lattice:
    front = 150 + 1.1 * max(person.belly_mm, 0) + person.fat_mm + (35 if person.sex == "F" else 0)
    sides = 300.0 if not person.arms_up else 250.0
    low = np.array([-75.0, -front, -sides]) * person.scale
    high = np.array([695.0, 135 + person.fat_mm, sides]) * person.scale
    count = np.ceil((high - low) / 4.0).astype(int) + 1
    return Lattice((float(low[0]), float(low[1]), float(low[2])), (int(count[0]), int(count[1]), int(count[2])))


def _box(lattice: Lattice) -> Box:
    spans = [(lattice.origin[i], lattice.origin[i] + lattice.pitch * (lattice.shape[i] - 1)) for i in range(3)]
    return (spans[0], spans[1], spans[2])
