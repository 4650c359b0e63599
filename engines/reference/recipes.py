"""What is trained: three networks, each a row of literal numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.phantom import PARTS_OF_LIVER, PARTS_OF_LUNG, Tissue

ORGAN_TISSUES: dict[str, tuple[Tissue, ...]] = {
    "background": (),
    "lung": PARTS_OF_LUNG,
    "liver": PARTS_OF_LIVER,
    "spleen": (Tissue.SPLEEN,),
    "kidney": (Tissue.KIDNEY,),
    "stomach": (Tissue.STOMACH,),
    "pancreas": (Tissue.PANCREAS,),
    "oesophagus": (Tissue.OESOPHAGUS,),
    "colon": (Tissue.COLON,),
    "breast": (Tissue.BREAST,),
    "heart": (Tissue.HEART,),
}
"""Localiser labels in the order of its channels, and the tissues that each is made of."""


@dataclass(frozen=True)
class Recipe:
    """How one network is built and trained.

    clip_hu, mean_hu, std_hu: input = (clip(HU) - mean) / std. patch: voxels (z, y, x), None for whole volumes.
    finding: the tissue to detect; None for the localiser. organ: where to look for it. around: tissues beside it that
    must not fire.
    """

    name: str
    spacing_mm: float
    clip_hu: tuple[float, float]
    mean_hu: float
    std_hu: float
    labels: tuple[str, ...]
    features: tuple[int, ...]
    patch: tuple[int, int, int] | None
    iterations: int
    batch: int
    learning_rate: float
    finding: Tissue | None = None
    lookalike: Tissue | None = None
    organ: tuple[Tissue, ...] = ()
    around: tuple[Tissue, ...] = ()

    @property
    def multiple(self) -> int:
        """Input axes are padded to a multiple of this."""
        return int(2 ** (len(self.features) - 1))

    def target_table(self) -> npt.NDArray[np.int64]:
        """(256,): class of each tissue."""
        table = np.zeros(256, np.int64)
        if self.finding is not None:
            table[self.finding] = 1
        else:
            for i, tissues in enumerate(ORGAN_TISSUES.values()):
                table[list(tissues)] = i
        return table


RECIPES: dict[str, Recipe] = {
    "localiser": Recipe(
        name="localiser", spacing_mm=6.0, clip_hu=(-300.0, 300.0), mean_hu=0.0, std_hu=100.0,
        labels=tuple(ORGAN_TISSUES), features=(8, 16, 32, 64, 96), patch=None,
        iterations=1500, batch=1, learning_rate=4e-3,
    ),
    "lung_lesion": Recipe(
        name="lung_lesion", spacing_mm=2.0, clip_hu=(-1000.0, 300.0), mean_hu=-500.0, std_hu=400.0,
        labels=("background", "lesion"), features=(8, 16, 32, 64), patch=(64, 64, 64),
        iterations=2400, batch=2, learning_rate=4e-3,
        finding=Tissue.LUNG_LESION, lookalike=Tissue.LUNG_LOOKALIKE, organ=PARTS_OF_LUNG,
        around=(Tissue.VESSEL, Tissue.AIRWAY, Tissue.MEDIASTINUM),
    ),
    "liver_lesion": Recipe(
        name="liver_lesion", spacing_mm=2.0, clip_hu=(-60.0, 140.0), mean_hu=45.0, std_hu=40.0,
        labels=("background", "lesion"), features=(8, 16, 32, 64), patch=(64, 64, 64),
        iterations=1800, batch=2, learning_rate=4e-3,
        finding=Tissue.LIVER_LESION, lookalike=Tissue.LIVER_LOOKALIKE, organ=PARTS_OF_LIVER,
        around=(Tissue.STOMACH, Tissue.GALLBLADDER, Tissue.SPLEEN, Tissue.KIDNEY),
    ),
}  # fmt: skip
