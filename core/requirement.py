"""What a series of a study must be to serve for a cancer, as data: no rule is ever evaluated from text.

Read by `appliance.imaging`, which puts the questions; tightened by a bundle's manifest and by the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from core.finding import Cancer

Kernel = Literal["soft", "medium", "unknown", "sharp"]


class Requirement(BaseModel):
    """What a series must be for one cancer. The defaults ask nothing beyond what every series must be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_spacing_mm: float = Field(
        7.5, gt=0, le=7.5, description="mm between slices; thicker scans don't serve. 7.5 is what any series may have"
    )
    max_thickness_mm: float = Field(
        7.5, gt=0, le=7.5, description="mm, Slice Thickness; averages over more don't serve"
    )
    min_diameter_mm: float = Field(
        0.0,
        ge=0,
        le=700,
        description="mm of the reconstructed field (the matrix' narrower side, or Reconstruction Diameter where less); "
        "below, the organ is cut off at the sides. 0: any field",
    )
    min_extent_mm: float = Field(
        0.0, ge=0, le=2000, description="mm from the first to the last slice; 0: the cascade sees whether it is enough"
    )
    kernels: tuple[Kernel, ...] = Field(
        ("soft", "medium", "unknown", "sharp"),
        min_length=1,
        description="sharpness that serves; the softest goes first",
    )
    contrast: Literal["any", "forbidden", "required"] = Field(
        "any", description="contrast agent by the header's word (the cascade measures the phase in the aorta)"
    )

    def tightened(self, by: Requirement) -> Requirement:
        """The stricter of both in every field. No kernel left, or contrast both required and forbidden: ValueError."""
        kernels = tuple(k for k in self.kernels if k in by.kernels)
        asked = {self.contrast, by.contrast} - {"any"}
        if not kernels or len(asked) > 1:
            raise ValueError("two requirements contradict each other: no series could serve")
        return Requirement(
            max_spacing_mm=min(self.max_spacing_mm, by.max_spacing_mm),
            max_thickness_mm=min(self.max_thickness_mm, by.max_thickness_mm),
            min_diameter_mm=max(self.min_diameter_mm, by.min_diameter_mm),
            min_extent_mm=max(self.min_extent_mm, by.min_extent_mm),
            kernels=kernels,
            contrast=next(iter(asked), "any"),
        )


ANY = Requirement()
LEAST_FIELD_MM: Mapping[Cancer, float] = {
    # Choices of ours, not of a study. Fields for the spine have 120 to 200 mm, for the heart 160 to 250, for both lungs
    # 250 and more, for the body 320 and more.
    Cancer.PANCREAS: 200.0,
    Cancer.OESOPHAGUS: 160.0,
    Cancer.LUNG: 220.0,
    Cancer.BREAST: 300.0,  # both breasts and the axillae reach the sides of the body
    Cancer.LIVER: 220.0,
    Cancer.STOMACH: 200.0,
    Cancer.COLORECTUM: 220.0,  # the colon frames the abdomen
}
DEFAULTS: Mapping[Cancer, Requirement] = {c: Requirement(min_diameter_mm=LEAST_FIELD_MM[c]) for c in Cancer}


def requirements(*tightening: Mapping[Cancer, Requirement]) -> dict[Cancer, Requirement]:
    """The defaults, tightened one after the other. ValueError where two contradict each other."""
    found = dict(DEFAULTS)
    for each in tightening:
        for cancer, requirement in each.items():
            found[cancer] = found[cancer].tightened(requirement)
    return found
