"""Train the whole reference bundle: one command, which goes on where it was when it is called again.

    python -m engines.reference --work var/reference

    1  two lanes at once: the detectors of abdomen and lung; the localiser, then the chest's detector. Each renders the
       patients that it lacks
    2  the first two stages as a bundle, and what they bring up in other patients
    3  the third stage learns from that
    4  everything as a bundle, its golden cases answered, and answered again by this machine's fastest runtime: to be
       judged and calibrated (`onescan-engines`)

`--rehearse` goes the same way with next to no patients and steps, to see that nothing breaks on it. What comes out has
learned nothing; in a folder with copies of real checkpoints the first stages bring something up for the third.
To go on from a bundle instead of from nothing: `python -m engines.reference.begin`.

Every process computes in one thread: two networks side by side get more out of two cores than one network with two
threads. With CUDA there is one lane.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core import durable
from core.errors import EngineError
from engines.reference.pack import MEMORY_RUNS

Command = tuple[str, ...]
LANES: tuple[tuple[str, ...], ...] = (("abdomen", "lung"), ("localiser", "chest"))
LOOKING_LANES: tuple[tuple[str, ...], ...] = (
    ("soft_malignancy",),
    ("liver_malignancy", "breast_malignancy", "lung_malignancy", "pancreas_subtype", "liver_subtype"),
)


@dataclass(frozen=True)
class Extent:
    """How much is done. mined, crowded: patients whose candidates the third stage learns from. learning, looking,
    verifying: further arguments of `train`, `characterise` and `pack verify`. memory_runs: how often what a network
    takes is measured."""

    mined: int = 500
    crowded: int = 600
    learning: Command = ()
    looking: Command = ()
    memory_runs: int = MEMORY_RUNS
    verifying: Command = ()


FULL = Extent()
REHEARSAL = Extent(8, 4, ("--until", "12", "--cases", "3", "--tried-on", "2"), ("--until", "12"), 1, ("--uncovered",))


def steps(work: Path, lanes: int, extent: Extent = FULL) -> list[list[list[Command]]]:
    """What is done, in order: each step's lanes, each lane's commands. Modules of this package with arguments."""
    store = ("--store", str(work / "patients"))
    candidates, bundle = str(work / "candidates"), str(work / "bundle")
    mine = ("candidates", "--bundle", str(work / "draft"), *store, "--into", candidates)
    mining: list[list[Command]] = [
        [
            (*mine, *crowded, "--first", str(half * count // 2), "--count", str(count // 2))
            for count, crowded in ((extent.mined, ()), (extent.crowded, ("--crowded",)))
        ]
        for half in (0, 1)
    ]
    return [
        _merged(
            [[("train", n, *store, "--into", str(work / n), *extent.learning) for n in lane] for lane in LANES], lanes
        ),
        [[("pack", "stages12", "--from", str(work), "--into", str(work / "draft"))]],
        _merged(mining, lanes),
        _merged(
            [
                [
                    ("characterise", n, *store, "--candidates", candidates, "--into", str(work / n), *extent.looking)
                    for n in lane
                ]
                for lane in LOOKING_LANES
            ],
            lanes,
        ),
        [[("pack", "whole", "--from", str(work), "--into", bundle, "--memory-runs", str(extent.memory_runs))]],
        [[("pack", "verify", "--from", bundle, *extent.verifying)]],
    ]


def _merged(commands: list[list[Command]], lanes: int) -> list[list[Command]]:
    return commands if lanes > 1 else [[command for lane in commands for command in lane]]


def run_step(lanes: Sequence[Sequence[Command]]) -> None:
    """Run a step's lanes side by side. The first failure stops the others; EngineError says what failed."""
    waiting = [list(lane) for lane in lanes]
    running: dict[int, tuple[subprocess.Popen[bytes], Command]] = {}
    try:
        while running or any(waiting):
            for number, lane in enumerate(waiting):
                if number not in running and lane:
                    command = lane.pop(0)
                    running[number] = (_started(command), command)
            pid, status = os.wait()
            number = next(n for n, (process, _) in running.items() if process.pid == pid)
            process, command = running.pop(number)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise EngineError(
                    f"{' '.join(command[:2])} ended with {process.returncode}",
                    remedy="Read its last lines above; the same command goes on from the last checkpoint.",
                )
    finally:
        for process, _ in running.values():
            process.send_signal(signal.SIGTERM)
            process.wait()


def _started(command: Command) -> subprocess.Popen[bytes]:
    print("+", " ".join(command), flush=True)
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # Maps of many megabytes come and go at every step: fresh pages for each cost a tenth to a quarter of the time.
    keep = {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(2**34),
        "MALLOC_TOP_PAD_": str(2**28),
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", f"engines.reference.{command[0]}", *command[1:]], env={**os.environ, **one, **keep}
    )


def main() -> int:
    """Train everything; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m engines.reference", description=main.__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for patients, checkpoints and bundles (30 GB)")
    parser.add_argument("--lanes", type=int, choices=(1, 2), default=2, help="networks that learn at once")
    parser.add_argument("--rehearse", action="store_true", help="next to no patients and steps, in minutes")
    a = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        print("onescan: training needs torch: pip install onescan[reference,cpu]", file=sys.stderr)
        return 1
    durable.make_folder(a.work)
    try:
        for step in steps(a.work, a.lanes, REHEARSAL if a.rehearse else FULL):
            run_step(step)
    except EngineError as error:
        print(f"onescan: {error}. {error.remedy()}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
