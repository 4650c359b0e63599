"""Was a study reviewed by a person? Pure: what an archive holds of it besides images in, a verdict out.

No attribute of DICOM says so across archives. What a reviewer leaves there does: a report, a document, marked images, a
saved view. Which of these count is the site's to say, since scanners and other software write some of them as well.
Dose reports are none, and our own objects never count.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

ReviewKind = Literal["report", "document", "key-objects", "presentation-state"]

_STORAGE = "1.2.840.10008.5.1.4.1.1."
SOP_CLASSES: dict[ReviewKind, frozenset[str]] = {  # PS3.4 B.5
    # Basic Text, Enhanced, Comprehensive, Comprehensive 3D and Extensible SR
    "report": frozenset(_STORAGE + tail for tail in ("88.11", "88.22", "88.33", "88.34", "88.35")),
    # Encapsulated PDF and CDA
    "document": frozenset(_STORAGE + tail for tail in ("104.1", "104.2")),
    # Key Object Selection
    "key-objects": frozenset({_STORAGE + "88.59"}),
    # Grayscale, Color, Pseudo-Color, Blending Softcopy Presentation State
    "presentation-state": frozenset(_STORAGE + tail for tail in ("11.1", "11.2", "11.3", "11.4")),
}
MODALITIES: dict[str, ReviewKind | None] = {
    "SR": None,
    "OT": None,
    "DOC": "document",
    "KO": "key-objects",
    "PR": "presentation-state",
}
"""Series that may hold such objects, and which kind they are where the archive tells no SOP class: SR may be a dose
report then."""


@dataclass(frozen=True)
class Document:
    """An object that is no image, as an archive tells of it. sop_class_uid: "" where it does not say."""

    sop_instance_uid: str
    sop_class_uid: str
    modality: str


def kind_of(document: Document) -> ReviewKind | None:
    """What a reviewer left, or None: by its SOP class, without one by its modality."""
    if not document.sop_class_uid:
        return MODALITIES.get(document.modality)
    return next((kind for kind, classes in SOP_CLASSES.items() if document.sop_class_uid in classes), None)


def is_reviewed(documents: Iterable[Document], counted: Collection[ReviewKind], ours: Collection[str]) -> bool:
    """Is one of them of a kind that counts, and not among `ours` (SOP Instance UIDs)?"""
    return any(kind_of(one) in counted and one.sop_instance_uid not in ours for one in documents)
