"""`pycuda.driver` over the simulated GPU: as much of it as `engines.runtime.cuda` calls, with pycuda's own signatures.

Made after pycuda's source (wrap_cudadrv.cpp, cuda.hpp and driver.py of 2026.1): what returns what, which class an error
has, how a launch packs its arguments. It proves our module against that reading, not against a GPU.
"""

from __future__ import annotations

import contextlib
import importlib.util
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from core.errors import DeviceLost, EngineError
from tests.engines.runtime.gpu.simulator import SimulatedDevice

CUDA = Path(__file__).parents[4] / "engines" / "runtime" / "cuda.py"


class Error(Exception):
    pass


class LogicError(Error):
    pass


class OutOfMemory(Error):
    pass


@contextlib.contextmanager
def errors(routine: str) -> Iterator[None]:
    """As pycuda's translate_cuda_error: an illegal address is a LogicError like any other bad argument."""
    try:
        yield
    except DeviceLost as lost:
        raise LogicError(f"{routine} failed: an illegal memory access was encountered") from lost
    except EngineError as error:
        raise OutOfMemory(f"{routine} failed: out of memory") from error


def driver(gpu: SimulatedDevice) -> ModuleType:
    """A module to stand for `pycuda.driver`."""
    module = ModuleType("pycuda.driver")
    names = {"Error": Error, "LogicError": LogicError, "MemoryError": OutOfMemory}
    names |= {"init": lambda flags=0: None, "get_driver_version": lambda: gpu.identity.driver}
    names |= {"device_attribute": SimpleNamespace(MULTIPROCESSOR_COUNT=16), "Device": _device_class(gpu)}
    names |= {"Stream": _stream_class(gpu), "Event": _event_class(gpu)}
    names |= _memory(gpu) | {"module_from_buffer": lambda buffer: _Module(gpu, bytes(buffer))}
    for name, value in names.items():
        setattr(module, name, value)
    return module


@contextlib.contextmanager
def cuda_over(gpu: SimulatedDevice) -> Iterator[ModuleType]:
    """`engines.runtime.cuda`, loaded afresh over the double."""
    kept = {name: sys.modules.get(name) for name in ("pycuda", "pycuda.driver")}
    package = ModuleType("pycuda")
    package.driver = driver(gpu)  # type: ignore[attr-defined]
    sys.modules.update({"pycuda": package, "pycuda.driver": package.driver})
    try:
        spec = importlib.util.spec_from_file_location("cuda_over_a_double", CUDA)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        for name, before in kept.items():
            if before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = before


def _device_class(gpu: SimulatedDevice) -> type:
    class Context:
        def push(self) -> None:
            pass

        @staticmethod
        def pop() -> None:
            pass

        @staticmethod
        def synchronize() -> None:
            with errors("cuCtxSynchronize"):
                gpu.check_alive()
                for stream in gpu.streams:
                    stream.synchronize()

    class Device:
        def __init__(self, ordinal: int) -> None:
            assert ordinal == 0

        @staticmethod
        def count() -> int:
            return 1

        def name(self) -> str:
            return gpu.identity.name

        def compute_capability(self) -> tuple[int, int]:
            return gpu.identity.capability

        def total_memory(self) -> int:
            return gpu.identity.memory_mb << 20

        def get_attribute(self, attribute: int) -> int:
            return attribute

        def retain_primary_context(self) -> Context:
            return Context()

    return Device


def _stream_class(gpu: SimulatedDevice) -> type:
    class Stream:
        def __init__(self, flags: int = 0) -> None:
            assert flags == 1  # a stream that waited for the default one would overlap with nothing
            with errors("cuStreamCreate"):
                gpu.check_alive()
                self.simulated = gpu.stream()
            self.handle = self.simulated.handle

        def synchronize(self) -> None:
            with errors("cuStreamSynchronize"):
                self.simulated.synchronize()

        def wait_for_event(self, event: Any) -> None:
            with errors("cuStreamWaitEvent"):
                gpu.wait(self.simulated, event.simulated)

    return Stream


