"""FROC: lesions found against false marks a scan, over all thresholds. Pure.

A candidate hits the lesion with which it shares the most, if that is at least a tenth of the smaller of the two
(`OVERLAP`). A lesion is found at a threshold where a candidate of at least that score hits it; several hits count once.
A candidate that hits no lesion of its cancer is a false mark, also where it lies on a harmless finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

OVERLAP = 0.1
MARKS_PER_SCAN = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Where sensitivities are averaged, as LUNA16 does (Setio et al., Med Image Anal 42:1, 2017)."""


@dataclass(frozen=True)
class Scan:
    """lesions: of each the highest score of a candidate that hits it; None: never found. marks: false ones' scores."""

    lesions: tuple[float | None, ...]
    marks: tuple[float, ...]


@dataclass(frozen=True)
class Point:
    """threshold: at or above it candidates count. marks_per_scan: false ones. sensitivity: share of lesions found."""

    threshold: float
    marks_per_scan: float
    sensitivity: float


def froc(scans: Iterable[Scan]) -> tuple[Point, ...]:
    """One point for each score that occurs, strictest first; empty without scans or lesions."""
    everybody = list(scans)
    lesions = [score for scan in everybody for score in scan.lesions]
    if not everybody or not lesions:
        return ()
    found = np.sort([score for score in lesions if score is not None])
    marks = np.sort([score for scan in everybody for score in scan.marks])
    cuts = np.unique(np.concatenate([found, marks]))[::-1]
    hits = (len(found) - np.searchsorted(found, cuts)) / len(lesions)
    false = (len(marks) - np.searchsorted(marks, cuts)) / len(everybody)
    return tuple(Point(float(t), float(f), float(h)) for t, f, h in zip(cuts, false, hits, strict=True))


def found_at(scans: Iterable[Scan], threshold: float) -> tuple[list[bool], int]:
    """(of each lesion, scan by scan, whether it is found; false marks) at one threshold."""
    everybody = list(scans)
    found = [score is not None and score >= threshold for scan in everybody for score in scan.lesions]
    return found, sum(mark >= threshold for scan in everybody for mark in scan.marks)


def mean_sensitivity(points: Sequence[Point], at: Sequence[float] = MARKS_PER_SCAN) -> float | None:
    """Mean over `at` of the best sensitivity with at most so many false marks a scan; None without a curve."""
    if not points:
        return None
    return float(np.mean([max((p.sensitivity for p in points if p.marks_per_scan <= x), default=0.0) for x in at]))
