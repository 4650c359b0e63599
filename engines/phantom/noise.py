"""CT noise with the texture of a reconstruction kernel, and the couch."""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt

from engines.phantom.shapes import Array


class Kernel(str, enum.Enum):
    """Reconstruction kernels: what the noise power spectrum looks like and how strong it is."""

    SOFT = "soft"
    SHARP = "sharp"
    ITERATIVE = "iterative"

    @property
    def peak_per_mm(self) -> float:
        """Where noise power peaks, cycles per mm (FBP 0.2–0.3, iterative 0.08–0.16)."""
        return {"soft": 0.22, "sharp": 0.5, "iterative": 0.12}[self.value]

    @property
    def sd_hu(self) -> float:
        """Noise in the liver of the average patient at 5 mm slices."""
        return {"soft": 12.0, "sharp": 55.0, "iterative": 7.0}[self.value]


def noise_filter(shape: tuple[int, int], spacing_yx_mm: tuple[float, float], kernel: Kernel) -> Array:
    """Transfer function (y, x // 2 + 1) that gives white noise of sd 1 the kernel's power spectrum, still of sd 1.

    Power rises with frequency (ramp filter) and falls off as a Gaussian: f · exp(-(f / f0)²), with its peak at the
    kernel's. Pixels too coarse for the peak just see it cut off.
    """
    fy = np.fft.fftfreq(shape[0], spacing_yx_mm[0])[:, None]
    fx = np.fft.rfftfreq(shape[1], spacing_yx_mm[1])[None, :]
    f2 = fy**2 + fx**2
    f0_squared = 2 * kernel.peak_per_mm**2
    power = np.sqrt(f2) * np.exp(-f2 / f0_squared)
    both_halves = np.full(fx.shape[1], 2.0)
    both_halves[0] = 1.0
    mean_power = (power * both_halves).sum() / (shape[0] * shape[1])
    return np.asarray(np.sqrt(power / mean_power), np.float32)


def slice_noise(rng: np.random.Generator, transfer: Array, shape: tuple[int, int]) -> Array:
    """One slice (y, x) of noise with standard deviation 1."""
    white = rng.standard_normal(shape, dtype=np.float32)
    return np.asarray(np.fft.irfft2(np.fft.rfft2(white) * transfer, s=shape), np.float32)


def slice_sd(kernel: Kernel, hu: Array, pixel_mm2: float, thickness_mm: float, dose: float = 1.0) -> float:
    """Noise of a slice (HU): thicker slices and more dose lower it, a thicker patient raises it.

    Noise follows the photons left behind the patient's water-equivalent diameter (AAPM report 220), with a tube
    current modulation that evens out half of it.
    """
    water_mm2 = float(np.clip(hu / 1000 + 1, 0, 2).sum()) * pixel_mm2
    diameter_cm = 2 * np.sqrt(max(water_mm2, 1) / np.pi) / 10
    attenuation = np.exp(0.5 * 0.5 * 0.19 * (diameter_cm - 27))
    return float(kernel.sd_hu * np.sqrt(5 / thickness_mm / dose) * min(max(attenuation, 0.4), 2.5))


def couch(y: npt.NDArray[np.float64], x: npt.NDArray[np.float64], back_mm: float) -> Array:
    """HU (y, x) of an empty scanner with its couch: a curved carbon shell with foam inside, `back_mm` the skin's y."""
    sag = 26 - 26 * (x / 200) ** 2
    depth = y[:, None] - (back_mm + 4 - 26 + sag)[None, :]
    plane = np.full((y.size, x.size), -1000, np.float32)
    inside = np.abs(x)[None, :] < 205
    plane[(depth > 0) & (depth < 32) & inside] = -930
    shell = ((depth > 0) & (depth < 2.5)) | ((depth > 29.5) & (depth < 32))
    plane[shell & inside] = -450
    return plane
