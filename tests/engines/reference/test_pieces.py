"""What a network sees at a step: where it is cut, what it is told, and that the same step gives the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from core.finding import Cancer
from engines.reference.coarse import Localising
from engines.reference.patients import Patient, Store
from engines.reference.pieces import Choice, Detecting, Memory
from engines.reference.recipes import ORGANS, RECIPES, SCENERY, Recipe
from tests.engines.reference.conftest import SEED

SMALL = (32, 32, 32)


def rng(number: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(number))


def shown(patient: Patient) -> Cancer:
    return next(c for c in Cancer if patient.cancers(c))


def recipe(*cancers: Cancer, **changes: object) -> Recipe:
    return replace(RECIPES["abdomen"], cancers=cancers, patch=SMALL, cases=(1, 1, 1), **changes)  # type: ignore[arg-type]


def detecting(store: Store, of: Recipe) -> Detecting:
    source = Detecting(of, store, SEED)
    source.grow(1)
    return source


def test_a_piece_at_a_cancer_shows_it_and_names_it(store: Store, patient: Patient) -> None:
    cancer = shown(patient)
    source = detecting(store, recipe(cancer, shares=(1.0, 0.0, 0.0)))
    pieces = [source.cut(source.choose(r, Memory()), r) for r in map(rng, range(12))]
    assert sum((p.target == 1).any() for p in pieces) >= 6  # the others are moved beside it, or beyond the scan's end
    assert {int(v) for p in pieces for v in np.unique(p.target)} <= {0, 1}


def test_what_is_no_cancer_of_the_recipe_is_background(store: Store, patient: Patient) -> None:
    source = detecting(store, recipe(shown(patient)))
    lesions = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    target = source.target(patient, lesions)
    wanted = set(patient.cancers(shown(patient)))
    assert {int(n) for n in lesions[target == 1]} == wanted


def test_scenery_names_tissues_and_benign_findings(store: Store, patient: Patient) -> None:
    source = detecting(store, recipe(shown(patient)))
    benign = patient.others()[0]
    organs = np.array([[[34, 21]]], np.uint8)
    lesions = np.array([[[0, benign]]], np.uint8)
    names = source.scenery(patient, organs, lesions)
    assert SCENERY[names[0, 0, 0]][0].name == "PANCREAS"
    assert names[0, 0, 1] == len(SCENERY)


def test_the_same_generator_gives_the_same_piece(store: Store, patient: Patient) -> None:
    source = detecting(store, recipe(Cancer.LIVER, Cancer.STOMACH))
    a, b = (source.cut(source.choose(r, Memory()), r) for r in (rng(4), rng(4)))
    assert np.array_equal(a.image, b.image)
    assert np.array_equal(a.target, b.target)
    other = source.cut(source.choose(r := rng(5), Memory()), r)
    assert not np.array_equal(a.image, other.image)


def test_a_piece_beyond_the_body_is_air(store: Store, patient: Patient) -> None:
    of = recipe(Cancer.LIVER)
    source = detecting(store, of)
    piece = source.cut(Choice(patient, (-100, -100, -100)), rng())
    assert not piece.target.any()
    air = of.window.apply(np.full(1, -1000, np.float32))[0]
    assert np.median(piece.image) == pytest.approx(air)


def test_memory_keeps_what_is_hard_and_gives_it_more_often() -> None:
    memory = Memory(most=3)
    for number, hardness in enumerate((0.1, 0.9, 0.5, 0.05, 0.7)):
        memory.note(number, (number, 0, 0), hardness)
    assert sorted(memory.places[:, 0].tolist()) == [1, 2, 4]
    drawn = [memory.draw(r)[1] for r in map(rng, range(300))]
    assert drawn.count(1) > drawn.count(2)
    row, seed, voxel = memory.draw(rng())
    memory.note(seed, voxel, 0.0, row)
    assert memory.hardness[row] == 0
    assert len(memory.hardness) == 3


def test_a_recipe_s_pool_grows_from_first_to_last() -> None:
    of = replace(RECIPES["lung"], cases=(100, 300, 1000))
    assert [of.pool(step) for step in (0, 500, 1000, 2000)] == [100, 200, 300, 300]


def test_the_localiser_sees_organs_by_the_names_of_its_channels(store: Store, patient: Patient) -> None:
    of = replace(RECIPES["localiser"], cases=(1, 1, 1))
    source = Localising(of, store, SEED)
    source.grow(1)
    seen: set[int] = set()
    for number in range(8):
        piece = source.cut(source.choose(r := rng(number), Memory()), r)
        assert piece.image.shape == piece.target.shape == of.patch
        assert np.isfinite(piece.image).all()
        seen |= set(np.unique(piece.target).tolist())
    names = [list(ORGANS)[n] for n in sorted(seen)]
    assert {"background", "liver", "lung", "pancreas", "oesophagus", "colon", "stomach"} <= set(names)
