"""The law of difficulty: how often, how large, how faint. Frozen before any network is trained on these patients.

A literal table and nothing else. Its digest goes into every record, and a test holds it: whoever changes a number makes
a new version, and figures of different versions are never compared. Contrasts, wall thicknesses and noise are those of
non-contrast CT (estimates from the literature: treat them as difficulty, not as measurements of people).
"""

from __future__ import annotations

import hashlib
import json
from typing import Final

VERSION: Final = 2

SIZE_CLASSES_MM: Final = ((6.0, 10.0), (10.0, 20.0), (20.0, 30.0), (30.0, 50.0), (50.0, 80.0))
"""Classes of the longest diameter; for hollow organs, of the thickened wall's length."""

SIZE_SHARES: Final = {
    "pancreas": (0.00, 0.28, 0.34, 0.33, 0.05),
    "oesophagus": (0.00, 0.22, 0.34, 0.36, 0.08),
    "lung": (0.12, 0.34, 0.26, 0.22, 0.06),
    "breast": (0.08, 0.42, 0.32, 0.18, 0.00),
    "liver": (0.00, 0.34, 0.28, 0.26, 0.12),
    "stomach": (0.00, 0.24, 0.34, 0.32, 0.10),
    "colorectum": (0.00, 0.24, 0.36, 0.32, 0.08),
}
"""Share of each size class. Under 2 cm: 28, 22, 46, 50, 34, 24 and 24 %."""

SUBTYPES: Final = {
    "pancreas": {"ductal adenocarcinoma": 0.85, "neuroendocrine tumour": 0.15},
    "oesophagus": {"annular": 0.6, "eccentric": 0.4},
    "lung": {"solid": 0.35, "spiculated": 0.30, "part-solid": 0.13, "ground-glass": 0.10, "obstructing": 0.12},
    "breast": {"spiculated": 0.65, "circumscribed": 0.35},
    "liver": {"hepatocellular carcinoma": 0.4, "cholangiocarcinoma": 0.25, "metastases": 0.35},
    "stomach": {"localised": 0.7, "diffuse": 0.3},
    "colorectum": {"annular": 0.55, "polypoid": 0.45},
}

CONTRAST_HU: Final = {
    "ductal adenocarcinoma": (-8.0, 2.0),
    "neuroendocrine tumour": (-2.0, 8.0),
    "hepatocellular carcinoma": (-20.0, -7.0),
    "cholangiocarcinoma": (-22.0, -9.0),
    "metastases": (-24.0, -9.0),
    "hollow": (0.0, 10.0),
}
"""Lesion minus its own parenchyma or wall, before partial volume and noise."""

FAINTEST_HU_MM: Final = {"liver": 240.0}
"""No liver lesion has less contrast times diameter: 24 HU at 1 cm, 12 at 2 cm. Nobody could see it in one scan."""

FAINTEST_WITHOUT_SIGN_HU: Final = {"pancreas": 6.0}
"""Without a wide duct or a thin gland behind it, no pancreatic cancer is fainter than this: nobody could see it."""

ABSOLUTE_HU: Final = {"lung solid": (20.0, 50.0), "lung ground glass": (-700.0, -500.0), "breast": (32.0, 52.0)}
"""Lung and breast cancers have an HU of their own, whatever surrounds them."""

ABOVE_GLAND_HU: Final = 6.0
"""A breast cancer is denser than this woman's own gland by at least so much: packed cells without fat."""

TEXTURE_HU: Final = {
    "liver": {3.0: 1.8, 9.0: 1.0, 27.0: 1.0},
    "spleen": {3.0: 1.6, 9.0: 0.8, 27.0: 0.6},
    "kidney": {3.0: 2.4, 9.0: 1.4},
    "blood": {9.0: 1.6},
}
"""How uneven a healthy organ is beyond the scanner's noise: standard deviation in HU for each grain in mm."""

