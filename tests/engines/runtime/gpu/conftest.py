"""A simulated GPU in every order of work, and the real one where there is one."""

from __future__ import annotations

import ctypes
import shutil

import pytest

from tests.engines.runtime.gpu.building_child import LIBRARY
from tests.engines.runtime.gpu.simulator import SimulatedDevice, compile_for_host


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


@pytest.fixture(params=["late", "early", "random-1", "random-2"])
def device(request: pytest.FixtureRequest, host_kernels: ctypes.CDLL) -> SimulatedDevice:
    """A simulated GPU that does its work in one of the orders that streams and events permit."""
    order, _, seed = request.param.partition("-")
    return SimulatedDevice(host_kernels, order, int(seed or 0))
