"""Plans are built in a child: at idle priority, bounded in memory, ended within seconds when a study comes.

    parent ── python -m engines.buildprocess BUNDLE PLANS … ──▶ child: kernels, then `engines.build`
              ◀── progress and outcome, JSON lines ────────────
              closes stdin: "keep what you measured and end"

TensorRT can take all memory, hang or crash: in a child none of that reaches the caller. Its words come through a pipe,
because native libraries print to stdout. It dies with its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from core import durable
from core.errors import EngineError, OneScanError
from engines.build import Builder, Made, Outcome, build_plans
from engines.bundle import open_bundle
from engines.runtime import kernels
from engines.runtime.gpu import TensorRtRuntime
from engines.runtime.plans import Profile

_NICE = 19
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_POLL_S = 0.1
_GRACE_S = 3.0  # how long a child may take to keep its measurements once it is to end


@dataclass(frozen=True)
class ChildBuild:
    """How a build is run. memory_mb: MiB that the child may allocate on the host, and half of it on the GPU for one
    layer. fp32: forgo TF32. module: what is run as the child; a test's differs only in the builder and the device."""

    plans: Path
    memory_mb: int = 8192
    deadline_s: float = 4 * 3600.0
    fp32: bool = False
    module: str = field(default=__name__, repr=False)

    def run(
        self,
        bundle: Path,
        wanted: Callable[[], bool] = lambda: True,
        progress: Callable[[Mapping[str, Any]], None] = lambda said: None,
    ) -> Outcome:
        """Build the plans of the bundle in a folder. Blocks until the child has ended.

        wanted: asked ten times a second; once it is false the child is ended, in a few seconds at most. progress:
        called with what the child says: network, phase, done, total.
        """
        reader, writer = os.pipe()
        command = [sys.executable, "-m", self.module, str(bundle), str(self.plans), str(self.memory_mb)]
        command += [str(int(self.fp32)), str(writer)]
        try:
            child = subprocess.Popen(
                command, stdin=subprocess.PIPE, pass_fds=(writer,), start_new_session=True, bufsize=0
            )
        finally:
            os.close(writer)
        try:
            return self._attend(child, reader, wanted, progress)
        finally:
            os.close(reader)

    def _attend(
        self,
        child: subprocess.Popen[bytes],
        reader: int,
        wanted: Callable[[], bool],
        progress: Callable[[Mapping[str, Any]], None],
    ) -> Outcome:
        said = _Lines(reader)
        deadline = time.monotonic() + self.deadline_s
        ending: Outcome | None = None
        try:
            while not said.over:
                for line in said.wait(_POLL_S):
                    progress(line)
                late = time.monotonic() > deadline
                if ending is not None and late:
                    break
                if ending is None and (late or not wanted()):
                    too_long = Outcome("failed", f"the build took longer than {self.deadline_s:.0f} s")
                    ending = too_long if late else Outcome("postponed", "it was no longer wanted")
                    assert child.stdin is not None
                    child.stdin.close()
                    deadline = time.monotonic() + _GRACE_S
        finally:
            _reap(child, _GRACE_S if said.over else 0)
        return judge(child.returncode, said.last, ending)


def judge(returncode: int, last: Mapping[str, Any], ended: Outcome | None) -> Outcome:
    """What a child that ended with `returncode` and at last said `last` means. Silence is never success."""
    if "outcome" in last and returncode == 0:
        fields = dict(last["outcome"])
        outcome = Outcome(**{**fields, "plans": tuple(fields["plans"]), "cases": tuple(fields["cases"])})
        return ended if ended is not None and outcome.kind == "postponed" else outcome
    if ended is not None:
        return ended
    if returncode < 0:
        return Outcome("failed", f"the build ended by {signal.Signals(-returncode).name}")
    return Outcome("failed", f"the build ended with {returncode} and no answer")


