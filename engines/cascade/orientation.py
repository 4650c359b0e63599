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

Triple = TypeVar("Triple", Index, Vector)

_DIRECTIONS = ("SI", "PA", "LR")
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


@dataclass(frozen=True)
class AxisOrder:
    """A network's axes: its axis i is the canonical axis order[i], reversed where flipped[i]."""

    order: Index
    flipped: tuple[bool, bool, bool]

    @property
    def is_canonical(self) -> bool:
        """True where nothing has to be turned."""
        return self.order == (0, 1, 2) and not any(self.flipped)

    def view(self, canonical: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """A view of a canonical array (..., z, y, x) along the network's axes; writing to it writes to the array."""
        first = canonical.ndim - 3
        turned = canonical.transpose(*range(first), *(first + axis for axis in self.order))
        z, y, x = (slice(None, None, -1 if flipped else 1) for flipped in self.flipped)
        view: npt.NDArray[Scalar] = turned[..., z, y, x]
        return view

    def box_to_canonical(self, box: Box, shape: Index) -> Box:
        """A box of indices along the network's axes as one of canonical indices; shape: the canonical array's."""
        start, stop = [0, 0, 0], [0, 0, 0]
        for low, high, axis, flipped in zip(*box, self.order, self.flipped, strict=True):
            n = shape[axis]
            start[axis], stop[axis] = (n - high, n - low) if flipped else (low, high)
        return (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])

    def to_canonical(self, along: Triple) -> Triple:
        """Sizes or spacings along the network's axes as (z, y, x)."""
        z, y, x = (along[self.order.index(axis)] for axis in range(3))
        return (z, y, x)

    def from_canonical(self, zyx: Triple) -> Triple:
        """Sizes or spacings (z, y, x) along the network's axes."""
        a, b, c = (zyx[axis] for axis in self.order)
        return (a, b, c)


def axis_order(letters: str) -> AxisOrder:
    """The axes that a manifest names, such as "SPL" (canonical) or "LPS" (x-y-z arrays of DICOM's axes)."""
    order = [next(i for i, pair in enumerate(_DIRECTIONS) if letter in pair) for letter in letters]
    flipped = [letter in "IAR" for letter in letters]
    return AxisOrder((order[0], order[1], order[2]), (flipped[0], flipped[1], flipped[2]))


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
