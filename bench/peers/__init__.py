"""The programs that `bench.engines` runs against each other, each in a process of its own.

    model     nnU-Net's own trainer makes and saves a model folder             .venv-referees
    nnunet    nnU-Net v2's own predictor                                       .venv-referees
    sliding   MONAI's Spacing and SlidingWindowInferer around the same network .venv-referees
    ours      the bundle that `onescan-engines import nnunet` made             .venv

`python -m bench.peers.NAME JOB.json` prints one line of JSON: `seconds` from HU volume in memory to labels in memory,
on the volume's own grid, the first time in that process (ours reads and compiles its ONNX file within, the others have
their weights before); `cpu_s`, what all its threads took; `parts` of the seconds; `peak_mb`, VmHWM of the process.
Nothing is written meanwhile. job: model, bundle, volume (.npy, int16), spacing_mm, labels (where to write them
afterwards), threads, mirror, precision.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.uint8]
STEP = 0.5
"""Of a tile, for everybody: nnU-Net's default."""


def run(
    prepare: Callable[[dict[str, Any], npt.NDArray[np.int16]], Callable[[dict[str, float]], Labels]],
) -> None:
    """Read the job and the volume, prepare (weights), time one run, write labels, print what was found."""
    job = json.loads(Path(sys.argv[1]).read_text())
    segment = prepare(job, np.load(job["volume"]))
    parts: dict[str, float] = {}
    begun, busy = time.perf_counter(), time.process_time()
    labels = segment(parts)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - busy
    peak = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    np.save(job["labels"], labels)
    print(
        json.dumps({"seconds": seconds, "cpu_s": cpu, "parts": parts, "peak_mb": int(peak.split()[1]) / 1024}),
        flush=True,
    )


class Parts:
    """Stopwatch: `note` gives the time since the last note, or since the beginning, to a part."""

    def __init__(self, parts: dict[str, float]) -> None:
        self._parts, self._last = parts, time.perf_counter()

    def note(self, name: str) -> None:
        """The time since the last note was `name`."""
        now = time.perf_counter()
        self._parts[name] = self._parts.get(name, 0.0) + now - self._last
        self._last = now
