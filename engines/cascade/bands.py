"""A banded matrix as dense blocks: products of an axis's resampling weights go through BLAS, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]
_ROWS = 16
"""Rows of a band that are multiplied at once: more waste zeros, fewer waste calls."""


@dataclass(frozen=True, eq=False)
class Band:
    """Rows start..stop of a matrix and their taps low..high, float32 (stop - start, high - low)."""

    start: int
    stop: int
    low: int
    high: int
    weights: Float


def bands(matrix: Float, rows: int = _ROWS) -> tuple[Band, ...]:
    """All rows of a matrix (m, n) none of whose rows is empty, `rows` of them a band."""

    def cut() -> Iterator[Band]:
        for start in range(0, len(matrix), rows):
            stop = min(start + rows, len(matrix))
            taps = np.flatnonzero(matrix[start:stop].any(axis=0))
            low, high = int(taps[0]), int(taps[-1]) + 1
            yield Band(start, stop, low, high, np.ascontiguousarray(matrix[start:stop, low:high]))

    return tuple(cut())


def multiply_plane(slab: Float, rows: Sequence[Band], columns: Sequence[Band], narrow: Float, out: Float) -> None:
    """out (n, r, c) = rows (r, y) · slab (n, y, x) · columns (c, x)ᵀ. narrow: scratch (n, r, x). All contiguous."""
    for band in rows:
        np.matmul(band.weights, slab[:, band.low : band.high], out=narrow[:, band.start : band.stop])
    flat, result = narrow.reshape(-1, narrow.shape[2]), out.reshape(-1, out.shape[2])
    for band in columns:
        np.matmul(flat[:, band.low : band.high], band.weights.T, out=result[:, band.start : band.stop])
