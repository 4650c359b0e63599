"""What assembly needs to know of an instance: plain values read from its header, no patient identity."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

Vector = tuple[float, float, float]
Orientation = tuple[float, float, float, float, float, float]

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
LEGACY_CONVERTED_CT = "1.2.840.10008.5.1.4.1.1.2.2"
MULTI_FRAME_CT = frozenset({ENHANCED_CT, LEGACY_CONVERTED_CT})


@dataclass(frozen=True)
class InstanceFacts:
    """Header facts. None where the attribute is absent or can't be read as what the standard says it is.

    position: Image Position (Patient), mm LPS. orientation: row then column direction cosines. spacing_mm: Pixel
    Spacing (rows, columns). thickness_mm: Slice Thickness. tilt_degrees: Gantry/Detector Tilt.
    images_in_acquisition: (0020,1002). frames: of a multi-frame image; where it is cut into several objects,
    concatenation is what these have in common, part which of them this is, parts how many there are (C.7.6.16.1.3).
    """

    sop_instance_uid: str
    sop_class_uid: str
    study_uid: str
    series_uid: str
    modality: str = ""
    image_type: tuple[str, ...] = ()
    position: Vector | None = None
    orientation: Orientation | None = None
    rows: int | None = None
    columns: int | None = None
    spacing_mm: tuple[float, float] | None = None
    thickness_mm: float | None = None
    tilt_degrees: float | None = None
    acquisition_number: int | None = None
    images_in_acquisition: int | None = None
    frames: int = 1
    concatenation: str = ""
    part: int | None = None
    parts: int | None = None

    def to_json(self) -> str:
        """One line of JSON for the ledger."""
        return json.dumps(vars(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> InstanceFacts:
        """The facts that `to_json` wrote; keys that a newer release added are left out (rolled-back software)."""
        known: dict[str, Any] = {}
        for name, value in json.loads(text).items():
            if name in cls.__dataclass_fields__:
                known[name] = tuple(value) if isinstance(value, list) else value
        return cls(**known)
