"""Worker processes for many independent pieces of work: each computes with one thread, and none outlives its parent."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from core.errors import EngineError

Item = TypeVar("Item")
Result = TypeVar("Result")

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def each(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    jobs: int,
    begin: Callable[..., object] | None = None,
    arguments: tuple[Any, ...] = (),
) -> Iterator[Result]:
    """What `work` gives for every item, in the order in which it is ready. work, begin and arguments are pickled.

    begin(*arguments) is called once in each of the `jobs` processes. EngineError where a process dies.
    """
    context = multiprocessing.get_context("spawn")
    try:
        with (
            _one_thread_each(),
            ProcessPoolExecutor(min(jobs, len(items)) or 1, context, _begin, (begin, arguments)) as pool,
        ):
            yield from _few_at_a_time(pool, work, items, 2 * jobs)
    except BrokenProcessPool as error:
        raise EngineError(
            "a worker process died, as a rule for want of memory",
            remedy="Give the same command again with fewer --jobs.",
        ) from error


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """For processes that begin within: workers that each use all cores' threads only wait for one another."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(before, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _few_at_a_time(
    pool: ProcessPoolExecutor, work: Callable[[Item], Result], items: Sequence[Item], ahead: int
) -> Iterator[Result]:
    """So that an error or Ctrl-C ends the work soon."""
    left, running = iter(items), set[Future[Result]]()
    try:
        while True:
            for item in left:
                running.add(pool.submit(work, item))
                if len(running) >= ahead:
                    break
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in finished)
    finally:
        for future in running:
            future.cancel()


def _begin(begin: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
    _end_with_parent()
    if begin is not None:
        begin(*arguments)


def _end_with_parent() -> None:
    """End when the process that started this one has been killed; the pool's own workers would wait for good."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "only workers call this"

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()
