"""Big-endian numbers out of bytes that a stranger wrote: nothing is read beyond their end."""

from __future__ import annotations

from dataclasses import dataclass


class StreamFault(Exception):
    """A compressed stream is cut, contradicts itself, or is of another kind than its transfer syntax says."""


@dataclass(frozen=True)
class Frame:
    """What a stream says of its image. bits: of a sample. signed: None where streams of this kind don't say it."""

    rows: int
    columns: int
    samples: int
    bits: int
    signed: bool | None = None


class Octets:
    """Bytes from `at` up to `end` of a stream. StreamFault where more is asked for than there is."""

    def __init__(self, content: bytes, at: int = 0, end: int | None = None) -> None:
        self.content = content
        self.at = at
        self.end = len(content) if end is None else end

    @property
    def left(self) -> int:
        """Bytes that were not taken yet."""
        return self.end - self.at

    def number(self, size: int) -> int:
        """The next `size` bytes as an unsigned number."""
        return int.from_bytes(self.take(size), "big")

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        self.skip(size)
        return self.content[self.at - size : self.at]

    def skip(self, size: int) -> None:
        """Go past the next `size` bytes."""
        if size > self.left:
            raise StreamFault(f"the stream ends at byte {self.end}, within what begins at byte {self.at}")
        self.at += size

    def part(self, size: int) -> Octets:
        """The next `size` bytes to be read by themselves."""
        self.skip(size)
        return Octets(self.content, self.at - size, self.at)
