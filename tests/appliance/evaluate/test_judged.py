"""The benchmark's people: nobody who made the bundle is judged, groups grow together, what is there is used again."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from bench.judged import Asked, Part, counted, fresh, judge_all, parts_of
from bench.kept import keep, take
from bench.record import Goal
from core.errors import ConfigError
from core.finding import Cancer
from engines.evaluation.results import claim
from engines.phantom.cohort import Order
from engines.reference.__main__ import FULL
from engines.reference.pack import GOLDEN
from engines.reference.recipes import RECIPES, TAKEN, TRAINING_SEED
from tests.engines.cascade import toy

ALL = Asked(positives=200, healthy=4000, shifted=400, dicom=100)


def test_nobody_who_had_a_part_in_the_bundle_is_judged() -> None:
    parts = parts_of(ALL, tuple(Cancer))
    for part, (what, taken) in itertools.product(parts, TAKEN.items()):
        assert not set(part.seeds) & set(taken), (part.name, what)
    with pytest.raises(ConfigError, match="training's too"):
        fresh([range(TRAINING_SEED - 5, TRAINING_SEED + 1)], TAKEN)
    fresh([range(TRAINING_SEED - 5, TRAINING_SEED)], TAKEN)


def test_all_who_have_a_part_in_it_are_among_the_seeds_that_are_taken() -> None:
    assert max(recipe.pool(recipe.iterations) for recipe in RECIPES.values()) <= len(TAKEN["training"])
    assert len(TAKEN["mining"]) >= FULL.mined
    assert all(seed in TAKEN["golden cases"] for seed, _ in GOLDEN.values())
    for a, b in itertools.combinations(TAKEN.values(), 2):
        assert max(a[0], b[0]) > min(a[-1], b[-1])


def test_every_group_has_its_people_once_and_healthy_ones_have_no_cancer() -> None:
    parts = parts_of(ALL, tuple(Cancer))
    seeds = {name: [s for p in parts if p.group == name for s in p.seeds] for name in {p.group for p in parts}}
    assert {name: len(found) for name, found in seeds.items()} == {
        **{cancer.value: 800 for cancer in Cancer},  # at most: as many as it takes until 200 count
        "healthy": 4000,
        "shifted": 400,
        "dicom": 100,
        "beside-dicom": 100,
    }
    assert seeds["dicom"] == seeds["beside-dicom"]
    apart = [seed for name, found in seeds.items() if name != "dicom" for seed in found]
    assert len(apart) == len(set(apart))
    assert all(part.order.wanted == {} for part in parts if part.group == "healthy")


def test_more_people_take_over_the_parts_that_are_there() -> None:
    few, many = (parts_of(Asked(200, n, 0, 0), (Cancer.LUNG,)) for n in (400, 1000))
    assert {part.name for part in few} <= {part.name for part in many}
    halfway = parts_of(ALL, tuple(Cancer))[: len(parts_of(ALL, tuple(Cancer))) // 2]
    assert {"healthy", "dicom"} <= {part.group for part in halfway}


def test_a_first_look_has_some_of_every_group() -> None:
    parts = parts_of(ALL, tuple(Cancer))
    groups = {part.group for part in parts}
    assert {part.group for part in parts[: len(groups)]} == groups


def test_a_goal_of_too_few_people_is_not_met() -> None:
    assert Goal(0.99, at_least=True).met(1.0)
    assert not Goal(0.99, at_least=True, enough=False).met(1.0)
    assert not Goal(0.6, enough=False).met(0.0)


def test_a_judgement_stops_when_its_time_is_up_and_goes_on_with_what_it_has(tmp_path: Path) -> None:
    bundle = toy.bundle(tmp_path / "bundle")
    order = Order((6.0, 6.0, 6.0), {"lung": 1})
    parts = [Part("lung", range(7_100_000, 7_100_001), order), Part("lung", range(7_100_001, 7_100_002), order)]
    assert judge_all(bundle, parts, tmp_path / "var", 1, seconds=0.0) == {}
    first = judge_all(bundle, parts[:1], tmp_path / "var", 1, seconds=600.0)
    again = judge_all(bundle, parts, tmp_path / "var", 1, seconds=0.0)
    assert again == first
    assert [case.case for run in again["lung"] for case in run.cases] == [7_100_000]


def test_people_with_a_cancer_are_judged_until_enough_of_them_count(tmp_path: Path) -> None:
    bundle = toy.bundle(tmp_path / "bundle")
    order = Order((6.0, 6.0, 6.0), {"lung": 1}, whole=True)
    parts = [Part("lung", range(n, n + 1), order, until=(Cancer.LUNG, 1)) for n in range(7_100_000, 7_100_008)]
    found = judge_all(bundle, parts, tmp_path / "var", 1, seconds=600.0)
    assert counted(found["lung"], Cancer.LUNG) == 1
    assert counted(found["lung"][:-1], Cancer.LUNG) == 0
    assert len(found["lung"]) < len(parts)


def test_studies_at_full_resolution_are_gone_once_they_are_judged(tmp_path: Path) -> None:
    bundle = toy.bundle(tmp_path / "bundle")
    part = Part("dicom", range(7_200_000, 7_200_001), Order((12.0, 6.0, 6.0), {"lung": 1}, dicom=True), dicom=True)
    found = judge_all(bundle, [part], tmp_path / "var", 1, seconds=600.0)
    (case,) = found["dicom"][0].cases
    assert case.attributes["vendor"]
    assert not (tmp_path / "var" / "studies" / part.name).exists()


def test_a_judgement_goes_on_elsewhere_with_the_scores_that_are_kept(tmp_path: Path) -> None:
    bundle = toy.bundle(tmp_path / "bundle")
    order = Order((6.0, 6.0, 6.0), {"lung": 1})
    parts = [Part("lung", range(n, n + 2), order) for n in (7_100_000, 7_100_002)]
    here, there, kept = tmp_path / "here", tmp_path / "there", tmp_path / "cases.jsonl.gz"
    found = judge_all(bundle, parts[:1], here, 1, seconds=600.0)
    claim(here / "half-done", found["lung"][0].run)  # nobody in it yet: not kept
    assert keep(here, kept) == 2
    assert take(kept, there, "0" * 64) == 0, "another bundle's"
    assert take(kept, there, bundle.digest) == 2
    assert judge_all(bundle, parts, there, 1, seconds=0.0) == found
    assert take(kept, there, bundle.digest) == 0, "they are there"
    judge_all(bundle, parts, there, 1, seconds=600.0)
    assert keep(there, kept) == 4
    assert take(tmp_path / "nothing", there, bundle.digest) == 0
