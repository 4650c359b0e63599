"""The whole way of training in the small: learn, be killed, go on, export, and compare with torch."""

from __future__ import annotations

import base64
import importlib.util
import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("onnxruntime") is None:
    pytest.skip("training needs the extras `reference` and `cpu` (torch, onnxruntime)", allow_module_level=True)

import torch

from core.errors import EngineError
from core.finding import Cancer
from engines.reference.calipers import Calipers, Standardised, mean_within, measured, numbers_of
from engines.reference.candidates import EDGE, Known
from engines.reference.characterise import Looking, Measuring, Memory, NothingToLearn, class_of, look
from engines.reference.export import EXACT, check_against_torch, compact, load_trained, rounded, to_onnx
from engines.reference.loop import Training
from engines.reference.manifest import networks
from engines.reference.network import UNet
from engines.reference.patients import Patient, Store
from engines.reference.recipes import CHARACTERISERS, MIRROR, RECIPES, CharacteriserRecipe, Recipe
from engines.reference.train import Mapping, map_loss, of_few, peak_loss, stops
from engines.reference.validate import Score, figures, tiled
from tests.engines.reference.conftest import SEED

COARSE = replace(RECIPES["localiser"], features=(4, 8), patch=(32, 32, 32), cases=(1, 1, 1), batch=1, iterations=12)
FINE = replace(
    RECIPES["lung"], features=(8, 8), patch=(32, 32, 32), cases=(1, 1, 1), iterations=60, learning_rate=0.01,
    cancers=(Cancer.LUNG, Cancer.LIVER),
)  # fmt: skip
LOOK = replace(
    CHARACTERISERS["soft_malignancy"], cancers=(Cancer.LUNG,), labels=("benign", "lung"), features=(4, 8),
    block=(16, 16, 16), batch=2, iterations=6,
)  # fmt: skip
MEASURE = replace(CHARACTERISERS["liver_malignancy"], block=(16, 16, 16), batch=2, iterations=6)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def training(recipe: Recipe, store: Store, folder: Path, seed: int = 1) -> Training:
    return Training(Mapping(recipe, store, SEED), folder, seed)


def known(patient: Patient, truth: str, asked: str = "lung") -> Known:
    z, y, x = (int(v) for v in patient.in_organ[Cancer.LUNG][0])
    mask = np.zeros((64, 64, 64), bool)
    mask[30:34, 30:34, 30:34] = True
    packed = base64.b64encode(zlib.compress(np.packbits(mask).tobytes())).decode()
    return Known(patient.seed, asked, 0.6, truth, "solid" if truth else "", 8.0, (z, y, x), packed)


def test_training_lowers_the_loss(tmp_path: Path, store: Store) -> None:
    run = training(FINE, store, tmp_path)
    run.run()
    lines = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [50, 60]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert run.finished
    told = json.loads((tmp_path / "run.json").read_text())
    assert told["task"]["name"] == "lung"
    assert len(told["law"]["sha256"]) == 64


@pytest.mark.parametrize("recipe", [COARSE, FINE], ids=["localiser", "detector"])
def test_a_killed_training_goes_on_exactly_where_its_checkpoint_was(
    tmp_path: Path, store: Store, recipe: Recipe
) -> None:
    straight = training(recipe, store, tmp_path / "straight", seed=3)
    straight.run(until=8)
    first = training(recipe, store, tmp_path / "killed", seed=3)
    first.run(until=4)
    first._advance()  # a step that no checkpoint knows of
    first.tell({"step": 5, "loss": 0.0})
    resumed = training(recipe, store, tmp_path / "killed", seed=3)
    assert resumed.step == 4
    assert '"step": 5' not in (tmp_path / "killed" / "losses.jsonl").read_text()
    resumed.run(until=8)
    for name, value in straight.average.state_dict().items():
        assert torch.equal(value, resumed.average.state_dict()[name]), name


