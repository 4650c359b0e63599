"""Which pixel of a source image a voxel of the volume is.

The volume's slices are in the order of the source files. Its rows and columns may run the other way than the source's
(a prone patient turned into standard axes), so every plane that goes back to the source passes through here, and a
volume that is not where its source is gets refused: a lesion drawn on the wrong slice is worse than none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from appliance.reporting.failure import ReportFailed
from core.volume import Geometry

_PARALLEL = 0.999  # cosine; 2.5 degrees
_HALF_A_VOXEL = 0.5


@dataclass(frozen=True)
class Alignment:
    """How a (y, x) plane of the volume becomes the (row, column) frame of a source image."""

    transposed: bool
    flip_rows: bool
    flip_columns: bool

    def frame(self, plane: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The plane as (row, column) of the source image."""
        turned = plane.T if self.transposed else plane
        return np.ascontiguousarray(turned[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1])


def align(geometry: Geometry, index: int, header: Dataset) -> Alignment:
    """How slice `index` of the volume lies on the source image with this header. ReportFailed if it doesn't."""
    try:
        cosines = np.asarray(header.ImageOrientationPatient, dtype=np.float64)
        position = np.asarray(header.ImagePositionPatient, dtype=np.float64)
        frame_shape = (int(header.Rows), int(header.Columns))
    except (AttributeError, TypeError, ValueError) as error:
        raise ReportFailed(f"source image {index + 1} has no usable image plane") from error
    alignment = _turn(geometry, along_row=cosines[:3], along_column=cosines[3:])
    shape = geometry.shape[1:]
    if frame_shape != (shape[::-1] if alignment.transposed else shape):
        raise ReportFailed(f"source image {index + 1} is {frame_shape}, the volume's slices are {shape}")
    _check_position(geometry, index, alignment, position)
    return alignment


def _turn(geometry: Geometry, along_row: npt.NDArray[np.float64], along_column: npt.NDArray[np.float64]) -> Alignment:
    """`along_row`: direction in which the column index grows (PS3.3 C.7.6.2.1.1)."""
    y, x = (np.asarray(axis) for axis in geometry.axes[1:])
    for transposed, (rows, columns) in ((False, (y, x)), (True, (x, y))):
        row_cosine, column_cosine = float(along_column @ rows), float(along_row @ columns)
        if min(abs(row_cosine), abs(column_cosine)) > _PARALLEL:
            return Alignment(transposed, flip_rows=row_cosine < 0, flip_columns=column_cosine < 0)
    raise ReportFailed("the volume's slices are not parallel to the source images")


def _check_position(geometry: Geometry, index: int, alignment: Alignment, position: npt.NDArray[np.float64]) -> None:
    flip_y, flip_x = alignment.flip_rows, alignment.flip_columns
    if alignment.transposed:
        flip_y, flip_x = flip_x, flip_y
    _, rows, columns = geometry.shape
    expected = (index, rows - 1 if flip_y else 0, columns - 1 if flip_x else 0)
    if np.abs(geometry.to_index(position) - expected).max() > _HALF_A_VOXEL:
        raise ReportFailed(f"slice {index + 1} of the volume is not where its source image is")
