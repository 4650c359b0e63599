"""A network of the manifest, its folds loaded: what it needs of memory, how it slides, how it classifies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from core.errors import EngineError
from core.volume import Index
from engines import manifest
from engines.cascade.budget import Watch
from engines.cascade.orientation import AxisOrder, axis_order
from engines.runtime import Activation, Network, Runtime, Tensor, Window
from engines.runtime.host import activated

Float = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LoadedNetwork:
    """The folds of one network, on one runtime."""

    spec: manifest.Network
    folds: tuple[Network, ...]
    runtime: Runtime

    @property
    def axes(self) -> AxisOrder:
        """Its axes against the canonical ones."""
        return axis_order(self.spec.axes)

    @property
    def blended(self) -> Activation:
        """What is applied to logits before they are averaged."""
        return self.spec.activation if self.spec.blend == "probabilities" else "none"

    def mirrorings(self) -> Iterator[Index]:
        """For every mirrored run 1 at each axis that is mirrored; the plain run first."""
        z, y, x = ((0, 1) if axis in self.spec.mirror else (0,) for axis in ("z", "y", "x"))
        return product(z, y, x)

    def window(self, size: Index, fill: tuple[float, ...], keep: tuple[int, ...] | None = None) -> Window:
        """How its tiles are cut and blended. keep: channels that are wanted, where probabilities are blended."""
        tiling = self.spec.tiling
        return Window(
            size=size,
            channels=len(self.spec.labels),
            fill=fill,
            centred=tiling.kind == "patch" and tiling.pad == "zero_centred",
            activation=self.blended,
            runs=len(self.folds) * 2 ** len(self.spec.mirror),
            keep=keep if self.blended != "none" else None,
            floor=tiling.floor if tiling.kind == "patch" and tiling.gaussian else 0.0,
        )

    def scores(self, image: Float, watch: Watch) -> Float:
        """Probability of each label, (C,) float32, of an image (I, Z, Y, X) in its own axes; its folds averaged."""
        total = np.zeros(len(self.spec.labels), dtype=np.float32)
        runs = 0
        for flips in self.mirrorings():
            axes = tuple(axis + 1 for axis, flip in enumerate(flips) if flip)
            turned = np.ascontiguousarray(np.flip(image, axes))[None]
            for fold in self.folds:
                watch.check()
                total += activated(self._scored(fold, turned, watch), self.blended)
                runs += 1
        mean = total / np.float32(runs)
        return mean if self.blended != "none" else activated(mean, self.spec.activation)

    def _scored(self, fold: Network, image: Tensor, watch: Watch) -> Float:
        z, y, x = image.shape[2:]
        with watch.timed("compile"):
            fold.prepare((z, y, x))
        with watch.timed("network"):
            logits = fold.run(image)
        if logits.shape != (1, len(self.spec.labels)):
            raise EngineError(
                f"network {self.spec.id} gives {logits.shape}, the manifest names {len(self.spec.labels)} labels"
            )
        scores: Float = logits[0]
        return scores

    def memory_bytes(self, size: Index, channels: int = 1) -> int:
        """Bytes that running it on an image of this size takes: image, logits, activations."""
        voxels = size[0] * size[1] * size[2]
        return voxels * (4 * channels + 8 * len(self.spec.labels) + self.spec.bytes_per_voxel)
