"""What to send next and when to try again. No I/O: time and jitter are passed in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from appliance.ports import PacsItem

_HOUR_S = 3600.0
_MOST_URGENT = ("result", "event", "telemetry")


@dataclass(frozen=True)
class Backoff:
    """Waiting times that grow by `factor` from `first_s` to `ceiling_s`, each spread by ± `spread` of itself.

    Never gives up; `is_stalled` says when a person should know.
    """

    first_s: float = 2.0
    factor: float = 2.0
    ceiling_s: float = 300.0
    spread: float = 0.25

    def delay_s(self, failures: int, jitter: float) -> float:
        """How long to wait after the `failures`-th failure in a row (1, 2, ...). jitter: uniform in 0..1."""
        if failures < 1 or not 0 <= jitter <= 1:
            raise ValueError(f"no delay for {failures} failures and jitter {jitter}")
        return self._nominal_s(failures) * (1 + self.spread * (2 * jitter - 1))

    def waited_s(self, failures: int) -> float:
        """How long that many failures in a row take in all, without jitter."""
        growing = 0.0
        for n in range(1, failures + 1):
            if self._nominal_s(n) >= self.ceiling_s:
                return growing + (failures - n + 1) * self.ceiling_s
            growing += self._nominal_s(n)
        return growing

    def is_stalled(self, failures: int, after_h: float) -> bool:
        """True where trying has gone on for `after_h` hours. Counts attempts, so it survives a restart."""
        return self.waited_s(failures) >= after_h * _HOUR_S

    def _nominal_s(self, failures: int) -> float:
        # 2.0 ** 1100 overflows, and nobody waits that long.
        return min(self.first_s * self.factor ** min(failures - 1, 64), self.ceiling_s)


def by_destination(items: Iterable[PacsItem]) -> dict[str, list[PacsItem]]:
    """Items grouped by where they go, in their order."""
    groups: dict[str, list[PacsItem]] = {}
    for item in items:
        groups.setdefault(item.destination, []).append(item)
    return groups


def by_urgency(streams: Iterable[str]) -> Sequence[str]:
    """Results before events before telemetry before anything newer than this code."""
    known = {stream: place for place, stream in enumerate(_MOST_URGENT)}
    return sorted(streams, key=lambda stream: (known.get(stream, len(known)), stream))


@dataclass
class Cursor:
    """How far one stream has got on one connection.

    acked: the registry has everything up to here. flying: sent on this connection, not acknowledged. A repeat is
    harmless at the registry, so what is overdue is simply sent again, each time after a longer silence: the broker
    keeps what it has for a registry that is down, and shall not keep it twice a minute.
    """

    acked: int
    resend: Backoff
    flying: deque[int] = field(default_factory=deque)
    last_progress: float = 0.0
    silences: int = 0

    @property
    def position(self) -> int:
        """The sequence number after which to read on."""
        return max(self.acked, self.flying[-1] if self.flying else 0)

    def room(self, window: int) -> int:
        """How many more may be sent."""
        return max(window - len(self.flying), 0)

    def sent(self, seq: int, now: float) -> None:
        """A message went out."""
        if not self.flying:
            self.last_progress = now
        self.flying.append(seq)

    def acknowledged(self, seq: int, now: float) -> None:
        """The registry has everything up to `seq`. Lower than before changes nothing."""
        if seq <= self.acked:
            return
        self.acked = seq
        while self.flying and self.flying[0] <= seq:
            self.flying.popleft()
        self.last_progress = now
        self.silences = 0

    def is_overdue(self, now: float) -> bool:
        """True where the oldest message has flown for too long without an acknowledgement."""
        return bool(self.flying) and now - self.last_progress >= self.resend.delay_s(self.silences + 1, 0.5)

    def go_back(self) -> None:
        """Send again from the last acknowledged message on."""
        self.flying.clear()
        self.silences += 1