WALL_MM: Final = {"oesophagus": (8.0, 16.0), "stomach": (9.0, 20.0), "colorectum": (8.0, 18.0)}
"""Thickness of the diseased wall. Healthy walls: 2.5 to 4.5, 3 to 5, 1.5 to 3 mm where distended."""

SIGNS: Final = {
    "duct dilatation": 0.75,
    "upstream atrophy": 0.65,
    "bile duct dilatation": 0.7,
    "upstream distension": 0.55,
    "fat stranding": 0.4,
    "skin thickening": 0.3,
    "pleural tail": 0.4,
    "capsule": 0.4,
    "regional nodes": 0.3,
}
"""How often a cancer that can have a secondary sign has it."""

LOOKALIKES: Final = {
    "liver cyst": (0.30, 4.0, 45.0),
    "liver haemangioma": (0.06, 8.0, 40.0),
    "liver calcification": (0.08, 3.0, 9.0),
    "kidney cyst": (0.35, 5.0, 50.0),
    "lung dependent atelectasis": (0.35, 4.0, 16.0),
    "lung apical cap": (0.20, 4.0, 12.0),
    "lung granuloma": (0.30, 3.0, 14.0),
    "lung scar": (0.35, 8.0, 40.0),
    "intrapulmonary node": (0.20, 3.0, 5.0),
    "pancreatic cyst": (0.04, 5.0, 18.0),
    "breast fibroadenoma calcified": (0.06, 8.0, 22.0),
    "breast fibroadenoma": (0.08, 8.0, 24.0),
    "breast cyst": (0.10, 6.0, 25.0),
    "lymph nodes": (0.90, 4.0, 9.5),
    "collapsed stomach": (0.25, 0.0, 0.0),
    "gynaecomastia": (0.20, 15.0, 40.0),
    "hiatal hernia": (0.10, 20.0, 45.0),
    "diverticula": (0.25, 4.0, 9.0),
    "metal": (0.10, 3.0, 14.0),
    "gallstones": (0.12, 4.0, 18.0),
    "effusion": (0.06, 0.0, 0.0),
}
"""Chance (of those who can have it) and size in mm of what must not be called cancer; of what lies along the pleura,
its thickness."""

STOOL_HU: Final = (24.0, 46.0)
"""Of what is solid in the colon, before its crumbs and bubbles: a person's habit."""

FIBROADENOMA_HU: Final = (14.0, 26.0)
"""Looser than a cancer: fluid-rich stroma."""

SCANS: Final = {
    "kernels": {"soft": 0.62, "iterative": 0.28, "sharp": 0.10},
    "slice_mm": {0.6: 0.04, 1.0: 0.14, 1.5: 0.14, 2.0: 0.12, 3.0: 0.22, 5.0: 0.30, 8.0: 0.04},
    "dose": (0.5, 1.8),
    "coverage": {"torso": 0.40, "chest": 0.30, "abdomen and pelvis": 0.20, "upper abdomen": 0.10},
    "noise_sd_hu": {"soft": 12.0, "iterative": 8.0, "sharp": 62.0},
}
"""Noise is that of the liver of a 27 cm (water-equivalent) patient in 5 mm slices at the dose 1."""

SHIFTED: Final = {
    "kernels": {"soft": 0.2, "iterative": 0.3, "sharp": 0.5},
    "slice_mm": {0.6: 0.2, 2.0: 0.2, 5.0: 0.2, 8.0: 0.4},
    "dose": (0.25, 0.7),
    "habitus_mean": 1.1,
    "contrast_factor": 0.8,
    "smaller": 0.85,
}
"""The shifted cohort: kernels, habitus and lesion laws that training never sees."""


def digest() -> str:
    """SHA-256 of the whole law."""
    names = sorted(name for name in globals() if name.isupper())
    law = {name: globals()[name] for name in names}
    return hashlib.sha256(json.dumps(law, sort_keys=True, default=str).encode()).hexdigest()
