"""Limits of one analysis: time, memory, and whether somebody still wants it.

Memory is reckoned before it is allocated, so that a study that needs too much gets an answer that says so and not the
kernel's out-of-memory killer.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from core.errors import InputRefused, OneScanError
from core.finding import Reason

MIB = 1024 * 1024


class Cancelled(OneScanError):
    """The analysis was stopped because its caller asked for that: a newer hand-over of the study, or shutdown."""

    default_remedy = "Nothing: the study is analysed again when it is taken up."


@dataclass(frozen=True)
class Budget:
    """deadline_s: seconds for one study. memory_mb: MiB that the cascade may allocate beyond the volume itself."""

    deadline_s: float = 900.0
    memory_mb: float = 4096.0


@dataclass
class Watch:
    """Keeps one analysis within its budget, and its times. clock: seconds that never jump.

    spent_s: of the study's time, before this analysis.
    """

    budget: Budget
    cancelled: Callable[[], bool]
    clock: Callable[[], float] = time.monotonic
    spent_s: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _begun: float = field(init=False)

    def __post_init__(self) -> None:
        self._begun = self.clock()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the analysis began."""
        return self.clock() - self._begun

    def check(self) -> None:
        """Cancelled, or InputRefused(DEADLINE): called between all steps that take long."""
        if self.cancelled():
            raise Cancelled("the analysis was cancelled")
        if self.spent_s + self.elapsed_s > self.budget.deadline_s:
            raise InputRefused(Reason.DEADLINE, f"more than {self.budget.deadline_s:.0f} s")

    def reserve(self, needed_bytes: float, what: str) -> None:
        """InputRefused(MEMORY) if `what` needs more than the budget has."""
        needed = needed_bytes / MIB
        if needed > self.budget.memory_mb:
            raise InputRefused(
                Reason.MEMORY, f"{what} needs {needed:.0f} MiB of {self.budget.memory_mb:.0f} MiB allowed"
            )

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's seconds to `seconds[stage]`. Stages may nest; then both count."""
        begun = self.clock()
        try:
            yield
        finally:
            self.seconds[stage] += self.clock() - begun
