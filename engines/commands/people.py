"""`phantom --count`: a cohort of synthetic torsos in a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from core.errors import ConfigError
from core.finding import Cancer
from engines.commands.options import out, print_json, with_progress


@dataclass(frozen=True)
class Wish:
    """What the command line asks for. slice_mm, pixel_mm: without pixel_mm, 2 mm all round."""

    first: int
    count: int
    jobs: int
    cancers: tuple[Cancer, ...]
    healthy: bool
    dicom: bool
    shifted: bool
    slice_mm: float
    pixel_mm: float | None


def make_people(folder: Path, wish: Wish, as_json: bool) -> None:
    """Make the cohort, under a progress bar, and say what was made."""
    from engines.phantom.cohort import Order, make

    if wish.healthy and wish.cancers:
        raise ConfigError("nobody can be healthy and have a cancer", remedy="Leave out --healthy or --cancer.")
    if folder.suffix == ".npz":
        raise ConfigError(f"{folder} is a file's name", remedy="Name a folder: each person gets one in it.")
    wanted = {} if wish.healthy else {c.value: 1 for c in wish.cancers} or None
    spacing = (2.0, 2.0, 2.0) if wish.pixel_mm is None else (wish.slice_mm, wish.pixel_mm, wish.pixel_mm)
    order = Order(None if wish.dicom else spacing, wanted, wish.dicom, wish.shifted)
    jobs = wish.jobs or len(os.sched_getaffinity(0))
    seeds = range(wish.first, wish.first + wish.count)
    made = with_progress("making torsos", "cases", lambda step: make(folder, seeds, order, jobs, step), as_json)
    if as_json:
        print_json({"path": str(folder), "first": wish.first, "count": wish.count, "made": made, **order.settings()})
        return
    there = f", {wish.count - made} were there" if made < wish.count else ""
    out.print(f"{made} synthetic torsos made in {folder}{there}")
