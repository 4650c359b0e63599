"""Runs cases in a process of its own that may not grow: the test's child, and for anybody who wants to look further.

    python -m tests.appliance.fuzz.campaign --cases 100000 --target examine --seed 7
    python -m tests.appliance.fuzz.campaign --seconds 20

Prints a line a target with its number of cases. A case that fails is named by target, seed and number, and raises.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import resource
import time
import warnings
from pathlib import Path
from random import Random

from tests.appliance.fuzz.targets import TARGETS

MAY_GROW = 256 << 20
"""Bytes of address space beyond what is there when all is imported: PDUs and data sets here are far smaller."""
HANG_S = 60.0
"""A block of cases takes a second; one that takes so long hangs, and the process shows where and ends."""
_BLOCK = {"header": 20, "association": 100, "slice": 20}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", choices=TARGETS, action="append")
    parser.add_argument("--cases", type=int, default=10**12, help="of each target")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for all targets together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # pydicom says what it thinks of every damaged value
    logging.disable()
    _bound_memory()
    targets = arguments.target or list(TARGETS)
    done = dict.fromkeys(targets, 0)
    until = time.monotonic() + arguments.seconds
    while any(count < arguments.cases for count in done.values()) and time.monotonic() < until:
        for target in targets:
            count = min(_BLOCK.get(target, 500), arguments.cases - done[target])
            faulthandler.dump_traceback_later(HANG_S, exit=True)
            _run(target, arguments.seed, arguments.first + done[target], count)
            done[target] += count
    for target, count in done.items():
        print(target, count)


def _run(target: str, seed: int, first: int, count: int) -> None:
    for number in range(first, first + count):
        try:
            TARGETS[target](Random(seed << 40 | number))
        except BaseException:
            print(f"FAILED: --target {target} --seed {seed} --first {number} --cases 1", flush=True)
            raise


def _bound_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MAY_GROW
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
