"""What every object of a result shares: patient and study of the source, who made it and when.

The patient and study modules are copied as they stand in the source, so that the PACS files the objects where the
images are; what a source lacks of the attributes that must be there (type 2) is added empty.
"""

from __future__ import annotations

import copy
import datetime as dt
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.coding import Code
from pydicom.uid import UID, ExplicitVRLittleEndian

from appliance.multiframe import frame_of
from appliance.reporting import codes
from appliance.reporting.context import Model, ReportContext, device_uid
from appliance.reporting.failure import ReportFailed
from core.extent import Extent

# PS3.7 D.3.3.2: fixed, so that a release that only changes code doesn't change the objects of an old result.
IMPLEMENTATION_CLASS_UID = device_uid("implementation", "appliance")
IMPLEMENTATION_VERSION = "ONESCAN_1"

_MUST_BE_THERE = (  # type 2 in Patient (C.7.1.1) and General Study (C.7.2.1)
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
)  # fmt: skip
_COPIED = (
    *_MUST_BE_THERE,
    "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "TypeOfPatientID", "OtherPatientIDsSequence",
    "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    "PatientAge", "PatientSize", "PatientWeight",
    "StudyInstanceUID", "StudyDescription", "IssuerOfAccessionNumberSequence", "ProcedureCodeSequence",
    "SpecificCharacterSet", "TimezoneOffsetFromUTC",
)  # fmt: skip
_SCANNER = ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions")
_LOOKED_AT = (
    *_SCANNER, "FrameOfReferenceUID", "PositionReferenceIndicator", "SeriesNumber", "InstanceNumber", "Rows", "Columns",
    "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "SliceThickness",
)  # fmt: skip
_REFERENCE = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_SOP_INSTANCE_UID = 0x00080018
# What pydicom was seen to raise over damaged headers (bytes changed and cut off at random, thousands of times).
_UNREADABLE = (
    OSError, InvalidDicomError, BytesLengthException, ValueError, AttributeError, EOFError, LookupError,
    NotImplementedError, struct.error,
)  # fmt: skip
_LONG_STRING = 64


def read_header(extent: Extent) -> Dataset:
    """All of a file but its pixels; what the objects take from it is known to be readable."""
    with _reading(), extent.open() as file:
        header = pydicom.dcmread(file, stop_before_pixels=True)
        for name in (*_COPIED, *_LOOKED_AT):  # pydicom converts a value when it is first looked at
            header.get(name)
        return _complete(header)


def header_of_frame(header: Dataset, number: int) -> Dataset:
    """The header of a frame of a multi-frame image as if it were an image of its own, with the image's UIDs."""
    with _reading():
        frame = frame_of(header, number)
        for name in _LOOKED_AT:
            frame.get(name)
        return frame


def read_reference(extent: Extent) -> Dataset:
    """Class, instance, series and study UID of a file: what a reference to it needs."""
    with _reading(), extent.open() as file:
        return _complete(pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_REFERENCE)))


def read_sibling_reference(extent: Extent, sibling: Dataset) -> Dataset:
    """The same of an image in the series of `sibling`, reading no further than the two tags that differ."""
    with _reading(), extent.open() as file:
        reference = read_partial(file, stop_when=lambda tag, vr, length: tag > _SOP_INSTANCE_UID)
        reference.StudyInstanceUID = sibling.StudyInstanceUID
        reference.SeriesInstanceUID = sibling.SeriesInstanceUID
        return _complete(reference)


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        raise ReportFailed(f"an instance of the study can't be read: {type(error).__name__}") from error


def _complete(header: Dataset) -> Dataset:
    missing = [name for name in _REFERENCE if not header.get(name)]
    if missing:
        raise ReportFailed(f"an instance of the study has no {', '.join(missing)}")
    return header


