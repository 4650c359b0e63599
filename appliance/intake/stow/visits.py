"""Which requests belong together. To completeness a visit is what an association is to C-STORE.

Clients may cut a study into requests of some instances each, or send an instance a request. Each piece is a stack
without a gap: were every request an association, geometry would call every piece a whole study. So the requests of one
address are one visit, until none is under way and none began for `pause_s`. A request that breaks off ends its
visit as broken: what the client then repeats is a new one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from appliance.intake.door import Door, Visit


@dataclass
class _Open:
    visit: Visit
    requests: int = 0
    last_at: float = 0.0  # when a request of it ended
    broken: str = ""


class Visits:
    """May be used from many threads. sender: under which name clients are known. monotonic: seconds."""

    def __init__(self, door: Door, sender: str, tls: bool, pause_s: float, monotonic: Callable[[], float]) -> None:
        self._door, self._sender, self._tls = door, sender, tls
        self._pause_s, self._monotonic = pause_s, monotonic
        self._lock = threading.Lock()
        self._open: dict[str, _Open] = {}

    @contextmanager
    def request(self, address: str) -> Iterator[Visit]:
        """A request from there is under way. An exception breaks its visit off."""
        joined = self._join(address)
        broken = "a request ended before it was through"
        try:
            yield joined.visit
            broken = ""
        finally:
            self._leave(address, joined, broken)

    def end_finished(self) -> None:
        """End those after which the pause is over."""
        with self._lock:
            now = self._monotonic()
            for address, one in list(self._open.items()):
                if not one.requests and now - one.last_at >= self._pause_s:
                    self._end(address, one)

    def stop(self) -> None:
        """End all; what more they would have brought is not known."""
        with self._lock:
            for address, one in list(self._open.items()):
                one.broken = one.broken or "the receiver was stopped"
                self._end(address, one)

    def _join(self, address: str) -> _Open:
        with self._lock:
            one = self._open.get(address)
            if one is None:
                one = self._open[address] = _Open(self._door.begin(self._sender, address, self._tls))
            one.requests += 1
            return one

    def _leave(self, address: str, one: _Open, broken: str) -> None:
        with self._lock:
            one.requests -= 1
            one.last_at = self._monotonic()
            one.broken = one.broken or broken
            if one.broken and self._open.get(address) is one:
                del self._open[address]  # the next request is another visit
            if one.broken and not one.requests:
                self._door.end(one.visit, one.broken)

    def _end(self, address: str, one: _Open) -> None:
        del self._open[address]
        if not one.requests:
            self._door.end(one.visit, one.broken)
