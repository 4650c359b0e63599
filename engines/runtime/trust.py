"""What every runtime asks of a network and of its output before anybody uses it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.errors import EngineError
from engines.runtime import Tensor

INPUT = "image"
OUTPUT = "logits"


def check_interface(inputs: Sequence[tuple[str, int]], outputs: Sequence[tuple[str, int]]) -> None:
    """EngineError unless the network takes `image` with five axes and gives `logits` with five, or two.

    inputs, outputs: (name, number of axes) of each.
    """
    if list(inputs) != [(INPUT, 5)] or list(outputs) not in ([(OUTPUT, 5)], [(OUTPUT, 2)]):
        raise EngineError(
            f"the network takes {_listed(inputs)} and gives {_listed(outputs)}",
            remedy=f"Export it with one input `{INPUT}` (1,I,Z,Y,X) and one output `{OUTPUT}` (1,C,Z,Y,X) or (1,C).",
        )


def check_image(image: Tensor) -> None:
    """EngineError unless an image is finite float32 (1, I, Z, Y, X)."""
    if image.dtype != np.float32 or image.ndim != 5 or image.shape[0] != 1 or 0 in image.shape:
        raise EngineError(f"an image is float32 (1,I,Z,Y,X), not {image.dtype} {image.shape}")
    if not np.isfinite(_range(image)).all():
        raise EngineError("the image holds NaN or infinity")


def poisoned(shape: tuple[int, ...]) -> Tensor:
    """An output buffer full of NaN: whatever the library fails to write is then found by `check_logits`."""
    return np.full(shape, np.nan, dtype=np.float32)


def check_logits(logits: Tensor, image: Tensor) -> None:
    """EngineError unless logits are finite throughout, not all zero, and a map on the image's grid (or scores)."""
    if logits.dtype != np.float32 or logits.ndim not in (2, 5) or logits.shape[0] != 1:
        raise EngineError(f"logits are float32 (1,C,Z,Y,X) or (1,C), not {logits.dtype} {logits.shape}")
    if logits.ndim == 5 and logits.shape[2:] != image.shape[2:]:
        raise EngineError(f"logits of shape {logits.shape[2:]} for an image of shape {image.shape[2:]}")
    low, high = _range(logits)
    check_found(not (np.isfinite(low) and np.isfinite(high)), not low == high == 0)


def check_found(not_finite: bool, not_zero: bool) -> None:
    """EngineError because of what somebody (a kernel on the device) found in an output: see `check_logits`."""
    if not_finite:
        raise EngineError("the network's output holds NaN or infinity, or was not written in full")
    if not not_zero:
        raise EngineError("the network's output is zero throughout")


def _range(array: Tensor) -> tuple[float, float]:
    """Least and greatest element: NaN where one is, infinite where one is. No mask array, and quicker than a sum."""
    return float(array.min()), float(array.max())


def _listed(ports: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"`{name}` with {axes} axes" for name, axes in ports) or "nothing"
