"""A plan is found for exactly what it was built for, whole, and runs only after it agreed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engines.runtime.device import Identity
from engines.runtime.plans import PlanKey, Profile, Shelf

ORIN = Identity("Orin", (8, 7), 16, 62800, 12060)
KEY = PlanKey("ab" * 32, "tensorrt 10.3.0", ORIN, tf32=True)
TILE = Profile.exact((64, 64, 64))
WHOLE = Profile((16, 16, 16), (96, 64, 64), (208, 128, 128))


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "plans")


def test_a_plan_is_found_only_once_it_agreed(shelf: Shelf) -> None:
    plan = shelf.save(KEY, TILE, "fp16", b"plan", 12.34)
    assert shelf.find(KEY, (64, 64, 64)) is None
    assert shelf.find(KEY, (64, 64, 64), agreed=False) == plan
    shelf.agree(plan, KEY, {"bundle": "cd" * 32})
    found = Shelf(shelf.folder).find(KEY, (64, 64, 64))
    assert found is not None
    assert (found.precision, found.built_s, found.agreed) == ("fp16", 12.3, {"bundle": "cd" * 32})
    assert shelf.read(found) == b"plan"


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, onnx="cd" * 32),
        replace(KEY, library="tensorrt 10.3.1"),
        replace(KEY, tf32=False),
        replace(KEY, device=replace(ORIN, name="Orin NX")),
        replace(KEY, device=replace(ORIN, capability=(8, 9))),
        replace(KEY, device=replace(ORIN, multiprocessors=8)),
        replace(KEY, device=replace(ORIN, memory_mb=30500)),
        replace(KEY, device=replace(ORIN, driver=12080)),
    ],
)
def test_a_plan_for_anything_else_is_not_found(shelf: Shelf, other: PlanKey) -> None:
    shelf.agree(shelf.save(KEY, TILE, "fp16", b"plan", 1), KEY, {})
    assert shelf.find(other, (64, 64, 64), agreed=False) is None
    assert shelf.find_built(other, TILE) is None


def test_what_was_measured_serves_other_networks_but_no_other_device_or_library(shelf: Shelf) -> None:
    assert shelf.timing_cache(KEY) == b""
    shelf.save_timing_cache(KEY, b"measured")
    assert shelf.timing_cache(replace(KEY, onnx="cd" * 32, tf32=False)) == b"measured"
    assert shelf.timing_cache(replace(KEY, library="tensorrt 11.4.0")) == b""
    assert shelf.timing_cache(replace(KEY, device=replace(ORIN, driver=13000))) == b""


def test_of_several_plans_the_nearest_one_that_covers_the_image_runs_it(shelf: Shelf) -> None:
    for profile, content in ((TILE, b"tile"), (WHOLE, b"whole")):
        shelf.agree(shelf.save(KEY, profile, "fp16", content, 1), KEY, {})
    found = {shape: shelf.find(KEY, shape) for shape in ((64, 64, 64), (96, 64, 80), (208, 128, 144), (8, 64, 64))}
    contents = {shape: plan and shelf.read(plan) for shape, plan in found.items()}
    assert contents == {(64, 64, 64): b"tile", (96, 64, 80): b"whole", (208, 128, 144): None, (8, 64, 64): None}


def test_a_damaged_plan_is_not_read_and_is_built_again(shelf: Shelf) -> None:
    plan = shelf.agree(shelf.save(KEY, TILE, "fp16", b"plan", 1), KEY, {})
    plan.path.write_bytes(b"plam")
    assert shelf.read(plan) is None
    assert shelf.find_built(KEY, TILE) is None
    plan.path.unlink()
    assert shelf.read(plan) is None


@pytest.mark.parametrize("record", ["", "{", "[]", '{"version": 1}', '{"version": 2}', "null"])
def test_a_record_that_can_not_be_read_is_no_plan(shelf: Shelf, record: str) -> None:
    plan = shelf.save(KEY, TILE, "fp16", b"plan", 1)
    plan.path.with_suffix(".json").write_text(record)
    assert list(shelf.every(KEY)) == []


def test_a_plan_built_again_has_to_agree_again(shelf: Shelf) -> None:
    shelf.agree(shelf.save(KEY, TILE, "fp16", b"first", 1), KEY, {})
    shelf.save(KEY, TILE, "fp16", b"second", 1)
    assert shelf.find(KEY, (64, 64, 64)) is None
