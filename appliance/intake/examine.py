"""Is a received data set whole, and is it what its C-STORE request says it is?

    1. every declared length ends inside the data set, every sequence and fragment list is closed
    2. Study, Series, SOP Class and SOP Instance UID are there and are UIDs
    3. SOP Class and Instance UID are those of the request
    4. an image has its Pixel Data: native, at least Rows x Columns x Samples x Bits Allocated x Frames;
       encapsulated, at least one fragment a frame, closed by a sequence delimiter

Pure: bytes in, facts out, `InstanceRefused` otherwise.
"""

from __future__ import annotations

import math
import struct

from appliance.intake.elements import Walked, walk
from appliance.intake.facts import CT_IMAGE, MULTI_FRAME_CT, InstanceFacts, Orientation, Vector
from appliance.intake.refusal import (
    CANNOT_UNDERSTAND,
    DATA_SET_MISMATCH,
    MISSING_ATTRIBUTE,
    PIXEL_DATA_LENGTH,
    InstanceRefused,
)
from appliance.intake.uids import IMPLICIT_VR_LITTLE_ENDIAN, UNCOMPRESSED, is_uid

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_NATIVE = frozenset(UNCOMPRESSED)
_IMAGES = frozenset({CT_IMAGE, *MULTI_FRAME_CT, SECONDARY_CAPTURE})

IMAGE_TYPE, SOP_CLASS_UID, SOP_INSTANCE_UID, MODALITY = 0x00080008, 0x00080016, 0x00080018, 0x00080060
SLICE_THICKNESS, GANTRY_TILT = 0x00180050, 0x00181120
STUDY_UID, SERIES_UID, ACQUISITION_NUMBER = 0x0020000D, 0x0020000E, 0x00200012
IMAGE_POSITION, IMAGE_ORIENTATION, IMAGES_IN_ACQUISITION = 0x00200032, 0x00200037, 0x00201002
CONCATENATION_UID, PART_NUMBER, PARTS = 0x00209161, 0x00209162, 0x00209163
SAMPLES_PER_PIXEL, NUMBER_OF_FRAMES, ROWS, COLUMNS = 0x00280002, 0x00280008, 0x00280010, 0x00280011
PIXEL_SPACING, BITS_ALLOCATED = 0x00280030, 0x00280100

WANTED = frozenset(
    {
        *(IMAGE_TYPE, SOP_CLASS_UID, SOP_INSTANCE_UID, MODALITY, SLICE_THICKNESS, GANTRY_TILT),
        *(STUDY_UID, SERIES_UID, ACQUISITION_NUMBER, IMAGE_POSITION, IMAGE_ORIENTATION, IMAGES_IN_ACQUISITION),
        *(CONCATENATION_UID, PART_NUMBER, PARTS),
        *(SAMPLES_PER_PIXEL, NUMBER_OF_FRAMES, ROWS, COLUMNS, PIXEL_SPACING, BITS_ALLOCATED),
    }
)


def examine(
    dataset: bytes | memoryview, transfer_syntax: str, sop_class_uid: str, sop_instance_uid: str
) -> InstanceFacts:
    """The facts of a data set as received under `transfer_syntax`, checked as in the module's docstring."""
    walked = walk(dataset, transfer_syntax != IMPLICIT_VR_LITTLE_ENDIAN, WANTED)  # 1
    values = walked.values
    facts = InstanceFacts(
        sop_instance_uid=_uid(values, SOP_INSTANCE_UID, "SOP Instance UID"),  # 2
        sop_class_uid=_uid(values, SOP_CLASS_UID, "SOP Class UID"),
        study_uid=_uid(values, STUDY_UID, "Study Instance UID"),
        series_uid=_uid(values, SERIES_UID, "Series Instance UID"),
        modality=_text(values, MODALITY),
        image_type=tuple(part.strip().upper() for part in _text(values, IMAGE_TYPE).split("\\") if part.strip()),
        position=_vector(values),
        orientation=_orientation(values),
        rows=_short(values, ROWS),
        columns=_short(values, COLUMNS),
        spacing_mm=_pair(values),
        thickness_mm=_first(_numbers(values, SLICE_THICKNESS, 1)),
        tilt_degrees=_first(_numbers(values, GANTRY_TILT, 1)),
        acquisition_number=_integer(values, ACQUISITION_NUMBER),
        images_in_acquisition=_integer(values, IMAGES_IN_ACQUISITION),
        frames=_frames(values),
        concatenation=_text(values, CONCATENATION_UID),
        part=_short(values, PART_NUMBER),
        parts=_short(values, PARTS),
    )
    if (facts.sop_class_uid, facts.sop_instance_uid) != (sop_class_uid, sop_instance_uid):  # 3
        raise InstanceRefused(DATA_SET_MISMATCH, "SOP Class or Instance UID of the data set are not the request's")
    if facts.sop_class_uid in _IMAGES:
        _check_pixels(walked, facts, transfer_syntax)  # 4
    return facts


