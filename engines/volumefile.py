"""A HU volume in one file, for golden cases and the command line: NumPy's .npz, nothing pickled.

Arrays: `hu` int16 (z, y, x); `spacing_mm` float64 (3,) z-y-x; `origin_mm` float64 (3,) x-y-z LPS; `axes` float64
(3, 3), row i the LPS direction in which index i of (z, y, x) grows. All but `hu` and `spacing_mm` may be absent: the
order is then axial.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.errors import EngineError
from core.volume import Geometry, Vector, Volume

_REMEDY = "Write it with engines.volumefile.to_bytes, or numpy.savez_compressed(path, hu=..., spacing_mm=...)."
MAX_VOXELS = 2048 * 1024 * 1024
"""Refused above this: a damaged header must not ask for all memory."""


def to_bytes(volume: Volume) -> bytes:
    """The file's content. The same volume always gives the same bytes."""
    buffer = io.BytesIO()
    geometry = volume.geometry
    np.savez_compressed(
        buffer,
        hu=volume.hu,
        spacing_mm=np.asarray(geometry.spacing_mm, dtype=np.float64),
        origin_mm=np.asarray(geometry.origin_mm, dtype=np.float64),
        axes=np.asarray(geometry.axes, dtype=np.float64),
    )
    return buffer.getvalue()


def read(path: Path) -> Volume:
    """The volume in `path`; EngineError if it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_VOXELS * 2:
                raise EngineError(f"{path} unpacks to more than {MAX_VOXELS} voxels", remedy=_REMEDY)
        with np.load(path, allow_pickle=False) as arrays:
            return _volume({name: arrays[name] for name in arrays.files})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise EngineError(f"{path} is not a volume file: {error}", remedy=_REMEDY) from error


def _volume(arrays: dict[str, npt.NDArray[Any]]) -> Volume:
    hu = arrays["hu"]
    if hu.dtype != np.int16 or hu.ndim != 3 or 0 in hu.shape:
        raise ValueError(f"hu must be int16 with 3 axes, not {hu.dtype} {hu.shape}")
    z, y, x = hu.shape
    spacing = _vector(arrays["spacing_mm"], "spacing_mm")
    if min(spacing) <= 0:
        raise ValueError(f"spacing_mm must be positive, not {spacing}")
    origin = _vector(arrays["origin_mm"], "origin_mm") if "origin_mm" in arrays else (0.0, 0.0, 0.0)
    if "axes" not in arrays:
        return Volume(hu, Geometry((z, y, x), spacing, origin))
    axes = np.asarray(arrays["axes"], dtype=np.float64)
    if axes.shape != (3, 3) or not np.allclose(axes @ axes.T, np.eye(3), atol=1e-3):
        raise ValueError("axes must be three orthogonal unit vectors")
    rows = (_vector(axes[0], "axes"), _vector(axes[1], "axes"), _vector(axes[2], "axes"))
    return Volume(hu, Geometry((z, y, x), spacing, origin, rows))


def _vector(array: npt.NDArray[Any], name: str) -> Vector:
    values = np.asarray(array, dtype=np.float64)
    if values.shape != (3,) or not np.isfinite(values).all():
        raise ValueError(f"{name} must be three finite numbers")
    return (float(values[0]), float(values[1]), float(values[2]))
