"""A loaded network together with what the manifest says of it: checked against that, and timed."""

from __future__ import annotations

from core.errors import EngineError
from core.volume import Index
from engines import manifest
from engines.cascade.budget import Watch
from engines.runtime import Network, Tensor


class MeasuredNetwork:
    """Runs a network, checks that it has the manifest's channels, and counts its pure time as "network"."""

    def __init__(self, network: Network, spec: manifest.Network) -> None:
        self._network = network
        self.spec = spec
        if not isinstance(spec.intensity, manifest.Clip) or spec.tiling.kind not in ("whole", "patch"):
            raise EngineError(f"network {spec.id}: this release runs intensity clip and tiling whole or patch")
        self.intensity, self.tiling = spec.intensity, spec.tiling

    def run(self, image: Tensor, watch: Watch) -> Tensor:
        """Logits (1, C, Z, Y, X). EngineError if they can't be trusted or are not the manifest's labels."""
        z, y, x = image.shape[2:]
        with watch.timed("compile"):
            self._network.prepare((z, y, x))
        with watch.timed("network"):
            logits = self._network.run(image)
        if logits.shape[1] != len(self.spec.labels):
            raise EngineError(
                f"network {self.spec.id} gives {logits.shape[1]} channels, the manifest names {len(self.spec.labels)}"
            )
        return logits

    def memory_bytes(self, shape: Index) -> int:
        """Bytes that running it on an image of this shape takes: image, logits, activations, label map."""
        voxels = shape[0] * shape[1] * shape[2]
        return voxels * (4 + 8 * len(self.spec.labels) + self.spec.bytes_per_voxel)