def _check_pixels(walked: Walked, facts: InstanceFacts, transfer_syntax: str) -> None:
    pixels = walked.pixels
    if pixels is None:
        raise InstanceRefused(PIXEL_DATA_LENGTH, "an image without Pixel Data")
    if transfer_syntax not in _NATIVE:
        if not pixels.encapsulated or pixels.fragments < facts.frames or not pixels.length:
            raise InstanceRefused(
                PIXEL_DATA_LENGTH, f"{pixels.fragments} fragments of compressed Pixel Data for {facts.frames} frames"
            )
        return
    bits = _short(walked.values, BITS_ALLOCATED)
    samples = _short(walked.values, SAMPLES_PER_PIXEL) or 1
    if not facts.rows or not facts.columns or not bits:
        raise InstanceRefused(MISSING_ATTRIBUTE, "an image without Rows, Columns or Bits Allocated")
    needed = -(-facts.rows * facts.columns * samples * facts.frames * bits // 8)  # whole: it may be beyond any float
    if pixels.encapsulated or pixels.length < needed:
        raise InstanceRefused(
            PIXEL_DATA_LENGTH, f"Pixel Data has {pixels.length} bytes where the header says at least {needed}"
        )


def _text(values: dict[int, bytes], tag: int) -> str:
    return values.get(tag, b"").decode("ascii", "replace").strip("\0 ")


def _uid(values: dict[int, bytes], tag: int, name: str) -> str:
    uid = _text(values, tag)
    if not uid:
        raise InstanceRefused(MISSING_ATTRIBUTE, f"the data set has no {name}")
    if not is_uid(uid):
        raise InstanceRefused(CANNOT_UNDERSTAND, f"the data set's {name} is not a UID")
    return uid


def _numbers(values: dict[int, bytes], tag: int, count: int) -> tuple[float, ...] | None:
    """`count` finite numbers of a DS or IS; None where the value is something else (then geometry can't be judged)."""
    parts = _text(values, tag).split("\\")
    try:
        numbers = tuple(float(part) for part in parts)
    except ValueError:
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _first(numbers: tuple[float, ...] | None) -> float | None:
    return numbers[0] if numbers else None


def _integer(values: dict[int, bytes], tag: int) -> int | None:
    number = _first(_numbers(values, tag, 1))
    return int(number) if number is not None else None


def _vector(values: dict[int, bytes]) -> Vector | None:
    n = _numbers(values, IMAGE_POSITION, 3)
    return (n[0], n[1], n[2]) if n else None


def _orientation(values: dict[int, bytes]) -> Orientation | None:
    n = _numbers(values, IMAGE_ORIENTATION, 6)
    return (n[0], n[1], n[2], n[3], n[4], n[5]) if n else None


def _pair(values: dict[int, bytes]) -> tuple[float, float] | None:
    n = _numbers(values, PIXEL_SPACING, 2)
    return (n[0], n[1]) if n else None


def _short(values: dict[int, bytes], tag: int) -> int | None:
    value = values.get(tag, b"")
    return int(struct.unpack_from("<H", value)[0]) if len(value) >= 2 else None


def _frames(values: dict[int, bytes]) -> int:
    if NUMBER_OF_FRAMES not in values:
        return 1
    frames = _integer(values, NUMBER_OF_FRAMES)
    if frames is None or frames < 1:
        raise InstanceRefused(CANNOT_UNDERSTAND, "Number of Frames is not a positive number")
    return frames
