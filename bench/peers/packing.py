"""Slices in other transfer syntaxes, by others' encoders: dcmtk's programs, for JPEG 2000 OpenJPEG through Pillow."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

JPEG_2000 = ("jpeg2000",)


def pack(files: Iterable[Path], by: Sequence[str]) -> None:
    """Encode files in place. by: a program of dcmtk with its options, or JPEG_2000; none: leave them."""
    for path in files if by else ():
        if tuple(by) == JPEG_2000:
            _jpeg_2000(path)
        else:
            subprocess.run([*by, str(path), str(path)], check=True, capture_output=True)


def _jpeg_2000(path: Path) -> None:
    """Lossless; of unsigned samples, as Pillow wants them."""
    ds = dcmread(path)
    assert not ds.PixelRepresentation
    stream = io.BytesIO()
    Image.fromarray(ds.pixel_array).save(stream, "JPEG2000", irreversible=False, no_jp2=True)
    ds.PixelData = encapsulate([stream.getvalue()])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    ds.save_as(path)