def new_file_meta(sop_class_uid: str, sop_instance_uid: str) -> FileMetaDataset:
    """File meta information (PS3.10 7.1) of one of our objects: explicit VR, little endian."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    return meta


def stamp(dataset: Dataset, context: ReportContext, header: Dataset) -> None:
    """Give an object its patient, study, equipment and times. `header`: any instance of the source."""
    for name in _COPIED:
        if name in header:
            dataset[name] = copy.deepcopy(header[name])
    for name in _MUST_BE_THERE:
        if name not in dataset:
            setattr(dataset, name, "")
    if not _own_text_is_ascii(context):
        dataset.SpecificCharacterSet = "ISO_IR 192"
    _stamp_equipment(dataset, context, header)
    _stamp_times(dataset, context, header)


def local_time(context: ReportContext, header: Dataset) -> dt.datetime:
    """When the study was answered, in the time zone that the dates and times of its images are in.

    Only a source with Timezone Offset From UTC says which that is (PS3.3 C.12.1.1.8); adding the attribute to one
    that doesn't would give its study time a meaning that nobody wrote, so `answered_at` is taken as local.
    """
    offset = str(header.get("TimezoneOffsetFromUTC", "") or "")
    try:
        zone = dt.datetime.strptime(offset, "%z").tzinfo
    except ValueError:
        return context.answered_at
    return context.answered_at.astimezone(zone)


def _stamp_times(dataset: Dataset, context: ReportContext, header: Dataset) -> None:
    moment = local_time(context, header)
    date, time = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S.%f")
    for name in ("InstanceCreation", "Content", "Series"):
        setattr(dataset, f"{name}Date", date)
        setattr(dataset, f"{name}Time", time)


def _stamp_equipment(dataset: Dataset, context: ReportContext, header: Dataset) -> None:
    equipment = context.equipment
    dataset.Manufacturer = equipment.manufacturer[:_LONG_STRING]
    dataset.ManufacturerModelName = equipment.model[:_LONG_STRING]
    dataset.DeviceSerialNumber = equipment.serial[:_LONG_STRING]
    dataset.SoftwareVersions = equipment.software_version[:_LONG_STRING]
    if equipment.institution:
        dataset.InstitutionName = equipment.institution[:_LONG_STRING]
    elif "InstitutionName" in dataset:
        del dataset.InstitutionName
    dataset.ContributingEquipmentSequence = DicomSequence(_contributors(context, header))


def _contributors(context: ReportContext, header: Dataset) -> Sequence[Dataset]:
    """The scanner, the appliance and the model (PS3.3 C.12.1.1.5; IHE Radiology, AI Results: one item an algorithm)."""
    equipment = context.equipment
    contributors = []
    if header.get("Manufacturer"):
        scanner = _contributor(codes.ACQUISITION_EQUIPMENT, "", "Acquisition of the source images")
        for name in _SCANNER:
            if header.get(name):
                scanner[name] = copy.deepcopy(header[name])
        contributors.append(scanner)
    box = _contributor(codes.PROCESSING_EQUIPMENT, equipment.manufacturer, "Analysis and report")
    box.ManufacturerModelName = equipment.model[:_LONG_STRING]
    box.DeviceSerialNumber = equipment.serial[:_LONG_STRING]
    box.SoftwareVersions = equipment.software_version[:_LONG_STRING]
    box.DeviceUID = device_uid("appliance", equipment.serial)
    box.ContributionDateTime = context.answered_at.strftime("%Y%m%d%H%M%S.%f%z")
    contributors.append(box)
    if context.model is not None:
        contributors.append(_model_contributor(context, context.model))
    return contributors


def _model_contributor(context: ReportContext, model: Model) -> Dataset:
    evidence = "synthetic reference model, never for clinical use" if model.synthetic else "model"
    item = _contributor(codes.PROCESSING_EQUIPMENT, context.equipment.manufacturer, f"{model.label}: {evidence}")
    item.ManufacturerModelName = model.name[:_LONG_STRING]
    item.SoftwareVersions = [model.version[:_LONG_STRING], model.digest]
    item.DeviceUID = device_uid("model", model.digest)
    item.ContributionDateTime = context.answered_at.strftime("%Y%m%d%H%M%S.%f%z")
    if model.udi:
        udi = Dataset()
        udi.UniqueDeviceIdentifier = model.udi
        item.UDISequence = DicomSequence([udi])
    return item


def _contributor(purpose: Code, manufacturer: str, description: str) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = DicomSequence([codes.item(purpose)])
    item.Manufacturer = manufacturer[:_LONG_STRING]
    item.ContributionDescription = description
    return item


def _own_text_is_ascii(context: ReportContext) -> bool:
    """True where our own texts fit into whatever character set the source uses."""
    equipment, model = context.equipment, context.model
    texts = [equipment.institution, equipment.manufacturer, equipment.model, equipment.serial]
    texts += [answer.detail for answer in context.answers]
    texts += [model.name, model.version, model.label] if model is not None else []
    return all(text.isascii() for text in texts)
