"""The scanner: what a kernel does to edges and noise, what dose, thickness and the patient's size do to its strength.

A slice is filtered once in frequency space: its content by the kernel's edge response, white noise by the square root
of the kernel's noise power spectrum; the sum is one inverse transform.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np

from engines.phantom import difficulty
from engines.phantom.fields import Array


class Kernel(str, enum.Enum):
    """Reconstruction kernels."""

    SOFT = "soft"
    SHARP = "sharp"
    ITERATIVE = "iterative"


@dataclass(frozen=True)
class Response:
    """peak_per_mm: where noise power peaks, cycles per mm. blur_mm: Gaussian sd of the point spread. lift: edge boost.

    Noise power f · exp(-(f / f0)²) peaks at f0 / √2 (0.2–0.3 /mm in filtered back projection, 0.08–0.16 in iterative
    reconstruction). The edge response is exp(-2 π² blur² f²) · (1 + lift · (f / peak)²): `lift` overshoots at edges.
    """

    peak_per_mm: float
    blur_mm: float
    lift: float


RESPONSE: dict[Kernel, Response] = {
    Kernel.SOFT: Response(0.22, 0.62, 0.0),
    Kernel.SHARP: Response(0.50, 0.36, 0.20),
    Kernel.ITERATIVE: Response(0.13, 0.62, 0.0),
}


_USUAL_PIXEL_MM = 0.75


class SliceFilter:
    """Edge response and noise for slices of one size. Deterministic: the noise is that of the generator given.

    edges: the kernel's response, noise: the square root of the noise power over that of white noise of the same sd at
    the usual pixel; both over the frequencies of a real transform (ny, nx // 2 + 1).
    """

    def __init__(self, shape: tuple[int, int], spacing_yx_mm: tuple[float, float], kernel: Kernel) -> None:
        fy = np.fft.fftfreq(shape[0], spacing_yx_mm[0])[:, None]
        fx = np.fft.rfftfreq(shape[1], spacing_yx_mm[1])[None, :]
        f2 = fy**2 + fx**2
        r = RESPONSE[kernel]
        self._shape = shape
        # The voxel itself blurs already; the kernel's own share is what remains.
        blur2 = max(r.blur_mm**2 - float(np.mean(np.square(spacing_yx_mm))) / 12, 0.0)
        self.edges = (np.exp(-2 * np.pi**2 * blur2 * f2) * (1 + r.lift * np.minimum(f2 / r.peak_per_mm**2, 4))).astype(
            np.float32
        )
        power = np.sqrt(f2) * np.exp(-f2 / (2 * r.peak_per_mm**2))
        # A pixel of 0.75 mm has the noise of `slice_sd`; finer ones see more of the spectrum, coarser ones less.
        side = np.fft.fftfreq(256, _USUAL_PIXEL_MM)
        usual2 = side[:, None] ** 2 + side[None, :] ** 2
        seen = np.sqrt(usual2) * np.exp(-usual2 / (2 * r.peak_per_mm**2))
        whole = float(seen.mean()) / _USUAL_PIXEL_MM**2
        pixel = np.sinc(fy * spacing_yx_mm[0]) ** 2 * np.sinc(fx * spacing_yx_mm[1]) ** 2
        density = power * (pixel if max(spacing_yx_mm) > 1.0 else 1.0) / whole
        self.noise = np.sqrt(density / (spacing_yx_mm[0] * spacing_yx_mm[1])).astype(np.float32)

    def __call__(self, plane: Array, sd_map: Array, rng: np.random.Generator) -> Array:
        """The slice (y, x) as reconstructed, with noise of `sd_map` HU (y, x)."""
        content = np.fft.rfft2(plane) * self.edges
        noise = np.fft.rfft2(rng.standard_normal(self._shape, dtype=np.float32)) * self.noise
        both = np.fft.irfft2(np.stack([content, noise]), s=self._shape)
        return np.asarray(both[0] + sd_map * both[1], np.float32)


def slice_sd(kernel: Kernel, plane: Array, pixel_mm2: float, thickness_mm: float, dose: float) -> float:
    """Noise of a slice (HU): thicker slices and more dose lower it, a thicker patient raises it.

    Noise follows the photons left behind the patient's water-equivalent diameter (AAPM report 220), with a tube
    current modulation that evens out half of it.
    """
    water_mm2 = float(np.clip(plane / 1000 + 1, 0, 2).sum()) * pixel_mm2
    diameter_cm = 2 * np.sqrt(max(water_mm2, 1) / np.pi) / 10
    attenuation = float(np.exp(0.5 * 0.5 * 0.19 * (diameter_cm - 27)))
    level: dict[str, float] = difficulty.SCANS["noise_sd_hu"]  # type: ignore[assignment]
    return level[kernel.value] * float(np.sqrt(5 / thickness_mm / dose)) * min(max(attenuation, 0.4), 2.5)


def couch(y: Array, x: Array, back_mm: float) -> Array:
    """HU (y, x) of an empty scanner with its couch: a curved carbon shell with foam inside, `back_mm` the skin's y."""
    sag = 24 - 24 * (x / 210) ** 2
    depth = y[:, None] - (back_mm - 22 + sag)[None, :]
    plane = np.full((y.size, x.size), -1000, np.float32)
    inside = np.abs(x)[None, :] < 215
    plane[(depth > 0) & (depth < 30) & inside] = -960
    shell = ((depth > 0) & (depth < 2)) | ((depth > 28) & (depth < 30))
    plane[shell & inside] = -500
    return plane


def metal_streaks(plane: Array, spacing_yx_mm: tuple[float, float], rng: np.random.Generator) -> Array:
    """Bright and dark rays (y, x) in HU around metal (above 2000 HU) in a slice; 0 where there is none.

    A stand-in for photon starvation and beam hardening: rays from the metal's middle, stronger the more metal, fading
    with distance. The same generator gives neighbouring slices the same rays.
    """
    rows, columns = np.nonzero(plane > 2000)
    area_mm2 = rows.size * spacing_yx_mm[0] * spacing_yx_mm[1]
    if area_mm2 < 2:
        return np.zeros((1, 1), np.float32)
    y = (np.arange(plane.shape[0]) - rows.mean())[:, None] * spacing_yx_mm[0]
    x = (np.arange(plane.shape[1]) - columns.mean())[None, :] * spacing_yx_mm[1]
    turn = (np.arctan2(y, x) / (2 * np.pi) % 1) * 48
    rays = np.append(values := rng.standard_normal(48), values[0])
    strength = np.interp(turn, np.arange(49), rays) * 45 * np.sqrt(min(area_mm2, 900) / 100)
    fade = np.exp(-np.hypot(y, x) / 70)
    soft = (plane > -900) & (plane <= 2000)
    return np.asarray(strength * fade * soft, np.float32)
