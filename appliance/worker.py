"""A thread that takes one step after the other, and never ends for an error."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from core.errors import OneScanError

log = logging.getLogger(__name__)
_AGAIN_S = 5.0


class Worker:
    """step: returns the seconds that it is content to wait. wake: set by whoever has work for it."""

    def __init__(self, name: str, step: Callable[[], float], wake: threading.Event | None = None) -> None:
        self._step, self._wake, self._stopping = step, wake or threading.Event(), False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def alive(self) -> bool:
        """True while it works."""
        return self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """True from `stop` on: a long step asks between two pieces of work."""
        return self._stopping

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, patience_s: float | None = None) -> None:
        """End after the step that is being taken. patience_s: how long to wait for that; None: as long as it takes."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(patience_s)

    def _run(self) -> None:
        while not self._stopping:
            try:
                wait = self._step()
            except OneScanError as error:
                log.error("%s: %s; %s", self._thread.name, error, error.remedy())
                wait = _AGAIN_S
            except Exception:
                # The edge of this thread: without it its work would never be done again.
                log.exception("%s: unforeseen error; tried again in %g s", self._thread.name, _AGAIN_S)
                wait = _AGAIN_S
            self._wake.wait(wait)
            self._wake.clear()
