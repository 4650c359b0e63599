"""Unique identifiers (PS3.5 9.1): what one looks like, and the transfer syntaxes that everybody has to speak."""

from __future__ import annotations

import re
from typing import Final

PATTERN: Final = r"^[0-9]+(\.[0-9]+)*$"
LONGEST: Final = 64

IMPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"
UNCOMPRESSED: Final = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)

_UID = re.compile(PATTERN.strip("^$"))


def is_uid(text: str) -> bool:
    """Whether this can be a UID; leading zeros, which the standard forbids and devices write, are let through."""
    return len(text) <= LONGEST and _UID.fullmatch(text) is not None
