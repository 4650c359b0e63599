"""Our one module that calls CUDA, line by line, over a double of pycuda: what it calls, checks and says."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest

from core.errors import DeviceLost, EngineError
from engines.runtime.device import Device
from tests.engines.runtime.gpu.pycuda_double import Error, OutOfMemory, cuda_over
from tests.engines.runtime.gpu.simulator import SimulatedDevice


@pytest.fixture
def simulated(host_kernels: ctypes.CDLL) -> SimulatedDevice:
    return SimulatedDevice(host_kernels, "random", 3, memory=1 << 24)


@pytest.fixture
def cuda(simulated: SimulatedDevice) -> Iterator[ModuleType]:
    with cuda_over(simulated) as module:
        yield module


def test_the_device_tells_what_plans_are_keyed_to(cuda: ModuleType) -> None:
    gpu: Device = cuda.first_device()
    assert cuda.first_device() is gpu
    identity = gpu.identity
    assert (identity.name, identity.capability, identity.multiprocessors) == ("Simulated", (8, 7), 16)
    assert (identity.memory_mb, identity.driver, identity.architecture) == (16, 12060, "sm_87")
    assert gpu.free_bytes() == 1 << 24


def test_copies_fills_and_kernels_go_where_they_should(cuda: ModuleType) -> None:
    gpu: Device = cuda.first_device()
    gpu.load_kernels(b"cubin")
    stream, other = gpu.stream(), gpu.stream()
    sent = gpu.pinned((1000,), np.float32)
    sent[...] = np.linspace(-500, 500, 1000)
    memory = gpu.allocate(sent.nbytes)
    gpu.upload(memory.address, sent, stream)
    begun = gpu.record(stream)
    numbers = (np.float32(value) for value in (-100, 200, 50, 0.5))
    gpu.launch("normalise", 1000, [np.uint64(memory.address), np.int64(1000), *numbers], stream)
    done = gpu.record(stream)
    gpu.wait(other, done)
    back = gpu.pinned((1000,), np.float32)
    gpu.download(back, memory.address, other)
    other.synchronize()
    np.testing.assert_array_equal(back, (np.clip(sent, -100, 200) - 50) * np.float32(0.5))
    done.synchronize()
    assert done.seconds_since(begun) > 0
    gpu.fill(memory.address, 0xFF, memory.nbytes, stream)
    gpu.download(back, memory.address, stream)
    stream.synchronize()
    assert np.isnan(back).all()


def test_too_little_memory_is_an_error_of_that_call_only(cuda: ModuleType) -> None:
    gpu: Device = cuda.first_device()
    with pytest.raises(EngineError, match="no 16777216 MiB of memory left") as refused:
        gpu.allocate(1 << 44)
    assert not isinstance(refused.value, DeviceLost)
    assert gpu.allocate(0).nbytes == 0


def test_a_kernel_that_is_not_there_is_an_error_of_that_call_only(cuda: ModuleType) -> None:
    gpu: Device = cuda.first_device()
    with pytest.raises(EngineError, match="not loaded"):
        gpu.launch("normalise", 1, [], gpu.stream())
    gpu.load_kernels(b"cubin")
    with pytest.raises(EngineError, match="launching nonsense failed") as refused:
        gpu.launch("nonsense", 1, [], gpu.stream())
    assert not isinstance(refused.value, DeviceLost)
    with pytest.raises(EngineError, match="can't run with 0 threads"):
        gpu.launch("normalise", 0, [], gpu.stream())


def test_after_an_error_that_stays_every_call_says_that_the_process_must_end(
    cuda: ModuleType, simulated: SimulatedDevice
) -> None:
    gpu: Device = cuda.first_device()
    gpu.load_kernels(b"cubin")
    stream, memory, array = gpu.stream(), gpu.allocate(64), gpu.pinned((16,), np.float32)
    event = gpu.record(stream)
    simulated.lost = True
    calls = [
        stream.synchronize,
        event.synchronize,
        gpu.stream,
        lambda: gpu.allocate(64),
        lambda: gpu.pinned((4,), np.float32),
        lambda: gpu.record(stream),
        lambda: gpu.upload(memory.address, array, stream),
        lambda: gpu.download(array, memory.address, stream),
        lambda: gpu.fill(memory.address, 0, 64, stream),
        lambda: gpu.launch("normalise", 1, [np.uint64(0), np.int64(0), *[np.float32(0)] * 4], stream),
    ]
    for call in calls:
        with pytest.raises(DeviceLost, match="lost to this process") as lost:
            call()
        assert "must end" in lost.value.remedy()


def test_without_a_gpu_it_says_so(cuda: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda.cuda.Device, "count", staticmethod(lambda: 0))
    with pytest.raises(EngineError, match="no GPU") as refused:
        cuda.first_device()
    assert "nvidia-smi" in refused.value.remedy()

    def broken(flags: int = 0) -> None:
        raise Error("cuInit failed: no CUDA-capable device is detected")

    monkeypatch.setattr(cuda.cuda, "init", broken)
    with pytest.raises(EngineError, match="CUDA does not start: cuInit failed"):
        cuda.first_device()


def test_too_little_memory_to_lock_is_said(cuda: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*arguments: object) -> None:
        raise OutOfMemory("cuMemHostAlloc failed: out of memory")

    monkeypatch.setattr(cuda.cuda, "pagelocked_empty", refuses)
    with pytest.raises(EngineError, match="no memory can be locked") as refused:
        cuda.first_device().pinned((4,), np.float32)
    assert not isinstance(refused.value, DeviceLost)
