"""Do these slices make a regular grid? If not, why not: each way to fail has its reason.

    MIXED_GEOMETRY       orientation, matrix or pixel spacing differ, or are absent
    NO_AXIAL_SERIES      the slices are not axial
    TOO_FEW_SLICES       too few to be a volume
    GANTRY_TILT          the stack leans (position moves sideways along the normal), or the header says so
    DUPLICATE_POSITIONS  several images at one position
    MISSING_SLICES       a gap that is a multiple of the others
    MIXED_SPACING        gaps that differ otherwise
    TOO_THICK            spacing or thickness beyond what the models know, or gaps between the slices

Checked in this order: the first that is true explains the later ones (a tilt also makes spacing look odd).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from appliance.imaging.header import ImageHeader
from core.errors import InputRefused
from core.finding import Reason
from core.volume import Geometry, Vector

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StackRules:
    """What a stack must be. Angles in degrees, lengths in mm."""

    min_slices: int = 10
    max_tilt: float = 0.5
    max_off_axial: float = 30.0
    max_spacing_mm: float = 7.5
    max_gap: float = 1.5  # spacing over thickness
    spacing_tolerance: float = 0.05  # of the spacing, per gap
    drift_tolerance: float = 0.25  # of the spacing, between a slice and its place on the regular grid
    cosine_tolerance: float = 1e-3
    duplicate_mm: float = 0.01


@dataclass(frozen=True)
class Stack:
    """Slices in the order of the stack (the most inferior first, so that z grows to Superior) and their grid."""

    headers: tuple[ImageHeader, ...]
    geometry: Geometry


def make_stack(headers: Sequence[ImageHeader], rules: StackRules) -> Stack:
    """Order slices of one series and find their grid. InputRefused with the reason otherwise."""
    row, column, normal = _common_axes(headers, rules)
    if abs(normal[2]) < math.cos(math.radians(rules.max_off_axial)):
        raise InputRefused(Reason.NO_AXIAL_SERIES, "the slices are not axial")
    if len(headers) < rules.min_slices:
        raise InputRefused(Reason.TOO_FEW_SLICES, f"{len(headers)} slices, at least {rules.min_slices} are needed")
    upward = normal if normal[2] > 0 else -normal
    positions = np.array([h.position for h in headers], dtype=np.float64)
    order = np.argsort(positions @ upward, kind="stable")
    positions = positions[order]
    ordered = tuple(headers[i] for i in order)
    _check_tilt(ordered, positions, upward, rules)
    spacing = _regular_spacing(positions @ upward, rules)
    _check_thickness(ordered, spacing, rules)
    first = headers[0]
    assert first.pixel_spacing_mm is not None  # _common_axes refused it
    return Stack(
        ordered,
        Geometry(
            shape=(len(ordered), first.rows, first.columns),
            spacing_mm=(spacing, *first.pixel_spacing_mm),
            origin_mm=_vector(positions[0]),
            axes=(_vector(upward), _vector(column), _vector(row)),
        ),
    )


def _common_axes(headers: Sequence[ImageHeader], rules: StackRules) -> tuple[Floats, Floats, Floats]:
    """Unit vectors: along a row (x index grows), down a column (y index grows), and their normal."""
    first = headers[0]
    grids = {(h.rows, h.columns) for h in headers}
    spacings = {h.pixel_spacing_mm for h in headers}
    if len(grids) > 1 or len(spacings) > 1 or first.pixel_spacing_mm is None:
        raise InputRefused(Reason.MIXED_GEOMETRY, f"{len(grids)} matrix sizes, {len(spacings)} pixel spacings")
    if any(h.orientation is None or h.position is None for h in headers):
        raise InputRefused(Reason.MIXED_GEOMETRY, "an image or frame without position or orientation")
    cosines = np.array([h.orientation for h in headers], dtype=np.float64)
    if np.abs(cosines - cosines[0]).max() > rules.cosine_tolerance:
        raise InputRefused(Reason.MIXED_GEOMETRY, "the slices are not parallel")
    row, column = cosines[0, :3], cosines[0, 3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(length - 1) for length in lengths) > 1e-2 or abs(row @ column) > 1e-2:
        raise InputRefused(Reason.MIXED_GEOMETRY, "the orientation is no pair of perpendicular unit vectors")
    row = row / lengths[0]
    column = column - (column @ row) * row
    column = column / np.linalg.norm(column)
    return row, column, np.cross(row, column)


def _check_tilt(headers: Sequence[ImageHeader], positions: Floats, upward: Floats, rules: StackRules) -> None:
    way = positions[-1] - positions[0]
    along = float(way @ upward)
    sideways = float(np.linalg.norm(way - along * upward))
    lean = math.degrees(math.atan2(sideways, along))
    if lean > rules.max_tilt:
        raise InputRefused(Reason.GANTRY_TILT, f"the stack leans by {lean:.1f} degrees")
    said = max((abs(h.tilt_degrees or 0.0) for h in headers), default=0.0)
    if said > rules.max_tilt:
        raise InputRefused(Reason.GANTRY_TILT, f"the header gives a tilt of {said:.1f} degrees")


def _regular_spacing(along: Floats, rules: StackRules) -> float:
    gaps = np.diff(along)
    if gaps.min() < rules.duplicate_mm:
        twice = int((gaps < rules.duplicate_mm).sum())
        raise InputRefused(Reason.DUPLICATE_POSITIONS, f"{twice} images at a position that another one has")
    usual = float(np.median(gaps))
    odd = gaps[np.abs(gaps - usual) > rules.spacing_tolerance * usual]
    if odd.size:
        steps = odd / usual
        if (steps > 1.5).all() and (np.abs(steps - np.rint(steps)) < 2 * rules.spacing_tolerance * steps).all():
            missing = int((np.rint(steps) - 1).sum())
            raise InputRefused(Reason.MISSING_SLICES, f"{missing} missing at a spacing of {usual:.2f} mm")
        listed = ", ".join(f"{g:.2f}" for g in sorted({round(float(g), 2) for g in (*odd, usual)})[:5])
        raise InputRefused(Reason.MIXED_SPACING, f"gaps of {listed} mm")
    mean = float(along[-1] - along[0]) / (len(along) - 1)
    drift = np.abs(along - (along[0] + mean * np.arange(len(along)))).max()
    if drift > rules.drift_tolerance * mean:
        raise InputRefused(Reason.MIXED_SPACING, f"the spacing drifts by {drift:.2f} mm")
    return round(mean, 6)


def _check_thickness(headers: Sequence[ImageHeader], spacing: float, rules: StackRules) -> None:
    thickness = max((h.thickness_mm or 0.0 for h in headers), default=0.0)
    if max(spacing, thickness) > rules.max_spacing_mm:
        size = max(spacing, thickness)
        raise InputRefused(Reason.TOO_THICK, f"{size:.2f} mm, at most {rules.max_spacing_mm:.1f} mm can be read")
    if thickness and spacing > rules.max_gap * thickness:
        raise InputRefused(Reason.MISSING_SLICES, f"slices of {thickness:.2f} mm every {spacing:.2f} mm leave gaps")


def _vector(v: Floats) -> Vector:
    return float(v[0]), float(v[1]), float(v[2])
