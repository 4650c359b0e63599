"""What stays of a series when its volume is gone: enough to outline its lesions and to draw its key images.

A study may need several series, and the memory holds one volume at a time. So of each only the slices are kept that an
object shows: of the masks those that a lesion touches, of the intensities those of the key images.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from appliance.reporting.failure import ReportFailed
from core.extent import Extent
from core.finding import Answer, Cancer, Lesion, Verdict
from core.volume import Geometry, Volume

KEY_IMAGES = 3
"""Of one cancer, at most."""
_TELLING = (Verdict.POSITIVE, Verdict.INDETERMINATE)

Labels = npt.NDArray[np.uint8]
Slice = npt.NDArray[np.int16]


@dataclass(frozen=True)
class SourceImage:
    """A slice as its sender stored it. frame: its number in a multi-frame image, from 1; None: it is one of its own."""

    extent: Extent
    frame: int | None = None


@dataclass(frozen=True, eq=False)
class SourceSeries:
    """A series that was analysed, as far as the objects show it.

    cancers: whose answers come from it. images: one per slice of the volume, in its order; geometry: of the volume.
    masks: of each cancer with lesions, the slices that one touches: (y, x) uint8, value = `Lesion.label`.
    hu: the slices of the key images, (y, x).
    """

    cancers: tuple[Cancer, ...]
    geometry: Geometry
    images: Sequence[SourceImage]
    masks: Mapping[Cancer, Mapping[int, Labels]] = field(default_factory=dict)
    hu: Mapping[int, Slice] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.images) != self.geometry.shape[0]:
            slices = self.geometry.shape[0]
            raise ReportFailed(f"{len(self.images)} source images for a volume of {slices} slices")

    @property
    def extents(self) -> tuple[Extent, ...]:
        """The stored objects, each once."""
        return tuple(dict.fromkeys(image.extent for image in self.images))


def keep(
    volume: Volume,
    images: Sequence[SourceImage],
    answers: Sequence[Answer],
    masks: Mapping[Cancer, Labels],
    cancers: Collection[Cancer] = tuple(Cancer),
) -> SourceSeries:
    """What the objects need of a volume whose answers for `cancers` are used. Copies: nothing holds the volume.

    masks: (z, y, x) uint8 in its geometry. ReportFailed where they are not.
    """
    touched: dict[Cancer, Mapping[int, Labels]] = {}
    shown: set[int] = set()
    for answer in answers:
        if answer.cancer not in cancers or not telling(answer):
            continue
        mask = masks.get(answer.cancer)
        if mask is not None and mask.shape != volume.geometry.shape:
            raise ReportFailed(f"the {answer.cancer.value} mask is {mask.shape}, not the volume's shape")
        slices = [] if mask is None else np.flatnonzero(mask.any(axis=(1, 2))).tolist()
        touched[answer.cancer] = {z: mask[z].copy() for z in slices} if mask is not None else {}
        shown |= {best_slice(lesion, touched[answer.cancer]) for lesion in ranked(answer)[:KEY_IMAGES]}
    served = tuple(cancer for cancer in Cancer if cancer in cancers)
    return SourceSeries(served, volume.geometry, images, touched, {z: volume.hu[z].copy() for z in sorted(shown)})


def telling(answer: Answer) -> bool:
    """Whether an answer has lesions to show."""
    return answer.verdict in _TELLING and bool(answer.lesions)


def ranked(answer: Answer) -> tuple[Lesion, ...]:
    """Its lesions, highest score first."""
    return tuple(sorted(answer.lesions, key=lambda lesion: (-lesion.score, lesion.label)))


def best_slice(lesion: Lesion, touched: Mapping[int, Labels]) -> int:
    """The slice with most of a lesion; that of its centroid where its mask has no voxel."""
    areas = {
        z: int((touched[z] == lesion.label).sum()) for z in range(lesion.box[0][0], lesion.box[1][0]) if z in touched
    }
    best = max(areas, key=lambda z: (areas[z], -z), default=None)
    return best if best is not None and areas[best] else round(lesion.centroid[0])
