"""Key images: Secondary Capture (PS3.3 A.8.1), which every viewer shows, for those that can't show a segmentation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import SecondaryCaptureImageStorage

from appliance.reporting import codes
from appliance.reporting.context import ReportContext, caution, object_uid
from appliance.reporting.drawing import Colour, Scene, draw, orientation_letters
from appliance.reporting.origin import new_file_meta, stamp
from appliance.reporting.source import SourceSeries
from appliance.reporting.wording import NAMES, VERDICTS, size
from core.finding import Answer, Cancer, Lesion, Verdict

SERIES_NUMBER = 9301
_SOFT_TISSUE = (40.0, 400.0)
_WINDOW: dict[Cancer, tuple[float, float]] = {  # centre and width in HU
    Cancer.PANCREAS: (40.0, 300.0),
    Cancer.OESOPHAGUS: _SOFT_TISSUE,
    Cancer.LUNG: (-600.0, 1500.0),
    Cancer.BREAST: _SOFT_TISSUE,
    Cancer.LIVER: (60.0, 200.0),
    Cancer.STOMACH: _SOFT_TISSUE,
    Cancer.COLORECTUM: _SOFT_TISSUE,
}
_COLOUR: dict[Verdict, Colour] = {Verdict.POSITIVE: (255, 92, 72), Verdict.INDETERMINATE: (255, 196, 64)}


def build_key_image(
    context: ReportContext, series: SourceSeries, header: Dataset, answer: Answer, lesion: Lesion, index: int,
    instance_number: int,
) -> Dataset:  # fmt: skip
    """The key image of one lesion on slice `index`, whose source image has this header."""
    image = Dataset()
    image.SOPClassUID = SecondaryCaptureImageStorage
    image.SOPInstanceUID = object_uid(context.result_id, "keyimage", f"{answer.cancer.value}/{lesion.label}")
    image.file_meta = new_file_meta(image.SOPClassUID, image.SOPInstanceUID)
    image.Modality = "OT"
    image.SeriesInstanceUID = object_uid(context.result_id, "series", "keyimage")
    image.SeriesNumber = SERIES_NUMBER
    image.SeriesDescription = "OneScan key images" + (f", revision {context.revision}" if context.revision > 1 else "")
    image.InstanceNumber = instance_number
    image.ConversionType = "WSD"
    image.ImageType = ["DERIVED", "SECONDARY"]
    image.PatientOrientation = ""
    image.Laterality = ""
    image.BurnedInAnnotation = "NO"  # of identity: there is none (PS3.3 C.7.6.1)
    image.ImageComments = caution(context, [answer])
    stamp(image, context, header)
    image.DateOfSecondaryCapture, image.TimeOfSecondaryCapture = image.ContentDate, image.ContentTime
    _add_source(image, header, series.images[index].frame)
    _add_pixels(image, draw(_scene(context, series, header, answer, lesion, index)))
    return image


def _add_source(image: Dataset, header: Dataset, frame: int | None) -> None:
    source = Dataset()
    source.ReferencedSOPClassUID = header.SOPClassUID
    source.ReferencedSOPInstanceUID = header.SOPInstanceUID
    if frame is not None:
        source.ReferencedFrameNumber = frame
    source.PurposeOfReferenceCodeSequence = DicomSequence([codes.item(codes.SOURCE_IMAGE)])
    image.SourceImageSequence = DicomSequence([source])
    image.DerivationDescription = "Slice with the outline of a lesion that software found"


def _add_pixels(image: Dataset, pixels: npt.NDArray[np.uint8]) -> None:
    image.SamplesPerPixel = 3
    image.PhotometricInterpretation = "RGB"
    image.PlanarConfiguration = 0
    image.Rows, image.Columns = pixels.shape[:2]
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit = 7
    image.PixelRepresentation = 0
    content = pixels.tobytes()
    image.PixelData = content + b"\0" * (len(content) % 2)
    image["PixelData"].VR = "OB"


def _scene(
    context: ReportContext, series: SourceSeries, header: Dataset, answer: Answer, lesion: Lesion, index: int
) -> Scene:
    geometry = series.geometry
    plane = series.masks.get(answer.cancer, {}).get(index)
    outline = np.zeros(geometry.shape[1:], np.bool_) if plane is None else plane == lesion.label
    found = np.argwhere(outline)
    centre = found.mean(axis=0) if len(found) else np.asarray(lesion.centroid[1:])
    height_mm = float(geometry.to_patient((index, *lesion.centroid[1:]))[2])
    model = context.model
    return Scene(
        hu=series.hu[index],
        outline=outline,
        centre=(float(centre[0]), float(centre[1])),
        window=_WINDOW[answer.cancer],
        spacing_mm=geometry.spacing_mm[1:],
        letters=orientation_letters(geometry),
        colour=_COLOUR[answer.verdict],
        caution=caution(context, [answer]),
        title=NAMES[answer.cancer],
        verdict=f"{VERDICTS[answer.verdict]}   score {answer.score:.2f}",
        lines=(
            f"Lesion {lesion.label} of {len(answer.lesions)}, score {lesion.score:.2f}",
            f"Size {size(lesion)}",
            _place(context, series, header, index),
            f"Position z {height_mm:+.1f} mm",
            "Window {1:.0f}, level {0:.0f} HU".format(*_WINDOW[answer.cancer]),
        ),
        foot=f"OneScan {context.equipment.software_version}"
        + (f"   model {model.name} {model.version}" if model else "")
        + f"   {context.answered_at:%Y-%m-%d %H:%M}",
    )


def _place(context: ReportContext, source: SourceSeries, header: Dataset, index: int) -> str:
    """Which slice this is, by the numbers that viewers show."""
    number, series, frame = header.get("InstanceNumber"), header.get("SeriesNumber"), source.images[index].frame
    among = f"Series {series}, slice" if len(context.series) > 1 and series else "Slice"
    place = f"{among} {index + 1} of {len(source.images)}"
    if frame is not None:
        return f"{place}, frame {frame}"
    return f"{place}, image {number}" if number else place
