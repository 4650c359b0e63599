"""Run a network on this device. A float32 image in, float32 logits out that can be trusted, or an `EngineError`.

`choice.choose` picks a runtime and says why; each runtime is one module (`openvino`, `onnx`), the only one that imports
its library. A runtime checks what the library returns: a wrong shape, a NaN, a part that was never written or an output
of zeros is a failure, because downstream it would look like "no lesion".
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

Tensor = npt.NDArray[np.float32]
"""Float32 (1, channels, z, y, x), C order."""


class Network(Protocol):
    """One loaded network. Not for several threads at once."""

    def prepare(self, shape: tuple[int, int, int]) -> None:
        """Do now what the first run on an image of this shape (z, y, x) would do: compile, allocate. EngineError."""

    def run(self, image: Tensor) -> Tensor:
        """Logits (1, C, Z, Y, X) of an image (1, 1, Z, Y, X). EngineError if they can't be trusted."""


class Runtime(Protocol):
    """A way to run networks. name: as in results and logs; precision: fp32, bf16, fp16 ..."""

    @property
    def name(self) -> str: ...

    @property
    def precision(self) -> str: ...

    def load(self, onnx: Path) -> Network:
        """Read an ONNX file. EngineError if it is none or this runtime can't run it."""
