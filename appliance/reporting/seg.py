"""One binary segmentation per organ with findings (PS3.3 A.51), one segment per lesion.

Small on purpose: only slices that a lesion touches, no empty frames. Viewers stumble over large segmentations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from highdicom.color import CIELabColor
from highdicom.content import AlgorithmIdentificationSequence
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage

from appliance.reporting import codes
from appliance.reporting.alignment import align
from appliance.reporting.context import ReportContext, object_uid
from appliance.reporting.frames import refer_to_frames, stand_in
from appliance.reporting.origin import new_file_meta, stamp
from appliance.reporting.source import Labels, SourceSeries
from core.finding import Answer, Cancer, Lesion, Verdict
from core.volume import Geometry

SERIES_NUMBER = 9310  # and up, one series per organ
_FAMILY = Code("123110", "DCM", "Artificial Intelligence")  # PS3.16 CID 7162
_COLOUR = {Verdict.POSITIVE: (54.0, 75.0, 60.0), Verdict.INDETERMINATE: (80.0, 10.0, 75.0)}  # CIELab: red, amber


@dataclass(frozen=True)
class SegmentedOrgan:
    """A segmentation and where each lesion is in it. segments: lesion label → segment number."""

    dataset: Dataset
    segments: Mapping[int, int]
    source_series_uid: str


def tracking_uid(context: ReportContext, cancer: Cancer, lesion: Lesion) -> str:
    """The UID under which report and segmentation speak of one lesion."""
    return object_uid(context.result_id, "lesion", f"{cancer.value}/{lesion.label}")


def tracking_id(cancer: Cancer, lesion: Lesion) -> str:
    """The same for people."""
    return f"{cancer.value.capitalize()} lesion {lesion.label}"


def build_segmentation(
    context: ReportContext, series: SourceSeries, headers: Mapping[int, Dataset], answer: Answer,
    lesions: tuple[Lesion, ...],
) -> SegmentedOrgan | None:  # fmt: skip
    """The segmentation of one organ; None where its mask has no voxel of any of these lesions.

    headers: of the source images, by slice, at least of those that a lesion touches.
    """
    mask = series.masks.get(answer.cancer, {})
    labels = _labels(mask)
    present = [lesion for lesion in lesions if lesion.label in labels]
    if not present:
        return None
    segments = {lesion.label: number for number, lesion in enumerate(present, start=1)}
    planes = {z: _numbered(plane, segments) for z, plane in sorted(mask.items())}
    slices = [z for z, plane in planes.items() if plane.any()]
    frames = np.stack([align(series.geometry, z, headers[z]).frame(planes[z]) for z in slices])
    sources = {z: _plane(series.geometry, headers[z]) for z in slices}
    number = {z: frame for z in slices if (frame := series.images[z].frame) is not None}
    standing_in = {stand_in(sources[z], z + 1): (headers[z], frame) for z, frame in number.items()}
    dataset = _encode(context, answer, [*sources.values()], frames, present)
    refer_to_frames(dataset, standing_in)
    stamp(dataset, context, headers[slices[0]])
    return SegmentedOrgan(dataset, segments, str(headers[slices[0]].SeriesInstanceUID))


def _labels(mask: Mapping[int, Labels]) -> set[int]:
    return {int(label) for plane in mask.values() for label in np.unique(plane)}


def _numbered(plane: npt.NDArray[np.uint8], segments: Mapping[int, int]) -> npt.NDArray[np.uint8]:
    numbers = np.zeros(256, dtype=np.uint8)
    for label, number in segments.items():
        numbers[label] = number
    return numbers[plane]


def _plane(geometry: Geometry, header: Dataset) -> Dataset:
    """A source image reduced to what highdicom reads from one: nothing in it can trip over a scanner's oddities."""
    plane = Dataset()
    for name in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns"):
        setattr(plane, name, header[name].value)
    plane.FrameOfReferenceUID = header.get("FrameOfReferenceUID") or header.SeriesInstanceUID
    plane.PositionReferenceIndicator = str(header.get("PositionReferenceIndicator", "") or "")
    plane.ImagePositionPatient = header.ImagePositionPatient
    plane.ImageOrientationPatient = header.ImageOrientationPatient
    plane.PixelSpacing = header.PixelSpacing
    plane.SliceThickness = header.get("SliceThickness") or geometry.spacing_mm[0]
    plane.SpacingBetweenSlices = geometry.spacing_mm[0]
    for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        setattr(plane, name, "")
    plane.StudyDate = plane.StudyTime = None
    plane.Modality = "CT"
    return plane


def _encode(
    context: ReportContext,
    answer: Answer,
    planes: list[Dataset],
    frames: npt.NDArray[np.uint8],
    lesions: list[Lesion],
) -> Dataset:
    organ = answer.cancer.value
    number = list(Cancer).index(answer.cancer)
    instance = object_uid(context.result_id, "seg", organ)
    dataset = Segmentation(
        source_images=planes,
        pixel_array=frames,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_describe(context, answer, n, les) for n, les in enumerate(lesions, start=1)],
        series_instance_uid=object_uid(context.result_id, "series", f"seg/{organ}"),
        series_number=SERIES_NUMBER + number,
        sop_instance_uid=instance,
        instance_number=1,
        manufacturer=context.equipment.manufacturer,
        manufacturer_model_name=context.equipment.model,
        software_versions=context.equipment.software_version,
        device_serial_number=context.equipment.serial,
        content_label=f"{organ.upper()[:11]}_FIND",
        content_description=f"Lesions of the {organ} found by software",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=f"OneScan {organ} findings",
    )
    dataset.file_meta = new_file_meta(SegmentationStorage, instance)
    dataset.ContentCreatorName = ""
    _fix_dimension_uid(dataset, object_uid(context.result_id, "dimensions", f"seg/{organ}"))
    return dataset


def _describe(context: ReportContext, answer: Answer, number: int, lesion: Lesion) -> SegmentDescription:
    model = context.model
    algorithm = AlgorithmIdentificationSequence(
        name=model.name if model else context.equipment.model,
        version=model.version if model else context.equipment.software_version,
        family=_FAMILY,
    )
    verdict = codes.VERDICTS[answer.verdict].meaning.lower()
    return SegmentDescription(
        segment_number=number,
        segment_label=f"{tracking_id(answer.cancer, lesion)} ({verdict})"[:64],
        segmented_property_category=codes.ABNORMAL_STRUCTURE,
        segmented_property_type=codes.NEOPLASM,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=tracking_uid(context, answer.cancer, lesion),
        tracking_id=tracking_id(answer.cancer, lesion),
        anatomic_regions=[codes.SITE[answer.cancer]],
        display_color=CIELabColor(*_COLOUR[answer.verdict]),
    )


def _fix_dimension_uid(dataset: Dataset, uid: str) -> None:
    """highdicom draws this UID at random; ours is the same every time."""
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid
