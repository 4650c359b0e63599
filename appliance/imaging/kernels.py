"""Is a reconstruction kernel soft or sharp? Convolution Kernel (0018,1210) is free text; every vendor has its names.

Sources: the vendors' DICOM conformance statements and user manuals (Siemens kernel numbers grow with sharpness; Canon
FC 01-19 body soft tissue, 20-29 and 40-49 head, 30-39 bone and inner ear, 50-59 and 80-89 lung and high resolution;
Philips A, B smooth and standard, C between, D, E, L, Y* detail, bone, lung; GE by word).
"""

from __future__ import annotations

import enum
import re


class Sharpness(enum.IntEnum):
    """In the order of preference."""

    SOFT = 0
    MEDIUM = 1
    UNKNOWN = 2
    SHARP = 3


_SIEMENS = re.compile(r"^[A-Z]{1,2}\s?([1-9]\d)(?!\d)")
_SIEMENS_SOFT_BELOW, _SIEMENS_SHARP_FROM = 41, 50
_CANON = re.compile(r"^FC\s?(\d{1,2})(?!\d)")
_CANON_BY_TEN = {
    **dict.fromkeys((0, 1, 2, 4), Sharpness.SOFT),
    **dict.fromkeys((3, 5, 8), Sharpness.SHARP),
}
_PHILIPS = {
    **dict.fromkeys(("A", "B", "UA", "UB", "EA", "EB", "XA", "XB", "SA", "SB"), Sharpness.SOFT),
    **dict.fromkeys(("C", "UC", "EC", "XC", "SC"), Sharpness.MEDIUM),
    **dict.fromkeys(("D", "E", "F", "L", "YA", "YB", "YC", "YD", "YE", "XD", "XE", "ED"), Sharpness.SHARP),
}
# In this order: "BODY SHARP" is sharp, "LUNG SOFT" is what its maker calls soft for lungs, still sharp.
_WORDS = (
    (("LUNG", "BONE", "SHARP", "EDGE", "ULTRA", "INNER EAR", "HIGHRES"), Sharpness.SHARP),
    (("DETAIL", "CHEST", "MEDIUM"), Sharpness.MEDIUM),
    (("SOFT", "SMOOTH", "STANDARD", "STND", "STD", "BODY", "ABDOMEN", "ROUTINE", "BRAIN"), Sharpness.SOFT),
)


def sharpness(manufacturer: str, kernel: str) -> Sharpness:
    """How sharp `kernel` of `manufacturer` is; UNKNOWN for a name that is in no table."""
    maker, name = manufacturer.upper(), kernel.upper().strip()
    if not name:
        return Sharpness.UNKNOWN
    if "PHILIPS" in maker and name in _PHILIPS:
        return _PHILIPS[name]
    if match := _CANON.match(name):
        return _CANON_BY_TEN.get(int(match[1]) // 10, Sharpness.UNKNOWN)
    if "SIEMENS" in maker and (match := _SIEMENS.match(name)):
        number = int(match[1])
        if number < _SIEMENS_SOFT_BELOW:
            return Sharpness.SOFT
        return Sharpness.SHARP if number >= _SIEMENS_SHARP_FROM else Sharpness.MEDIUM
    return next((found for words, found in _WORDS if any(w in name for w in words)), Sharpness.UNKNOWN)
