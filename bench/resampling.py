"""nnU-Net's resampling: ours beside SciPy, called as nnU-Net 2.8.1 calls it (through scikit-image, in float64).

A scan of 600 × 512 × 512 to 1.5 mm with cubic splines, and the logits of some classes from there back to labels on the
scan's grid. One thread each, every run in a process of its own: its CPU seconds, and by how much its peak memory grew.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from bench.record import Goal, Record
from engines.cascade.labelmaps import LabelStream, Softmax
from engines.cascade.splines import Zoom, zoom_image, zoomed_shape

Array = npt.NDArray[np.float32]
SHAPE, SPACING_MM, TARGET_MM = (600, 512, 512), (1.0, 0.78, 0.78), (1.5, 1.5, 1.5)
COARSE = zoomed_shape(SHAPE, SPACING_MM, TARGET_MM)
CLIP = (-1000.0, 1000.0)
_GOALS = {f"{what}_{kind}": Goal(5 if kind == "faster" else 4, at_least=True)
          for what in ("image", "labels") for kind in ("faster", "smaller")}  # fmt: skip


def image_ours(scan: npt.NDArray[np.int16]) -> Array:
    """int16 → float32 at 1.5 mm, clipped."""
    return zoom_image(scan, Zoom(SHAPE, COARSE, 3), clip=CLIP)


def image_scipy(scan: npt.NDArray[np.int16]) -> Array:
    """The same as nnU-Net does it: a float copy, float64, all at once, clipped to the input's range."""
    data = np.clip(scan.astype(np.float32), *CLIP).astype(float)
    out = ndimage.zoom(
        data, [m / n for m, n in zip(COARSE, SHAPE, strict=True)], order=3, mode="nearest", grid_mode=True
    )
    return np.clip(out, data.min(), data.max()).astype(np.float32)


def labels_ours(logits: Array) -> npt.NDArray[np.uint8]:
    """Rows in, labels out."""
    out = np.zeros(SHAPE, np.uint8)
    stream = LabelStream(Zoom(COARSE, SHAPE, 1), Softmax(), out)
    for begin in range(0, COARSE[0], 16):
        stream.push(logits[:, begin : begin + 16])
    stream.finish()
    return out


def labels_scipy(logits: Array) -> npt.NDArray[np.uint8]:
    """Every class at full size in half precision, then the argmax."""
    full = np.zeros((len(logits), *SHAPE), np.float16)
    factors = [m / n for m, n in zip(SHAPE, COARSE, strict=True)]
    for channel, target in zip(logits, full, strict=True):
        data = channel.astype(float)
        zoomed = ndimage.zoom(data, factors, order=1, mode="nearest", grid_mode=True)
        target[...] = np.clip(zoomed, data.min(), data.max())
    return full.argmax(0).astype(np.uint8)


WAYS: dict[str, Callable[[npt.NDArray[np.generic]], npt.NDArray[np.generic]]] = {
    f.__name__: f  # type: ignore[misc]
    for f in (image_ours, image_scipy, labels_ours, labels_scipy)
}


def child(way: str, source: Path, result: Path) -> None:
    """One run; prints CPU seconds and growth of the peak memory in MB."""
    array = np.load(source)
    before, begun = _peak_mb(), time.process_time()
    out = WAYS[way](array)
    seconds = time.process_time() - begun
    grown = _peak_mb() - before
    np.save(result, out)
    print(json.dumps([seconds, grown]))


def _peak_mb() -> float:
    # Not getrusage: its peak is inherited from the parent, whose own is higher.
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def run(way: str, source: Path, result: Path) -> tuple[float, float]:
    """CPU seconds and MB of one run in a process of its own."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, "-m", "bench.resampling", "--child", way, str(source), str(result)]
    said = subprocess.run(command, env={**os.environ, **one}, check=True, capture_output=True, text=True).stdout
    seconds, grown = json.loads(said)
    return seconds, grown


def some_inputs(folder: Path, classes: int) -> None:
    """A noisy scan, and logits whose classes are blobs of some 25 mm."""
    rng = np.random.default_rng(0)
    np.save(folder / "image.npy", rng.integers(-1000, 1000, SHAPE).astype(np.int16))
    blobs = rng.normal(size=(classes, 25, 17, 17)).astype(np.float32) * 3
    blobs[0] += 3
    np.save(folder / "labels.npy", np.stack([zoom_image(blob, Zoom(blob.shape, COARSE, 3)) for blob in blobs]))


def main() -> None:
    """`make bench-resampling`; ARGS="--runs 3 --classes 2"."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--child", nargs=3, metavar=("WAY", "SOURCE", "RESULT"))
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], Path(arguments.child[1]), Path(arguments.child[2]))
        return
    title = f"nnU-Net's resampling, 600 × 512 × 512 ↔ {' × '.join(map(str, COARSE))}, {arguments.classes} classes"
    record = Record("resampling", title, _GOALS)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        some_inputs(folder, arguments.classes)
        for what in ("image", "labels"):
            compare(record, what, folder, arguments.runs)
    record.finish()


def compare(record: Record, what: str, folder: Path, runs: int) -> None:
    """Ours and SciPy's in turn, and how far the results are apart."""
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "scipy": []}
    for _ in range(runs):
        for who, measured in found.items():
            measured.append(run(f"{what}_{who}", folder / f"{what}.npy", folder / f"{what}_{who}.npy"))
    for who, measured in found.items():
        record.add(f"{what}_{who}_s", f"{what}, {who}: CPU", [seconds for seconds, _ in measured], "s")
        record.add(f"{what}_{who}_mb", f"{what}, {who}: peak memory above the input", [mb for _, mb in measured], "MB")
    pairs = list(zip(found["scipy"], found["ours"], strict=True))
    record.add(f"{what}_faster", f"{what}: SciPy's CPU ÷ ours", [a[0] / b[0] for a, b in pairs], "×")
    record.add(f"{what}_smaller", f"{what}: SciPy's memory ÷ ours", [a[1] / b[1] for a, b in pairs], "×")
    ours, scipy = (np.load(folder / f"{what}_{who}.npy", mmap_mode="r") for who in found)
    if what == "image":
        worst = max(float(np.abs(a - b).max()) for a, b in zip(ours, scipy, strict=True))
        record.add("image_difference_hu", "image: largest difference", [worst], "HU")
    else:
        differ = sum(int(np.count_nonzero(a != b)) for a, b in zip(ours, scipy, strict=True)) / ours.size
        record.add("labels_differ_ppm", "labels: voxels that differ (SciPy's in half precision)", [differ * 1e6], "ppm")


if __name__ == "__main__":
    main()
