"""Tools to put a finding into an organ: lumps on a lattice of their own, spikes, haze, nodes; and the list of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from engines.phantom.fields import Array, Axes, Field, Lattice
from engines.phantom.labels import Tissue
from engines.phantom.person import Plan, Points
from engines.phantom.strands import Strands, strands
from engines.phantom.studio import Found, Intensity, Spot, Studio

Centre = npt.NDArray[np.float64]


class Surgeon:
    """Puts findings into a studio's anatomy, numbers them and remembers them."""

    def __init__(self, studio: Studio, rng: np.random.Generator) -> None:
        self.studio, self.rng = studio, rng
        self.taken: list[tuple[Centre, float]] = [(np.asarray(f.centre), f.diameter_mm) for f in studio.findings]

    @property
    def next_number(self) -> int:
        """The number that the next finding added will have."""
        return len(self.studio.findings) + 1

    def place(self, organ: Field, diameter: float, depth_mm: float, near: Centre | None = None) -> Centre | None:
        """A position in `organ`, clear of other findings; the nearest to `near` of some, if given.

        Where there is no room the organ's deepest point, and None only without an organ.
        """
        for depth in (depth_mm, 0.6 * depth_mm, 0.3 * depth_mm, 0.0):
            points = organ.points(self.rng, 40 if near is None else 400, depth)
            if near is not None and len(points):
                points = points[np.argsort(np.linalg.norm(points - near, axis=1))]
            for point in points:
                if all(np.linalg.norm(point - c) > 0.55 * (d + diameter) + 3 for c, d in self.taken):
                    return np.asarray(point)
        if not (organ.values < 0).any():
            return None
        deepest = np.asarray(np.unravel_index(int(np.argmin(organ.values)), organ.values.shape))
        start = np.asarray([w.start for w in organ.where])
        return np.asarray(np.asarray(organ.lattice.origin) + organ.lattice.pitch * (deepest + start))

    def lump(
        self,
        centre: Centre,
        diameter: float,
        lumps: float = 0.1,
        stretch: float = 0.12,
        inside: Sequence[Field] = (),
        outside: Sequence[Field] = (),
    ) -> Field:
        """A lump of this longest diameter, its outline waving by `lumps` of its radius; clipped to fields."""
        radius = diameter / 2
        radii = radius * (1 - self.rng.uniform(0, 2 * stretch, 3))
        radii[self.rng.integers(1, 3)] = radius
        turn = _rotation(self.rng)
        waves = [
            (w / np.linalg.norm(w), float(p))
            for w, p in zip(self.rng.normal(0, 1, (6, 3)), self.rng.uniform(0, 6.28, 6), strict=True)
        ]
        lattice, axes = local_lattice(centre, 0.75 * diameter + 4, diameter)
        d = np.stack(np.meshgrid(*(a - c for a, c in zip(axes, centre, strict=True)), indexing="ij"), axis=-1)
        own = d @ turn
        k0 = np.sqrt((np.square(own / radii)).sum(axis=-1))
        k1 = np.sqrt((np.square(own / radii**2)).sum(axis=-1))
        distance = k0 * (k0 - 1) / np.maximum(k1, 1e-4)
        reach = np.maximum(np.linalg.norm(d, axis=-1), 0.3 * radius)[..., None]
        unit = d / reach
        wave = sum(np.sin((unit @ w) * 4.2 + p) for w, p in waves) / 2.4
        return clip(lattice, distance + lumps * radius * wave, inside, outside)

    def spikes(self, centre: Centre, diameter: float, count: int, reach: tuple[float, float] = (1.15, 1.75)) -> Strands:
        """Spicules from the middle of a mass outwards."""
        lines = []
        for direction in self.rng.normal(0, 1, (count, 3)):
            direction /= np.linalg.norm(direction)
            tip = centre + direction * diameter / 2 * self.rng.uniform(*reach)
            base = centre + direction * diameter * 0.3
            lines.append((np.stack([base, tip]), [max(0.07 * diameter, 0.9), 0.45]))
        return strands(lines)

    def haze(self, shape: Field, width_mm: float, strength: float = 0.35) -> None:
        """Stranding of the fat around a shape."""
        hu = self.studio.person.hu.fat

        def smoky(spot: Spot) -> Array:
            return np.asarray(hu + 75 + 40 * np.clip(spot.grain(131), -1, 1), np.float32)

        self.studio.paint(shape.grown(width_mm * 0.5), smoky, None, width_mm, opacity=strength)

    def nodes(
        self, centre: Centre, count: int, size: tuple[float, float], spread_mm: float, room: Field | None = None
    ) -> None:
        """Enlarged or normal lymph nodes around a place, with a fatty hilum where they are normal."""
        hu = self.studio.person.hu
        for _ in range(count):
            at = centre + self.rng.normal(0, spread_mm, 3)
            if room is not None and room.value_at(at[None])[0] > -2:
                continue
            diameter = float(self.rng.uniform(*size))
            node = self.lump(at, diameter, 0.04, 0.25)
            self.studio.paint(node, hu.muscle - 14, Tissue.LYMPH_NODE)
            if diameter < 10 and self.rng.random() < 0.6:
                self.studio.paint(
                    self.lump(at + np.asarray((0, 0, 1)), diameter * 0.4, 0.0), hu.fat + 50, Tissue.LYMPH_NODE, 0.5
                )

    def add(
        self,
        plan: Plan,
        shape: Field | Strands,
        hu: Intensity,
        centre: Centre,
        *,
        mean_hu: float,
        around_hu: float,
        tissue: Tissue | None = None,
        soft_mm: float = 0.0,
        opacity: float = 1.0,
        more: Sequence[Strands | Field] = (),
        diameter: float | None = None,
        signs: tuple[str, ...] | None = None,
    ) -> int:
        """Paint a finding (and `more` of the same) and remember it; its number comes back.

        A shape of which clipping left nothing is no finding: 0.
        """
        if isinstance(shape, Field) and not (shape.values < -0.2).any():
            return 0
        number = self.next_number
        for part in (*more, shape):
            self.studio.paint(part, hu, tissue, soft_mm, number, opacity)
        size = diameter or plan.diameter_mm
        self.taken.append((centre, size))
        at = (float(centre[0]), float(centre[1]), float(centre[2]))
        self.studio.findings.append(
            Found(number, plan.organ, plan.kind, plan.cancer, round(size, 1), round(mean_hu, 1),
                  round(mean_hu - around_hu, 1), at, plan.signs if signs is None else signs)
        )  # fmt: skip
        return number


