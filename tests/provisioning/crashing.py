"""Run `apply` and die by SIGKILL just before its n-th change of the file system; then run it again.

    python -m tests.provisioning.crashing < JOBS_JSON   →  one JSON line a job

Changes are the audit events of the interpreter under the job's state folder. A request that was sent counts
too, just before and just after its answer: the moments at which a token could be burnt for nothing.
"""

from __future__ import annotations

import datetime as dt
import http.client
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from provisioning.install import CONFIG_NAME, Installation, carry_out
from provisioning.site import read_plan

_CHANGES = frozenset({"os.rename", "os.mkdir", "os.link", "os.remove", "os.rmdir"})


def main() -> None:
    for job in json.load(sys.stdin):
        first = _in_child(lambda job=job: _run(job, job["n"]))  # type: ignore[misc]
        second = _in_child(lambda job=job: _run(job, None))  # type: ignore[misc]
        said = {
            **job,
            "killed": os.WIFSIGNALED(first),
            "second": os.WEXITSTATUS(second),
            "leftovers": [str(p) for p in Path(job["state"]).rglob(".part-*")],
        }
        print(json.dumps(said), flush=True)
        if not said["killed"]:
            return


def _run(job: dict[str, Any], kill_at: int | None) -> None:
    if kill_at is not None:
        _die_at(kill_at, job["state"])
    state = Path(job["state"])
    installation = Installation(read_plan(Path(job["plan"])), state, state / CONFIG_NAME, lambda: job["token"], _now)
    carry_out(installation, lambda title, done: None)


def _die_at(n: int, state: str) -> None:
    seen = 0

    def count() -> None:
        nonlocal seen
        seen += 1
        if seen == n:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (event in _CHANGES or writes) and state in str(arguments[0]):
            count()

    sys.addaudithook(hook)
    answer = http.client.HTTPSConnection.getresponse

    def counted(connection: http.client.HTTPSConnection) -> http.client.HTTPResponse:
        count()
        response = answer(connection)
        count()
        return response

    http.client.HTTPSConnection.getresponse = counted  # type: ignore[method-assign]


def _in_child(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return os.waitpid(child, 0)[1]


def _now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)


if __name__ == "__main__":
    main()
