"""int8 against bf16 and fp32: seconds and agreement of OpenVINO on the reference bundle's networks and a larger U-Net.

    make bench-int8                     (or: python -m bench.int8 [--threads N] [--repeats N] [--large])

The networks of the bundle are calibrated with every second image that the cascade gives them on the golden cases, and
judged on the others. `--large` adds a plain U-Net of 32 to 256 features with random weights on tiles of 96³ of white
noise: what it says of speed holds for trained ones, of agreement it is the worst case. Runs are interleaved.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from engines import volumefile
from engines.bundle import open_bundle
from engines.cascade import Cascade, PatientContext
from engines.importers.graph import read, to_bytes
from engines.importers.int8 import Recorder
from engines.importers.quantise import to_int8
from engines.runtime import Tensor
from engines.runtime.choice import choose
from engines.runtime.openvino import OpenVinoRuntime
from tests.engines.importers.networks import unet

REFERENCE = Path(__file__).parents[1] / "engines" / "bundles" / "reference"
PRECISIONS = ("fp32", "bf16", "int8")


def main() -> None:
    """One row a network and precision."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--large", action="store_true")
    arguments = parser.parse_args()
    print("| network | precision | s, median (least) | vs bf16 | rel. RMS to fp32 | same label |")
    print("|---|---|---|---|---|---|")
    for name, onnx, images in reference_networks():
        measure(name, onnx, images, arguments.threads, arguments.repeats)
    if arguments.large:
        rng = np.random.default_rng(0)
        images = [rng.normal(size=(1, 1, 96, 96, 96)).astype(np.float32) for _ in range(4)]
        measure(
            "U-Net 32..256, random", to_bytes(unet((32, 64, 128, 256))), images, arguments.threads, arguments.repeats
        )


def reference_networks() -> list[tuple[str, bytes, list[Tensor]]]:
    """Networks of the reference bundle with what they see on its golden cases."""
    bundle = open_bundle(REFERENCE)
    recorder = Recorder(choose("auto").runtime)
    cascade = Cascade(bundle, recorder)
    for case in bundle.manifest.golden:
        cascade.analyse(volumefile.read(bundle.path(case.input)), PatientContext(case.age_years))
    paths = {network.id: bundle.path(network.files[0]) for network in bundle.manifest.networks}
    return [(name, path.read_bytes(), recorder.images[path.name]) for name, path in paths.items()]


def measure(name: str, onnx: bytes, images: list[Tensor], threads: int, repeats: int) -> None:
    """Calibrate with images 0, 2, ...; judge and time on 1, 3, ..."""
    int8 = to_bytes(to_int8(read(onnx, name), images[::2][:16], name))
    judged = images[1::2][:8]
    with tempfile.TemporaryDirectory() as folder:
        loaded = {}
        for precision in PRECISIONS:
            path = Path(folder) / precision
            path.write_bytes(int8 if precision == "int8" else onnx)
            loaded[precision] = OpenVinoRuntime(threads, precision).load(path)
        outputs = {p: [network.run(image) for image in judged] for p, network in loaded.items()}
        seconds: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
        for _ in range(repeats):
            for precision, network in loaded.items():
                begun = time.perf_counter()
                network.run(judged[0])
                seconds[precision].append(time.perf_counter() - begun)
    base = statistics.median(seconds["bf16"])
    for precision in PRECISIONS:
        pairs = list(zip(outputs[precision], outputs["fp32"], strict=True))
        rms = np.sqrt(sum(np.sum((a - b) ** 2) for a, b in pairs) / sum(np.sum(b**2) for _, b in pairs))
        same = np.mean([np.mean(a.argmax(axis=1) == b.argmax(axis=1)) for a, b in pairs])
        median, least = statistics.median(seconds[precision]), min(seconds[precision])
        print(f"| {name} | {precision} | {median:.3f} ({least:.3f}) | {base / median:.2f} × | {rms:.4f} | {same:.5f} |")


if __name__ == "__main__":
    main()
