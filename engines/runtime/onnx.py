"""ONNX Runtime on the CPU, fp32: runs on every processor; other runtimes are compared with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from core.errors import EngineError
from engines.runtime import Tensor
from engines.runtime.host import OnHost
from engines.runtime.trust import INPUT, OUTPUT, check_image, check_interface, check_logits, poisoned

# All of ONNX Runtime's exceptions derive straight from Exception, and which there are differs between versions.
_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(kind for kind in vars(ort_errors).values() if isinstance(kind, type) and issubclass(kind, Exception)),
)


class OnnxRuntime(OnHost):
    """threads: how many cores one inference uses."""

    name = "onnx"
    precision = "fp32"

    def __init__(self, threads: int) -> None:
        self._options = ort.SessionOptions()
        self._options.intra_op_num_threads = threads
        self._options.inter_op_num_threads = 1
        # The arena keeps the largest study's memory for ever; without it a run gives back what it took.
        self._options.enable_cpu_mem_arena = False
        self._options.log_severity_level = 4  # errors reach us as exceptions

    def load(self, onnx: Path) -> OnnxNetwork:
        """Read an ONNX file and prepare it."""
        try:
            session = ort.InferenceSession(str(onnx), self._options, providers=["CPUExecutionProvider"])
        except _ERRORS as error:
            raise _engine_error(f"ONNX Runtime can't read {onnx.name[:12]}", error) from error
        check_interface(
            [(port.name, len(port.shape)) for port in session.get_inputs()],
            [(port.name, len(port.shape)) for port in session.get_outputs()],
        )
        return OnnxNetwork(session)


class OnnxNetwork:
    """One network in an ONNX Runtime session."""

    def __init__(self, session: Any) -> None:
        self._session = session
        output = session.get_outputs()[0].shape
        self._channels = output[1] if isinstance(output[1], int) else None
        self._gives_a_map = len(output) == 5

    def prepare(self, shape: tuple[int, int, int]) -> None:
        """Nothing: ONNX Runtime does not specialise for a shape."""

    def run(self, image: Tensor) -> Tensor:
        """Logits of an image, written into a buffer that was poisoned before where the file names its channels."""
        check_image(image)
        image = np.ascontiguousarray(image)
        try:
            if self._channels is None:
                logits: Tensor = self._session.run([OUTPUT], {INPUT: image})[0]
            else:
                logits = poisoned((1, self._channels, *(image.shape[2:] if self._gives_a_map else ())))
                self._run_into(logits, image)
        except _ERRORS as error:
            raise _engine_error("ONNX Runtime did not run the network", error) from error
        check_logits(logits, image)
        return logits

    def _run_into(self, logits: Tensor, image: Tensor) -> None:
        binding = self._session.io_binding()
        binding.bind_input(INPUT, "cpu", 0, np.float32, image.shape, image.ctypes.data)
        binding.bind_output(OUTPUT, "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        self._session.run_with_iobinding(binding)


def _engine_error(what: str, error: Exception) -> EngineError:
    lines = str(error).splitlines()
    return EngineError(f"{what}: {lines[0] if lines else type(error).__name__}"[:500])
