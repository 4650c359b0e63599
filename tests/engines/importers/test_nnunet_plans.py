"""plans.json and dataset.json become the manifest's network, or are refused with what stands in the way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines.importers import ImportRefused
from engines.importers.binding import read_binding, template, unbound
from engines.importers.nnunet import file_axes_of, find_model, import_model
from engines.importers.nnunet_plans import (
    architecture_of,
    heads_of,
    network_of,
    read_dataset,
    read_plans,
)
from engines.manifest import Clip, Network, Raw, Rescale, Spline, ZScore
from tests.engines.importers.nnunet_recipes import Recipe, dataset_of, plans_of

PLAIN = Recipe("plain")


def imported(recipe: Recipe = PLAIN, file_axes: str | None = None, **changes: Any) -> Network:
    """The network of a recipe's plans, its configuration changed."""
    raw = plans_of(recipe)
    raw["configurations"][recipe.configuration].update(changes)
    plans = read_plans(raw)
    return network_of(
        plans,
        read_dataset(dataset_of(recipe)),
        recipe.configuration,
        network_id="fullres",
        stage="detect",
        files=("a.onnx", "b.onnx"),
        mirror=(0, 2),
        file_axes=file_axes_of(plans, file_axes),
    )


def test_a_configuration_becomes_a_network_that_runs_as_nnunet_runs_it() -> None:
    network = imported()
    assert network.resampling == Spline()
    assert network.intensity == Clip(clip_low_hu=-960, clip_high_hu=320, mean_hu=-120, std_hu=320)
    assert (network.normalise_first, network.blend, network.region) == (True, "logits", "volume")
    tiling = network.tiling
    assert tiling.kind == "patch"
    assert (tiling.size, tiling.overlap, tiling.gaussian) == ((16, 40, 48), 0.5, True)
    assert (tiling.steps, tiling.peak, tiling.pad) == ("even", "voxel", "zero_centred")
    assert (network.mirror, network.axes, network.spacing_mm) == (("z", "x"), "SPL", (7, 7, 7))
    assert (network.activation, network.labels) == ("softmax", ("background", "lung", "bone", "soft-tissue"))


def test_transposed_axes_and_the_readers_orientation_become_letters() -> None:
    assert imported(Recipe("turned", transpose=(2, 0, 1))).axes == "LSP"
    assert imported(Recipe("ras", reader="NibabelIOWithReorient", transpose=(1, 0, 2))).axes == "ASR"
    assert imported(file_axes="IAR").axes == "IAR"
    with pytest.raises(ImportRefused, match="three letters"):
        imported(file_axes="SP")
    with pytest.raises(ImportRefused, match="one of L and R"):
        imported(file_axes="SPS")


@pytest.mark.parametrize(
    ("scheme", "kind"),
    [("ZScoreNormalization", ZScore), ("RescaleTo01Normalization", Rescale), ("NoNormalization", Raw)],
)
def test_other_normalisations(scheme: str, kind: type) -> None:
    assert isinstance(imported(normalization_schemes=[scheme]).intensity, kind)


def test_the_rule_for_the_coarse_axis_is_kept() -> None:
    kwargs = {"is_seg": False, "order": 3, "order_z": 1, "force_separate_z": True}
    logits = {**kwargs, "order": 1, "order_z": 0}
    rule = imported(resampling_fn_data_kwargs=kwargs, resampling_fn_probabilities_kwargs=logits).resampling
    assert rule == Spline(separate_z="always", order_z=1)


def test_regions_keep_their_order_and_an_ignore_label_has_no_channel() -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "active": 3, "ignore": 4}
    recipe = Recipe("regions", labels=labels, regions=(1, 2, 3))
    network = imported(recipe)
    assert (network.activation, network.labels) == ("sigmoid", ("whole", "core", "active"))
    assert network.region_order == (1, 2, 3)
    assert heads_of(read_dataset(dataset_of(recipe))).foreground == (1, 2, 3)
    plain = Recipe("ignore", labels={"background": 0, "lung": 1, "ignore": 2})
    assert imported(plain).labels == ("background", "lung")


@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_old_plans_describe_the_same_network(kind: str) -> None:
    new, old = Recipe("new", kind=kind), Recipe("old", kind=kind, old_plans=True)
    for recipe in (new, old):
        configuration = read_plans(plans_of(recipe)).configuration("3d_fullres")
        found, arguments = architecture_of(configuration, "3d_fullres")
        assert found == kind
        assert [tuple(s) for s in arguments["strides"]] == [(1, 1, 1), (1, 2, 2), (2, 2, 2)]
        assert list(arguments["features_per_stage"]) == [8, 16, 32]


def test_a_configuration_has_what_it_inherits() -> None:
    plans = read_plans(plans_of(Recipe("cascade", configuration="3d_cascade_fullres")))
    configuration = plans.configuration("3d_cascade_fullres")
    assert (configuration.patch_size, configuration.previous_stage) == ((16, 40, 48), "3d_lowres")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"patch_size": [48, 64]}, "2D configuration"),
        ({"normalization_schemes": ["RGBTo01Normalization"]}, "RGBTo01Normalization"),
        ({"normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [True]}, "within the mask"),
        ({"preprocessor_name": "MyPreprocessor"}, "MyPreprocessor"),
        ({"resampling_fn_data": "resample_torch_fornnunet"}, "resample_torch_fornnunet"),
        ({"resampling_fn_probabilities_kwargs": {"order": 3, "force_separate_z": None}}, "order 3"),
        ({"resampling_fn_probabilities_kwargs": {"order": 1, "force_separate_z": True}}, "different rules"),
        ({"spacing": [5, 5, -5]}, "spacing_mm"),
        ({"spacing": "five"}, "spacing"),
    ],
)
def test_what_would_run_otherwise_is_refused_by_name(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ImportRefused, match=sentence):
        imported(**changes)


