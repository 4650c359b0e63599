"""The chosen series to a volume: slice by slice into one int16 array, never more than that and one slice in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from appliance.imaging.decode import Slice, SliceDecoder
from appliance.imaging.header import ImageHeader
from appliance.imaging.stack import StackRules, make_stack
from core.errors import InputRefused
from core.finding import Reason
from core.volume import Volume


def build_volume(
    headers: Sequence[ImageHeader],
    decode: Callable[[ImageHeader], Slice] | None = None,
    progress: Callable[[int, int], None] | None = None,
    rules: StackRules | None = None,
) -> Volume:
    """A volume from the slices of one series, in any order; z grows to Superior, rows and columns stay as stored.

    progress: called with (slices done, slices in all). InputRefused where the slices make no regular grid (checked
    again here: a caller may bring other slices than were selected), lack memory, or can't be decoded.
    """
    stack = make_stack(headers, rules or StackRules())
    decoded = decode or SliceDecoder()
    shape = stack.geometry.shape
    try:
        hu = np.empty(shape, dtype=np.int16)
    except MemoryError as error:
        raise InputRefused(Reason.MEMORY, f"a volume of {shape[0]}x{shape[1]}x{shape[2]} voxels") from error
    for z, header in enumerate(stack.headers):
        hu[z] = decoded(header)
        if progress is not None:
            progress(z + 1, shape[0])
    return Volume(hu, stack.geometry)
