"""One command trains everything, in order; a lane that fails stops the others and says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import EngineError
from engines.reference.__main__ import LANES, LOOKING_LANES, run_step, steps
from engines.reference.recipes import CHARACTERISERS, RECIPES


def test_every_network_is_trained_once() -> None:
    assert sorted(name for lane in LANES for name in lane) == sorted(RECIPES)
    assert sorted(name for lane in LOOKING_LANES for name in lane) == sorted(CHARACTERISERS)


@pytest.mark.parametrize("lanes", [1, 2])
def test_the_third_stage_waits_for_the_first_two(lanes: int) -> None:
    order = [[command[0] for lane in step for command in lane] for step in steps(Path("work"), lanes)]
    assert [set(step) for step in order] == [{"train"}, {"pack"}, {"candidates"}, {"characterise"}, {"pack"}]
    assert all(len(step) <= lanes for step in steps(Path("work"), lanes))


def test_a_failure_is_named_and_stops_the_other_lane(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EngineError, match="nothing_there x ended with 1"):
        run_step([[("nothing_there", "x")], [("recipes", "which does nothing")]])
    assert "No module named engines.reference.nothing_there" in capfd.readouterr().err
