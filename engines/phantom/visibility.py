"""How visible a finding is to the best possible reader: its signal over the scan's noise, at the scan's own voxels.

The signal is what the finding alone changes: the anatomy painted with and without its layers. The detectability index
of an observer that knows the signal and its background and whitens the noise (matched filter) is

    d'² = Σ_f |ΔS(f)|² / W(f)

with ΔS the discrete transform of the signal as the kernel leaves it, and W the variance of the noise's transform (ICRU
Report 54, 1996; Barrett and Myers, Foundations of Image Science, 2004, chapter 13). W is the scanner's noise power,
and for organs whose healthy unevenness is Gaussian by the law (`difficulty.TEXTURE_HU`) its power too, because nobody
knows a liver's mottle beforehand: a spline noise of grain g and standard deviation s has the power
s² · Π_i g sinc⁸(f_i g) / 0.4793³. Below 0.05 /mm a ramp filter's noise vanishes; W is held there, since no reader has
a background so certain. A second figure lets the observer know of the background only its mean under the finding: the
rest of what the finding replaces (clefts of fat, stool, vessels) counts as noise. Secondary signs count nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from core.volume import Geometry
from engines.phantom import difficulty
from engines.phantom.fields import Array
from engines.phantom.physics import SliceFilter
from engines.phantom.rendering import CENTRE_NOISE, Scan, geometry_of, paint
from engines.phantom.studio import Found
from engines.phantom.torso import Torso

Power = npt.NDArray[np.float64]
_LOWEST_PER_MM = 0.05
_AROUND_MM = 14.0


@dataclass(frozen=True)
class Visibility:
    """d' of a finding. known: its background is known voxel by voxel; uneven: only the background's mean under it."""

    known: float
    uneven: float


def visibility(torso: Torso, scan: Scan, found: Found, noise_hu: float) -> Visibility:
    """How visible a finding is in a scan whose voxels have no side above 2 mm; 0 where the scan doesn't hold it.

    noise_hu: standard deviation of the noise in the slices that it touches (`Rendered.noise_hu`).
    """
    if scan.kernel is None:
        raise ValueError("a scan without a kernel has no noise to see through")
    signal = signal_of(torso, scan, found)
    if not signal.any():
        return Visibility(0.0, 0.0)
    filter_ = SliceFilter((signal.shape[1], signal.shape[2]), scan.spacing_mm[1:], scan.kernel)
    edges = _whole(filter_.edges, signal.shape[2])
    noise = _noise_power(filter_, signal.shape, scan, noise_hu * CENTRE_NOISE)
    if found.organ in difficulty.TEXTURE_HU:
        noise = noise + texture_power(signal.shape, scan, found.organ) * edges**2
    there = np.abs(signal) > 0.5
    mean = np.where(there, signal[there].mean(), 0) if there.any() else signal
    unevenness = _smoothed(np.abs(np.fft.fftn(signal - mean) * edges) ** 2)
    known = np.abs(np.fft.fftn(signal) * edges) ** 2 / noise
    uneven = np.abs(np.fft.fftn(mean) * edges) ** 2 / (noise + unevenness)
    return Visibility(float(np.sqrt(known.sum())), float(np.sqrt(uneven.sum())))


def signal_of(torso: Torso, scan: Scan, found: Found) -> Array:
    """What a finding changes, HU (z, y, x) in a box around it, before kernel and noise."""
    own = [layer for layer in torso.layers if layer.lesion == found.number]
    bounds = [layer.bounds for layer in own]
    geometry = geometry_of(torso, scan)
    axes = []
    for i in range(3):
        low, high = min(b[i][0] for b in bounds), max(b[i][1] for b in bounds)
        axis = _axis(geometry, i)
        axes.append(axis[(axis > low - _AROUND_MM) & (axis < high + _AROUND_MM)])
    if not all(len(a) for a in axes):
        return np.zeros((0, 0, 0), np.float32)
    box = (axes[0], axes[1], axes[2])
    empty = np.full((len(axes[1]), len(axes[2])), -1000, np.float32)
    without = replace(torso, layers=[layer for layer in torso.layers if layer.lesion != found.number])
    return paint(torso.layers, box, empty, torso)[0] - paint(without.layers, box, empty, without)[0]


def texture_power(shape: tuple[int, ...], scan: Scan, organ: str) -> Power:
    """Variance of the transform (z, y, x) of an organ's unevenness over a box of this shape."""
    power = np.zeros(shape)
    for grain, sd in difficulty.TEXTURE_HU[organ].items():
        z, y, x = (
            grain * np.sinc(np.fft.fftfreq(n, d) * grain) ** 8 / 0.4793
            for n, d in zip(shape, scan.spacing_mm, strict=True)
        )
        power += sd**2 * z[:, None, None] * y[None, :, None] * x[None, None, :]
    return power * int(np.prod(shape)) / float(np.prod(scan.spacing_mm))


def _noise_power(filter_: SliceFilter, shape: tuple[int, ...], scan: Scan, sd_hu: float) -> Power:
    """Variance of the noise's transform: slices have noise of their own, so it is the same for all f_z."""
    f = np.hypot(
        np.fft.fftfreq(shape[1], scan.spacing_mm[1])[:, None], np.fft.fftfreq(shape[2], scan.spacing_mm[2])[None, :]
    )
    relative = _whole(filter_.noise, shape[2]) ** 2
    at_lowest = relative[(f >= _LOWEST_PER_MM) & (f < 2 * _LOWEST_PER_MM)]
    floor = float(at_lowest.min()) if at_lowest.size else float(relative.max())
    relative = np.where(f < _LOWEST_PER_MM, np.maximum(relative, floor), relative)
    rounding = 1 / 12
    return np.asarray((sd_hu**2 * relative + rounding)[None] * int(np.prod(shape)), np.float64)


def _whole(half: Array, nx: int) -> Power:
    """A real transform's frequencies (ny, nx // 2 + 1), even in f, for all of a transform (ny, nx)."""
    column = np.arange(nx)
    return np.asarray(half[:, np.minimum(column, nx - column)], np.float64)


def _smoothed(power: Power) -> Power:
    """A periodogram averaged over neighbouring frequencies: three along each axis."""
    for axis in range(3):
        power = (np.roll(power, 1, axis) + power + np.roll(power, -1, axis)) / 3
    return power


def _axis(geometry: Geometry, i: int) -> Array:
    """Voxel centres along axis i (z-y-x), mm."""
    start = geometry.origin_mm[2 - i]
    return np.asarray(start + geometry.spacing_mm[i] * np.arange(geometry.shape[i]), np.float32)
