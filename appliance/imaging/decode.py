"""One slice to HU: an image of its own, or a frame of a multi-frame image.

Native pixels are taken as they stand in the file, RLE pydicom decodes. JPEG Lossless, JPEG-LS and JPEG 2000 dicomsdl
decodes first: it is fast and needs no plug-in. It believes the header about the room for an image and the stream about
its size, and fills in what a cut stream lacks, so `codestream` compares them before. Where it fails, pydicom tries;
where both fail the study is UNREADABLE.
"""

from __future__ import annotations

import io
import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from appliance.imaging.codestream import RLE, Told, fault
from appliance.imaging.header import ImageHeader
from appliance.imaging.pixels import NATIVE, Fragment, compressed_frame, frames_of, native_frame
from core.errors import InputRefused
from core.extent import Extent
from core.finding import Reason

log = logging.getLogger(__name__)

AIR_HU = -1024
"""What is below (padding outside the field of view is -2000 and the like) reads as this."""
_PADDING_IS_AIR_BELOW_HU = -200.0
"""A padding value above is ignored: it can't be told from tissue."""

_UNFRAGMENTED = frozenset({"1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"})
"""Explicit big endian and deflated: nothing that a scanner sends, but a hospital's archive may hold some."""
_MOST_ROWS = 0xFFFF
"""Of Rows and Columns: what their VR (US) holds."""
_SEND_AGAIN = "Have the series sent again, uncompressed if that does not help; until then read it by eye."

Stored = npt.NDArray[Any]
Slice = npt.NDArray[np.int16]


class SliceDecoder:
    """Decodes slice after slice of a series; where the frames of a multi-frame image lie is looked up once."""

    def __init__(self) -> None:
        self._of: Extent | None = None
        self._frames: tuple[tuple[Fragment, ...], ...] = ()

    def __call__(self, header: ImageHeader) -> Slice:
        """The image of `header` in HU, int16 (rows, columns), -1024 .. 32767. InputRefused(UNREADABLE) otherwise."""
        if header.bits_allocated != 16 or not 0 < header.bits_stored <= 16:
            raise InputRefused(Reason.UNREADABLE, f"{header.bits_stored} bits stored in {header.bits_allocated}")
        return to_hu(self.stored(header), header)

    def stored(self, header: ImageHeader) -> Stored:
        """The pixels as stored (int16 or uint16), before rescale. InputRefused(UNREADABLE) where no decoder can."""
        if not (0 < header.rows <= _MOST_ROWS and 0 < header.columns <= _MOST_ROWS):
            raise InputRefused(Reason.UNREADABLE, f"an image of {header.rows} x {header.columns} pixels")
        stored = self._values(header)
        if stored.shape != (header.rows, header.columns):
            raise InputRefused(Reason.UNREADABLE, f"{stored.shape} pixels where the header says otherwise")
        return _sign_extended(stored, header)

    def _values(self, header: ImageHeader) -> Stored:
        if header.transfer_syntax in _UNFRAGMENTED and header.frames == 1:
            return _by_pydicom(header.extent.read())
        with header.extent.open() as file:
            if header.transfer_syntax in NATIVE:
                content = native_frame(file, header)
                return np.frombuffer(content, "<u2").reshape(header.rows, header.columns)
            if self._of != header.extent:
                self._of, self._frames = header.extent, frames_of(file, header)
            stream = compressed_frame(file, self._frames[(header.frame or 1) - 1])
        return _decompressed(stream, header)


def decode_slice(header: ImageHeader) -> Slice:
    """One slice in HU, as `SliceDecoder` gives it."""
    return SliceDecoder()(header)


def stored_values(header: ImageHeader) -> Stored:
    """One slice as stored."""
    return SliceDecoder().stored(header)


