"""Which sequence numbers of a stream are here: the arithmetic behind a cumulative acknowledgement. Pure.

A stream numbers its messages 1, 2, 3 ... They arrive in any order and repeatedly; a `skip` says that a range will never
come. `contiguous` is the number up to which nothing is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Span = tuple[int, int]
"""First and last sequence number, both included."""


@dataclass(frozen=True)
class Held:
    """What is held of one stream: everything up to `contiguous`, and the spans `beyond` a gap (sorted, disjoint)."""

    contiguous: int = 0
    beyond: tuple[Span, ...] = ()

    @classmethod
    def from_row(cls, contiguous: int, flat: Sequence[int]) -> Held:
        """From the columns of `ack_state`."""
        return cls(contiguous, tuple(zip(flat[::2], flat[1::2], strict=True)))

    def row(self) -> tuple[int, list[int]]:
        """As the columns of `ack_state`."""
        return self.contiguous, [edge for span in self.beyond for edge in span]

    def plus(self, spans: Iterable[Span]) -> Held:
        """With more numbers held. Order and repeats don't matter; what is held stays held."""
        everything = sorted([(1, self.contiguous), *self.beyond, *spans])
        merged: list[Span] = []
        for first, last in everything:
            if last < first:
                continue
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(merged[-1][1], last))
            else:
                merged.append((first, last))
        if merged and merged[0][0] == 1:
            return Held(merged[0][1], tuple(merged[1:]))
        return Held(0, tuple(merged))
