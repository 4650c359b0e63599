"""What a phantom's label volume says: one number a tissue, and which organ each belongs to."""

from __future__ import annotations

import enum


class Tissue(enum.IntEnum):
    """The label of a voxel. Numbers are stored in caches and never re-used; 0 is air and couch."""

    OUTSIDE = 0
    FAT = 1
    MUSCLE = 2
    BONE = 3
    LUNG = 4
    AIRWAY = 5
    HEART = 6
    VESSEL = 7
    LIVER = 8
    GALLBLADDER = 9
    SPLEEN = 10
    KIDNEY = 11
    STOMACH = 12
    OESOPHAGUS = 13
    PANCREAS = 14
    SMALL_BOWEL = 15
    COLON = 16
    BLADDER = 17
    BREAST = 18
    MEDIASTINUM = 19
    PELVIC_ORGAN = 20
    LUNG_LESION = 40
    LIVER_LESION = 41
    LUNG_LOOKALIKE = 60
    LIVER_LOOKALIKE = 61


PARTS_OF_LUNG = (Tissue.LUNG, Tissue.LUNG_LESION, Tissue.LUNG_LOOKALIKE)
PARTS_OF_LIVER = (Tissue.LIVER, Tissue.LIVER_LESION, Tissue.LIVER_LOOKALIKE)