def _event_class(gpu: SimulatedDevice) -> type:
    class Event:
        def __init__(self, flags: int = 0) -> None:
            self.simulated: Any = None

        def record(self, stream: Any = None) -> Event:
            with errors("cuEventRecord"):
                self.simulated = gpu.record(stream.simulated)
            return self

        def synchronize(self) -> Event:
            with errors("cuEventSynchronize"):
                self.simulated.synchronize()
            return self

        def time_since(self, start: Event) -> float:
            return 1000 * self.simulated.seconds_since(start.simulated)

    return Event


def _memory(gpu: SimulatedDevice) -> dict[str, Any]:
    class DeviceAllocation:
        def __init__(self, nbytes: int) -> None:
            assert nbytes > 0  # cuMemAlloc refuses 0
            self._memory = gpu.allocate(nbytes)

        def __int__(self) -> int:
            return self._memory.address

    def mem_alloc(nbytes: int) -> DeviceAllocation:
        with errors("cuMemAlloc"):
            return DeviceAllocation(nbytes)

    def memcpy_htod_async(dest: int, src: Any, stream: Any = None) -> None:
        with errors("cuMemcpyHtoDAsync"):
            gpu.upload(dest, src, stream.simulated)

    def memcpy_dtoh_async(dest: Any, src: int, stream: Any = None) -> None:
        with errors("cuMemcpyDtoHAsync"):
            gpu.download(dest, src, stream.simulated)

    def memset_d8_async(dest: int, data: int, size: int, stream: Any = None) -> None:
        with errors("cuMemsetD8Async"):
            gpu.fill(dest, data, size, stream.simulated)

    def pagelocked_empty(shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> Any:
        with errors("cuMemHostAlloc"):
            return gpu.pinned(shape, dtype)

    def mem_get_info() -> tuple[int, int]:
        return gpu.free_bytes(), gpu.identity.memory_mb << 20

    return {
        "mem_alloc": mem_alloc,
        "memcpy_htod_async": memcpy_htod_async,
        "memcpy_dtoh_async": memcpy_dtoh_async,
        "memset_d8_async": memset_d8_async,
        "pagelocked_empty": pagelocked_empty,
        "mem_get_info": mem_get_info,
    }


class _Module:
    def __init__(self, gpu: SimulatedDevice, image: bytes) -> None:
        self._gpu = gpu
        gpu.load_kernels(image)

    def get_function(self, name: str) -> _Function:
        if not hasattr(self._gpu._library, f"launch_{name}"):
            raise LogicError("cuModuleGetFunction failed: named symbol not found")
        return _Function(self._gpu, name)


class _Function:
    def __init__(self, gpu: SimulatedDevice, name: str) -> None:
        self._gpu, self._name = gpu, name

    def __call__(self, *arguments: Any, grid: Any, block: Any, stream: Any) -> None:
        assert grid[1:] == (1,)
        assert block == (256, 1, 1)  # as kernels.cu is compiled for the host
        read = _as_the_kernel_reads(_packed(arguments), arguments)
        with errors("cuLaunchKernel"):
            self._gpu.launch(self._name, grid[0] * block[0], read, stream.simulated)


def _packed(arguments: Any) -> bytes:
    """As pycuda's _build_arg_buf, which packs by the `struct` module's native rules."""
    form, values = "", []
    for argument in arguments:
        if isinstance(argument, np.number):
            form, values = form + argument.dtype.char, [*values, argument]
        elif isinstance(argument, np.void):
            form, values = f"{form}{argument.itemsize}s", [*values, bytes(memoryview(argument))]
        else:
            raise TypeError(f"invalid type on parameter: {type(argument)}")
    return struct.pack(form, *values)


def _as_the_kernel_reads(buffer: bytes, arguments: Any) -> list[Any]:
    """The arguments at the offsets of a C structure: structures of int32 are aligned to 4, numbers to their size."""
    offset, read = 0, []
    for argument in arguments:
        alignment = 4 if argument.dtype.fields else argument.itemsize
        offset += -offset % alignment
        read.append(np.frombuffer(buffer, argument.dtype, 1, offset)[0])
        offset += argument.itemsize
    return read
