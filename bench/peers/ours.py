"""Our bundle of the same weights, through `engines.cascade`: nnU-Net's splines, tiles, averages and label rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.peers import Labels, run
from core.volume import Geometry, Volume
from engines.bundle import open_bundle
from engines.cascade import Budget
from engines.cascade.whole import segment_volume, the_network
from engines.runtime.choice import choose

_PARTS = {
    "preprocess": "resampling in, normalising",
    "compile": "compiling",
    "network": "tiles and network",
    "blend": "tiles and network",
    "labels": "logits to the scan's grid, labels",
}


def prepare(job: dict[str, Any], hu: Any) -> Any:
    """The bundle and the runtime."""
    bundle = open_bundle(Path(job["bundle"]))
    runtime = choose("auto", job["threads"], "fp32" if job["precision"] == "fp32" else "auto").runtime
    volume = Volume(hu, Geometry(hu.shape, tuple(job["spacing_mm"]), (0.0, 0.0, 0.0)))
    unlimited = Budget(deadline_s=1e9, memory_mb=1e9)

    def segment(parts: dict[str, float]) -> Labels:
        found = segment_volume(bundle, the_network(bundle.manifest), runtime, volume, unlimited)
        for name, part in _PARTS.items():
            parts[part] = parts.get(part, 0.0) + found.seconds.get(name, 0.0)
        return found.labels

    return segment


if __name__ == "__main__":
    run(prepare)
