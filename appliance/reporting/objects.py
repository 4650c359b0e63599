"""All result objects of one study, written: segmentations, key images, then the report that refers to them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from appliance.reporting.context import Kind, ReportContext, ReportFailed, ResultObject, findings
from appliance.reporting.keyimage import best_slice, build_key_image
from appliance.reporting.origin import read_header, read_reference, read_sibling_reference
from appliance.reporting.seg import SegmentedOrgan, build_segmentation, slices_touched
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
    headers = _Headers(context)
    segmentations = _segmentations(context, headers)
    images = _key_images(context, headers)
    evidence = [*headers.references(), *(organ.dataset for organ in segmentations.values())]
    report = build_report(context, headers.first, evidence, segmentations)
    return (
        _write("sr", report, folder / "report.dcm"),
        *(_write("seg", o.dataset, folder / f"seg-{cancer.value}.dcm") for cancer, o in segmentations.items()),
        *(_write("keyimage", image, folder / f"key-{n:02}.dcm") for n, image in enumerate(images, start=1)),
    )


class _Headers:
    """Headers of source images by slice, each read once and only when asked for."""

    def __init__(self, context: ReportContext) -> None:
        self._context = context
        self._read: dict[int, Dataset] = {}
        self._readable = () if context.source else _readable(context.evidence)
        self.first = self[0] if context.source else read_header(self._readable[0])

    def references(self) -> list[Dataset]:
        """What the report rests on."""
        if self._context.source:
            return [read_sibling_reference(image, self.first) for image in self._context.source]
        return [read_reference(image) for image in self._readable]

    def __getitem__(self, index: int) -> Dataset:
        if index not in self._read:
            self._read[index] = read_header(self._context.source[index])
        return self._read[index]


def _readable(evidence: Sequence[Extent]) -> Sequence[Extent]:
    """The instances that can be referred to. A broken one may be the very reason why nothing was analysable."""
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


def _segmentations(context: ReportContext, headers: _Headers) -> dict[Cancer, SegmentedOrgan]:
    made = {}
    for answer, lesions in findings(context):
        mask, volume = context.masks.get(answer.cancer), context.volume
        if volume is None:
            raise ReportFailed(f"{answer.cancer.value} has lesions but there is no volume")
        if mask is None:
            continue
        if mask.shape != volume.geometry.shape:
            raise ReportFailed(f"the {answer.cancer.value} mask is {mask.shape}, not the volume's shape")
        touched = {z: headers[z] for z in slices_touched(mask)}
        organ = build_segmentation(context, volume, touched, answer, lesions)
        if organ is not None:
            made[answer.cancer] = organ
    return made


def _key_images(context: ReportContext, headers: _Headers) -> list[Dataset]:
    images: list[Dataset] = []
    wanted: list[tuple[Answer, Lesion]] = [
        (answer, lesion) for answer, lesions in findings(context) for lesion in lesions[: context.key_images_per_cancer]
    ]
    for number, (answer, lesion) in enumerate(wanted, start=1):
        assert context.volume is not None  # checked with the segmentations
        index = best_slice(lesion, context.masks.get(answer.cancer))
        images.append(build_key_image(context, context.volume, headers[index], answer, lesion, index, number))
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
