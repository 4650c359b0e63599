"""The real scans in ../shared/data, as the comparison with phantoms needs them. Read, measured, never copied.

Lung-PET-CT-Dx A0001 (TCIA, CC BY 4.0, doi 10.7937/TCIA.2020.NNC2-0461): a non-contrast chest, 64 slices of 5 mm.
TotalSegmentator's example (Apache-2.0): a non-contrast abdomen at 3 mm with 61 labels made by that software.
"""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
LABELS = {
    "spleen": (1,), "kidneys": (2, 3), "gallbladder": (4,), "liver": (5,), "stomach": (6,), "pancreas": (7,),
    "adrenals": (8, 9), "small bowel": (18,), "duodenum": (19,), "colon": (20,), "bladder": (21,), "aorta": (52,),
    "veins": (63,),
}  # fmt: skip
"""TotalSegmentator's label numbers (v2, `total`) of the organs compared."""


@dataclass(frozen=True, eq=False)
class Real:
    """HU (z, y, x), feet to head, front to back, right to left; labels where there are any; spacing z-y-x mm."""

    hu: npt.NDArray[np.float32]
    spacing_mm: tuple[float, float, float]
    labels: npt.NDArray[np.uint8] | None = None


def chest() -> Real:
    """The chest, as its DICOM has it."""
    slices = [pydicom.dcmread(p) for p in (DATA / "lungpetctdx_A0001_chest_5mm_B").iterdir()]
    slices.sort(key=lambda ds: float(ds.ImagePositionPatient[2]))
    hu = np.stack([s.pixel_array * float(s.RescaleSlope) + float(s.RescaleIntercept) for s in slices])
    pixel = slices[0].PixelSpacing
    return Real(hu.astype(np.float32), (5.0, float(pixel[0]), float(pixel[1])))


def abdomen() -> Real:
    """The abdomen with labels; NIfTI is RAS, ours grows to Superior, Posterior, Left."""
    folder = DATA / "totalsegmentator"
    hu, spacing = _nifti(folder / "example_ct.nii.gz")
    labels, _ = _nifti(folder / "example_seg_fast_force_split.nii.gz")
    turned = [np.ascontiguousarray(np.transpose(a, (2, 1, 0))[:, ::-1, ::-1]) for a in (hu, labels)]
    return Real(turned[0].astype(np.float32), spacing, turned[1].astype(np.uint8))


def _nifti(path: Path) -> tuple[npt.NDArray[np.float64], tuple[float, float, float]]:
    """A NIfTI-1 file's values (x, y, z) and spacing (z, y, x); header offsets as in nifti1.h."""
    content = gzip.decompress(path.read_bytes())
    shape = struct.unpack("<8h", content[40:56])[1:4]
    kind = struct.unpack("<h", content[70:72])[0]
    pixdim = struct.unpack("<8f", content[76:108])[1:4]
    offset, slope, intercept = (int(v) if i == 0 else v for i, v in enumerate(struct.unpack("<3f", content[108:120])))
    dtype = {2: "u1", 4: "<i2", 8: "<i4", 16: "<f4", 64: "<f8", 512: "<u2"}[kind]
    values = np.frombuffer(content, dtype, int(np.prod(shape)), offset).reshape(shape, order="F")
    return values * (slope or 1.0) + intercept, (float(pixdim[2]), float(pixdim[1]), float(pixdim[0]))
