"""The chosen series to a volume: slice by slice into one int16 array, never more than that and one slice in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from appliance.imaging.decode import Slice, SliceDecoder
from appliance.imaging.header import ImageHeader
from appliance.imaging.stack import Stack, StackRules, make_stack
from core.errors import InputRefused
from core.finding import Reason
from core.volume import Volume

MOST_BYTES = 2 << 30
"""Of a volume, where nobody says otherwise: 4,096 slices of 512 x 512."""


def build_volume(
    headers: Sequence[ImageHeader],
    decode: Callable[[ImageHeader], Slice] | None = None,
    progress: Callable[[int, int], None] | None = None,
    rules: StackRules | None = None,
    most_bytes: int = MOST_BYTES,
) -> Volume:
    """A volume from the slices of one series, in any order; z grows to Superior, rows and columns stay as stored.

    progress: called with (slices done, slices in all). InputRefused where the slices make no regular grid (checked
    again here: a caller may bring other slices than were selected), would take more than `most_bytes`, lack memory, or
    can't be decoded.
    """
    stack = make_stack(headers, rules or StackRules())
    decoded = decode or SliceDecoder()
    shape = stack.geometry.shape
    _check_size(stack, most_bytes)
    try:
        hu = np.empty(shape, dtype=np.int16)
    except MemoryError as error:
        raise InputRefused(Reason.MEMORY, f"a volume of {_voxels(stack)}") from error
    for z, header in enumerate(stack.headers):
        hu[z] = decoded(header)
        if progress is not None:
            progress(z + 1, shape[0])
    return Volume(hu, stack.geometry)


def _check_size(stack: Stack, most_bytes: int) -> None:
    """Matrix and number of slices are the sender's word: nothing is allocated for more than this box allows."""
    size = math.prod(stack.geometry.shape) * np.dtype(np.int16).itemsize
    if size > most_bytes:
        number = stack.headers[0].series_number
        raise InputRefused(
            Reason.MEMORY,
            f"series {'?' if number is None else number}: a volume of {_voxels(stack)} takes {size >> 20} MiB, at most "
            f"{most_bytes >> 20} are allowed",
            remedy="Send fewer slices or pixels, or raise analyser.max_volume_mb if the box has the memory.",
        )


def _voxels(stack: Stack) -> str:
    return f"{'x'.join(map(str, stack.geometry.shape))} voxels"
