"""A finding in three views: axial, axial with outlines, coronal with outlines. JPEG, without a word in the image."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from core.finding import Cancer
from core.volume import Index, Vector

SIDE, REACH_MM = 208, 150.0
"""Pixels and mm of a view's side."""
_SOFT, _LUNG, _BREAST = (40.0, 350.0), (-550.0, 1500.0), (0.0, 450.0)
_WINDOWS = {Cancer.LUNG: _LUNG, Cancer.BREAST: _BREAST}
_TRUTH, _MARK = (70, 220, 200), (255, 150, 40)
_GAP = 4

Plane = npt.NDArray[np.generic]
Mask = npt.NDArray[np.bool_]


def draw(
    hu: npt.NDArray[np.int16],
    spacing_mm: Vector,
    at: Index,
    cancer: Cancer,
    truth: Mask | None = None,
    marks: Sequence[Vector] = (),
) -> bytes:
    """The views through voxel `at`. All in canonical order (z, y, x). truth: outlined; marks: circled where near."""
    z, y, x = (min(max(i, 0), n - 1) for i, n in zip(at, hu.shape, strict=True))
    window = _WINDOWS.get(cancer, _SOFT)
    views = [
        _view(hu[z], None, (y, x), spacing_mm[1:], window),
        _view(hu[z], None if truth is None else truth[z], (y, x), spacing_mm[1:], window),
        _view(hu[:, y], None if truth is None else truth[:, y], (z, x), (spacing_mm[0], spacing_mm[2]), window),
    ]
    for mark in marks:
        if abs(mark[0] - z) * spacing_mm[0] < 10:
            _circle(views[1], (mark[1] - y) * spacing_mm[1], (mark[2] - x) * spacing_mm[2])
        if abs(mark[1] - y) * spacing_mm[1] < 10:
            _circle(views[2], (mark[0] - z) * spacing_mm[0], (mark[2] - x) * spacing_mm[2])
    views[2] = views[2].transpose(Image.Transpose.FLIP_TOP_BOTTOM)  # the head is up
    sheet = Image.new("RGB", (3 * SIDE + 2 * _GAP, SIDE), (24, 26, 30))
    for i, view in enumerate(views):
        sheet.paste(view, (i * (SIDE + _GAP), 0))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=80, optimize=True)
    return buffer.getvalue()


def _view(
    plane: Plane, mask: Mask | None, at: tuple[int, int], spacing_mm: tuple[float, ...], window: tuple[float, float]
) -> Image.Image:
    """A square of REACH_MM around a pixel; what lies outside of the image is black."""
    grey, inside = _crop(plane, at, spacing_mm, -1024), None
    centre, width = window
    scaled = np.clip((grey.astype(np.float32) - (centre - width / 2)) / width * 255, 0, 255).astype(np.uint8)
    picture = Image.fromarray(scaled).resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB")
    if mask is not None:
        inside = Image.fromarray(_crop(mask, at, spacing_mm, 0).astype(np.uint8) * 255)
        _outline(picture, np.asarray(inside.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) > 127)
    return picture


def _crop(plane: Plane, at: tuple[int, int], spacing_mm: tuple[float, ...], outside: int) -> Plane:
    half = [max(1, round(REACH_MM / 2 / s)) for s in spacing_mm]
    padded = np.pad(plane, [(h, h) for h in half], constant_values=outside)
    return padded[at[0] : at[0] + 2 * half[0] + 1, at[1] : at[1] + 2 * half[1] + 1]


def _outline(picture: Image.Image, mask: Mask) -> None:
    """Draw the ring just outside of a mask, so that the lesion itself stays to be seen."""
    grown = mask.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            grown |= np.roll(mask, step, axis)
    ring = Image.fromarray((grown & ~mask).astype(np.uint8) * 255)
    picture.paste(_TRUTH, (0, 0, SIDE, SIDE), ring)


def _circle(picture: Image.Image, down_mm: float, right_mm: float) -> None:
    scale = SIDE / REACH_MM
    y, x = SIDE / 2 + down_mm * scale, SIDE / 2 + right_mm * scale
    if 0 <= x < SIDE and 0 <= y < SIDE:
        radius = 11
        ImageDraw.Draw(picture).ellipse((x - radius, y - radius, x + radius, y + radius), outline=_MARK, width=2)
