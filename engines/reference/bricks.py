"""A patient's volumes on disk, in bricks: any block of them is read without the rest.

    head        magic, length of the index, index (JSON, UTF-8)
    records     zlib-compressed (level 1: read far more often than the disk is full), where the index says

Training reads blocks of some cm out of torsos of a million voxels and more; bricks of 32³ make a block of 64³ cost
some ms instead of the whole volume's half second. Arrays without a volume's shape are kept whole beside the bricks.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core import durable
from core.errors import EngineError
from core.volume import Index

EDGE = 32
_MAGIC = b"OSBRICK1"
_ANEW = "Remove it; it will be made anew."
Array = npt.NDArray[Any]


def write(path: Path, volumes: Mapping[str, Array], arrays: Mapping[str, Array], about: Mapping[str, Any]) -> None:
    """Write volumes (all of one shape (z, y, x)), other arrays and JSON values, durably and at once."""
    shapes = {volume.shape for volume in volumes.values()}
    if len(shapes) != 1:
        raise ValueError(f"volumes of one shape are wanted, not {sorted(shapes)}")
    shape = next(iter(shapes))
    records = [_packed(*(volume[where] for volume in volumes.values())) for where in _bricks(shape)]
    records += [_packed(array) for array in arrays.values()]
    ends = np.cumsum([len(record) for record in records])
    index = {
        "shape": list(shape),
        "volumes": {name: volume.dtype.str for name, volume in volumes.items()},
        "arrays": {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()},
        "places": [(int(end) - len(record), len(record)) for end, record in zip(ends, records, strict=True)],
        "about": dict(about),
    }
    head = json.dumps(index).encode()
    durable.write_bytes(path, _MAGIC + len(head).to_bytes(4, "little") + head + b"".join(records))


@dataclass(frozen=True, eq=False)
class Bricks:
    """A file that `write` wrote. shape: of the volumes. about: the JSON values."""

    path: Path
    shape: Index
    about: dict[str, Any]
    volumes: dict[str, np.dtype[Any]]
    arrays: dict[str, tuple[np.dtype[Any], tuple[int, ...]]]
    places: npt.NDArray[np.int64]
    start: int

    def array(self, name: str) -> Array:
        """An array that is no volume, read now."""
        dtype, shape = self.arrays[name]
        number = len(self.places) - len(self.arrays) + list(self.arrays).index(name)
        with self.path.open("rb", buffering=0) as file:
            raw = _record(file.fileno(), self.start, self.places[number], self.path)
        return np.frombuffer(raw, dtype).reshape(shape)

    def read(self, low: Index, size: Index, fill: Mapping[str, float]) -> dict[str, Array]:
        """The block of `size` voxels from `low` on of every volume; `fill` where it reaches beyond the volume."""
        out = {name: np.full(size, fill.get(name, 0), dtype) for name, dtype in self.volumes.items()}
        if any(a >= end or a + n <= 0 for a, n, end in zip(low, size, self.shape, strict=True)):
            return out
        first = [max(a, 0) // EDGE for a in low]
        last = [-(-min(a + n, end) // EDGE) for a, n, end in zip(low, size, self.shape, strict=True)]
        counts = [-(-n // EDGE) for n in self.shape]
        with self.path.open("rb", buffering=0) as file:
            for brick in product(*(range(a, b) for a, b in zip(first, last, strict=True))):
                number = (brick[0] * counts[1] + brick[1]) * counts[2] + brick[2]
                self._copy(file.fileno(), number, brick, low, out)
        return out

    def _copy(self, descriptor: int, number: int, brick: tuple[int, ...], low: Index, out: dict[str, Array]) -> None:
        raw = _record(descriptor, self.start, self.places[number], self.path)
        corner = [b * EDGE for b in brick]
        extent = [min(EDGE, n - c) for c, n in zip(corner, self.shape, strict=True)]
        size = next(iter(out.values())).shape
        here, there = [], []
        for c, n, a, s in zip(corner, extent, low, size, strict=True):
            begin, end = max(c, a), min(c + n, a + s)
            here.append(slice(begin - c, end - c))
            there.append(slice(begin - a, end - a))
        offset = 0
        for name, dtype in self.volumes.items():
            voxels = int(np.prod(extent))
            part = np.frombuffer(raw, dtype, voxels, offset).reshape(extent)
            out[name][tuple(there)] = part[tuple(here)]
            offset += voxels * dtype.itemsize


def opened(path: Path) -> Bricks:
    """The file's index; volumes and arrays are read when asked for. EngineError if it is none of ours, or damaged."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
            length = int.from_bytes(head[8:12], "little")
            index = json.loads(file.read(length)) if head[:8] == _MAGIC else None
    except (OSError, ValueError) as error:
        raise EngineError(f"can't read {path.name}: {error}", remedy=_ANEW) from error
    if index is None:
        raise EngineError(f"{path.name} is no file of bricks", remedy=_ANEW)
    z, y, x = index["shape"]
    return Bricks(
        path,
        (z, y, x),
        index["about"],
        {name: np.dtype(dtype) for name, dtype in index["volumes"].items()},
        {name: (np.dtype(dtype), tuple(shape)) for name, (dtype, shape) in index["arrays"].items()},
        np.asarray(index["places"], np.int64).reshape(-1, 2),
        12 + length,
    )


def _record(descriptor: int, start: int, place: npt.NDArray[np.int64], path: Path) -> bytes:
    packed = os.pread(descriptor, int(place[1]), start + int(place[0]))
    try:
        return zlib.decompress(packed)
    except zlib.error as error:
        raise EngineError(f"{path.name} is damaged: {error}", remedy=_ANEW) from error


def _packed(*arrays: Array) -> bytes:
    return zlib.compress(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays), 1)


def _bricks(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """The bricks of a volume, z slowest."""
    for corner in product(*(range(0, n, EDGE) for n in shape)):
        yield tuple(slice(c, c + EDGE) for c in corner)
