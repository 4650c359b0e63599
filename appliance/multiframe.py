"""A multi-frame CT (Enhanced, PS3.3 A.38; legacy converted, A.70) as the single-frame images that its frames would be.

What a single-frame image says of itself stands here in functional groups, shared by all frames or in one item a frame
(PS3.3 C.7.6.16); `MACROS` says where each attribute is. So whoever reads headers reads them in one way.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset

ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
LEGACY_CONVERTED_CT = "1.2.840.10008.5.1.4.1.1.2.2"
MULTI_FRAME = frozenset({ENHANCED_CT, LEGACY_CONVERTED_CT})

SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
AGENTS = "ContrastBolusAgentSequence"
_USAGE = "ContrastBolusUsageSequence"

_AS_IT_WAS = ("ConvolutionKernel", "ReconstructionDiameter", "GantryDetectorTilt", "ContrastBolusAgent")
"""What a conversion from single-frame images keeps where no functional group is meant for it (PS3.3 A.70)."""

MACROS: dict[str, dict[str, str]] = {
    # functional group, later ones go before: attribute in it → attribute of a single-frame image
    "UnassignedSharedConvertedAttributesSequence": {name: name for name in _AS_IT_WAS},
    "UnassignedPerFrameConvertedAttributesSequence": {name: name for name in _AS_IT_WAS},
    "PixelMeasuresSequence": {"PixelSpacing": "PixelSpacing", "SliceThickness": "SliceThickness"},
    "PlanePositionSequence": {"ImagePositionPatient": "ImagePositionPatient"},
    "PlaneOrientationSequence": {"ImageOrientationPatient": "ImageOrientationPatient"},
    "PixelValueTransformationSequence": {
        "RescaleIntercept": "RescaleIntercept",
        "RescaleSlope": "RescaleSlope",
        "RescaleType": "RescaleType",
    },
    "CTImageFrameTypeSequence": {"FrameType": "ImageType"},
    "CTReconstructionSequence": {
        "ConvolutionKernel": "ConvolutionKernel",
        "ReconstructionDiameter": "ReconstructionDiameter",
        "ReconstructionFieldOfView": "ReconstructionFieldOfView",
    },
    "CTAcquisitionDetailsSequence": {"GantryDetectorTilt": "GantryDetectorTilt"},
    "FrameContentSequence": {"FrameAcquisitionNumber": "AcquisitionNumber"},
}


def is_whole(ds: Dataset) -> bool:
    """True where a multi-frame image says something of each of its frames."""
    return 0 < len(ds.get(PER_FRAME) or ()) == int(ds.get("NumberOfFrames") or 0)


def frames_of(ds: Dataset) -> Iterator[Dataset]:
    """The frames as headers of single-frame images, in their order; `ds` is whole.

    What a frame lacks, its header lacks. Number of Frames and identifiers stay those of the object.
    """
    common = _common(ds)
    for number in range(1, len(ds[PER_FRAME].value) + 1):
        yield _with_groups(common, ds, number)


def frame_of(ds: Dataset, number: int) -> Dataset:
    """The same of one frame; the first is number 1."""
    return _with_groups(_common(ds), ds, number)


def _common(ds: Dataset) -> Dataset:
    """What holds for all frames."""
    common = _copy(ds)
    for name in (SHARED, PER_FRAME):
        if name in common:
            del common[name]
    _unfold(_shared(ds), common)
    for agent in ds.get(AGENTS) or ():
        _put(common, "ContrastBolusAgent", str(agent.get("CodeMeaning") or "given"))
    return common


def _with_groups(common: Dataset, ds: Dataset, number: int) -> Dataset:
    frame = _copy(common)
    group = ds[PER_FRAME].value[number - 1]
    _unfold(group, frame)
    usage = [item for each in (group, _shared(ds)) for item in each.get(_USAGE) or ()]
    if usage and all(item.get("ContrastBolusAgentAdministered") == "NO" for item in usage):
        _put(frame, "ContrastBolusAgent", "")
    return frame


def _copy(ds: Dataset) -> Dataset:
    """The same elements, as far as they were not decoded still undecoded, in a data set of their own."""
    implicit, little = ds.original_encoding
    copied = Dataset()
    copied.set_original_encoding(implicit, little, ds.original_character_set)
    copied.file_meta = ds.file_meta
    copied.update(ds)
    return copied


def _shared(ds: Dataset) -> Dataset:
    return next(iter(ds.get(SHARED) or ()), Dataset())


def _unfold(group: Dataset, into: Dataset) -> None:
    for macro, attributes in MACROS.items():
        for item in group.get(macro) or ():
            for inside, outside in attributes.items():
                if inside in item:
                    _put(into, outside, item[inside].value)


def _put(ds: Dataset, keyword: str, value: object) -> None:
    """Set an attribute by an element of its own: one that is there may be another data set's too."""
    if keyword in ds:
        del ds[keyword]
    setattr(ds, keyword, value)
