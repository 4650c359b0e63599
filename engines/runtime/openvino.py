"""OpenVINO on the CPU: bf16 where the processor computes in it, fp32 elsewhere. One inference request at a time.

At precision int8 the cascade loads the bundle's int8 files where it has them; what is float in them is bf16 or fp32.

A network is compiled for each image shape that it meets (0.05 s for a small U-Net; static shapes run up to 1.7 times as
fast as dynamic ones); the last few are kept, because tiles always have the same shape and volumes seldom do.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openvino as ov

from core.errors import EngineError
from engines.runtime import Tensor
from engines.runtime.host import OnHost
from engines.runtime.trust import check_image, check_interface, check_logits, poisoned

_DEVICE = "CPU"
_KEPT_SHAPES = 3
Precision = Literal["auto", "fp32", "bf16", "int8"]


class OpenVinoRuntime(OnHost):
    """threads: how many cores one inference uses. precision: auto takes bf16 if the CPU has it; int8: int8 files."""

    name = "openvino"

    def __init__(self, threads: int, precision: Precision = "auto", cache: Path | None = None) -> None:
        self._core = ov.Core()
        has_bf16 = "BF16" in self._core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and not has_bf16:
            raise EngineError(
                f"{self._core.get_property(_DEVICE, 'FULL_DEVICE_NAME')} does not compute in bf16",
                remedy="Choose precision auto or fp32.",
            )
        floats = "bf16" if has_bf16 and precision != "fp32" else "fp32"
        self.precision = "int8" if precision == "int8" else floats
        self._options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if floats == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        if cache is not None:
            self._options["CACHE_DIR"] = str(cache)

    def load(self, onnx: Path) -> OpenVinoNetwork:
        """Read an ONNX file; it is compiled when the first image's shape is known."""
        try:
            model = self._core.read_model(onnx)
            check_interface(
                [(port.any_name, port.partial_shape.rank.get_length()) for port in model.inputs],
                [(port.any_name, port.partial_shape.rank.get_length()) for port in model.outputs],
            )
        except RuntimeError as error:
            raise _engine_error(f"OpenVINO can't read {onnx.name[:12]}", error) from error
        return OpenVinoNetwork(self._core, model, self._options)


class OpenVinoNetwork:
    """One network, compiled for the shapes that it met."""

    def __init__(self, core: ov.Core, model: ov.Model, options: dict[str, Any]) -> None:
        self._core = core
        self._model = model
        self._options = options
        channels = model.input(0).partial_shape[1]
        self._channels = channels.get_length() if channels.is_static else 1
        self._requests: OrderedDict[tuple[int, ...], tuple[ov.InferRequest, tuple[int, ...]]] = OrderedDict()

    def prepare(self, shape: tuple[int, int, int]) -> None:
        """Compile for images of this shape (z, y, x), unless that was done."""
        if shape in self._requests:
            self._requests.move_to_end(shape)
            return
        try:
            model = self._model.clone()
            model.reshape([1, self._channels, *shape])
            compiled = self._core.compile_model(model, _DEVICE, self._options)
            output = tuple(compiled.output(0).shape)
            self._requests[shape] = (compiled.create_infer_request(), output)
        except RuntimeError as error:
            raise _engine_error(f"OpenVINO can't compile the network for {shape}", error) from error
        while len(self._requests) > _KEPT_SHAPES:
            self._requests.popitem(last=False)

    def run(self, image: Tensor) -> Tensor:
        """Logits of an image, written into a buffer that was poisoned before."""
        check_image(image)
        z, y, x = image.shape[2:]
        self.prepare((z, y, x))
        request, shape = self._requests[(z, y, x)]
        logits = poisoned(shape)
        image = np.ascontiguousarray(image)  # a shared tensor does not keep its array alive: this name does
        try:
            request.set_output_tensor(ov.Tensor(logits, shared_memory=True))
            request.set_input_tensor(ov.Tensor(image, shared_memory=True))
            request.infer()
        except RuntimeError as error:
            raise _engine_error("OpenVINO did not run the network", error) from error
        check_logits(logits, image)
        return logits


def _engine_error(what: str, error: RuntimeError) -> EngineError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return EngineError(f"{what}: {lines[-1] if lines else type(error).__name__}"[:500])
