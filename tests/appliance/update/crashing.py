"""Run the updater and die by SIGKILL at its n-th change of the file system, for every n; then run it to the end.

    python -m tests.appliance.update.crashing FOLDER URL ROOT_JSON   →  one JSON line for each n

Each n is a fresh device in a process of its own. Changes are the audit events of the interpreter: making, renaming,
linking, removing, and opening for writing, anywhere under the device's state folder.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from core import durable
from tests.appliance.update.device import NOW, Device, FileShelf, ScriptedTrial

_CHANGES = frozenset({"os.rename", "os.mkdir", "os.link", "os.remove", "os.rmdir", "os.symlink", "shutil.rmtree"})


def device_in(state: Path, url: str) -> Device:
    """The device whose state lies there."""
    return Device(state, url, FileShelf(state / "shelf.json"), ScriptedTrial())


def die_at(n: int, state: Path) -> None:
    """Kill this process just before its n-th change under `state`."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not (event in _CHANGES or writes) or str(state) not in str(arguments[0]):
            return
        seen += 1
        if seen == n:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def run(state: Path, url: str, kill_at: int | None) -> int:
    """The wait status of a child that runs the updater until it has nothing more to do."""
    child = os.fork()
    if child == 0:
        try:
            device = device_in(state, url)
            if kill_at is not None:
                die_at(kill_at, state)
            device.settle()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return os.waitpid(child, 0)[1]


def main(folder: Path, url: str, root: Path) -> None:
    for n in range(1, 1000):
        state = folder / str(n)
        durable.make_folder(state / "tuf")
        shutil.copy(root, state / "tuf" / "root.json")
        device_in(state, url).shelf.wish("tiny", "1.0.0", NOW)
        first = run(state, url, n)
        second = run(state, url, None)
        shelf = FileShelf(state / "shelf.json")
        said = {
            "n": n,
            "killed": os.WIFSIGNALED(first),
            "ended": os.WEXITSTATUS(second) if os.WIFEXITED(second) else -1,
            "states": [row.state for row in shelf.history],
            "bundles": sorted(p.name for p in (state / "bundles").iterdir() if not p.name.startswith(".")),
            "staged": sorted(p.name for p in (state / "bundles" / ".staging").iterdir()),
        }
        print(json.dumps(said), flush=True)
        shutil.rmtree(state)
        if not said["killed"]:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
