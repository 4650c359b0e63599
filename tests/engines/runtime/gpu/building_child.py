"""What `ChildBuild` starts in tests: the real child, with a simulated GPU and a builder that can misbehave.

A file `behaviour` in the plans folder says how: slow (each step takes a while), deaf (it never asks whether to go on),
crash, silent, greedy (it takes more memory than allowed), interrupted (somebody presses Ctrl-C). Where there is none it
builds as it should.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from engines.build import Builder
from engines.buildprocess import child
from engines.runtime.gpu import TensorRtRuntime
from engines.runtime.plans import Profile
from tests.engines.runtime.gpu.simulator import (
    SimulatedBuilder,
    SimulatedDevice,
    SimulatedPlan,
    runtime_on_trial,
)

LIBRARY = "ONESCAN_TEST_KERNELS"
"""Names the kernels' library for this CPU, which the test has compiled."""


class Misbehaving(SimulatedBuilder):
    def __init__(self, behaviour: str, plans: Path) -> None:
        super().__init__()
        self._behaviour, self._plans = behaviour, plans

    def __call__(
        self, onnx: bytes, profile: Profile, timing_cache: bytes, step: Callable[[str, int, int], bool]
    ) -> SimulatedPlan:
        (self._plans / "priority").write_text(f"{os.getpriority(os.PRIO_PROCESS, 0)}")
        if self._behaviour == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self._behaviour == "silent":
            os._exit(3)
        if self._behaviour == "greedy":
            self._kept = bytearray(1 << 32)
        if self._behaviour == "deaf":
            while True:
                time.sleep(1)

        if self._behaviour == "interrupted":
            os.kill(os.getppid(), signal.SIGINT)

        def slowly(phase: str, done: int, total: int) -> bool:
            if self._behaviour in ("slow", "interrupted"):
                time.sleep(0.2)
            return step(phase, done, total)

        return super().__call__(onnx, profile, timing_cache, slowly)


def workshop(plans: Path, fp32: bool, memory_mb: int) -> tuple[TensorRtRuntime, Builder]:
    named = plans / "behaviour"
    behaviour = named.read_text() if named.exists() else ""
    runtime = runtime_on_trial(SimulatedDevice(ctypes.CDLL(os.environ[LIBRARY])), plans)
    return runtime, Misbehaving(behaviour, plans)


if __name__ == "__main__":
    sys.exit(child(sys.argv[1:], workshop))
