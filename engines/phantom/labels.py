"""What the truth of a torso says: one number a tissue, and which tissues make the seven cancers' organs."""

from __future__ import annotations

import enum

from core.finding import Cancer


class Tissue(enum.IntEnum):
    """The label of a voxel in the organ map. Numbers are stored with cases and never re-used; 0 is air and couch."""

    OUTSIDE = 0
    SKIN = 1
    FAT = 2
    MUSCLE = 3
    BONE = 4
    CARTILAGE = 5
    SPINAL_CANAL = 6
    METAL = 7
    LUNG_RIGHT_UPPER = 10
    LUNG_RIGHT_MIDDLE = 11
    LUNG_RIGHT_LOWER = 12
    LUNG_LEFT_UPPER = 13
    LUNG_LEFT_LOWER = 14
    AIRWAY = 15
    MEDIASTINUM = 16
    THYROID = 17
    LYMPH_NODE = 18
    EFFUSION = 19
    HEART = 20
    AORTA = 21
    VEIN = 22
    ARTERY = 23
    LIVER = 30
    GALLBLADDER = 31
    SPLEEN = 32
    KIDNEY = 33
    PANCREAS = 34
    ADRENAL = 35
    BILE_DUCT = 36
    STOMACH = 40
    OESOPHAGUS = 41
    DUODENUM = 42
    SMALL_BOWEL = 43
    COLON = 44
    BLADDER = 50
    PROSTATE = 51
    UTERUS = 52
    BREAST = 60


LOBES = (
    Tissue.LUNG_RIGHT_UPPER, Tissue.LUNG_RIGHT_MIDDLE, Tissue.LUNG_RIGHT_LOWER, Tissue.LUNG_LEFT_UPPER,
    Tissue.LUNG_LEFT_LOWER,
)  # fmt: skip
ORGAN_OF: dict[Cancer, tuple[Tissue, ...]] = {
    Cancer.PANCREAS: (Tissue.PANCREAS,),
    Cancer.OESOPHAGUS: (Tissue.OESOPHAGUS,),
    Cancer.LUNG: LOBES,
    Cancer.BREAST: (Tissue.BREAST,),
    Cancer.LIVER: (Tissue.LIVER,),
    Cancer.STOMACH: (Tissue.STOMACH,),
    Cancer.COLORECTUM: (Tissue.COLON,),
}
"""The tissues of each cancer's organ. Wall and contents of a hollow organ count as one, as a person outlines it."""
