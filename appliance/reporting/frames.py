"""References to the frames of a multi-frame source in a segmentation.

highdicom takes a multi-frame source only whole, with a mask of as many frames. So it is shown each frame as a
single-frame image under a UID that stands in, and the references are put right afterwards (PS3.3 C.7.6.16.2.6).
"""

from __future__ import annotations

from collections.abc import Mapping

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import CTImageStorage

FrameOf = tuple[Dataset, int]
"""Header of a multi-frame image, number of one of its frames."""


def stand_in(plane: Dataset, number: int) -> str:
    """Let a frame pass for an image of its own; returns the UID under which it does. number: of no other frame."""
    plane.SOPClassUID = CTImageStorage
    plane.SOPInstanceUID = f"2.25.{number}"
    return str(plane.SOPInstanceUID)


def refer_to_frames(dataset: Dataset, frames: Mapping[str, FrameOf]) -> None:
    """Replace references to stand-ins by references to the frames that they stand for; others stay."""
    for group in dataset.PerFrameFunctionalGroupsSequence:
        for derivation in group.get("DerivationImageSequence", ()):
            for source in derivation.SourceImageSequence:
                if (frame := frames.get(str(source.ReferencedSOPInstanceUID))) is not None:
                    _refer(source, frame[0])
                    source.ReferencedFrameNumber = frame[1]
    for series in dataset.ReferencedSeriesSequence:
        once: dict[str, Dataset] = {}
        for instance in series.ReferencedInstanceSequence:
            if (frame := frames.get(str(instance.ReferencedSOPInstanceUID))) is not None:
                _refer(instance, frame[0])
            once[str(instance.ReferencedSOPInstanceUID)] = instance
        series.ReferencedInstanceSequence = DicomSequence(once.values())


def _refer(reference: Dataset, header: Dataset) -> None:
    reference.ReferencedSOPClassUID = header.SOPClassUID
    reference.ReferencedSOPInstanceUID = header.SOPInstanceUID
