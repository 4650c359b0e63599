"""One command trains everything, in order; a lane that fails stops the others and says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import EngineError
from engines.reference.__main__ import FULL, LANES, LOOKING_LANES, REHEARSAL, run_step, steps
from engines.reference.recipes import CHARACTERISERS, RECIPES


def test_every_network_is_trained_once() -> None:
    assert sorted(name for lane in LANES for name in lane) == sorted(RECIPES)
    assert sorted(name for lane in LOOKING_LANES for name in lane) == sorted(CHARACTERISERS)


@pytest.mark.parametrize("lanes", [1, 2])
def test_the_third_stage_waits_for_the_first_two(lanes: int) -> None:
    order = [[command[0] for lane in step for command in lane] for step in steps(Path("work"), lanes)]
    assert [set(step) for step in order] == [{"train"}, {"pack"}, {"candidates"}, {"characterise"}, {"pack"}, {"pack"}]
    assert all(len(step) <= lanes for step in steps(Path("work"), lanes))


def test_a_rehearsal_goes_the_same_way_with_less() -> None:
    for full, small in zip(steps(Path("w"), 2, FULL), steps(Path("w"), 2, REHEARSAL), strict=True):
        for lane, short in zip(full, small, strict=True):
            assert [command[:2] for command in lane] == [command[:2] for command in short]


def test_both_lanes_mine_half_of_the_usual_and_half_of_the_crowded() -> None:
    mining = steps(Path("w"), 2, REHEARSAL)[2]
    told = [[("--crowded" in c, c[c.index("--first") + 1], c[c.index("--count") + 1]) for c in lane] for lane in mining]
    assert told == [[(False, "0", "4"), (True, "0", "2")], [(False, "4", "4"), (True, "2", "2")]]


def test_a_failure_is_named_and_stops_the_other_lane(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EngineError, match="nothing_there x ended with 1"):
        run_step([[("nothing_there", "x")], [("recipes", "which does nothing")]])
    assert "No module named engines.reference.nothing_there" in capfd.readouterr().err