def test_more_steps_are_another_leg_with_patients_and_a_rate_of_its_own(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.reference.train.LEG_SEEDS", 0)  # one patient is enough here
    first = training(replace(FINE, iterations=4), store, tmp_path)
    first.run()
    assert len(first.task.memory.hardness) > 0
    resumed = training(replace(FINE, iterations=10), store, tmp_path)
    assert (resumed.step, resumed.begun, resumed.finished) == (4, [0, 4], False)
    assert len(resumed.task.memory.hardness) == 0
    assert torch.equal(resumed.model.stem.weight, first.model.stem.weight)
    resumed.run(until=6)
    rate = json.loads((tmp_path / "losses.jsonl").read_text().splitlines()[-1])["rate"]
    assert rate == pytest.approx(FINE.learning_rate * 2 / 200, rel=0.02)  # the second step of a warm-up
    killed = training(replace(FINE, iterations=10), store, tmp_path)
    assert (killed.step, killed.begun) == (6, [0, 4])
    assert len(killed.task.memory.hardness) > 0
    assert json.loads((tmp_path / "run.json").read_text())["begun"] == [0, 4]


def test_each_leg_learns_from_other_patients(store: Store) -> None:
    task = Mapping(FINE, store, SEED)
    seeds = []
    for leg in (0, 1, 2):
        task.begin(leg)
        seeds.append(task.source.first)
    assert seeds == [SEED, SEED + 1000, SEED + 2000]
    assert all(recipe.cases[1] <= 1000 for recipe in RECIPES.values())


def test_a_characteriser_learns_from_candidates_and_resumes(tmp_path: Path, store: Store, patient: Patient) -> None:
    rows = [known(patient, ""), known(patient, "lung")]
    straight = Training(Looking(LOOK, store, rows), tmp_path / "a", 1)
    straight.run()
    Training(Looking(LOOK, store, rows), tmp_path / "b", 1).run(until=3)
    resumed = Training(Looking(LOOK, store, rows), tmp_path / "b", 1)
    resumed.run()
    assert resumed.step == 6
    for a, b in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_characteriser_answers_for_what_is_in_the_mask() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(2, 3, 6, 8, 6)).astype(np.float32))
    mask = torch.from_numpy((rng.random((2, 1, 6, 8, 6)) < 0.2).astype(np.float32))
    within = mean_within(x, mask)
    for n in range(2):
        there = mask[n, 0].numpy() > 0
        assert np.allclose(within[n].numpy(), x[n].numpy()[:, there].mean(axis=1), atol=1e-3)
    assert torch.isfinite(mean_within(x, torch.zeros_like(mask))).all()


def test_what_is_measured_of_a_candidate_is_what_a_caliper_would_say() -> None:
    """A ball of 60 HU in 20, with a calcified voxel and a rind of 40, an aorta of 44. One unit is 40 HU, 0 is 40."""
    z, y, x = np.indices((48, 48, 48)) - 24
    away = np.sqrt(z**2 + y**2 + x**2)
    hu = np.where(away < 10, 60.0, 20.0)
    hu[(away < 10) & (away >= 8)] = 40.0
    hu[24, 24, 24] = 240.0
    hu[24, 24, 40] = 200.0  # outside: no calcification of its own
    block = np.stack([(hu - 40) / 40, away < 10, np.full_like(hu, 0.1)])[None].astype(np.float32)
    told = measured(torch.from_numpy(block))[0].numpy()
    assert told.shape == (numbers_of(1),)
    core, inner, rind, *shells = told[:7]
    assert core == pytest.approx(0.5, abs=0.01)
    assert -0.01 < rind < inner < 0.5
    assert shells == pytest.approx([-0.5] * 4, abs=0.02)
    spread, (highest, highest_mean, lowest_mean) = told[7:10], told[10:13]
    assert spread[0] == pytest.approx(hu[away < 10].std() / 40, abs=0.01)
    assert (spread > 0.1).all()
    assert highest == pytest.approx(5)
    assert 0.8 < highest_mean < 1.2
    assert -0.5 < lowest_mean < 0.01  # reaches beyond the edge
    assert told[13] == pytest.approx(np.log((away < 10).mean()), abs=1e-4)
    assert 0.6 < told[14] < 0.8
    assert told[15] == pytest.approx(0.1)
    assert told[16] == pytest.approx(core - 0.1)
    assert told[17] == pytest.approx(hu[away < 10].mean() / 40 - 1 - 0.1, abs=1e-3)
    for axis in (2, 4):  # seen in a mirror it is the same
        assert measured(torch.from_numpy(np.flip(block, axis).copy()))[0].numpy() == pytest.approx(told, abs=0.05)


