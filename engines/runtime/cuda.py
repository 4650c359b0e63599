"""The one module that calls CUDA, through pycuda's driver API. Every result is checked: pycuda raises if a call fails.

CUDA errors are of two kinds. Some belong to one call (no memory left, a bad argument); others (an illegal address, a
launch that failed or hung, uncorrectable memory) stay: the context is lost and every later call of the process reports
the same error. pycuda's exceptions don't tell which, so `checked` asks the context: does it still synchronise?

TensorRT works in the device's primary context; so do we.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy.typing as npt
import pycuda.driver as cuda

from core.errors import DeviceLost, EngineError
from engines.runtime.device import Argument, Event, Identity, Memory, Shape, Stream

_THREADS_A_BLOCK = 256
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, cuda.h
_MOST_BLOCKS = 2**31 - 1  # along x


@functools.cache
def first_device() -> CudaDevice:
    """The first GPU that the driver shows (CUDA_VISIBLE_DEVICES chooses). EngineError if there is none.

    Its context belongs to the thread that first asks.
    """
    try:
        cuda.init()
        if cuda.Device.count() == 0:
            raise EngineError("the CUDA driver shows no GPU", remedy=_NO_GPU)
        device = cuda.Device(0)
        context = device.retain_primary_context()
        context.push()
    except cuda.Error as error:
        raise EngineError(f"CUDA does not start: {error}", remedy=_NO_GPU) from error
    atexit.register(_leave, context)
    return CudaDevice(device, context)


_NO_GPU = "Check `nvidia-smi` (on a Jetson: `dmesg | grep -i nvgpu`), or choose another runtime."


class CudaDevice:
    """A GPU with its primary context. For one thread."""

    def __init__(self, device: Any, context: Any) -> None:
        self._context = context
        self._functions: dict[str, Any] = {}
        self._modules: list[Any] = []
        major, minor = device.compute_capability()
        self.identity = Identity(
            name=device.name(),
            capability=(major, minor),
            multiprocessors=device.get_attribute(cuda.device_attribute.MULTIPROCESSOR_COUNT),
            memory_mb=device.total_memory() >> 20,
            driver=cuda.get_driver_version(),
        )

    def free_bytes(self) -> int:
        """Device memory that is free now."""
        with self.checked("asking for free memory"):
            return int(cuda.mem_get_info()[0])

    def allocate(self, nbytes: int) -> Memory:
        """Device memory, aligned to 256 bytes at least (CUDA's promise)."""
        try:
            with self.checked(f"allocating {nbytes >> 20} MiB on the GPU"):
                return _DeviceMemory(cuda.mem_alloc(max(1, nbytes)), nbytes)
        except cuda.MemoryError as error:
            raise EngineError(
                f"the GPU has no {nbytes >> 20} MiB of memory left", remedy="End other programs that use the GPU."
            ) from error

    def pinned(self, shape: Shape, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Page-locked host memory."""
        try:
            with self.checked("locking host memory"):
                array: npt.NDArray[Any] = cuda.pagelocked_empty(shape, dtype)
                return array
        except cuda.MemoryError as error:
            raise EngineError(f"no memory can be locked for an array of {shape}") from error

    def stream(self) -> Stream:
        """A stream that does not wait for the default one."""
        with self.checked("making a stream"):
            return _Stream(self, cuda.Stream(_NON_BLOCKING))

    def record(self, stream: Stream) -> Event:
        """The point that `stream`'s work has come to."""
        with self.checked("recording an event"):
            event = cuda.Event()
            event.record(_raw(stream))
            return _Event(self, event)

    def wait(self, stream: Stream, event: Event) -> None:
        """Further work on `stream` begins only after `event`."""
        assert isinstance(event, _Event)
        with self.checked("waiting for an event"):
            _raw(stream).wait_for_event(event.raw)

    def upload(self, target: int, source: npt.NDArray[Any], stream: Stream) -> None:
        """Host to device."""
        with self.checked("copying to the GPU"):
            cuda.memcpy_htod_async(target, source, _raw(stream))

    def download(self, target: npt.NDArray[Any], source: int, stream: Stream) -> None:
        """Device to host."""
        with self.checked("copying from the GPU"):
            cuda.memcpy_dtoh_async(target, source, _raw(stream))

    def fill(self, target: int, byte: int, nbytes: int, stream: Stream) -> None:
        """Set bytes."""
        with self.checked("filling memory of the GPU"):
            cuda.memset_d8_async(target, byte, nbytes, _raw(stream))

    def load_kernels(self, image: bytes) -> None:
        """Keep a compiled module; its kernels are looked up by name when first launched."""
        with self.checked("loading the kernels"):
            self._modules.append(cuda.module_from_buffer(image))
        self._functions.clear()

    def launch(self, kernel: str, threads: int, arguments: Sequence[Argument], stream: Stream) -> None:
        """Run a kernel of a loaded module."""
        blocks = -(-threads // _THREADS_A_BLOCK)
        if not 0 < blocks <= _MOST_BLOCKS:
            raise EngineError(f"kernel {kernel} can't run with {threads} threads")
        with self.checked(f"launching {kernel}"):
            function = self._function(kernel)
            function(*arguments, grid=(blocks, 1), block=(_THREADS_A_BLOCK, 1, 1), stream=_raw(stream))

    def _function(self, kernel: str) -> Any:
        if kernel not in self._functions:
            if not self._modules:
                raise EngineError("the kernels were not loaded")
            self._functions[kernel] = self._modules[-1].get_function(kernel)
        return self._functions[kernel]

    @contextlib.contextmanager
    def checked(self, what: str) -> Iterator[None]:
        """Turn a CUDA error into ours; `cuda.MemoryError` goes on: the caller says of what there was too little."""
        try:
            yield
        except cuda.Error as error:
            if self._is_lost():
                raise DeviceLost(f"{what} failed, and the GPU is lost to this process: {error}") from error
            if isinstance(error, cuda.MemoryError):
                raise
            raise EngineError(f"{what} failed: {error}") from error

    def _is_lost(self) -> bool:
        try:
            self._context.synchronize()
        except cuda.Error:
            return True
        return False


class _DeviceMemory:
    def __init__(self, allocation: Any, nbytes: int) -> None:
        self._allocation = allocation  # pycuda frees it with this object; cuMemFree waits for work that uses it
        self.address = int(allocation)
        self.nbytes = nbytes


class _Stream:
    def __init__(self, device: CudaDevice, raw: Any) -> None:
        self._device = device
        self.raw = raw
        self.handle = int(raw.handle)

    def synchronize(self) -> None:
        with self._device.checked("the work on a stream"):
            self.raw.synchronize()


class _Event:
    def __init__(self, device: CudaDevice, raw: Any) -> None:
        self._device = device
        self.raw = raw

    def synchronize(self) -> None:
        with self._device.checked("the work before an event"):
            self.raw.synchronize()

    def seconds_since(self, earlier: Event) -> float:
        assert isinstance(earlier, _Event)
        with self._device.checked("reading the GPU's clock"):
            return float(self.raw.time_since(earlier.raw)) / 1000


def _raw(stream: Stream) -> Any:
    assert isinstance(stream, _Stream)
    return stream.raw


def _leave(context: Any) -> None:
    with contextlib.suppress(cuda.Error):  # a lost context can't be left in order
        context.pop()
