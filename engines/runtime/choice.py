"""Which runtime this device uses, and why: the sentence stands in logs, in the birth message and on the box's page."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from core.errors import DeviceLost, EngineError
from engines.runtime import Runtime

if TYPE_CHECKING:
    from engines.runtime.gpu import TensorRtRuntime

Preference = Literal["auto", "tensorrt", "openvino", "onnx"]
Precision = Literal["auto", "fp32", "int8"]
_LIBRARY = {"openvino": "openvino", "onnx": "onnxruntime"}
_TENSORRT = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")


@dataclass(frozen=True)
class Choice:
    """A runtime ready for use, and one sentence that says why this one."""

    runtime: Runtime
    why: str


def choose(
    preference: Preference = "auto",
    threads: int = 0,
    precision: Precision = "auto",
    cache: Path | None = None,
    plans: Path | None = None,
    networks: Sequence[Path] = (),
) -> Choice:
    """The runtime to use. `auto` takes the fastest that can run here; a runtime named by a person is never replaced.

    threads: cores that one inference may use, 0 for all of this process. precision: fp32 forgoes bf16 and TF32 (slower,
    exact); int8 runs a bundle's int8 files where it has them, on OpenVINO only: ask golden cases before you trust it.
    cache: folder for compiled networks (OpenVINO), or None. plans: folder of TensorRT's plans, default
    `plans_folder()`. networks: ONNX files that it has to run: `auto` passes over TensorRT where one of them has no plan
    that may run here. EngineError where the wanted library, or the GPU for it, is not there.
    """
    cores = threads or available_cores()
    if precision == "int8":
        return _int8(preference, cores, cache)
    if preference == "tensorrt":
        return _tensorrt(preference, precision, plans)
    if preference == "auto":
        try:
            choice = _tensorrt(preference, precision, plans)
            for network in networks:
                choice.runtime.load(network)
            return choice
        except DeviceLost:
            raise
        except EngineError as error:
            choice = _on_cpu(preference, cores, precision, cache)
            return Choice(choice.runtime, f"{choice.why}; {error}")
    return _on_cpu(preference, cores, precision, cache)


def plans_folder() -> Path:
    """Where plans lie unless somebody says otherwise: ONESCAN_PLANS, or onescan/plans in the user's cache folder."""
    if named := os.environ.get("ONESCAN_PLANS"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onescan" / "plans"


def open_tensorrt(precision: Precision, plans: Path | None, *, trial: bool = False) -> TensorRtRuntime:
    """TensorRT on the first GPU. EngineError where the library or the GPU is not there.

    trial: it also runs plans that were not compared with the reference yet (`engines.build` compares them).
    """
    if not any(importlib.util.find_spec(name) for name in _TENSORRT):
        raise EngineError("TensorRT is not installed", remedy=_NO_TENSORRT)
    try:
        from engines.runtime import cuda
    except ImportError as error:
        raise EngineError(f"TensorRT needs pycuda, which can't be imported: {error}", remedy=_NO_TENSORRT) from error
    device = cuda.first_device()
    try:
        from engines.runtime import tensorrt
    except (ImportError, OSError) as error:
        raise EngineError(f"TensorRT can't be loaded: {error}", remedy=_NO_TENSORRT) from error
    from engines.runtime.gpu import TensorRtRuntime
    from engines.runtime.plans import Shelf

    return TensorRtRuntime(device, tensorrt, Shelf(plans or plans_folder()), tf32=precision != "fp32", trial=trial)


_NO_TENSORRT = "Install the extra `jetson` of onescan on a machine with an NVIDIA GPU, or choose another runtime."


def _tensorrt(preference: Preference, precision: Precision, plans: Path | None) -> Choice:
    runtime = open_tensorrt(precision, plans)
    asked = "asked for" if preference == "tensorrt" else "the fastest runtime installed"
    number = "fp32, as asked for" if precision == "fp32" else "at the precision of each network's file"
    return Choice(runtime, f"TensorRT on {runtime.device.identity.name} ({asked}); {number}")


def _on_cpu(preference: Preference, cores: int, precision: Precision, cache: Path | None) -> Choice:
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
        "int8": "int8, as asked for, in networks that have it",
        "fp32": "fp32, as asked for" if precision == "fp32" else "fp32, this CPU has no bf16",
    }[runtime.precision]
    return Choice(runtime, f"OpenVINO on {_counted(cores)} ({asked}); {number}")


def _int8(preference: Preference, cores: int, cache: Path | None) -> Choice:
    if preference not in ("auto", "openvino"):
        raise EngineError(
            f"{preference} does not run int8 files here", remedy="Choose runtime openvino or auto, or precision auto."
        )
    return _openvino("openvino", cores, "int8", cache)


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
