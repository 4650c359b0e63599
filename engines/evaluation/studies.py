"""A study with its truth, and where studies come from: synthetic people, volumes with a table, or (appliance) DICOM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from core.errors import InputRefused
from core.finding import Cancer, Reason
from core.volume import Volume
from engines.cascade import PatientContext
from engines.evaluation.cases import CaseSet, Truth
from engines.evaluation.results import Value

Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Finding:
    """Something in the scan that has a label. number: its value in `Study.marks`. cancer: None: harmless."""

    number: int
    cancer: Cancer | None
    kind: str
    diameter_mm: float | None = None
    size: str | None = None


@dataclass(frozen=True, eq=False)
class Study:
    """One scan of one person, and what is known of both.

    volume: or why there is none. truth: of each cancer that is to be judged. marks: uint8 (z, y, x) as the volume, 0 or
    a finding's number; None: nobody outlined anything. whole: which cancers' organs are in the scan from end to end;
    empty: not known. organ: the true outline of a cancer's organ, (z, y, x) as the volume; None: nobody drew it.
    refused: cancers that this series does not serve, and why. further: the same study seen in other series, each for
    the cancers that it does not refuse; made when asked for, so that one volume more is in memory at a time.
    attributes: what figures are broken down by.
    """

    case: int
    person: int
    set: CaseSet
    patient: PatientContext
    volume: Volume | InputRefused
    truth: Mapping[Cancer, Truth]
    attributes: Mapping[str, Value]
    findings: tuple[Finding, ...] = ()
    marks: Labels | None = None
    whole: Mapping[Cancer, bool] | None = None
    organ: Callable[[Cancer], Mask] | None = None
    refused: Mapping[Cancer, tuple[Reason, str]] = field(default_factory=dict)
    further: tuple[Callable[[], Study], ...] = ()


class Source(Protocol):
    """Numbered studies. Must be picklable: every worker process makes its own studies."""

    @property
    def synthetic(self) -> bool:
        """Whether these are no people."""

    @property
    def title(self) -> str:
        """Which cases, in a sentence."""

    @property
    def digest(self) -> str:
        """SHA-256 hex of what the cases are."""

    def __len__(self) -> int: ...

    def study(self, index: int) -> Study:
        """The study at 0 <= index < len. What can't be read is a `Study` with a refusal, never an exception."""