@pytest.mark.parametrize("name", ["ResidualUNet", "Primus", "my.own.Network"])
def test_unknown_architectures_are_refused_by_name(name: str) -> None:
    raw = plans_of(Recipe("other"))
    raw["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = name
    with pytest.raises(ImportRefused, match=name.rsplit(".", 1)[-1]):
        architecture_of(read_plans(raw).configuration("3d_fullres"), "3d_fullres")


def test_wrong_files_are_refused_by_the_field() -> None:
    raw = plans_of(Recipe("plain"))
    with pytest.raises(ImportRefused, match="3d_lowres; it has 3d_fullres"):
        read_plans(raw).configuration("3d_lowres")
    raw["configurations"]["3d_fullres"]["inherits_from"] = "3d_fullres"
    with pytest.raises(ImportRefused, match="in a circle"):
        read_plans(raw).configuration("3d_fullres")
    with pytest.raises(ImportRefused, match="transpose_forward"):
        read_plans({**raw, "transpose_forward": [0, 1, 1]})
    with pytest.raises(ImportRefused, match="label manager"):
        read_plans({**raw, "label_manager": "MyLabels"})
    with pytest.raises(ImportRefused, match="2 images"):
        read_dataset({**dataset_of(Recipe("two")), "channel_names": {"0": "CT", "1": "PET"}})
    for labels in ({"lung": 1}, {"background": 0, "lung": 2}, {"background": 0, "Lung": 1, "lung": 2}):
        with pytest.raises(ImportRefused, match=r"dataset\.json"):
            heads_of(read_dataset(dataset_of(Recipe("labels", labels=labels))))
    with pytest.raises(ImportRefused, match="regions_class_order"):
        heads_of(read_dataset(dataset_of(Recipe("regions", labels={"background": 0, "a": [1, 2], "b": 2}))))


def written(folder: Path, recipe: Recipe) -> Path:
    here = folder / f"nnUNetTrainer__nnUNetPlans__{recipe.configuration}"
    here.mkdir(parents=True)
    (here / "plans.json").write_text(json.dumps(plans_of(recipe)))
    (here / "dataset.json").write_text(json.dumps(dataset_of(recipe)))
    return here


def test_a_model_folder_is_found_by_its_configuration(tmp_path: Path) -> None:
    recipe = Recipe("plain")
    here = written(tmp_path, recipe)
    written(tmp_path, replace(recipe, configuration="3d_lowres"))
    assert find_model(here).configuration == "3d_fullres"
    assert find_model(tmp_path, "3d_fullres").folder == here
    with pytest.raises(ImportRefused, match="2 model folders"):
        find_model(tmp_path)
    (here / "plans.json").write_text("[1")
    with pytest.raises(ImportRefused, match="not JSON"):
        find_model(here)


def test_missing_folds_and_a_missing_earlier_stage_are_named(tmp_path: Path) -> None:
    here = written(tmp_path, Recipe("plain"))
    with pytest.raises(ImportRefused, match="it has none"):
        import_model(find_model(here), tmp_path / "bundle", unbound("plain"))
    (here / "fold_1").mkdir()
    (here / "fold_1" / "checkpoint_final.pth").touch()
    with pytest.raises(ImportRefused, match="fold 0; it has 1"):
        import_model(find_model(here), tmp_path / "bundle", unbound("plain"), folds=("0",))
    cascade = written(tmp_path, Recipe("cascade", configuration="3d_cascade_fullres"))
    with pytest.raises(ImportRefused, match="follows 3d_lowres"):
        import_model(find_model(cascade), tmp_path / "bundle", unbound("cascade"))
    assert not (tmp_path / "bundle").exists()


def test_a_template_is_a_binding_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "binding.yaml"
    path.write_text(template("lung-7", ("background", "lung")))
    binding = read_binding(path, "other")
    assert binding.fields["name"] == "lung-7"
    assert not binding.has_organs


def test_a_bindings_cancers_are_looked_for_with_the_imported_network(tmp_path: Path) -> None:
    path = tmp_path / "binding.yaml"
    path.write_text("cancers: [{cancer: lung, organ: lung, label: lesion}]\n")
    fields = read_binding(path, "seven").manifest_fields([], "3d_fullres-lesions")
    assert fields["cancers"] == [
        {"network": "3d_fullres-lesions", "cancer": "lung", "organ": "lung", "label": "lesion"}
    ]
    assert fields["name"] == "seven"
    path.write_text("networks: []\n")
    with pytest.raises(ImportRefused, match="come from the model folder"):
        read_binding(path, "seven")
    path.write_text("golden: [{name: a, input: a.npz}]\n")
    with pytest.raises(ImportRefused, match=r"a\.npz"):
        read_binding(path, "seven")