class _Lines:
    """JSON objects, one a line, out of a pipe. over: the writer is gone. last: the last one."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = b""
        self.over = False
        self.last: Mapping[str, Any] = {}

    def wait(self, seconds: float) -> list[Mapping[str, Any]]:
        """What has come, waiting no longer than this."""
        if not select.select([self._fd], [], [], seconds)[0]:
            return []
        read = os.read(self._fd, 1 << 16)
        self.over = not read
        *whole, self._rest = (self._rest + read).split(b"\n")
        lines = [json.loads(line) for line in whole if line]
        self.last = lines[-1] if lines else self.last
        return [line for line in lines if "outcome" not in line]


def _reap(child: subprocess.Popen[bytes], patience_s: float) -> None:
    """End the child, unless it ends by itself in time: some libraries hang in their own exit."""
    try:
        child.wait(patience_s)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


# -------------------------------------------------------------------------------------------------------------- child


Workshop = Callable[[Path, bool, int], tuple[TensorRtRuntime, Builder]]
"""Plans folder, whether fp32 is wanted, MiB of memory → a runtime on trial, and what builds its plans."""


def child(arguments: list[str], workshop: Workshop) -> int:
    """The child: bounds first, heavy imports after. arguments: as `ChildBuild.run` passes them."""
    bundle, plans, memory_mb, fp32, fd = Path(arguments[0]), Path(arguments[1]), *map(int, arguments[2:5])
    _bind(memory_mb)
    with os.fdopen(fd, "w", buffering=1) as answers:
        answer = _Answer(answers)
        try:
            with _alone(plans):
                runtime, build = workshop(plans, bool(fp32), memory_mb)
                outcome = build_plans(open_bundle(bundle), runtime, build, answer.step)
        except MemoryError:
            outcome = Outcome("failed", f"building needs more than {memory_mb} MiB")
        except (OneScanError, RuntimeError) as error:  # RuntimeError: what the native libraries raise
            remedy = error.remedy() if isinstance(error, OneScanError) else ""
            outcome = Outcome("failed", str(error), remedy=remedy)
        answers.write(json.dumps({"outcome": asdict(outcome)}) + "\n")
    return 0


def tensorrt_workshop(plans: Path, fp32: bool, memory_mb: int) -> tuple[TensorRtRuntime, Builder]:
    """TensorRT on this machine's GPU. EngineError if it, or a GPU, is not there."""
    from engines.runtime.choice import open_tensorrt

    runtime = open_tensorrt("fp32" if fp32 else "auto", plans, trial=True)
    kernels.compiled(plans, runtime.device.identity.architecture)
    from engines.runtime import tensorrt

    def build(onnx: bytes, profile: Profile, timing_cache: bytes, step: Callable[[str, int, int], bool]) -> Made:
        workspace = (memory_mb << 20) // 2
        return tensorrt.build(onnx, profile, workspace=workspace, tf32=not fp32, timing_cache=timing_cache, step=step)

    return runtime, build


class _Answer:
    """What the child says, a few times a second at most; and whether the parent wants it to go on."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._said = 0.0

    def step(self, network: str, phase: str, done: int, total: int) -> bool:
        """Called from TensorRT's threads."""
        now = time.monotonic()
        if now - self._said > _POLL_S:
            self._said = now
            line = {"network": network, "phase": phase, "done": done, "total": total}
            self._stream.write(json.dumps(line) + "\n")
        return not _parent_wants_an_end()


def _parent_wants_an_end() -> bool:
    """The parent closed our stdin, or is gone."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


def _bind(memory_mb: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(_NICE)
    psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)
    resource.setrlimit(resource.RLIMIT_DATA, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No two builds in one folder at once. EngineError if there is another."""
    durable.make_folder(folder)
    fd = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o660)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EngineError(
                f"another build works in {folder}", remedy="Wait for it, or look for `buildprocess` in `ps`."
            ) from error
        durable.sweep(folder)
        yield
    finally:
        os.close(fd)


if __name__ == "__main__":
    sys.exit(child(sys.argv[1:], tensorrt_workshop))
