"""From the hand-over to the volume: with what was read while the study came in, and without.

Slices of 512 x 512, native and compressed, 1 mm apart, warm files; every run in a process of its own: wall
seconds for choosing and building, and by how much the peak memory grew over what the process held before any slice.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from appliance.choosing import choose
from appliance.imaging.early import EarlySlices
from appliance.imaging.volume import build_volume
from appliance.ports import StoredInstance
from bench.peers.packing import JPEG_2000, pack
from bench.record import Record
from core.extent import Extent

SIZE, STUDY, SERIES = 512, "2.25.1", "2.25.2"
SYNTAXES = {
    "native": (),
    "rle": ("dcmcrle",),
    "jpeg_lossless": ("dcmcjpeg", "+e1"),
    "jpeg_ls": ("dcmcjpls", "+el"),
    "jpeg_2000": JPEG_2000,
}


def write_series(folder: Path, count: int, compress: Sequence[str]) -> None:
    """A disc of noisy water in air, slice by slice; compress: `bench.peers.packing`'s, none for native ones."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE]
    disc = np.where((y - SIZE / 2) ** 2 + (x - SIZE / 2) ** 2 < (SIZE / 3) ** 2, 1024, 24)
    for index in range(count):
        ds = pydicom.Dataset()
        ds.ImageType, ds.SOPClassUID, ds.SOPInstanceUID = ["ORIGINAL", "PRIMARY"], CTImageStorage, f"2.25.3.{index}"
        ds.Modality, ds.StudyInstanceUID, ds.SeriesInstanceUID = "CT", STUDY, SERIES
        ds.SliceThickness, ds.ConvolutionKernel, ds.PixelSpacing = 1.0, "B30f", [0.75, 0.75]
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, index], [1, 0, 0, 0, 1, 0]
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", SIZE, SIZE
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.RescaleIntercept, ds.RescaleSlope = -1024, 1
        ds.PixelData = (disc + rng.integers(0, 40, disc.shape)).astype(np.uint16).tobytes()
        ds["PixelData"].VR = "OW"
        ds.file_meta = pydicom.dataset.FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"{index:04}.dcm"
        pydicom.dcmwrite(path, ds, enforce_file_format=True)
    pack(sorted(folder.iterdir()), compress)


def read(folder: Path, ahead: bool) -> dict[str, float | str]:
    """Read it as the pipeline does; ahead: after all slices but the time for them were taken early."""
    instances = [StoredInstance(p.stem, CTImageStorage, SERIES, p.stem, Extent(p)) for p in sorted(folder.iterdir())]
    for instance in instances:
        instance.extent.read()  # from here on the files are warm
    before = memory_mb("VmRSS")
    early = EarlySlices(1 << 30)
    began = time.perf_counter()
    for instance in instances if ahead else ():
        early.take(STUDY, instance)
    complete = time.perf_counter()
    early.keep(STUDY, instances)
    headers = choose(instances, headers_of=early.headers_of).series[0].headers
    chosen = time.perf_counter()
    volume = build_volume(headers, early.decoder(headers))
    built = time.perf_counter()
    return {
        "ahead_s": complete - began,
        "choose_s": chosen - complete,
        "build_s": built - chosen,
        "s": built - complete,
        "peak_mb": memory_mb("VmHWM") - before,
        "sha256": hashlib.sha256(volume.hu.tobytes()).hexdigest(),
    }


def memory_mb(what: str) -> float:
    """A line of /proc/self/status, MB."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def main() -> None:
    """Interleaved runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--syntax", choices=SYNTAXES, action="append", help="default: all")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ahead", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.read:
        print(json.dumps(read(a.read, a.ahead)))
        return
    record = Record("early", f"{a.slices} slices of {SIZE} x {SIZE}, from the hand-over to the volume")
    record.keep("volume_mb", a.slices * SIZE * SIZE * 2 / 1e6)
    for name in a.syntax or SYNTAXES:
        with tempfile.TemporaryDirectory() as folder:
            write_series(Path(folder), a.slices, SYNTAXES[name])
            runs = [(ahead, in_a_process(folder, ahead)) for _ in range(a.runs) for ahead in (False, True)]
        assert len({run["sha256"] for _, run in runs}) == 1, "the volumes differ"
        for ahead, called in ((False, "without"), (True, "read ahead")):
            for key in ("choose_s", "build_s", "s", "peak_mb", *(("ahead_s",) if ahead else ())):
                values = [float(run[key]) for which, run in runs if which is ahead]
                record.add(
                    f"{name}_{'ahead' if ahead else 'without'}_{key}",
                    f"{name}, {called}: {key}",
                    values,
                    key.split("_")[-1],
                )
    record.finish()


def in_a_process(folder: str, ahead: bool) -> dict[str, float | str]:
    """One run."""
    command = [sys.executable, "-m", "bench.early", "--read", folder, *(["--ahead"] if ahead else [])]
    found: dict[str, float | str] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


if __name__ == "__main__":
    main()