def local_lattice(centre: Centre, half_mm: float, diameter: float) -> tuple[Lattice, Axes]:
    """A lattice of its own around a finding, fine enough for its size."""
    pitch = float(np.clip(diameter / 12, 0.8, 3.0))
    n = 2 * int(np.ceil((half_mm + 3 * pitch) / pitch)) + 1
    low = centre - pitch * (n - 1) / 2
    lattice = Lattice((float(low[0]), float(low[1]), float(low[2])), (n, n, n), pitch)
    return lattice, (lattice.axis(0), lattice.axis(1), lattice.axis(2))


def clip(
    lattice: Lattice, distance: npt.ArrayLike, inside: Sequence[Field] = (), outside: Sequence[Field] = ()
) -> Field:
    """A field on a lattice of its own, cut to what lies in all of `inside` and in none of `outside`."""
    values = np.asarray(distance, np.float32)
    axes = (lattice.axis(0), lattice.axis(1), lattice.axis(2))
    for field in inside:
        values = np.maximum(values, field.at(axes))
    for field in outside:
        values = np.maximum(values, -field.at(axes))
    n = lattice.shape
    return Field(np.minimum(values, 60).astype(np.float32), lattice, (slice(0, n[0]), slice(0, n[1]), slice(0, n[2])))


def mottled(hu: float, swing: float, shift: float) -> Callable[[Spot], Array]:
    """A mass that is not quite even."""
    return lambda spot: np.asarray(hu + swing * (0.4 * spot.mottle(shift) + 0.9 * spot.grain(shift)), np.float32)


def tangent(line: Points, index: int) -> Centre:
    """Unit direction of a line at one of its points."""
    low, high = max(index - 2, 0), min(index + 2, len(line) - 1)
    step = line[high] - line[low]
    return np.asarray(step / max(float(np.linalg.norm(step)), 1e-6))


def _rotation(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    q, _ = np.linalg.qr(rng.normal(0, 1, (3, 3)))
    return np.asarray(q)
