"""Which runtime this device uses, and why: the sentence stands in logs, in the birth message and on the box's page."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.errors import EngineError
from engines.runtime import Runtime

Preference = Literal["auto", "openvino", "onnx"]
Precision = Literal["auto", "fp32"]
_LIBRARY = {"openvino": "openvino", "onnx": "onnxruntime"}


@dataclass(frozen=True)
class Choice:
    """A runtime ready for use, and one sentence that says why this one."""

    runtime: Runtime
    why: str


def choose(
    preference: Preference = "auto", threads: int = 0, precision: Precision = "auto", cache: Path | None = None
) -> Choice:
    """The runtime to use. `auto` takes the fastest that is installed; a runtime named by a person is never replaced.

    threads: cores that one inference may use, 0 for all of this process. precision: fp32 forgoes bf16 (slower, exact).
    cache: folder for compiled networks (OpenVINO), or None. EngineError where the wanted library is not installed.
    """
    cores = threads or available_cores()
    if preference == "openvino" or (preference == "auto" and _installed("openvino")):
        return _openvino(preference, cores, precision, cache)
    if preference == "onnx" or _installed("onnx"):
        return _onnx(preference, cores)
    raise EngineError("neither OpenVINO nor ONNX Runtime is installed", remedy="Install the extra `cpu` of onescan.")


def available_cores() -> int:
    """Cores that this process may use (containers and systemd restrict them)."""
    return len(os.sched_getaffinity(0))


def _installed(name: str) -> bool:
    return importlib.util.find_spec(_LIBRARY[name]) is not None


def _openvino(preference: Preference, cores: int, precision: Precision, cache: Path | None) -> Choice:
    try:
        from engines.runtime.openvino import OpenVinoRuntime
    except ImportError as error:
        raise _missing("openvino", error) from error
    runtime = OpenVinoRuntime(cores, precision, cache)
    asked = "asked for" if preference == "openvino" else "the fastest runtime installed"
    number = {
        "bf16": "bf16, which this CPU computes in",
        "fp32": "fp32, as asked for" if precision == "fp32" else "fp32, this CPU has no bf16",
    }[runtime.precision]
    return Choice(runtime, f"OpenVINO on {_counted(cores)} ({asked}); {number}")


def _onnx(preference: Preference, cores: int) -> Choice:
    try:
        from engines.runtime.onnx import OnnxRuntime
    except ImportError as error:
        raise _missing("onnx", error) from error
    asked = "asked for" if preference == "onnx" else "OpenVINO is not installed"
    return Choice(OnnxRuntime(cores), f"ONNX Runtime on {_counted(cores)} ({asked}); fp32")


def _counted(cores: int) -> str:
    return "1 core" if cores == 1 else f"{cores} cores"


def _missing(name: str, error: ImportError) -> EngineError:
    return EngineError(
        f"{_LIBRARY[name]} can't be imported: {error}", remedy="Install the extra `cpu` of onescan, or choose auto."
    )
