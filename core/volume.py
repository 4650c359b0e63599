"""A CT volume in HU, and where its voxels are in the patient.

Axis order is z-y-x everywhere (slice, row, column). Positions are DICOM patient coordinates in mm, LPS: x grows to the
patient's Left, y to Posterior, z to Superior (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = tuple[float, float, float]
Index = tuple[int, int, int]


@dataclass(frozen=True)
class Geometry:
    """A regular grid in patient space.

    shape: voxels (z, y, x). spacing_mm: distance between voxel centres (z, y, x).
    origin_mm: centre of voxel [0, 0, 0] as (x, y, z) LPS.
    axes: unit vectors in LPS along which (z, y, x) indices grow; axes[0] is the slice normal.
    """

    shape: Index
    spacing_mm: Vector
    origin_mm: Vector
    axes: tuple[Vector, Vector, Vector] = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel in mm³."""
        return self.spacing_mm[0] * self.spacing_mm[1] * self.spacing_mm[2]

    @property
    def extent_mm(self) -> Vector:
        """Size of the grid (z, y, x) in mm, voxel edges included."""
        z, y, x = (n * s for n, s in zip(self.shape, self.spacing_mm, strict=True))
        return (z, y, x)

    def to_patient(self, index: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Positions (..., 3) as x-y-z LPS mm of fractional voxel indices (..., 3) given as z-y-x."""
        steps = np.asarray(self.axes, dtype=np.float64) * np.asarray(self.spacing_mm)[:, None]
        positions: npt.NDArray[np.float64] = np.asarray(index, dtype=np.float64) @ steps + np.asarray(self.origin_mm)
        return positions

    def to_index(self, position_mm: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Fractional voxel indices (..., 3) z-y-x of positions (..., 3) given as x-y-z LPS mm."""
        steps = np.asarray(self.axes, dtype=np.float64) * np.asarray(self.spacing_mm)[:, None]
        offset = np.asarray(position_mm, dtype=np.float64) - np.asarray(self.origin_mm)
        indices: npt.NDArray[np.float64] = offset @ np.linalg.inv(steps)
        return indices

    def is_axial(self, tolerance: float = 1e-2) -> bool:
        """True where z, y, x indices grow to Superior, Posterior and Left (the order that networks expect)."""
        return bool(np.allclose(self.axes, ((0, 0, 1), (0, 1, 0), (1, 0, 0)), atol=tolerance))


@dataclass(frozen=True, eq=False)
class Volume:
    """Intensities in HU, int16 (z, y, x), with their geometry."""

    hu: npt.NDArray[np.int16]
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.hu.shape != self.geometry.shape:
            raise ValueError(f"array shape {self.hu.shape} is not the geometry's {self.geometry.shape}")
        if self.hu.dtype != np.int16:
            raise ValueError(f"a volume is int16 HU, not {self.hu.dtype}")
