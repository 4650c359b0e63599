"""The whole way of training in the small: render, train, stop, go on, export, and compare with torch."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("onnxruntime") is None:
    pytest.skip("training needs the extras `reference` and `cpu` (torch, onnxruntime)", allow_module_level=True)

import torch

from engines.phantom import Scan, Tissue, render, sample_patient
from engines.reference import augment
from engines.reference.export import check_against_torch, load_trained, to_onnx
from engines.reference.recipes import RECIPES, Recipe
from engines.reference.rendering import Case, _pack, load
from engines.reference.train import LesionPatches, Training, WholeVolumes, loss_of, normalise

COARSE = replace(RECIPES["localiser"], features=(4, 6), iterations=6, spacing_mm=12.0)
FINE = replace(RECIPES["lung_lesion"], features=(4, 6), iterations=200, patch=(32, 32, 32), learning_rate=0.05)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def small_case(seed: int, spacing_mm: float) -> Case:
    scan = Scan((spacing_mm,) * 3, None, (400.0, 500.0), kernel=None)
    volume, labels = render(sample_patient(seed, lung=3, liver=0, diameter_mm=30), scan)
    return Case(seed, volume.hu, labels, scan.spacing_mm)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [small_case(seed, 6.0) for seed in (1, 2)]


def test_a_cached_case_comes_back_as_it_was(tmp_path: Path, cases: list[Case]) -> None:
    (tmp_path / "1.case").write_bytes(_pack(cases[0]))
    again = load(tmp_path / "1.case")
    assert np.array_equal(again.hu, cases[0].hu)
    assert np.array_equal(again.labels, cases[0].labels)
    assert (again.seed, again.spacing_mm) == (1, (6.0, 6.0, 6.0))


def test_training_lowers_the_loss(tmp_path: Path, cases: list[Case]) -> None:
    source = LesionPatches(cases, FINE)
    training = Training(FINE, tmp_path, seed=1)
    first = training.run(source, until=3)
    training.run(source, until=20)
    last = training.run(source, until=25)
    assert last < first - 0.2
    assert (tmp_path / "losses.jsonl").read_text().count("\n") == 3


def test_a_stopped_training_goes_on_where_it_was(tmp_path: Path, cases: list[Case]) -> None:
    source = WholeVolumes(cases, COARSE)
    straight = Training(COARSE, tmp_path / "straight", seed=3)
    straight.run(source, until=6)
    Training(COARSE, tmp_path / "halves", seed=3).run(source, until=3)
    resumed = Training(COARSE, tmp_path / "halves", seed=3)
    assert resumed.step == 3
    resumed.run(source, until=6)
    for a, b in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("recipe", [COARSE, FINE], ids=["localiser", "detector"])
def test_exported_onnx_agrees_with_torch_on_any_shape(tmp_path: Path, cases: list[Case], recipe: Recipe) -> None:
    source = LesionPatches(cases, recipe) if recipe.patch else WholeVolumes(cases, recipe)
    Training(recipe, tmp_path, seed=1).run(source, until=2)
    model = load_trained(recipe, tmp_path)
    path = tmp_path / "network.onnx"
    path.write_bytes(to_onnx(model, recipe))
    assert check_against_torch(model, recipe, path) < 1e-4


def test_patches_are_centred_on_lesions_more_often_than_chance(cases: list[Case]) -> None:
    source = LesionPatches(cases, FINE)
    with_lesion = sum(bool(source.batch(np.random.default_rng(i))[1].any()) for i in range(20))
    assert with_lesion >= 12


def test_normalised_intensities_are_those_of_the_manifest() -> None:
    hu = torch.tensor([-2000.0, -1000.0, -500.0, 300.0, 3000.0])
    assert torch.allclose(normalise(hu, RECIPES["lung_lesion"]), torch.tensor([-1.25, -1.25, 0.0, 2.0, 2.0]))


def test_loss_is_near_zero_for_a_perfect_answer_and_large_for_a_wrong_one() -> None:
    target = torch.zeros(1, 8, 8, 8, dtype=torch.long)
    target[:, 2:5, 2:5, 2:5] = 1
    right = torch.nn.functional.one_hot(target, 2).movedim(-1, 1).float() * 40 - 20
    assert loss_of(right, target) < 0.05 < 1 < loss_of(-right, target)


def test_contrast_and_drift_leave_the_air_around_the_patient_alone() -> None:
    labels = np.zeros((2, 2, 2), np.uint8)
    labels[1] = Tissue.LIVER
    hu = np.full((2, 2, 2), -1000, np.float32)
    for seed in range(20):
        shifted = augment.shift_tissues(hu, labels, np.random.default_rng(seed))
        assert (shifted[0] == -1000).all()
        assert np.ptp(shifted[1]) == 0


def test_thick_slices_smear_along_z_only_and_keep_the_mean() -> None:
    hu = torch.zeros(1, 1, 32, 8, 8)
    hu[:, :, 16] = 100
    for seed in range(50):
        again = augment.scan_again(hu, np.random.default_rng(seed), 2.0, (1e-6, 1e-5))
        if again.max() < 60:
            assert float(again[0, 0, :, 4, 4].std()) > 0
            assert again.shape == hu.shape
            return
    raise AssertionError("no thick slices were drawn in 50 scans")
