"""Run a bundle's golden cases on this device, in a child process, before the bundle may touch a patient's images.

A network can crash its runtime, take all memory or hang. In a child none of that reaches the updater: the child runs at
the lowest priority, with a bound on its memory and a deadline, dies with its parent, and is ended when it is no longer
wanted (a study has arrived). Its answer is one JSON object in a memory file, since native libraries print to stdout.

    parent ── python -m appliance.update.trial FOLDER SETTINGS FD ──▶ child ── {"outcomes": [...]} ──▶
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from core.errors import BundleRefused, OneScanError

Preference = Literal["auto", "tensorrt", "openvino", "onnx"]
Precision = Literal["auto", "fp32", "int8"]
_NICE = 19
_POLL_S = 0.1
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LARGEST_ANSWER = 1 << 20  # bytes


@dataclass(frozen=True)
class Verdict:
    """What a trial found. postponed: it was ended because it was no longer wanted, and says nothing about the bundle.

    code: a short word for the registry. detail: a sentence for the log.
    """

    kind: Literal["passed", "failed", "postponed"]
    code: str = ""
    detail: str = ""


@dataclass(frozen=True)
class ChildTrial:
    """How golden cases are run. runtime, threads, precision, plans: as `engines.runtime.choice.choose` takes them."""

    runtime: Preference = "auto"
    threads: int = 1
    memory_mb: int = 4096  # MiB of private writable memory (RLIMIT_DATA, setrlimit(2))
    deadline_s: float = 1800.0
    precision: Precision = "auto"
    plans: Path | None = None

    def run(self, folder: Path, wanted: Callable[[], bool] = lambda: True) -> Verdict:
        """Try the bundle in `folder`. Blocks until the child has ended."""
        settings = json.dumps({**asdict(self), "plans": str(self.plans) if self.plans else None})
        answer = os.memfd_create("trial")  # unlike a pipe it can't fill up while nobody reads
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", __name__, str(folder), settings, str(answer)],
                stdin=subprocess.DEVNULL,
                pass_fds=(answer,),
                start_new_session=True,
            )
            ended = self._attend(child, wanted)
            return ended or judge(child.returncode, os.pread(answer, _LARGEST_ANSWER, 0))
        finally:
            os.close(answer)

    def _attend(self, child: subprocess.Popen[bytes], wanted: Callable[[], bool]) -> Verdict | None:
        """Wait for the child; end it at the deadline, when it is not wanted, and when we are ended ourselves."""
        deadline = time.monotonic() + self.deadline_s
        try:
            while child.poll() is None:
                if not wanted():
                    return Verdict("postponed")
                if time.monotonic() > deadline:
                    return Verdict("failed", "deadline", f"golden cases took longer than {self.deadline_s:.0f} s")
                time.sleep(_POLL_S)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        return None


def judge(returncode: int, answer: bytes) -> Verdict:
    """What a child that ended with `returncode` and said `answer` means. Silence is never a pass."""
    if returncode < 0:
        return Verdict("failed", "crashed", f"running the golden cases ended by {signal.Signals(-returncode).name}")
    try:
        said = json.loads(answer)
        outcomes = [(str(o["case"]), o["passed"] is True, str(o["detail"])) for o in said.get("outcomes", ())]
        error = said.get("error")
    except (ValueError, KeyError, TypeError, AttributeError):
        return Verdict("failed", "crashed", f"running the golden cases ended with {returncode} and no answer")
    if error is not None:
        return Verdict("failed", str(error["code"]), str(error["what"]))
    failed = [f"{case}: {detail}" for case, passed, detail in outcomes if not passed]
    if failed:
        return Verdict("failed", "golden case", "; ".join(failed))
    if not outcomes or returncode != 0:
        return Verdict("failed", "no golden case", "the bundle has no golden case that shows that it works here")
    return Verdict("passed", "", f"{len(outcomes)} golden cases")


def _child(folder: Path, trial: ChildTrial, fd: int) -> int:
    """The child: bounds first, heavy imports after."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_DATA, (trial.memory_mb << 20, trial.memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        answer: dict[str, Any] = {"outcomes": _outcomes(folder, trial)}
    except BundleRefused as error:
        answer = {"error": {"code": f"check {error.check}", "what": str(error)}}
    except MemoryError:
        answer = {"error": {"code": "memory", "what": f"golden cases need more than {trial.memory_mb} MiB"}}
    except (OneScanError, RuntimeError) as error:  # RuntimeError: what the native runtimes raise
        answer = {"error": {"code": "engine", "what": str(error)}}
    with os.fdopen(fd, "wb") as memory:
        memory.write(json.dumps(answer).encode()[:_LARGEST_ANSWER])
    return 0


def _outcomes(folder: Path, trial: ChildTrial) -> list[dict[str, Any]]:
    from engines.bundle import open_bundle
    from engines.parity import run_golden
    from engines.runtime.choice import choose

    bundle = open_bundle(folder)
    choice = choose(trial.runtime, trial.threads, trial.precision, plans=trial.plans, networks=bundle.networks)
    outcomes = run_golden(bundle, choice.runtime)
    return [{"case": o.case, "passed": bool(o.passed), "detail": o.detail} for o in outcomes]


def _from_json(text: str) -> ChildTrial:
    fields = json.loads(text)
    return ChildTrial(**{**fields, "plans": Path(fields["plans"]) if fields["plans"] else None})


if __name__ == "__main__":
    sys.exit(_child(Path(sys.argv[1]), _from_json(sys.argv[2]), int(sys.argv[3])))
