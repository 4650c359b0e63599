"""Training goes on from a bundle: the networks come back as they were packed, and more steps are another leg."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("onnxruntime") is None:
    pytest.skip("training needs the extras `reference` and `cpu` (torch, onnxruntime)", allow_module_level=True)

import torch

from core.errors import EngineError
from engines.bundle import Bundle, open_bundle
from engines.commands.options import REFERENCE
from engines.reference import begin as beginning
from engines.reference import journal
from engines.reference.begin import OtherNetwork, begin
from engines.reference.export import EXACT, check_against_torch, load_trained
from engines.reference.loop import Training
from engines.reference.patients import Store
from engines.reference.recipes import CHARACTERISERS, RECIPES
from engines.reference.train import Mapping
from tests.engines.cascade import toy


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return open_bundle(REFERENCE)


def test_every_network_of_the_shipped_bundle_comes_back_as_it_was_packed(shipped: Bundle, tmp_path: Path) -> None:
    names = begin(shipped, tmp_path)
    assert names == [network.id for network in shipped.manifest.networks]
    for name in names:
        recipe = RECIPES.get(name) or CHARACTERISERS[name]
        check_against_torch(load_trained(recipe, tmp_path / name), recipe, shipped.path(f"{name}.onnx"), EXACT)
        assert journal.Told.of(tmp_path / name) == journal.read(shipped)[name]
    assert begin(shipped, tmp_path) == []  # what is there is never overwritten


def test_with_more_steps_training_goes_on_from_there(shipped: Bundle, tmp_path: Path) -> None:
    begin(shipped, tmp_path)
    step = journal.read(shipped)["lung"].run["step"]
    unchanged = Training(Mapping(replace(RECIPES["lung"], iterations=step), Store(tmp_path)), tmp_path / "lung", 1)
    assert unchanged.finished
    longer = replace(RECIPES["lung"], iterations=step + 500)
    further = Training(Mapping(longer, Store(tmp_path)), tmp_path / "lung", 1)
    assert not further.finished
    assert (further.step, further.begun[-1]) == (step, step)


def test_what_calipers_are_standardised_by_goes_on_from_what_all_of_the_training_saw(
    shipped: Bundle, tmp_path: Path
) -> None:
    begin(shipped, tmp_path)
    scale = load_trained(CHARACTERISERS["liver_malignancy"], tmp_path / "liver_malignancy").scale.train()
    before = scale.mean.clone()
    scale(before + torch.full((4, len(before)), 10.0))
    assert (scale.mean - before).numpy() == pytest.approx(0.02, abs=1e-4)  # one batch of thousands, not the first


def test_other_networks_and_bundles_that_tell_nothing_are_refused(
    shipped: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(beginning.RECIPES, "lung", replace(RECIPES["lung"], features=(8, 16, 32, 64)))
    with pytest.raises(OtherNetwork, match="lung"):
        begin(shipped, tmp_path)
    with pytest.raises(EngineError, match="does not say how its networks were trained"):
        begin(toy.bundle(tmp_path / "toy"), tmp_path / "work")
