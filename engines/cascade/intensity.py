"""HU → the numbers that a network was trained on. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.manifest import Clip, Intensity, Raw, Rescale

Float = npt.NDArray[np.float32]
AIR_HU = -1024.0
_SLICES = 16


@dataclass(frozen=True)
class Normaliser:
    """value → (clipped value - shift) * scale. clip: HU (low, high), or None."""

    clip: tuple[float, float] | None
    shift: float
    scale: float

    def apply(self, image: Float) -> None:
        """HU → input, in place."""
        if self.clip is not None:
            np.clip(image, *self.clip, out=image)
        image -= np.float32(self.shift)
        image *= np.float32(self.scale)

    def value(self, hu: float) -> float:
        """What becomes of one HU value."""
        clipped = hu if self.clip is None else min(max(hu, self.clip[0]), self.clip[1])
        return (clipped - self.shift) * self.scale


def normaliser(intensity: Intensity, hu: Callable[[], npt.NDArray[np.generic]]) -> Normaliser:
    """The rule of a manifest. hu: gives the HU (z, y, x) of which mean, deviation or range are taken, where it asks."""
    if isinstance(intensity, Clip):
        return Normaliser((intensity.clip_low_hu, intensity.clip_high_hu), intensity.mean_hu, 1 / intensity.std_hu)
    if isinstance(intensity, Raw):
        return Normaliser(None, 0.0, 1.0)
    image = hu()
    if isinstance(intensity, Rescale):
        low, high = float(image.min()), float(image.max())
        return Normaliser(None, low, 1 / max(high - low, 1e-8))
    mean, deviation = _moments(image)
    return Normaliser(None, mean, 1 / max(deviation, 1e-8))


def _moments(image: npt.NDArray[np.generic]) -> tuple[float, float]:
    """Mean and standard deviation, slab by slab in float64: never a float copy of the whole scan."""
    total, squares = 0.0, 0.0
    for begin in range(0, len(image), _SLICES):
        slab = image[begin : begin + _SLICES].astype(np.float64)
        total += float(slab.sum())
        squares += float(np.square(slab).sum())
    mean = total / image.size
    return mean, max(0.0, squares / image.size - mean * mean) ** 0.5