def test_what_is_measured_of_the_thinnest_candidate_and_of_none_is_a_number() -> None:
    x = torch.zeros(3, 2, 16, 16, 16)
    x[0, 1, 8, 8, 8] = 1  # no core
    x[1, 1] = 1  # nothing around it
    numbers = measured(x)
    assert torch.isfinite(numbers).all()
    assert (numbers[:, :7] == 0).all()


def test_numbers_are_standardised_by_all_that_was_seen_and_not_by_the_batch() -> None:
    torch.manual_seed(1)
    scale, drawn = Standardised(2), torch.randn(4000, 2) * torch.tensor([0.02, 9.0]) + torch.tensor([1.0, -7.0])
    for batch in drawn.split(8):
        scale(batch)
    assert scale(drawn).std(dim=0).numpy() == pytest.approx([1, 1], abs=0.15)
    scale.eval()
    alone, among = scale(drawn[:1]), scale(torch.cat((drawn[:1], torch.full((7, 2), 500.0))))[:1]
    assert torch.equal(alone, among)
    assert (scale(torch.full((1, 2), 500.0)) == 8).all()  # nothing is so far out that it drowns the rest


def test_a_memory_forgets_the_oldest_looks() -> None:
    memory, rng = Memory(1, size=8), np.random.Generator(np.random.PCG64(1))
    for look_number in range(11):
        memory.add(torch.tensor([[float(look_number)]]), torch.tensor([look_number % 2]))
        assert memory.draw(rng)[0].max() == look_number
    numbers, truth = memory.draw(rng)
    assert set(numbers[:, 0].tolist()) == {3.0, 4, 5, 6, 7, 8, 9, 10}
    assert torch.equal(numbers[:, 0] % 2, truth.float())
    other = Memory(1, size=8)
    other.restore(memory.state())
    other.add(torch.tensor([[11.0]]), torch.tensor([1]))
    assert other.draw(rng)[0].min() == 4


def test_calipers_learn_to_tell_two_kinds_apart_and_go_on_after_a_kill_as_if_nothing_were(
    tmp_path: Path, store: Store, patient: Patient
) -> None:
    small = known(patient, "", "liver")
    z, y, x = (int(v) for v in patient.in_organ[Cancer.LIVER][0])
    large = replace(known(patient, "liver", "liver"), centre=(z, y, x))  # in the liver, and not in the lung
    task = Measuring(replace(MEASURE, iterations=60), store, [small, large])
    whole = Training(task, tmp_path / "whole", 1)
    whole.run()
    assert json.loads((tmp_path / "whole" / "losses.jsonl").read_text().splitlines()[-1])["loss"] < 0.5
    Training(Measuring(task.recipe, store, [small, large]), tmp_path / "killed", 1).run(25)
    again = Training(Measuring(task.recipe, store, [small, large]), tmp_path / "killed", 1)
    assert again.step == 25
    again.run()
    for name, weights in whole.model.state_dict().items():
        assert torch.equal(weights, again.model.state_dict()[name]), name
    shown = torch.from_numpy(look(task.recipe, store, large, np.random.Generator(np.random.PCG64(3)))[None])
    model = load_trained(task.recipe, tmp_path / "whole")
    assert isinstance(model, Calipers)
    assert int(model(shown).argmax()) == 1


