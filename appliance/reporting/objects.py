"""All result objects of one study, written: segmentations, key images, then the report that refers to them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from appliance.reporting.context import Kind, ReportContext, ResultObject, findings
from appliance.reporting.failure import ReportFailed
from appliance.reporting.keyimage import build_key_image
from appliance.reporting.origin import header_of_frame, read_header, read_reference, read_sibling_reference
from appliance.reporting.seg import SegmentedOrgan, build_segmentation
from appliance.reporting.source import KEY_IMAGES, SourceImage, SourceSeries, best_slice
from appliance.reporting.sr import build_report
from core import durable
from core.extent import Extent
from core.finding import Answer, Cancer, Lesion

_log = logging.getLogger(__name__)


def write_objects(context: ReportContext, folder: Path) -> tuple[ResultObject, ...]:
    """Write the objects of a result into `folder` and return them, report first.

    Nothing that a clinician may see (every answer silent): no object. A repeat writes the same bytes under the same
    names. Raises ReportFailed where masks, volume and source don't fit together, StorageError where the disk fails.
    """
    if not context.shown:
        return ()
    durable.make_folder(folder)
    sources = [_Source(series) for series in context.series]
    segmentations = _segmentations(context, sources)
    images = _key_images(context, sources)
    header, rests_on = _evidence(context, sources)
    evidence = [*rests_on, *(organ.dataset for organ in segmentations.values())]
    origins = {cancer: source.first for source in sources for cancer in source.series.cancers}
    report = build_report(context, header, evidence, segmentations, origins)
    return (
        _write("sr", report, folder / "report.dcm"),
        *(_write("seg", o.dataset, folder / f"seg-{cancer.value}.dcm") for cancer, o in segmentations.items()),
        *(_write("keyimage", image, folder / f"key-{n:02}.dcm") for n, image in enumerate(images, start=1)),
    )


class _Source:
    """A series with the headers of its images by slice, each read once and only when asked for."""

    def __init__(self, series: SourceSeries) -> None:
        self.series = series
        self._read: dict[int, Dataset] = {}
        self._objects: dict[Extent, Dataset] = {}  # multi-frame ones: each has many of the slices
        self.first = self[0]

    def references(self) -> list[Dataset]:
        """To all of its images."""
        return [read_sibling_reference(extent, self.first) for extent in self.series.extents]

    def __getitem__(self, index: int) -> Dataset:
        if index not in self._read:
            self._read[index] = self._header(self.series.images[index])
        return self._read[index]

    def _header(self, image: SourceImage) -> Dataset:
        if image.frame is None:
            return read_header(image.extent)
        if image.extent not in self._objects:
            self._objects[image.extent] = read_header(image.extent)
        return header_of_frame(self._objects[image.extent], image.frame)


def _evidence(context: ReportContext, sources: Sequence[_Source]) -> tuple[Dataset, list[Dataset]]:
    """A header to take patient and study from, and the references of what the report rests on.

    Where nothing could be analysed these are all instances that can be referred to; a broken one may be the reason.
    """
    if sources:
        return sources[0].first, [reference for source in sources for reference in source.references()]
    readable = _readable(context.evidence)
    return read_header(readable[0]), [read_reference(extent) for extent in readable]


def _readable(evidence: Sequence[Extent]) -> Sequence[Extent]:
    readable = []
    for image in evidence:
        try:
            read_reference(image)
        except ReportFailed as error:
            _log.warning("an instance is left out of the report's evidence", extra={"why": str(error)})
            continue
        readable.append(image)
    if not readable:
        raise ReportFailed(f"none of the {len(evidence)} instances of the study can be read")
    return readable


def _source_of(cancer: Cancer, sources: Sequence[_Source]) -> _Source:
    found = next((source for source in sources if cancer in source.series.cancers), None)
    if found is None:
        raise ReportFailed(f"{cancer.value} has lesions but no series that they were found in")
    return found


def _segmentations(context: ReportContext, sources: Sequence[_Source]) -> dict[Cancer, SegmentedOrgan]:
    made = {}
    for answer, lesions in findings(context):
        source = _source_of(answer.cancer, sources)
        touched = {z: source[z] for z in source.series.masks.get(answer.cancer, {})}
        organ = build_segmentation(context, source.series, touched, answer, lesions)
        if organ is not None:
            made[answer.cancer] = organ
    return made


def _key_images(context: ReportContext, sources: Sequence[_Source]) -> list[Dataset]:
    images: list[Dataset] = []
    wanted: list[tuple[Answer, Lesion]] = [
        (answer, lesion) for answer, lesions in findings(context) for lesion in lesions[:KEY_IMAGES]
    ]
    for number, (answer, lesion) in enumerate(wanted, start=1):
        source = _source_of(answer.cancer, sources)
        index = best_slice(lesion, source.series.masks.get(answer.cancer, {}))
        images.append(build_key_image(context, source.series, source[index], answer, lesion, index, number))
    return images


def _write(kind: Kind, dataset: Dataset, path: Path) -> ResultObject:
    buffer = BytesIO()
    try:
        pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    except (ValueError, TypeError, KeyError, AttributeError, LookupError) as error:
        raise ReportFailed(f"the {kind} object can't be encoded: {error}") from error
    durable.write_bytes(path, buffer.getbuffer())
    return ResultObject(
        kind=kind,
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        series_uid=str(dataset.SeriesInstanceUID),
        path=path,
    )
