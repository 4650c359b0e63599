"""Source order ↔ canonical order, without copying: networks see indices that grow to Superior, Posterior and Left.

A scan's own grid is kept; only its axes are swapped and reversed (a feet-first or prone patient, a stack sorted from
the head down). A grid that is rotated against the patient's axes stays rotated by the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from core.errors import InputRefused
from core.finding import Reason
from core.volume import Geometry, Index, Vector

Scalar = TypeVar("Scalar", bound=np.generic)
Box = tuple[Index, Index]
"""Half-open (start, stop) voxel indices z-y-x."""

_MOST_OBLIQUE = float(np.cos(np.radians(30)))


@dataclass(frozen=True)
class Orientation:
    """Canonical axis i is the source's axis order[i], reversed where flipped[i]. shape: the source's."""

    shape: Index
    order: Index
    flipped: tuple[bool, bool, bool]

    @property
    def canonical_shape(self) -> Index:
        """Voxels (z, y, x) in canonical order."""
        z, y, x = (self.shape[axis] for axis in self.order)
        return (z, y, x)

    def view(self, source: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """A view of a source array in canonical order; writing to it writes to the source array."""
        z, y, x = (slice(None, None, -1 if flipped else 1) for flipped in self.flipped)
        view: npt.NDArray[Scalar] = source.transpose(self.order)[z, y, x]
        return view

    def spacing(self, source_mm: Vector) -> Vector:
        """Spacing (z, y, x) in canonical order."""
        z, y, x = (source_mm[axis] for axis in self.order)
        return (z, y, x)

    def to_source_point(self, canonical: Vector) -> Vector:
        """Fractional source index of a fractional canonical index."""
        point = [0.0, 0.0, 0.0]
        for value, axis, flipped in zip(canonical, self.order, self.flipped, strict=True):
            point[axis] = self.shape[axis] - 1 - value if flipped else value
        return (point[0], point[1], point[2])

    def to_source_box(self, canonical: Box) -> Box:
        """The same voxels as a box of source indices."""
        start, stop = [0, 0, 0], [0, 0, 0]
        for low, high, axis, flipped in zip(*canonical, self.order, self.flipped, strict=True):
            n = self.shape[axis]
            start[axis], stop[axis] = (n - high, n - low) if flipped else (low, high)
        return (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])


def orientation_of(geometry: Geometry) -> Orientation:
    """How a source grid lies in the patient. InputRefused where an axis is more than 30° off every patient axis."""
    axes = np.asarray(geometry.axes)  # row: index axis of the source; column: x-y-z LPS
    order, flipped = [], []
    for patient_axis in (2, 1, 0):
        along = axes[:, patient_axis]
        axis = int(np.argmax(np.abs(along)))
        if abs(along[axis]) < _MOST_OBLIQUE:
            degrees = float(np.degrees(np.arccos(min(1.0, abs(along[axis])))))
            raise InputRefused(Reason.NO_AXIAL_SERIES, f"the grid is rotated by {degrees:.0f}° against the patient")
        order.append(axis)
        flipped.append(bool(along[axis] < 0))
    return Orientation(geometry.shape, (order[0], order[1], order[2]), (flipped[0], flipped[1], flipped[2]))
