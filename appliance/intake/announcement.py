"""What others say belongs to a study: storage commitment requests and performed procedure steps (MPPS). Pure.

A commitment request names what its sender wants to delete, often one series, sometimes one image: it counts for the
whole study only where the requests together name every instance that is here. A completed procedure step names what the
scanner made: it counts as it stands.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Announcement:
    """requested: SOP Instance UIDs of all commitment requests. performed: of all completed steps, those of SOP classes
    that are taken. in_progress, discontinued: numbers of procedure steps."""

    requested: frozenset[str] = frozenset()
    performed: frozenset[str] = frozenset()
    in_progress: int = 0
    discontinued: int = 0

    def named(self) -> frozenset[str]:
        """All instances that somebody named."""
        return self.requested | self.performed

    def obstacle(self, here: Collection[str]) -> str:
        """Why the study is not complete with the instances that are here; "" where nothing stands against it."""
        named = self.named()
        if missing := len(named - set(here)):
            return f"{len(named) - missing} of {len(named)} announced instances are here"
        if self.in_progress:
            return "a performed procedure step is in progress (MPPS)"
        return ""

    def vouches_for(self, here: Collection[str]) -> bool:
        """Whether it says that the instances that are here are all."""
        if self.obstacle(here):
            return False
        named = self.named()
        return bool(self.performed) or (len(named) > 1 and set(here) <= named)

    def remark(self) -> str:
        """What a reader of the receipt should know; "" where nothing."""
        return "a performed procedure step was discontinued (MPPS)" if self.discontinued else ""
