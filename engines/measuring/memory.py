"""Peak memory: of a stretch of this process, and of one network in a process of its own.

python -m engines.measuring.memory RUNTIME PRECISION THREADS ONNX CHANNELS Z Y X
"""

from __future__ import annotations

import ctypes
import json
import math
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from core.errors import EngineError
from core.volume import Index
from engines.bundle import Bundle
from engines.cascade.segment import label_count
from engines.manifest import Manifest, Network
from engines.measuring.graphs import GEMM_CHANNELS, GEMM_SHAPE, gemm
from engines.runtime.choice import Precision, available_cores, choose

MARGIN = 1.25
"""What a manifest says, over what was measured: numbers of threads, sizes of tiles and releases of one runtime make a
difference, which docs/models.md has measured."""
_STATUS = Path("/proc/self/status")
_PATIENCE_S = 600
_TORSO_MM = {"S": 600.0, "I": 600.0, "P": 300.0, "A": 300.0, "L": 400.0, "R": 400.0}
_MOST_VOXELS = 1 << 20
_LIBRARIES = {"onnx": "onnxruntime", "openvino": "openvino"}


def peak_bytes(field: str = "VmHWM") -> int:
    """Resident bytes of this process: the peak since `forget_peak` (VmHWM), or now (VmRSS)."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def forget_peak() -> int:
    """Begin a new peak (proc(5), clear_refs); the resident bytes it begins at.

    What the allocator holds in reserve goes back first, or the next work would live on it and seem to need nothing.
    """
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:  # glibc's
        trim(0)
    with Path("/proc/self/clear_refs").open("w") as file:  # a switch of the kernel's, no file
        file.write("5")
    return peak_bytes("VmRSS")


def bytes_per_voxel(
    bundle: Bundle, spec: Network, size: Index, runtime: str, precision: Precision, threads: int
) -> int:
    """What loading and running a network on an image of `size` adds to a process, per input voxel.

    As the manifest's `bytes_per_voxel` means it: beside image and logits, which are counted by themselves, with weights
    and compiled code, which are not. The largest of its folds.
    """
    channels = input_channels(bundle.manifest, spec)
    voxels = size[0] * size[1] * size[2]
    per_voxel = []
    for name in spec.int8_files if precision == "int8" and spec.int8_files else spec.files:
        taken = _in_a_process(bundle.path(name), channels, size, (runtime, precision, str(threads)))
        per_voxel.append(-(-taken // voxels) - 4 * channels - (0 if spec.classifies else 4 * len(spec.labels)))
    return max(1, *per_voxel)


def largest_bytes_per_voxel(bundle: Bundle, spec: Network, runs: int = 1) -> int:
    """`bytes_per_voxel` at `measured_size` in fp32 on whichever CPU runtime takes more: what a device may have to pay.

    runs: how often each is asked; ONNX Runtime's pool grows differently from run to run. The largest counts.
    EngineError where no runtime is installed, or the kernel tells no process its peak.
    """
    size = measured_size(spec)
    installed = [name for name in ("onnx", "openvino") if find_spec(_LIBRARIES[name]) is not None]
    if not installed:
        raise EngineError("memory can't be measured without a runtime", remedy="pip install 'onescan[cpu]'")
    return max(bytes_per_voxel(bundle, spec, size, name, "fp32", available_cores()) for name in installed * runs)


def with_memory(
    bundle: Bundle,
    ids: Collection[str] | None = None,
    say: Callable[[str], None] = lambda line: None,
    runs: int = 1,
) -> tuple[Network, ...]:
    """The bundle's networks, those of `ids` (None: all) with what they take here and the margin; same files once."""
    found: dict[tuple[object, ...], int] = {}
    networks = []
    for spec in bundle.manifest.networks:
        if ids is not None and spec.id not in ids:
            networks.append(spec)
            continue
        key = (spec.files, spec.after, spec.further_channels, measured_size(spec))
        if key not in found:
            say(f"{spec.id}: measuring its memory")
            found[key] = with_margin(largest_bytes_per_voxel(bundle, spec, runs))
            say(f"{spec.id}: {found[key]} bytes a voxel, with a margin of at least {MARGIN - 1:.0%}")
        networks.append(spec.model_copy(update={"bytes_per_voxel": found[key]}))
    return tuple(networks)


def with_margin(measured: int) -> int:
    """What a manifest should say where this was measured: `MARGIN` times it, rounded up to three binary digits.

    Rounded so that two imports of one model give the same bundle as a rule: measurements differ by a few pages.
    """
    wanted = math.ceil(measured * MARGIN)
    step = 1 << max(0, wanted.bit_length() - 3)
    return -(-wanted // step) * step


def measured_size(spec: Network) -> Index:
    """Voxels (z, y, x) that stand for what the network will see: its tile, else a torso at its spacing.

    A torso of more than 2^20 voxels is shrunk to that: bytes a voxel fall with size, as weights are among them.
    """
    if spec.tiling.kind != "whole":
        return spec.tiling.size
    lengths = [_TORSO_MM[letter] / mm for letter, mm in zip(spec.axes, spec.spacing_mm, strict=True)]
    shrunk = min(1.0, (_MOST_VOXELS / math.prod(lengths)) ** (1 / 3))
    step = spec.tiling.pad_multiple
    z, y, x = (step * max(1, round(length * shrunk / step)) for length in lengths)
    return (z, y, x)


def input_channels(manifest: Manifest, spec: Network) -> int:
    """Channels that the cascade feeds a network: the scan, the labels of the one before, mask and references."""
    before = 0 if spec.after is None else label_count(manifest.network(spec.after))
    return 1 + before + spec.further_channels


def _in_a_process(onnx: Path, channels: int, size: Index, choice: Sequence[str]) -> int:
    command = [sys.executable, "-m", "engines.measuring.memory", *choice, str(onnx), *map(str, (channels, *size))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise EngineError(f"memory could not be measured: {lines[-1] if lines else done.returncode}")
    return int(json.loads(done.stdout)["bytes"])


def main() -> None:
    """The child: libraries warm first, so that only the network itself is counted."""
    runtime_name, precision, threads, onnx, *numbers = sys.argv[1:]
    channels, z, y, x = map(int, numbers)
    runtime = choose(runtime_name, int(threads), precision).runtime  # type: ignore[arg-type]
    _warm(runtime.load)
    image = np.random.default_rng(0).standard_normal((1, channels, z, y, x)).astype(np.float32)
    begun = forget_peak()
    network = runtime.load(Path(onnx))
    network.prepare((z, y, x))
    logits = network.run(image)
    print(json.dumps({"bytes": peak_bytes() - begun, "logits": list(logits.shape)}))


def _warm(load: object) -> None:
    import tempfile

    from core import durable

    with tempfile.TemporaryDirectory(prefix="onescan-") as folder:
        path = Path(folder) / "gemm"
        durable.write_bytes(path, gemm())
        network = load(path)  # type: ignore[operator]
        network.run(np.ones((1, GEMM_CHANNELS, *GEMM_SHAPE), dtype=np.float32))


if __name__ == "__main__":
    main()
