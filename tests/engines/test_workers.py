"""Worker processes give everything once, compute with one thread, and are gone when their parent is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from core.errors import EngineError
from engines import workers

ROOT = Path(__file__).resolve().parents[2]
_told = ""


def begin(word: str) -> None:
    global _told
    _told = word


def told(item: int) -> tuple[int, str, str]:
    return item, _told, os.environ["OMP_NUM_THREADS"]


def die(item: int) -> None:
    os._exit(1)


def write_pid_and_wait(folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)


def test_every_item_once_with_what_was_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found = sorted(workers.each(told, range(20), 2, begin, ("word",)))
    assert found == [(item, "word", "1") for item in range(20)]
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_a_worker_that_dies_is_an_error_with_a_remedy() -> None:
    with pytest.raises(EngineError, match="a worker process died") as error:
        list(workers.each(die, range(3), 2))
    assert "--jobs" in error.value.remedy()


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "from engines import workers\nfrom tests.engines.test_workers import write_pid_and_wait as w\n"
        f"if __name__ == '__main__':\n    list(workers.each(w, [{str(tmp_path)!r}] * 2, 2))\n"
    )
    (tmp_path.parent / "parent.py").write_text(script)
    command = [sys.executable, str(tmp_path.parent / "parent.py")]
    parent = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    until = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    working = [psutil.Process(int(path.name)) for path in tmp_path.iterdir()]
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(working, timeout=30)
    assert not alive
