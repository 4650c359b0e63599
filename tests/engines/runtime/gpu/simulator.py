"""A GPU made of a CPU: implements `engines.runtime.device.Device`, and runs the real kernels' text.

It is a stricter GPU than any real one. Work is done as late, as early or as randomly as streams and events permit, so
that a missing event or a buffer that is used again too soon gives a wrong result in some order. New memory is poison,
and so is memory that nobody holds any more. Each allocation lies between guards that `check` looks at.
"""

from __future__ import annotations

import ctypes
import random
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from core.errors import DeviceLost, EngineError
from engines.runtime import kernels
from engines.runtime.device import Argument, Event, Identity, Memory, Shape, Stream
from engines.runtime.gpu import TensorRtRuntime
from engines.runtime.plans import Profile, Shelf

if TYPE_CHECKING:
    from engines.runtime.cuda import CudaDevice

KERNELS = Path(__file__).parents[4] / "engines" / "runtime" / "kernels"
Order = Literal["late", "early", "random"]
_GUARD = 4096
_GUARD_BYTE = 0xA5


def compile_for_host(folder: Path) -> ctypes.CDLL:
    """The kernels as a shared library for this CPU."""
    library = folder / "kernels.so"
    source = Path(__file__).with_name("host.cpp")
    command = ["g++", "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-shared", "-fPIC"]
    subprocess.run([*command, f"-I{KERNELS}", "-o", str(library), str(source)], check=True)
    return ctypes.CDLL(str(library))


class SimulatedMemory:
    def __init__(self, block: npt.NDArray[np.uint8]) -> None:
        self._content = block[_GUARD:-_GUARD]
        self._content[:] = 0xFF
        self.nbytes = len(self._content)
        self.address = self._content.ctypes.data

    def __del__(self) -> None:
        self._content[:] = 0xFF  # the block itself stays: work that still uses it must not crash, but fail


class SimulatedStream:
    def __init__(self, device: SimulatedDevice, handle: int) -> None:
        self.device = device
        self.handle = handle
        self.work: deque[Callable[[], None] | SimulatedEvent | tuple[SimulatedEvent]] = deque()

    def synchronize(self) -> None:
        self.device.check_alive()
        while self.work:
            self.step()

    def step(self) -> None:
        """Do the next piece of work; what it waits for is done first."""
        piece = self.work.popleft()
        if isinstance(piece, tuple):
            piece[0].synchronize()
        elif isinstance(piece, SimulatedEvent):
            piece.reached, piece.at = True, time.perf_counter()
        else:
            piece()

    def ready(self) -> bool:
        return bool(self.work) and not (isinstance(self.work[0], tuple) and not self.work[0][0].reached)


class SimulatedEvent:
    def __init__(self, stream: SimulatedStream) -> None:
        self.stream = stream
        self.reached = False
        self.at = 0.0

    def synchronize(self) -> None:
        self.stream.device.check_alive()
        while not self.reached:
            self.stream.step()

    def seconds_since(self, earlier: Event) -> float:
        assert isinstance(earlier, SimulatedEvent)
        assert self.reached
        assert earlier.reached
        return self.at - earlier.at


