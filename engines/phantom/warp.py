"""What makes each person's organs their own: smooth shears of one template. Both generations of phantoms use it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.phantom.shapes import Point


@dataclass(frozen=True)
class Warp:
    """The smooth shears that make each patient's organs their own: template = patient / scale + waves."""

    scale: Point
    amplitude: Point
    wavelength: npt.NDArray[np.float64]
    phase: npt.NDArray[np.float64]

    @property
    def slack_mm(self) -> float:
        """The farthest that a wave moves anything along one axis."""
        return 2 * max(self.amplitude)

    def to_template(
        self, z: npt.NDArray[np.float32], y: npt.NDArray[np.float32], x: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Template coordinates of patient coordinates (mm, broadcastable)."""
        z, y, x = z / np.float32(self.scale[0]), y / np.float32(self.scale[1]), x / np.float32(self.scale[2])
        return (
            z + self._waves(0, y, x),
            y + self._waves(1, z, x),
            x + self._waves(2, z, y),
        )

    def _waves(
        self, axis: int, first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        (k0, k1), (p0, p1) = 2 * np.pi / self.wavelength[axis], self.phase[axis]
        waves = np.sin(first * np.float32(k0) + np.float32(p0)) + np.sin(second * np.float32(k1) + np.float32(p1))
        return np.asarray(np.float32(self.amplitude[axis]) * waves, np.float32)

    def to_patient(self, point: Point) -> Point:
        """Patient coordinates (z, y, x mm) of a template point, by fixed-point iteration (the waves are gentle)."""
        goal = np.asarray(point, np.float64)
        here = goal * self.scale
        for _ in range(30):
            z, y, x = (np.array([v], np.float32) for v in here)
            now = np.array([float(v[0]) for v in self.to_template(z, y, x)])
            here = here + (goal - now) * self.scale
        return (float(here[0]), float(here[1]), float(here[2]))
