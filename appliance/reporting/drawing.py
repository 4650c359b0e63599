"""A key image as pixels: the slice with the lesion outlined, a close-up, and in words what was found.

    ┌──────────────────────────── caution ────────────────────────────┐
    │ A                                   │ close-up, no outline      │
    │R            the whole slice        L│                           │
    │                  P                  │ verdict, score, size, ... │
    └──────────────────────────────────────────────────────────────────┘

No patient identity is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from core.volume import Geometry, Vector

SLICE_PX, SIDE_PX, BANNER_PX, FOOT_PX, GAP_PX = 704, 320, 44, 30, 8
CLOSE_UP_MM = 70.0
_BACKGROUND, _TEXT, _SOFT = (14, 16, 20), (236, 238, 242), (150, 156, 166)
_CAUTION_BACK, _CAUTION_TEXT = (122, 72, 0), (255, 244, 222)
Colour = tuple[int, int, int]
_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Scene:
    """What one key image shows. hu and outline: (y, x) of one slice; centre and spacing_mm: (y, x)."""

    hu: npt.NDArray[np.int16]
    outline: npt.NDArray[np.bool_]
    centre: tuple[float, float]
    window: tuple[float, float]  # centre, width in HU
    spacing_mm: tuple[float, float]
    letters: tuple[str, str, str, str]  # left, right, top, bottom
    colour: Colour
    caution: str
    title: str
    verdict: str
    lines: tuple[str, ...]
    foot: str


def orientation_letters(geometry: Geometry) -> tuple[str, str, str, str]:
    """The patient's directions at the left, right, top and bottom edge of a drawn slice."""
    right, bottom = _letter(geometry.axes[2]), _letter(geometry.axes[1])
    opposite = dict(zip("LRPAHF", "RLAPFH", strict=True))
    return opposite[right], right, opposite[bottom], bottom


def _letter(axis: Vector) -> str:
    dominant = int(np.argmax(np.abs(axis)))
    return ("LR", "PA", "HF")[dominant][axis[dominant] < 0]


def draw(scene: Scene) -> npt.NDArray[np.uint8]:
    """The key image as (rows, columns, 3) uint8 RGB."""
    width = SLICE_PX + SIDE_PX + 3 * GAP_PX
    height = BANNER_PX + SLICE_PX + FOOT_PX + 2 * GAP_PX
    canvas = Image.new("RGB", (width, height), _BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    pen.rectangle((0, 0, width, BANNER_PX), fill=_CAUTION_BACK)
    pen.text((width / 2, BANNER_PX / 2), scene.caution, font=_font(20), fill=_CAUTION_TEXT, anchor="mm")
    top = BANNER_PX + GAP_PX
    canvas.paste(_whole_slice(scene), (GAP_PX, top))
    side = SLICE_PX + 2 * GAP_PX
    canvas.paste(_close_up(scene), (side, top))
    _words(pen, scene, side, top + SIDE_PX + 2 * GAP_PX)
    pen.text((GAP_PX, height - FOOT_PX / 2), scene.foot, font=_font(15), fill=_SOFT, anchor="lm")
    return np.asarray(canvas)


def _whole_slice(scene: Scene) -> Image.Image:
    rows, columns = scene.hu.shape
    mm = (rows * scene.spacing_mm[0], columns * scene.spacing_mm[1])
    scale = SLICE_PX / max(mm)
    size = (round(mm[1] * scale), round(mm[0] * scale))
    view = Image.new("RGB", (SLICE_PX, SLICE_PX), (0, 0, 0))
    corner = ((SLICE_PX - size[0]) // 2, (SLICE_PX - size[1]) // 2)
    view.paste(_outlined(scene, (0, 0, columns, rows), size), corner)
    pen = ImageDraw.Draw(view)
    _frame_of_close_up(pen, scene, scale, corner)
    edge, middle = 16, SLICE_PX // 2
    places = ((edge, middle), (SLICE_PX - edge, middle), (middle, edge), (middle, SLICE_PX - edge))
    for place, letter in zip(places, scene.letters, strict=True):
        pen.text(place, letter, font=_font(22), fill=_TEXT, anchor="mm", stroke_width=2, stroke_fill=(0, 0, 0))
    return view


def _outlined(scene: Scene, box: _Box, size: tuple[int, int], thickness: int = 2) -> Image.Image:
    image = _gray(scene, box, size)
    mask = Image.fromarray(scene.outline.astype(np.uint8) * 255)
    smooth = np.asarray(mask.resize(size, Image.Resampling.BILINEAR, box=box)) > 127
    rim = ndimage.binary_dilation(smooth, iterations=thickness) & ~smooth
    pixels = np.array(image)
    pixels[rim] = scene.colour
    return Image.fromarray(pixels)


def _gray(scene: Scene, box: _Box, size: tuple[int, int]) -> Image.Image:
    """The part of the slice in `box` (left, upper, right, lower in voxels), windowed, as `size` (width, height)."""
    centre, width = scene.window
    shades = np.clip((scene.hu.astype(np.float32) - (centre - width / 2)) / width, 0, 1) * 255
    image = Image.fromarray(shades.astype(np.uint8))
    return image.resize(size, Image.Resampling.BICUBIC, box=box).convert("RGB")


def _close_up_box(scene: Scene) -> _Box:
    """A square of CLOSE_UP_MM around the lesion (wider if the lesion is), shifted to stay inside the slice."""
    rows, columns = scene.hu.shape
    found = np.argwhere(scene.outline)
    extent = (np.ptp(found, axis=0) + 1) * scene.spacing_mm if len(found) else np.zeros(2)
    side_mm = min(
        max(CLOSE_UP_MM, 1.4 * float(extent.max())), rows * scene.spacing_mm[0], columns * scene.spacing_mm[1]
    )
    half = [side_mm / spacing / 2 for spacing in scene.spacing_mm]
    y = min(max(scene.centre[0] + 0.5, half[0]), rows - half[0])
    x = min(max(scene.centre[1] + 0.5, half[1]), columns - half[1])
    return (x - half[1], y - half[0], x + half[1], y + half[0])


def _close_up(scene: Scene) -> Image.Image:
    view = _gray(scene, _close_up_box(scene), (SIDE_PX, SIDE_PX))
    ImageDraw.Draw(view).rectangle((0, 0, SIDE_PX - 1, SIDE_PX - 1), outline=_SOFT)
    return view


def _frame_of_close_up(pen: ImageDraw.ImageDraw, scene: Scene, scale: float, corner: tuple[int, int]) -> None:
    left, upper, right, lower = _close_up_box(scene)
    y_scale, x_scale = (spacing * scale for spacing in scene.spacing_mm)
    box = (
        corner[0] + left * x_scale,
        corner[1] + upper * y_scale,
        corner[0] + right * x_scale - 1,
        corner[1] + lower * y_scale - 1,
    )
    pen.rectangle(box, outline=_SOFT)


def _words(pen: ImageDraw.ImageDraw, scene: Scene, x: int, y: int) -> None:
    pen.text((x, y), scene.title, font=_font(27), fill=_TEXT)
    pen.text((x, y + 40), scene.verdict, font=_font(23), fill=scene.colour)
    y += 92
    for line in scene.lines:
        pen.text((x, y), line, font=_font(19), fill=_TEXT)
        y += 30


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The open font that Pillow carries within itself."""
    return ImageFont.load_default(size)