class SimulatedDevice:
    """order: when work is done, see the module's docstring."""

    def __init__(self, library: ctypes.CDLL, order: Order = "late", seed: int = 0, memory: int = 1 << 32) -> None:
        self.identity = Identity("Simulated", (8, 7), 1, memory >> 20, 12060)
        self._library = library
        self._order = order
        self._random = random.Random(seed)
        self._blocks: list[npt.NDArray[np.uint8]] = []
        self._size = memory
        self.streams: list[SimulatedStream] = []
        self.lost = False
        self.loaded: list[bytes] = []
        self.launched: set[str] = set()

    # ------------------------------------------------------------------------------------------- for tests

    def check(self) -> None:
        """Nothing was written beyond the end of an allocation."""
        for stream in self.streams:
            stream.synchronize()
        for block in self._blocks:
            assert (block[:_GUARD] == _GUARD_BYTE).all(), "something wrote before the begin of its buffer"
            assert (block[-_GUARD:] == _GUARD_BYTE).all(), "something wrote beyond the end of its buffer"

    def check_alive(self) -> None:
        if self.lost:
            raise DeviceLost("an illegal memory access was encountered")

    def enqueue(self, stream: Stream, work: Callable[[], None]) -> None:
        assert isinstance(stream, SimulatedStream)
        self.check_alive()
        stream.work.append(work)
        self._progress()

    def _progress(self) -> None:
        if self._order == "late":
            return
        while ready := [stream for stream in self.streams if stream.ready()]:
            if self._order == "random" and self._random.random() < 0.3:
                return
            self._random.choice(ready).step()

    # ------------------------------------------------------------------------------------------- Device

    def free_bytes(self) -> int:
        return self._size - sum(len(block) - 2 * _GUARD for block in self._blocks)

    def allocate(self, nbytes: int) -> Memory:
        self.check_alive()
        if nbytes > self.free_bytes():
            raise EngineError(f"the GPU has no {nbytes >> 20} MiB of memory left")
        self._blocks.append(np.full(nbytes + 2 * _GUARD, _GUARD_BYTE, dtype=np.uint8))
        return SimulatedMemory(self._blocks[-1])

    def pinned(self, shape: Shape, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        self.check_alive()
        array = np.empty(shape, dtype)
        array.view(np.uint8)[...] = 0xFF
        return array

    def stream(self) -> Stream:
        self.streams.append(SimulatedStream(self, len(self.streams) + 1))
        return self.streams[-1]

    def record(self, stream: Stream) -> Event:
        assert isinstance(stream, SimulatedStream)
        self.check_alive()
        event = SimulatedEvent(stream)
        stream.work.append(event)
        self._progress()
        return event

    def wait(self, stream: Stream, event: Event) -> None:
        assert isinstance(stream, SimulatedStream)
        assert isinstance(event, SimulatedEvent)
        stream.work.append((event,))
        self._progress()

    def upload(self, target: int, source: npt.NDArray[Any], stream: Stream) -> None:
        assert source.flags.c_contiguous
        self.enqueue(stream, lambda: ctypes.memmove(target, source.ctypes.data, source.nbytes) and None)

    def download(self, target: npt.NDArray[Any], source: int, stream: Stream) -> None:
        assert target.flags.c_contiguous
        self.enqueue(stream, lambda: ctypes.memmove(target.ctypes.data, source, target.nbytes) and None)

    def fill(self, target: int, byte: int, nbytes: int, stream: Stream) -> None:
        self.enqueue(stream, lambda: ctypes.memset(target, byte, nbytes) and None)

    def load_kernels(self, image: bytes) -> None:
        """It has its kernels, whatever `image` holds."""
        self.loaded.append(image)

    def launch(self, kernel: str, threads: int, arguments: Sequence[Argument], stream: Stream) -> None:
        assert threads > 0
        self.launched.add(kernel)
        assert _aligned(arguments), "a structure would lie elsewhere in pycuda's buffer than the kernel reads it"
        function = getattr(self._library, f"launch_{kernel}")
        packed = [bytes(argument.tobytes()) for argument in arguments]

        def work() -> None:
            buffers = [ctypes.create_string_buffer(raw, len(raw)) for raw in packed]
            pointers = (ctypes.c_void_p * len(buffers))(*(ctypes.addressof(buffer) for buffer in buffers))
            sizes = (ctypes.c_int * len(buffers))(*(len(raw) for raw in packed))
            function(ctypes.c_longlong(threads), len(packed), sizes, pointers)

        self.enqueue(stream, work)


def _aligned(arguments: Sequence[Argument]) -> bool:
    """pycuda packs arguments as the `struct` module does: numbers are aligned, a structure is not."""
    offset, straight = 0, True
    for argument in arguments:
        if argument.dtype.fields:
            straight = straight and offset % 4 == 0
        else:
            offset += -offset % argument.itemsize
        offset += argument.itemsize
    return straight


def array_at(address: int, shape: Shape, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """A view of device memory."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype=dtype).reshape(shape)


class RealDevice:
    """The machine's GPU where a test asks for what the simulated one offers besides."""

    def __init__(self, gpu: CudaDevice) -> None:
        self._gpu = gpu

    def __getattr__(self, name: str) -> Any:
        return getattr(self._gpu, name)

    def check(self) -> None:
        """All work is done, and none of it touched what it must not (compute-sanitizer sees more)."""
        stream = self._gpu.stream()
        stream.synchronize()


class SimulatedExecution:
    """A network on the simulated GPU: ONNX Runtime computes it from and to "device" memory.

    On a real GPU image and logits travel, and the stream waits: slow, but whatever stands around it is then real.

    scratch: bytes that it claims, and overwrites, for a run. written: the share of its output that it really writes,
    after `good` runs in which it writes all.
    """

    def __init__(
        self,
        device: SimulatedDevice | RealDevice,
        content: bytes,
        scratch: int = 64,
        written: float = 1.0,
        good: int = 0,
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.input_channels = self._session.get_inputs()[0].shape[1]
        self._output = self._session.get_outputs()[0].shape
        self._device, self._scratch, self._written, self._good = device, scratch, written, good
        self.refuse = False

    def logits_shape(self, shape: Shape) -> Shape:
        return (1, self._output[1], *(shape[2:] if len(self._output) == 5 else ()))

    def scratch_bytes(self, shape: Shape) -> int:
        return self._scratch

    def enqueue(self, shape: Shape, image: int, logits: int, scratch: Memory, stream: Stream) -> None:
        if self.refuse:
            raise EngineError("TensorRT refused to run the network")
        assert scratch.nbytes >= self._scratch
        if isinstance(self._device, SimulatedDevice):

            def work() -> None:
                written = self._written_logits(array_at(image, shape))
                array_at(logits, written.shape)[:] = written
                ctypes.memset(scratch.address, 0x11, self._scratch)

            self._device.enqueue(stream, work)
            return
        given = np.empty(shape, np.float32)
        self._device.download(given, image, stream)
        stream.synchronize()
        written = self._written_logits(given)
        if written.size:
            self._device.upload(logits, written, stream)
        self._device.fill(scratch.address, 0x11, self._scratch, stream)
        stream.synchronize()

    def _written_logits(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """As much of the logits as this network writes, flat."""
        result = self._session.run(["logits"], {"image": image})[0].ravel()
        count = result.size if self._good > 0 else int(result.size * self._written)
        self._good -= 1
        return np.ascontiguousarray(result[:count])


class SimulatedLibrary:
    """Opens plans on the simulated GPU: they are the ONNX files themselves. changes: of each `SimulatedExecution`."""

    NAME = "simulated 1.0"

    def __init__(self, device: SimulatedDevice, **changes: float) -> None:
        self.device = device
        self.changes = changes
        self.opened: list[SimulatedExecution] = []

    def open_plan(self, content: bytes) -> SimulatedExecution:
        self.opened.append(SimulatedExecution(self.device, content, **self.changes))  # type: ignore[arg-type]
        return self.opened[-1]


def runtime_on_trial(device: SimulatedDevice, plans: Path, **changes: float) -> TensorRtRuntime:
    """A runtime on the simulated GPU that also runs plans which have not agreed. It needs no nvcc."""
    plans.mkdir(parents=True, exist_ok=True)
    (plans / f"kernels-{device.identity.architecture}-{kernels.digest()[:16]}.cubin").write_bytes(b"simulated")
    return TensorRtRuntime(device, SimulatedLibrary(device, **changes), Shelf(plans), trial=True)


@dataclass(frozen=True)
class SimulatedPlan:
    """What `SimulatedBuilder` makes."""

    content: bytes | None
    precision: str
    timing_cache: bytes


class SimulatedBuilder:
    """Builds plans for `SimulatedLibrary`, in ten steps; its timing cache counts the steps that were ever taken."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.caches: list[bytes] = []

    def __call__(
        self, onnx: bytes, profile: Profile, timing_cache: bytes, step: Callable[[str, int, int], bool]
    ) -> SimulatedPlan:
        self.begun.append(onnx)
        self.caches.append(timing_cache)
        for done in range(10):
            timing_cache += b"."
            if not step("Building engine", done + 1, 10):
                return SimulatedPlan(None, "fp32", timing_cache)
        return SimulatedPlan(onnx, "fp32", timing_cache)
