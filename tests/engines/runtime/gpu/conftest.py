"""A simulated GPU in every order of work, and the real one where there is one."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from core.errors import EngineError
from engines.runtime import kernels
from tests.engines.runtime.gpu.building_child import LIBRARY
from tests.engines.runtime.gpu.pycuda_double import cuda_over
from tests.engines.runtime.gpu.simulator import RealDevice, SimulatedDevice, compile_for_host

if TYPE_CHECKING:
    from engines.runtime.cuda import CudaDevice


@pytest.fixture(scope="session")
def host_kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels, compiled for this CPU."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ here to compile the kernels' arithmetic")
    return compile_for_host(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def host_kernels_for_children(host_kernels: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    """`building_child` finds the kernels that this session compiled."""
    monkeypatch.setenv(LIBRARY, host_kernels._name)


@pytest.fixture(scope="session")
def gpu() -> CudaDevice:
    """This machine's GPU with its kernels. Where there is none the test is skipped, and says what is missing."""
    try:
        from engines.runtime import cuda

        device = cuda.first_device()
        device.load_kernels(kernels.compile_for(device.identity.architecture))
    except (ImportError, EngineError) as error:
        pytest.skip(f"no GPU to run this on: {error}")
    return device


ORDERS = ("late", "early", "random-1", "random-2")


def _simulated(order: str, library: ctypes.CDLL) -> SimulatedDevice:
    kind, _, seed = order.partition("-")
    return SimulatedDevice(library, kind, int(seed or 0))  # type: ignore[arg-type]


@pytest.fixture(params=ORDERS)
def simulated(request: pytest.FixtureRequest, host_kernels: ctypes.CDLL) -> SimulatedDevice:
    """A simulated GPU that does its work in one of the orders that streams and events permit."""
    return _simulated(request.param, host_kernels)


@pytest.fixture(params=[*ORDERS, "through pycuda's double", pytest.param("real", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[SimulatedDevice | RealDevice]:
    """The same, or through `engines.runtime.cuda`, or the machine's own GPU: what holds on one has to hold on all."""
    if request.param == "real":
        yield RealDevice(request.getfixturevalue("gpu"))
        return
    library = request.getfixturevalue("host_kernels")
    if request.param in ORDERS:
        yield _simulated(request.param, library)
        return
    with cuda_over(_simulated("random-4", library)) as cuda:
        gpu = cuda.first_device()
        gpu.load_kernels(b"cubin")
        yield RealDevice(gpu)
