"""Train the whole reference bundle: one command, which goes on where it was when it is called again.

    python -m engines.reference --work var/reference

    1  two lanes at once: the abdomen's detector; the localiser, then the detectors of chest and lung. Each renders the
       patients that it lacks
    2  the first two stages as a bundle, and what they bring up in other patients
    3  the third stage learns from that
    4  everything as a bundle, its golden cases answered: to be judged and calibrated (`onescan-engines`)

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
from pathlib import Path

from core import durable
from core.errors import EngineError

Command = tuple[str, ...]
LANES: tuple[tuple[str, ...], ...] = (("abdomen",), ("localiser", "chest", "lung"))
LOOKING_LANES: tuple[tuple[str, ...], ...] = (
    ("soft_malignancy",),
    ("lung_malignancy", "pancreas_subtype", "liver_subtype"),
)
MINED = 600
"""Patients whose candidates the third stage learns from."""


def steps(work: Path, lanes: int) -> list[list[list[Command]]]:
    """What is done, in order: each step's lanes, each lane's commands. Modules of this package with arguments."""
    store = ("--store", str(work / "patients"))
    candidates = str(work / "candidates")
    mine = ("candidates", "--bundle", str(work / "draft"), *store, "--into", candidates)
    half = MINED // 2
    mining: list[list[Command]] = [[(*mine, "--first", str(n), "--count", str(half))] for n in (0, half)]
    return [
        _merged([[("train", n, *store, "--into", str(work / n)) for n in lane] for lane in LANES], lanes),
        [[("pack", "stages12", "--from", str(work), "--into", str(work / "draft"))]],
        _merged(mining, lanes),
        _merged(
            [
                [("characterise", n, *store, "--candidates", candidates, "--into", str(work / n)) for n in lane]
                for lane in LOOKING_LANES
            ],
            lanes,
        ),
        [[("pack", "whole", "--from", str(work), "--into", str(work / "bundle"))]],
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
    return subprocess.Popen(
        [sys.executable, "-m", f"engines.reference.{command[0]}", *command[1:]], env={**os.environ, **one}
    )


def main() -> int:
    """Train everything; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m engines.reference", description=main.__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for patients, checkpoints and bundles (30 GB)")
    parser.add_argument("--lanes", type=int, choices=(1, 2), default=2, help="networks that learn at once")
    a = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        print("onescan: training needs torch: pip install onescan[reference,cpu]", file=sys.stderr)
        return 1
    durable.make_folder(a.work)
    try:
        for step in steps(a.work, a.lanes):
            run_step(step)
    except EngineError as error:
        print(f"onescan: {error}. {error.remedy()}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
