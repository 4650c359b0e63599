"""What a scan is asked and what it answers: cancers, verdicts, reasons, lesions.

Every study gets an answer for each of the seven cancers. "Not analysed" is an answer of its own, with a reason; it is
never shown as negative.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # at run time it would bring NumPy, 20 MB, into every process that only speaks of findings
    from core.volume import Index, Vector


class Cancer(str, enum.Enum):
    """The seven cancers, in the order in which every table of ours shows them."""

    PANCREAS = "pancreas"
    OESOPHAGUS = "oesophagus"
    LUNG = "lung"
    BREAST = "breast"
    LIVER = "liver"
    STOMACH = "stomach"
    COLORECTUM = "colorectum"


class Verdict(str, enum.Enum):
    """NEGATIVE below the manifest's lower threshold, POSITIVE above its upper one, INDETERMINATE between."""

    NEGATIVE = "negative"
    POSITIVE = "positive"
    INDETERMINATE = "indeterminate"
    NOT_ANALYSED = "not_analysed"


class Mode(str, enum.Enum):
    """Who may see a cancer's answer. SILENT: computed and recorded, shown to no clinician."""

    SILENT = "silent"
    RESEARCH = "research"
    CLINICAL = "clinical"


class Reason(str, enum.Enum):
    """Why a cancer was not analysed. The value is what people read; add reasons, never reword one."""

    NO_MODEL = "no model in bundle"
    NO_ACTIVE_BUNDLE = "no active bundle"
    WITHDRAWN = "model withdrawn"
    FAILED = "analysis failed"
    NO_CT = "no CT images in study"
    NO_AXIAL_SERIES = "no axial series"
    TOO_FEW_SLICES = "too few slices"
    GANTRY_TILT = "gantry tilt"
    MISSING_SLICES = "missing slices"
    MIXED_SPACING = "mixed slice spacing"
    MIXED_GEOMETRY = "mixed orientation, matrix or pixel spacing"
    DUPLICATE_POSITIONS = "several images at one position"
    TOO_THICK = "slices too thick"
    UNREADABLE = "unreadable pixel data"
    NOT_COVERED = "organ not covered"
    ORGAN_NOT_FOUND = "organ not found"
    CONTRAST = "contrast phase not supported"
    KERNEL = "reconstruction kernel not supported"
    AGE = "no evidence for this age"
    SEX = "no evidence for this sex"
    OUT_OF_DISTRIBUTION = "unlike the images this model knows"
    MEMORY = "study needs more memory than allowed"
    DEADLINE = "analysis took longer than allowed"


@dataclass(frozen=True)
class Lesion:
    """One candidate in the source volume.

    label: its number in the organ's lesion mask. score: 0..1, calibrated. centroid: voxel index (z, y, x).
    box: half-open (start, stop) voxel indices. diameter_mm: longest axial diameter. volume_mm3: of its mask.
    subtype: what the model calls it, where it tells subtypes, and subtype_score: how likely that is, 0..1.
    """

    label: int
    score: float
    centroid: Vector
    box: tuple[Index, Index]
    diameter_mm: float
    volume_mm3: float
    subtype: str | None = None
    subtype_score: float | None = None


@dataclass(frozen=True)
class Answer:
    """The answer for one cancer. `reason` stands with NOT_ANALYSED and nowhere else."""

    cancer: Cancer
    verdict: Verdict
    mode: Mode = Mode.SILENT
    score: float | None = None
    reason: Reason | None = None
    detail: str = ""
    lesions: tuple[Lesion, ...] = ()

    def __post_init__(self) -> None:
        if (self.verdict is Verdict.NOT_ANALYSED) != (self.reason is not None):
            raise ValueError(f"{self.cancer.value}: a reason stands with not_analysed and only there")
        if self.verdict is not Verdict.NOT_ANALYSED and self.score is None:
            raise ValueError(f"{self.cancer.value}: {self.verdict.value} without a score")

    @classmethod
    def not_analysed(cls, cancer: Cancer, reason: Reason, detail: str = "") -> Answer:
        """The answer of a cancer that could not be looked for."""
        return cls(cancer=cancer, verdict=Verdict.NOT_ANALYSED, reason=reason, detail=detail)


def complete(answers: dict[Cancer, Answer], otherwise: Reason) -> tuple[Answer, ...]:
    """Seven answers in the standard order; a cancer without one is not_analysed(otherwise)."""
    return tuple(answers.get(c) or Answer.not_analysed(c, otherwise) for c in Cancer)
