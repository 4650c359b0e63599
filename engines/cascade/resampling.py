"""The ways from a scan onto a network's grid: as NumPy goes them, and as the numbers by which a GPU does the same.

Both satisfy `engines.runtime.Resampling`. Everything is in canonical order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from engines.cascade.orientation import Box
from engines.cascade.preprocess import Float, Grid, resample
from engines.cascade.splines import Zoom, zoom_image
from engines.runtime import Limits

Weights = sparse.csr_array


@dataclass(frozen=True, eq=False)
class Gridded:
    """By the weights of a grid: means over its voxels (`preprocess.Grid`), or linear (`linear.Spaced`)."""

    source: npt.NDArray[np.int16]
    grid: Grid
    box: Box
    clip: tuple[float, float] | None = None
    first: int = 0
    limits: Limits = "none"

    def weights(self) -> tuple[Weights, Weights, Weights]:
        """Of z, y and x for the voxels in the box."""
        z, y, x = (
            self.grid.axis_weights(axis, low, high) for axis, (low, high) in enumerate(zip(*self.box, strict=True))
        )
        return z, y, x

    def on_host(self, check: Callable[[], object]) -> Float:
        """`preprocess.resample`."""
        check()
        return resample(self.source, self.grid, self.box, self.clip)


@dataclass(frozen=True, eq=False)
class Zoomed:
    """By splines, as nnU-Net does it (`splines`): the results stay within the range of what was resized."""

    source: npt.NDArray[np.int16]
    zoom: Zoom
    box: Box
    clip: tuple[float, float] | None = None

    @property
    def first(self) -> int:
        """The axis that is taken by itself, if there is one."""
        return 0 if self.zoom.lone is None else self.zoom.lone

    @property
    def limits(self) -> Limits:
        """Slices that are resized one by one are clipped one by one."""
        return "scan" if self.zoom.lone is None else "slice"

    def weights(self) -> tuple[Weights, Weights, Weights]:
        """Of z, y and x for the voxels in the box."""
        z, y, x = (
            sparse.csr_array(self.zoom.axis(axis)[low:high])
            for axis, (low, high) in enumerate(zip(*self.box, strict=True))
        )
        return z, y, x

    def on_host(self, check: Callable[[], object]) -> Float:
        """`splines.zoom_image`."""
        return zoom_image(self.source, self.zoom, clip=self.clip, box=self.box, check=check)
