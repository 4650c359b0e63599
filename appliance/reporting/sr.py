"""The structured report: TID 1500 "Measurement Report" as Comprehensive 3D SR (PS3.3 A.35.13, PS3.16 TID 1500).

    Imaging Measurement Report
    ├── observer: the appliance                                         TID 1002/1004
    ├── Imaging Measurements, where there are lesions
    │   ├── algorithm                                                   TID 4019
    │   └── one group per lesion, in the order of the cancers           TID 1411, referring to its segment
    │         site, long axis (mm), volume (mm3), score
    └── Qualitative Evaluations
        ├── what this is not for, in words
        ├── one question and answer per cancer, in our order            "Lung cancer" = Positive
        │     site, mode, score, or why it was not analysed; algorithm; the series, where several were read
        └── one sentence per cancer, for viewers that show plain text

The verdicts are evaluations, not measurement groups: TID 1500 has a place for them where no image region is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    LanguageOfContentItemAndDescendants,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    NumContentItem,
    ObservationContext,
    ObserverContext,
    ReferencedSegment,
    RelationshipTypeValues,
    SourceSeriesForSegmentation,
    TextContentItem,
    TrackingIdentifier,
    UIDRefContentItem,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.codedict import codes as dicom_codes
from pydicom.uid import Comprehensive3DSRStorage

from appliance.reporting import codes
from appliance.reporting.context import ReportContext, caution, device_uid, findings, object_uid
from appliance.reporting.origin import new_file_meta, stamp
from appliance.reporting.seg import SegmentedOrgan, tracking_id, tracking_uid
from appliance.reporting.wording import read_in, sentence, withheld_sentence
from core.finding import Answer, Cancer, Lesion

SERIES_NUMBER = 9300
_CONTAINS = RelationshipTypeValues.CONTAINS
_MODIFIER = RelationshipTypeValues.HAS_CONCEPT_MOD
_PROPERTY = RelationshipTypeValues.HAS_PROPERTIES
_LANGUAGE = CodedConcept("en-US", "RFC5646", "English (United States)")


def build_report(
    context: ReportContext,
    header: Dataset,
    evidence: Sequence[Dataset],
    segmentations: Mapping[Cancer, SegmentedOrgan],
    origins: Mapping[Cancer, Dataset],
) -> Dataset:
    """The report as a data set. evidence: the references of all instances that it rests on, segmentations included.

    origins: an image of the series that a cancer's answer comes from; told where the study has several.
    """
    report = Dataset()
    report.SOPClassUID = Comprehensive3DSRStorage
    report.SOPInstanceUID = object_uid(context.result_id, "sr")
    report.file_meta = new_file_meta(report.SOPClassUID, report.SOPInstanceUID)
    report.Modality = "SR"
    report.SeriesInstanceUID = object_uid(context.result_id, "series", "sr")
    report.SeriesNumber = SERIES_NUMBER
    report.SeriesDescription = "OneScan report" + (f", revision {context.revision}" if context.revision > 1 else "")
    report.InstanceNumber = 1
    report.ReferencedPerformedProcedureStepSequence = DicomSequence()
    stamp(report, context, header)
    _add_document(report, context, header, evidence)
    content = _content(context, segmentations, origins if len(context.series) > 1 else {})
    for element in content:
        report[element.tag] = element
    return report


def _add_document(report: Dataset, context: ReportContext, header: Dataset, evidence: Sequence[Dataset]) -> None:
    """SR Document General (PS3.3 C.17.2): complete, but nobody has verified it."""
    report.CompletionFlag = "COMPLETE"
    report.VerificationFlag = "UNVERIFIED"
    report.PreliminaryFlag = "PRELIMINARY"
    report.PerformedProcedureCodeSequence = DicomSequence()
    report.CodingSchemeIdentificationSequence = DicomSequence([codes.scheme_identification()])
    report.CurrentRequestedProcedureEvidenceSequence = _hierarchy(evidence)
    if context.supersedes is not None:
        earlier = Dataset()
        earlier.StudyInstanceUID = header.StudyInstanceUID
        earlier.SeriesInstanceUID = object_uid(context.supersedes, "series", "sr")
        earlier.SOPClassUID = Comprehensive3DSRStorage
        earlier.SOPInstanceUID = object_uid(context.supersedes, "sr")
        report.PredecessorDocumentsSequence = _hierarchy([earlier])


def _hierarchy(references: Iterable[Dataset]) -> DicomSequence:
    """References as study → series → instance (PS3.3 table C.17-3), in the order given."""
    tree: dict[str, dict[str, list[Dataset]]] = {}
    for reference in references:
        item = Dataset()
        item.ReferencedSOPClassUID = reference.SOPClassUID
        item.ReferencedSOPInstanceUID = reference.SOPInstanceUID
        series = tree.setdefault(reference.StudyInstanceUID, {})
        series.setdefault(reference.SeriesInstanceUID, []).append(item)
    studies = []
    for study_uid, series in tree.items():
        study = Dataset()
        study.StudyInstanceUID = study_uid
        study.ReferencedSeriesSequence = DicomSequence()
        for series_uid, instances in series.items():
            one = Dataset()
            one.SeriesInstanceUID = series_uid
            one.ReferencedSOPSequence = DicomSequence(instances)
            study.ReferencedSeriesSequence.append(one)
        studies.append(study)
    return DicomSequence(studies)


def _content(
    context: ReportContext, segmentations: Mapping[Cancer, SegmentedOrgan], origins: Mapping[Cancer, Dataset]
) -> ContainerContentItem:
    root = ContainerContentItem(name=dicom_codes.DCM.ImagingMeasurementReport, template_id="1500")
    procedure = CodeContentItem(dicom_codes.DCM.ProcedureReported, codes.PROCEDURE, _MODIFIER)
    root.ContentSequence = ContentSequence(
        [*LanguageOfContentItemAndDescendants(_LANGUAGE), *_observer(context), procedure]
    )
    groups = [
        item
        for answer, lesions in findings(context)
        for lesion in lesions
        for item in _lesion_group(context, answer, lesion, segmentations.get(answer.cancer))
    ]
    if groups:
        measurements = ContainerContentItem(dicom_codes.DCM.ImagingMeasurements, relationship_type=_CONTAINS)
        measurements.ContentSequence = ContentSequence([*_algorithm(context), *groups])
        root.ContentSequence.append(measurements)
    root.ContentSequence.append(_evaluations(context, origins))
    return root


def _observer(context: ReportContext) -> ObservationContext:
    equipment = context.equipment
    device = DeviceObserverIdentifyingAttributes(
        uid=device_uid("appliance", equipment.serial),
        name="OneScan",
        manufacturer_name=equipment.manufacturer,
        model_name=equipment.model,
        serial_number=equipment.serial,
    )
    return ObservationContext(
        observer_device_context=ObserverContext(
            observer_type=dicom_codes.DCM.Device, observer_identifying_attributes=device
        )
    )


def _algorithm(context: ReportContext) -> list[ContentItem]:
    """TID 4019; nothing where no model answered."""
    model = context.model
    if model is None:
        return []
    parameters = [f"manifest sha256 {model.digest}"] + (["synthetic evidence only"] if model.synthetic else [])
    return _items(AlgorithmIdentification(name=model.name, version=model.version, parameters=parameters))


def _evaluations(context: ReportContext, origins: Mapping[Cancer, Dataset]) -> ContainerContentItem:
    """The verdicts, coded, and the same in words (TID 1500 rows 12 to 14)."""
    container = ContainerContentItem(codes.QUALITATIVE_EVALUATIONS, relationship_type=_CONTAINS)
    said = (sentence(answer) + read_in(_series_number(origins.get(answer.cancer))) for answer in context.shown)
    texts = [*said, *withheld_sentence(context.withheld)]
    container.ContentSequence = ContentSequence(
        [
            TextContentItem(codes.COMMENT, caution(context, context.shown) + ".", _CONTAINS),
            *(_verdict(context, answer, origins.get(answer.cancer)) for answer in context.shown),
            *(TextContentItem(codes.SUMMARY, text, _CONTAINS) for text in texts),
        ]
    )
    return container


def _verdict(context: ReportContext, answer: Answer, origin: Dataset | None) -> CodeContentItem:
    item = CodeContentItem(codes.QUESTION[answer.cancer], codes.VERDICTS[answer.verdict], _CONTAINS)
    item.ContentSequence = ContentSequence(
        [
            FindingSite(anatomic_location=codes.SITE[answer.cancer]),
            CodeContentItem(codes.MODE, codes.MODES[answer.mode], _MODIFIER),
        ]
    )
    if answer.reason is not None:
        reason = CodeContentItem(codes.REASON, codes.reason_code(answer.reason), _PROPERTY)
        item.ContentSequence.append(reason)
    if answer.score is not None:
        score = NumContentItem(codes.SCORE, round(answer.score, 4), codes.NO_UNITS, relationship_type=_PROPERTY)
        item.ContentSequence.extend([*_algorithm(context), score])
    if origin is not None:
        read = UIDRefContentItem(dicom_codes.DCM.SeriesInstanceUID, origin.SeriesInstanceUID, _PROPERTY)
        item.ContentSequence.append(read)
    return item


def _series_number(origin: Dataset | None) -> int | None:
    number = origin.get("SeriesNumber") if origin is not None else None
    return None if number is None else int(number)


def _lesion_group(
    context: ReportContext, answer: Answer, lesion: Lesion, organ: SegmentedOrgan | None
) -> list[ContentItem]:
    tracking = TrackingIdentifier(
        uid=tracking_uid(context, answer.cancer, lesion), identifier=tracking_id(answer.cancer, lesion)
    )
    measurements = [
        Measurement(name=codes.LONG_AXIS, value=round(lesion.diameter_mm, 1), unit=codes.MILLIMETRE),
        Measurement(name=codes.VOLUME, value=round(lesion.volume_mm3, 1), unit=codes.CUBIC_MILLIMETRE),
        Measurement(name=codes.SCORE, value=round(lesion.score, 4), unit=codes.NO_UNITS),
    ]
    site = [FindingSite(anatomic_location=codes.SITE[answer.cancer])]
    if organ is None or lesion.label not in organ.segments:
        # Too small for a voxel of the source grid: measured, but nothing to outline.
        group = MeasurementsAndQualitativeEvaluations(
            tracking_identifier=tracking,
            finding_type=codes.NEOPLASM,
            finding_sites=site,
            measurements=measurements,
        )
        return _items(group)
    volumetric = VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking,
        referenced_segment=ReferencedSegment(
            sop_class_uid=organ.dataset.SOPClassUID,
            sop_instance_uid=organ.dataset.SOPInstanceUID,
            segment_number=organ.segments[lesion.label],
            source_series=SourceSeriesForSegmentation(organ.source_series_uid),
        ),
        finding_type=codes.NEOPLASM,
        finding_sites=site,
        measurements=measurements,
    )
    return _items(volumetric)


def _items(template: Iterable[Any]) -> list[ContentItem]:
    """highdicom types its templates as sequences of data sets; what is in them are content items."""
    return list(template)
