"""A damaged header is a typed failure or a report, never an exception of somebody's library."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from appliance.reporting import ReportFailed, write_objects
from appliance.reporting.origin import read_header, read_reference, read_sibling_reference
from core.extent import Extent
from tests.appliance.reporting import series as given

_HEADER_BYTES = 1800


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(6))
def test_random_damage_ends_in_our_own_error(seed: int, tmp_path: Path) -> None:
    series = given.write_series(tmp_path)
    sibling = read_header(Extent(series.paths[1]))
    draw = random.Random(seed)
    whole = series.paths[0].read_bytes()[: _HEADER_BYTES + 400]
    outcomes = set()
    for n in range(120):
        damaged = bytearray(whole)
        for _ in range(draw.randrange(1, 6)):
            damaged[draw.randrange(132, _HEADER_BYTES)] = draw.randrange(256)
        series.paths[0].write_bytes(damaged[: draw.randrange(len(damaged))] if n % 3 == 0 else damaged)
        for reading in (read_header, read_reference, lambda image: read_sibling_reference(image, sibling)):
            outcomes.add(_outcome(lambda reading=reading: reading(Extent(series.paths[0]))))
        if n % 10 == 0:
            context = given.nothing_analysable(series.paths[:1])
            outcomes.add(_outcome(lambda context=context: write_objects(context, tmp_path / "out")))
    assert outcomes == {"fine", "failed"}


def _outcome(action: object) -> str:
    try:
        action()  # type: ignore[operator]
    except ReportFailed:
        return "failed"
    return "fine"
