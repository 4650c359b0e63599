"""What a judgement is asked for: goals, prevalences, thresholds, breakdowns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from core.finding import Cancer


@dataclass(frozen=True)
class Wanted:
    """What to judge by. prevalence: of a cancer where PPV is for another one than `prevalences` says.

    choose: (sensitivity, specificity) that thresholds are to keep on the tuning cases; None: the bundle's thresholds.
    confidence: with which others are to keep that specificity too; None: the tuning cases alone do.
    by: attributes to break down by; None: all that there are.
    """

    sensitivity: float = 0.929
    specificity: float = 0.999
    healthy: float = 0.99
    prevalence: float = 0.005
    prevalences: Mapping[Cancer, float] = field(default_factory=dict)
    choose: tuple[float, float] | None = None
    confidence: float | None = None
    by: tuple[str, ...] | None = None
