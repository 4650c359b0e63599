"""Do the slices of a CT series make a stack without a gap? Pure; used to judge completeness, never to analyse.

Strict on purpose: what can't be judged (tilt, mixed geometry, several images at one position, a spacing wider than the
slices are thick) is left to counts and quiet time. A prefix of a stack looks whole, so this is asked only after the
association was released.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from appliance.intake.facts import CT_IMAGE, MULTI_FRAME_CT, InstanceFacts, Orientation, Vector

MIN_SLICES = 3
_AXIAL_COSINE = math.cos(math.radians(30))  # a tilted gantry (at most 30 degrees) still makes an axial series
_TILT_TOLERANCE_DEGREES = 0.5
_COSINE_TOLERANCE = 1e-3
_SPACING_TOLERANCE = 0.05
_GAP = 1.1  # spacing over slice thickness: above it the stack has gaps, by design or by loss
_NOT_A_SLICE = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM", "SCANO"})


@dataclass(frozen=True)
class Counts:
    """What Images in Acquisition (0020,1002) says: known for all images? and what is missing, "" if nothing."""

    known: bool
    missing: str


def series_of(instances: Iterable[InstanceFacts]) -> dict[str, list[InstanceFacts]]:
    """The axial CT series by UID. Localizers, dose objects, captures and other planes don't hold a study up."""
    series: dict[str, list[InstanceFacts]] = defaultdict(list)
    for facts in instances:
        if _is_multi_frame(facts) or _is_axial_slice(facts):
            series[facts.series_uid].append(facts)
    return dict(series)


def counts_of(series: Sequence[InstanceFacts]) -> Counts:
    """Compare the images of each acquisition of a series with the count that they carry."""
    acquisitions: dict[int | None, list[InstanceFacts]] = defaultdict(list)
    for facts in series:
        acquisitions[facts.acquisition_number].append(facts)
    known = True
    for images in acquisitions.values():
        expected = max((f.images_in_acquisition or 0 for f in images), default=0)
        known = known and expected > 0
        here = sum(f.frames for f in images)
        if here < expected:
            return Counts(known, f"{here} of {expected} images of an acquisition are here")
    return Counts(known, "")


def judge_series(series: Sequence[InstanceFacts]) -> str:
    """What stands against calling the series a stack without gaps; "" if nothing does."""
    if any(map(_is_multi_frame, series)):
        return _judge_multi_frame(series)
    first = series[0]
    if len(series) < MIN_SLICES:
        return f"a series of {len(series)} slices is too short to judge"
    orientation = first.orientation
    if orientation is None or any(not _same_grid(f, first) for f in series):
        return "a series mixes orientation, matrix or pixel spacing"
    normal = _normal(orientation)
    positions = sorted((f.position for f in series if f.position), key=lambda p: _dot(p, normal))
    if any(abs(f.tilt_degrees or 0.0) > _TILT_TOLERANCE_DEGREES for f in series) or _sheared(positions, normal):
        return "a series has gantry tilt"
    along = [_dot(p, normal) for p in positions]
    gaps = [b - a for a, b in itertools.pairwise(along)]
    spacing = sorted(gaps)[len(gaps) // 2]
    if min(gaps) < 0.01:
        return "a series has several images at one position"
    if not all(map(math.isfinite, gaps)) or max(abs(gap - spacing) for gap in gaps) > _SPACING_TOLERANCE * spacing:
        return "a series is not evenly spaced"
    thickness = [f.thickness_mm for f in series if f.thickness_mm]
    if not thickness or spacing > _GAP * max(thickness):
        return "a series has gaps between its slices"
    return ""


def tells_its_frames(series: Sequence[InstanceFacts]) -> bool:
    """Whether Number of Frames, and not the place of its slices, tells that a series is whole."""
    return any(map(_is_multi_frame, series))


def _judge_multi_frame(series: Sequence[InstanceFacts]) -> str:
    """A multi-frame image has all its frames, or it would not have been taken; only parts of one can be missing."""
    if not all(map(_is_multi_frame, series)):
        return "a series mixes multi-frame images and single slices"
    together: dict[str, list[InstanceFacts]] = defaultdict(list)
    for facts in series:
        if facts.concatenation:
            together[facts.concatenation].append(facts)
    for parts in together.values():
        expected = max(f.parts or 0 for f in parts)
        if not expected:
            return "a multi-frame image in parts does not say how many there are"
        here = len({f.part for f in parts})
        if here < expected:
            return f"{here} of {expected} parts of a multi-frame image are here"
    return ""


def _is_multi_frame(facts: InstanceFacts) -> bool:
    return facts.sop_class_uid in MULTI_FRAME_CT and not _NOT_A_SLICE & set(facts.image_type)


def _is_axial_slice(facts: InstanceFacts) -> bool:
    if facts.sop_class_uid != CT_IMAGE or _NOT_A_SLICE & set(facts.image_type):
        return False
    if facts.orientation is None or facts.position is None:
        return False
    return abs(_normal(facts.orientation)[2]) >= _AXIAL_COSINE


def _same_grid(a: InstanceFacts, b: InstanceFacts) -> bool:
    if a.orientation is None or b.orientation is None:
        return False
    return (a.rows, a.columns, a.spacing_mm) == (b.rows, b.columns, b.spacing_mm) and all(
        abs(x - y) <= _COSINE_TOLERANCE for x, y in zip(a.orientation, b.orientation, strict=True)
    )


def _sheared(positions: Sequence[Vector], normal: Vector) -> bool:
    """Does the stack lean, seen along its normal?"""
    first, last = positions[0], positions[-1]
    way = (last[0] - first[0], last[1] - first[1], last[2] - first[2])
    length = math.sqrt(_dot(way, way))
    lean = math.cos(math.radians(_TILT_TOLERANCE_DEGREES))
    return length > 0 and _dot(way, normal) / length < lean


def _normal(o: Orientation) -> Vector:
    return (o[1] * o[5] - o[2] * o[4], o[2] * o[3] - o[0] * o[5], o[0] * o[4] - o[1] * o[3])


def _dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