def to_hu(stored: Stored, header: ImageHeader) -> Slice:
    """Rescale (PS3.3 C.11.1.1.2): HU = slope x stored + intercept, rounded, clipped to int16, padding as air."""
    if header.rescale is None:
        said = f"{header.rescale_slope} and {header.rescale_intercept}"
        raise InputRefused(Reason.UNREADABLE, f"{_named(header)}: rescale slope and intercept are {said}")
    slope, intercept = header.rescale
    hu: npt.NDArray[Any]
    if slope == 1.0 and intercept.is_integer():
        hu = stored.astype(np.int32)
        hu += int(intercept)
    else:
        hu = stored.astype(np.float32)
        hu *= np.float32(slope)
        hu += np.float32(intercept)
        np.rint(hu, out=hu)
    np.clip(hu, AIR_HU, np.iinfo(np.int16).max, out=hu)
    result: Slice = hu.astype(np.int16)
    if header.padding is not None and slope * header.padding[1] + intercept < _PADDING_IS_AIR_BELOW_HU:
        result[(stored >= header.padding[0]) & (stored <= header.padding[1])] = AIR_HU
    return result


def _decompressed(stream: bytes, header: ImageHeader) -> Stored:
    if wrong := fault(stream, _told(header)):
        raise InputRefused(Reason.UNREADABLE, f"{_named(header)}: {wrong}", remedy=_SEND_AGAIN)
    content = _alone(stream, header)
    if header.transfer_syntax == RLE:  # in Python; dicomsdl ended the process over damaged streams of it
        return _by_pydicom(content)
    try:
        return _by_dicomsdl(content)
    except Exception as error:
        # a decoder raises what it likes; the other one has its try
        log.debug("dicomsdl can't decode (%s), pydicom tries", type(error).__name__)
        return _by_pydicom(content)


def _told(header: ImageHeader) -> Told:
    return Told(
        transfer_syntax=header.transfer_syntax,
        rows=header.rows,
        columns=header.columns,
        samples=header.samples_per_pixel,
        bits_allocated=header.bits_allocated,
        bits_stored=header.bits_stored,
        signed=header.signed,
    )


def _named(header: ImageHeader) -> str:
    """An image by its numbers: UIDs stay out of what people are told."""
    series = "" if header.series_number is None else f"series {header.series_number}, "
    frame = "" if header.frame is None else f", frame {header.frame}"
    return f"{series}image {'?' if header.instance_number is None else header.instance_number}{frame}"


def _alone(stream: bytes, header: ImageHeader) -> bytes:
    """A file with this one compressed image and nothing else: what decoders take."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(header.transfer_syntax)
    ds.file_meta.MediaStorageSOPClassUID = UID(header.sop_class_uid)
    ds.file_meta.MediaStorageSOPInstanceUID = UID("2.25.1")
    ds.Rows, ds.Columns, ds.SamplesPerPixel = header.rows, header.columns, header.samples_per_pixel
    ds.PhotometricInterpretation, ds.PixelRepresentation = header.photometric, int(header.signed)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = header.bits_allocated, header.bits_stored, header.bits_stored - 1
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def _by_dicomsdl(content: bytes) -> Stored:
    import dicomsdl  # there is no wheel for aarch64: the caller then takes pydicom

    ds = dicomsdl.open_memory(content)
    try:
        stored: Stored = ds.pixelData(storedvalue=True)
    finally:
        ds.close()
    return stored


def _by_pydicom(content: bytes) -> Stored:
    try:
        return np.asarray(pydicom.dcmread(io.BytesIO(content)).pixel_array)
    except Exception as error:
        # as above; now nobody is left
        raise InputRefused(Reason.UNREADABLE, f"pixel data can't be decoded ({type(error).__name__})") from error


def _sign_extended(stored: Stored, header: ImageHeader) -> Stored:
    """int16 or uint16 as the header says; fewer bits than 16, signed, are extended where the sender did not do it.

    A sender that stores 12 signed bits without extending them shows values of 0 .. 4095 only.
    """
    container = stored.astype(np.int16 if header.signed else np.uint16, copy=False)
    if not header.signed or header.bits_stored == 16:
        return container
    top = 1 << (header.bits_stored - 1)
    low, high = int(container.min()), int(container.max())
    if low >= 0 and top <= high < 2 * top:
        shift = 16 - header.bits_stored
        return (container << shift) >> shift
    return container