def test_a_candidate_is_shown_with_what_its_scan_makes_of_the_references(store: Store, patient: Patient) -> None:
    recipe = CHARACTERISERS["liver_malignancy"]
    rng = np.random.Generator(np.random.PCG64(1))
    shown = np.stack([look(recipe, store, known(patient, "liver", "liver"), rng)[2:] for _ in range(40)])
    assert shown.shape == (40, 2, *recipe.block)
    assert (shown == shown[:, :, :1, :1, :1]).all()
    offsets = shown[:, :, 0, 0, 0] * recipe.window.std + recipe.window.mean
    offsets -= [store.reference(patient.seed, organ) for organ in recipe.references]
    assert 0.8 < offsets.std() < 2.5  # the scanner is off by 1.5 HU, a mask by half of one
    assert np.corrcoef(offsets.T)[0, 1] > 0.7  # and is off for both at once
    with pytest.raises(EngineError, match="no background"):
        store.reference(patient.seed, "background")


def test_candidates_are_shown_mirrored_in_every_way_that_answers_are_averaged_over(
    store: Store, patient: Patient
) -> None:
    recipe, cancer = CHARACTERISERS["soft_malignancy"], next(c for c in Cancer if patient.cancers(c))
    z, y, x = (int(v) for v in patient.in_organ[cancer][0])
    block = np.zeros((EDGE,) * 3, bool)
    block[EDGE // 2 :, EDGE // 2 :, EDGE // 2 :] = True  # one corner of eight
    mask = base64.b64encode(zlib.compress(np.packbits(block).tobytes())).decode()
    known = Known(patient.seed, cancer.value, 0.5, cancer.value, "", 20.0, (z, y, x), mask)
    rng = np.random.Generator(np.random.PCG64(1))
    corners = {
        tuple(int(axis.mean() > recipe.block[0] / 2) for axis in np.nonzero(look(recipe, store, known, rng, 0)[1]))
        for _ in range(40)
    }
    assert corners == {(z, 1, x) for z in (0, 1) for x in (0, 1)}
    network = next(n for n in networks({"soft_malignancy"}) if n.id == "soft_malignancy")
    assert network.mirror == ("z", "x") == MIRROR


def test_candidates_answer_only_questions_that_are_asked_of_them(patient: Patient) -> None:
    soft, subtype = CHARACTERISERS["soft_malignancy"], CHARACTERISERS["liver_subtype"]
    hit = replace(known(patient, "liver", "liver"), kind="metastases")
    assert class_of(soft, hit) == soft.labels.index("liver")
    assert class_of(CHARACTERISERS["liver_malignancy"], hit) == 1
    assert class_of(subtype, hit) == subtype.labels.index("metastases")
    assert class_of(soft, replace(hit, asked="stomach")) == soft.labels.index("liver")
    assert class_of(soft, replace(hit, truth="", kind="liver cyst")) == 0
    assert class_of(CHARACTERISERS["liver_malignancy"], replace(hit, asked="stomach")) is None
    assert class_of(subtype, replace(hit, truth="stomach")) is None
    assert class_of(soft, replace(hit, asked="lung")) is None


@pytest.mark.parametrize("recipe", [COARSE, FINE, LOOK, MEASURE], ids=["localiser", "detector", "looking", "calipers"])
def test_exported_onnx_agrees_with_torch(
    tmp_path: Path, store: Store, patient: Patient, recipe: Recipe | CharacteriserRecipe
) -> None:
    if isinstance(recipe, CharacteriserRecipe):
        task = Looking if recipe.features else Measuring
        asked = recipe.cancers[0].value
        pair = [known(patient, "", asked), known(patient, asked, asked)]
        Training(task(recipe, store, pair), tmp_path, 1).run(2)
    else:
        training(recipe, store, tmp_path).run(2)
    model = load_trained(recipe, tmp_path)
    path = tmp_path / "network.onnx"
    path.write_bytes(to_onnx(model, recipe))
    assert check_against_torch(model, recipe, path, EXACT) < 1e-4
    path.write_bytes(compact(path.read_bytes()))
    assert 0 < check_against_torch(model, recipe, path, 0.02) < 0.02
    with pytest.raises(EngineError, match="differs from torch"):
        check_against_torch(model, recipe, path, 0.0)


def test_weights_are_rounded_as_fp16_would_and_keep_their_range() -> None:
    weights = np.random.default_rng(0).standard_normal((7, 3, 5)).astype(np.float32)
    assert np.array_equal(rounded(weights), weights.astype(np.float16).astype(np.float32))
    far = np.array([1e-30, -3e20, 0.0], np.float32)  # beyond fp16, which would make 0 and infinity of them
    assert np.allclose(rounded(far), far, rtol=2**-11)
    tie = np.array([1 + 2**-11, 1 + 3 * 2**-11], np.float32)
    assert rounded(tie).tolist() == [1.0, 1 + 2**-9]


def test_a_label_without_candidates_is_not_drawn_and_one_kind_alone_teaches_nothing(
    tmp_path: Path, store: Store, patient: Patient
) -> None:
    soft = replace(CHARACTERISERS["soft_malignancy"], features=(4, 8), block=(16, 16, 16), batch=2, iterations=6)
    rows = [known(patient, "", "liver"), known(patient, "liver", "liver")]
    task = Looking(soft, store, rows)
    drawn = {task._group(np.random.default_rng(i)) for i in range(40)}
    assert drawn == {0, soft.labels.index("liver")}
    assert task.describe()["candidates"]["stomach"] == 0
    Training(task, tmp_path, 1).run(1)
    for only in ([], rows[:1], rows[1:]):
        with pytest.raises(NothingToLearn, match="two kinds"):
            Looking(soft, store, only)


def test_losses_are_small_where_all_is_right_and_large_where_it_is_not() -> None:
    target = torch.zeros(1, 12, 12, 12, dtype=torch.long)
    target[0, 3:9, 3:9, 3:9] = 1
    right = torch.stack([(target == c).float() for c in range(3)], 1) * 20 - 10
    wrong = right.roll(1, 1)
    good, bad = right.log_softmax(1), wrong.log_softmax(1)
    assert map_loss(good, target) < 0.01
    assert map_loss(bad, target) > 5
    (low, easy), (high, hard) = peak_loss(good, target), peak_loss(bad, target)
    assert low < 0.01 < 5 < high
    assert easy[0] < 0.01 < 0.99 < hard[0]


def test_a_piece_without_its_class_costs_no_dice() -> None:
    nothing = torch.zeros(2, 8, 8, 8, dtype=torch.long)
    log_p = torch.zeros(2, 2, 8, 8, 8).log_softmax(1)
    assert float(map_loss(log_p, nothing)) == pytest.approx(np.log(2), rel=1e-5)


def test_tiles_blend_to_what_one_large_tile_gives_where_the_network_looks_at_points() -> None:
    network = UNet((4, 4), 3).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.head.bias[:] = torch.tensor([0.0, 1.0, 2.0])
    image = np.zeros((40, 36, 50), np.float32)
    expected = np.exp(2) / (1 + np.exp(1) + np.exp(2))
    assert np.allclose(tiled(network, image, (16, 16, 16), 2, "cpu"), expected, atol=4e-3)


def test_figures_of_separated_and_mixed_scores() -> None:
    rows = [Score(i, "lung", i >= 50, i / 100) for i in range(100)]
    assert figures(rows, Cancer.LUNG) == {"auc": 1.0, "at95": 1.0, "at99": 1.0, "at100": 1.0}
    mixed = [replace(r, score=0.99) if r.seed == 0 else r for r in rows]
    told = figures(mixed, Cancer.LUNG)
    assert told["at100"] == 0.0
    assert told["at95"] == 1.0
    assert 0.9 < told["auc"] < 1
    assert np.isnan(figures([], Cancer.LIVER)["auc"])


def test_a_network_is_tried_on_its_way_and_at_its_end() -> None:
    assert stops(0, 600, None) == [100, 200, 400, 600]
    assert stops(0, 600, 150) == [100, 150]
    assert stops(600, 900, None) == [650, 700, 800, 900]
    few = of_few(RECIPES["abdomen"], 3)
    assert [few.pool(step) for step in (0, 15000, 30000)] == [3, 3, 3]
    assert of_few(RECIPES["abdomen"], 10**6) == RECIPES["abdomen"]
