"""Pictures and plots for docs/phantoms.md: windowed slices side by side, and a line plot as SVG, with Pillow alone."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from core import durable

Plane = npt.NDArray[np.uint8]
SOFT, LUNG = (40.0, 400.0), (-600.0, 1500.0)
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e")


def window(hu: npt.NDArray[np.generic], at: tuple[float, float]) -> Plane:
    """Grey values of HU in a window (centre, width)."""
    centre, width = at
    scaled = (np.asarray(hu, np.float32) - (centre - width / 2)) / width * 255
    return np.clip(scaled, 0, 255).astype(np.uint8)


def sized(plane: Plane, spacing_mm: tuple[float, float], pixel_mm: float, height: int, width: int) -> Plane:
    """A plane at `pixel_mm`, cut or padded around its body to height × width pixels."""
    size = (
        max(round(plane.shape[1] * spacing_mm[1] / pixel_mm), 1),
        max(round(plane.shape[0] * spacing_mm[0] / pixel_mm), 1),
    )
    image = np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR))
    rows, columns = np.nonzero(image > 25)
    cy, cx = (int(rows.min() + rows.max()) // 2, int(columns.min() + columns.max()) // 2) if rows.size else (0, 0)
    padded = np.pad(image, ((height, height), (width, width)))
    top, left = cy + height - height // 2, cx + width - width // 2
    return padded[top : top + height, left : left + width]


def outlined(plane: Plane, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """RGB of a plane with a mask's edge in yellow."""
    inner = mask.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            inner &= np.roll(mask, step, axis)
    rgb = np.repeat(plane[..., None], 3, axis=2)
    rgb[mask & ~inner] = (255, 210, 0)
    return rgb


def sheet(path: Path, rows: Sequence[Sequence[npt.NDArray[np.uint8]]], captions: Sequence[Sequence[str]]) -> None:
    """Pictures of one size as a sheet with captions, as JPEG or PNG by the path's ending."""
    height, width = rows[0][0].shape[:2]
    image = Image.new("RGB", (max(len(r) for r in rows) * (width + 4), len(rows) * (height + 18)), "white")
    draw = ImageDraw.Draw(image)
    for i, (row, texts) in enumerate(zip(rows, captions, strict=True)):
        for j, (cell, text) in enumerate(zip(row, texts, strict=True)):
            at = (j * (width + 4), i * (height + 18))
            image.paste(Image.fromarray(cell).convert("RGB"), (at[0], at[1] + 14))
            draw.text((at[0] + 2, at[1] + 1), text, fill="black")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG" if path.suffix == ".jpg" else "PNG", quality=82, optimize=True)
    durable.write_bytes(path, buffer.getvalue(), 0o644)


def plot(path: Path, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_title: str, y_title: str) -> None:
    """Curves (name → x, y) as an SVG of 640 × 340."""
    x_end = max(max(x) for x, _ in lines.values())
    y_end = max(max(y) for _, y in lines.values()) * 1.05

    def at(x: float, y: float) -> str:
        return f"{60 + 560 * x / x_end:.1f},{290 - 260 * y / y_end:.1f}"

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 340" font-family="sans-serif" font-size="12">',
        '<rect width="640" height="340" fill="white"/>',
        '<path d="M60,30V290H620" fill="none" stroke="black"/>',
        f'<text x="340" y="330" text-anchor="middle">{x_title}</text>',
        f'<text x="16" y="160" text-anchor="middle" transform="rotate(-90 16 160)">{y_title}</text>',
    ]
    for k in range(6):
        x = x_end * k / 5
        parts.append(f'<text x="{60 + 112 * k}" y="306" text-anchor="middle">{x:.2g}</text>')
    for i, (name, (x, y)) in enumerate(lines.items()):
        points = " ".join(at(a, b) for a, b in zip(x, y, strict=True))
        colour = _COLOURS[i % len(_COLOURS)]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{400}" y="{48 + 16 * i}" fill="{colour}">{name}</text>')
    durable.write_text(path, "\n".join([*parts, "</svg>\n"]), 0o644)
