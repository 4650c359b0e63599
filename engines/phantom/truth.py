"""The truth of a study as DICOM segmentations (highdicom): tissues as one label map, findings as binary segments."""

from __future__ import annotations

import numpy as np
from highdicom.content import AlgorithmIdentificationSequence
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian

from engines.phantom.labels import Tissue
from engines.phantom.rendering import Labels, Rendered
from engines.phantom.torso import Torso

_TISSUE = Code("85756007", "SCT", "Tissue")
_ANATOMY = Code("123037004", "SCT", "Anatomical Structure")
_ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
_NEOPLASM = Code("108369006", "SCT", "Neoplasm")
_BENIGN = Code("52988006", "SCT", "Lesion")
_PHANTOM = Code("123109", "DCM", "Rule-based")


def organs_seg(rendered: Rendered, images: list[Dataset], prefix: str) -> Dataset:
    """All tissues as a label map: pixel values are segment numbers, which are `Tissue` numbers."""
    present = [Tissue(int(v)) for v in np.unique(rendered.organs) if v]
    segments = [_segment(int(t), t.name.replace("_", " ").lower(), _ANATOMY, _TISSUE) for t in present]
    return _encode(SegmentationTypeValues.LABELMAP, rendered.organs, images, segments, prefix, 1, "organs")


def findings_seg(torso: Torso, rendered: Rendered, images: list[Dataset], prefix: str) -> Dataset | None:
    """One binary segment a finding, cancer or look-alike; None where none is in the scan."""
    present = [f for f in torso.findings if (rendered.lesions == f.number).any()]
    if not present:
        return None
    touched = np.flatnonzero(np.isin(rendered.lesions, [f.number for f in present]).any(axis=(1, 2)))
    numbers = np.zeros(256, np.uint8)
    segments = []
    for number, found in enumerate(present, 1):
        numbers[found.number] = number
        what = _NEOPLASM if found.cancer else _BENIGN
        segments.append(_segment(number, f"{found.organ}: {found.kind}"[:64], _ABNORMAL, what))
    planes = numbers[rendered.lesions[touched]]
    chosen = [images[int(z)] for z in touched]
    return _encode(SegmentationTypeValues.BINARY, planes, chosen, segments, prefix, 2, "findings")


def _segment(number: int, label: str, category: Code, what: Code) -> SegmentDescription:
    return SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=category,
        segmented_property_type=what,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(name="OneScan phantom", version="1", family=_PHANTOM),
    )


def _encode(
    kind: SegmentationTypeValues,
    planes: Labels,
    images: list[Dataset],
    segments: list[SegmentDescription],
    prefix: str,
    number: int,
    name: str,
) -> Dataset:
    dataset = Segmentation(
        source_images=images,
        pixel_array=planes,
        segmentation_type=kind,
        segment_descriptions=segments,
        series_instance_uid=f"{prefix}.{number}",
        series_number=9000 + number,
        sop_instance_uid=f"{prefix}.{number}.1",
        instance_number=1,
        manufacturer="OneScan",
        manufacturer_model_name="OneScan phantom",
        software_versions="1",
        device_serial_number="1",
        content_label=f"TRUTH_{name.upper()}"[:16],
        content_description="Truth of a synthetic phantom",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=f"Truth: {name}",
        omit_empty_frames=False,
    )
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = f"{prefix}.{number}.2"  # drawn at random otherwise
    return dataset
