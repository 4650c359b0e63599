"""A MONAI configuration is read as data: what a manifest can say is understood, everything else refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engines.importers import ImportRefused
from engines.importers.monai import read_monai
from engines.importers.monai_config import Component, Config
from engines.importers.monai_transforms import inferer, postprocessing, preprocessing


def part(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": name, **arguments}


ORIENTATION = part("Orientationd", keys="image", axcodes="RAS")
SPACING = part("Spacingd", keys="image", pixdim=[1.5, 1.5, 2.0], mode="bilinear")
RANGE = part("ScaleIntensityRanged", keys="image", a_min=-160, a_max=240, b_min=0, b_max=1, clip=True)
WINDOW = part("SlidingWindowInferer", roi_size=[96, 96, 64], overlap=0.5, mode="gaussian")
BEFORE = [part("LoadImaged", keys="image"), ORIENTATION, SPACING, RANGE]
AFTER = [part("Activationsd", keys="pred", softmax=True), part("Invertd", keys="pred", nearest_interp=False)]


def config(**fields: Any) -> Config:
    return Config(fields, "inference.json")


def parts(transforms: list[Any]) -> tuple[Component, ...]:
    return config(chain=part("Compose", transforms=transforms)).components("chain")


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("@spacing", [1.5, 1.5, 2.0]),
        ("@spacing::2", 2.0),
        ("%spacing#0", 1.5),
        ("$@edge // 2 + 1", 49),
        ("$[@edge, @edge, -(1.5 * 2)]", [96, 96, -3.0]),
        ("$(1, 'a', None, True)", [1, "a", None, True]),
        ("$@spacing[0] * 2", 3.0),
        ("$@spacing.to(@device)", [1.5, 1.5, 2.0]),
        ("plain text", "plain text"),
        ("", ""),
    ],
)
def test_references_and_arithmetic_are_understood(raw: str, value: object) -> None:
    assert config(spacing=[1.5, 1.5, 2.0], edge=96, asked=raw).get("asked") == value


@pytest.mark.parametrize(
    "raw",
    [
        "$__import__('os').system('touch /tmp/ran')",
        "$torch.device('cpu')",
        "$[x for x in (1, 2)]",
        "$lambda x: x > 0",
        "$@spacing.__class__",
        "$open('/etc/passwd').read()",
        "$9**9**9",
        "$1 / 0",
        "$@spacing[7]",
        "$'a' * 10",
        "$" + "(" * 300 + ")" * 300,
    ],
)
def test_what_is_more_than_that_is_refused_and_never_run(raw: str) -> None:
    with pytest.raises(ImportRefused, match="not executed here"):
        config(spacing=[1.5, 1.5, 2.0], asked=raw).get("asked")


def test_expressions_that_nobody_asks_for_do_no_harm() -> None:
    assert config(imports=["$import glob"], device="$torch.device('cuda:0')", edge=3).get("edge") == 3


@pytest.mark.parametrize(("raw", "complaint"), [("@nowhere", "not there"), ("@asked", "refers to itself")])
def test_references_that_lead_nowhere_are_named(raw: str, complaint: str) -> None:
    with pytest.raises(ImportRefused, match=complaint):
        config(asked=raw).get("asked")


def test_disabled_transforms_do_not_count() -> None:
    unknown = part("RandFlipd", keys="image", _disabled_=True)
    assert [p.name for p in parts([*BEFORE, unknown])] == [
        "LoadImaged", "Orientationd", "Spacingd", "ScaleIntensityRanged",
    ]  # fmt: skip


def test_the_usual_chain_becomes_fields_of_a_manifest() -> None:
    way = preprocessing(parts(BEFORE))
    assert way.fields == {
        "axes": "RAS",
        "spacing_mm": [1.5, 1.5, 2.0],
        "resampling": {"kind": "linear"},
        "intensity": {"kind": "clip", "clip_low_hu": -160.0, "clip_high_hu": 240.0, "mean_hu": -160.0, "std_hu": 400.0},
        "normalise_first": False,
    }
    assert way.notes == []


@pytest.mark.parametrize(
    ("transform", "meaning"),
    [
        (RANGE | {"b_min": -1}, (-160, 240, 40, 200)),
        (RANGE | {"clip": False}, (-32768, 32767, -160, 400)),
        (part("NormalizeIntensityd", keys="image", subtrahend=50, divisor=25), (-32768, 32767, 50, 25)),
    ],
)
def test_intensities_become_one_linear_map(transform: dict[str, Any], meaning: tuple[float, ...]) -> None:
    intensity = preprocessing(parts([ORIENTATION, SPACING, transform])).fields["intensity"]
    assert tuple(intensity[k] for k in ("clip_low_hu", "clip_high_hu", "mean_hu", "std_hu")) == meaning


@pytest.mark.parametrize(
    ("transform", "kind"),
    [(part("NormalizeIntensityd", keys="image"), "zscore"), (part("ScaleIntensityd", keys="image"), "rescale")],
)
def test_the_images_own_statistics(transform: dict[str, Any], kind: str) -> None:
    before = preprocessing(parts([ORIENTATION, transform, SPACING])).fields
    after = preprocessing(parts([ORIENTATION, SPACING, transform])).fields
    assert (before["intensity"], before["normalise_first"]) == ({"kind": kind}, True)
    assert (after["intensity"], after["normalise_first"]) == ({"kind": kind}, False)


def test_transforms_of_other_keys_do_not_count() -> None:
    way = preprocessing(parts([*BEFORE, part("RandFlipd", keys="label"), part("Spacingd", keys=["label"], pixdim=1)]))
    assert way.fields["spacing_mm"] == [1.5, 1.5, 2.0]


@pytest.mark.parametrize(
    ("transforms", "complaint"),
    [
        ([*BEFORE, part("RandFlipd", keys="image")], r"RandFlipd \(chain::transforms::4\): it is not among"),
        ([SPACING, RANGE], "no Orientationd"),
        ([ORIENTATION, RANGE], "no Spacingd"),
        ([SPACING, ORIENTATION, RANGE], "after Spacingd"),
        ([ORIENTATION | {"axcodes": "RLS"}, SPACING], "three patient axes"),
        ([ORIENTATION, SPACING | {"pixdim": [1.5, 1.5, -1]}], "leaves a spacing"),
        ([ORIENTATION, SPACING | {"mode": "nearest"}], "mode nearest"),
        ([ORIENTATION, SPACING | {"mode": 3}], "mode 3"),
        ([ORIENTATION, SPACING | {"padding_mode": "zeros"}], "padding_mode zeros"),
        ([ORIENTATION, SPACING | {"scale_extent": True}], "scale_extent"),
        ([*BEFORE, RANGE], "second transform of intensities"),
        ([ORIENTATION, SPACING, part("NormalizeIntensityd", keys="image", nonzero=True)], "nonzero True"),
        ([ORIENTATION, SPACING, part("ScaleIntensityd", keys="image", minv=-1)], "only the range 0 to 1"),
        ([*BEFORE, part("CropForegroundd", keys="image", select_fn="threshold")], "select_fn is code"),
        ([*BEFORE, part("CastToTyped", keys="image", dtype="float16")], "float16"),
    ],
)
def test_what_a_manifest_cannot_say_is_refused_by_name(transforms: list[Any], complaint: str) -> None:
    with pytest.raises(ImportRefused, match=complaint) as refusal:
        preprocessing(parts(transforms))
    assert refusal.value.remedy()


def test_what_is_left_out_knowingly_is_noted() -> None:
    way = preprocessing(parts([*BEFORE, part("RandFlipd", keys="image")]), without=("RandFlipd",))
    assert way.notes == ["RandFlipd is left out, as asked for"]
    assert "CropForegroundd" in preprocessing(parts([*BEFORE, part("CropForegroundd", keys="image")])).notes[0]


def test_the_inferer_becomes_tiles() -> None:
    asked = config(inferer=WINDOW).component("inferer")
    assert inferer(asked) == {
        "tiling": {
            "kind": "patch", "size": [96, 96, 64], "overlap": 0.5, "gaussian": True, "floor": 1e-3,
            "steps": "last_shifted", "pad": "zero_centred",
        },
        "blend": "logits",
    }  # fmt: skip
    constant = inferer(config(inferer=part("SlidingWindowInferer", roi_size=64)).component("inferer"))
    assert constant["tiling"]["size"] == [64, 64, 64]
    assert (constant["tiling"]["overlap"], constant["tiling"]["gaussian"]) == (0.25, False)
    assert "floor" not in constant["tiling"]


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        (part("SimpleInferer"), "only SlidingWindowInferer"),
        (WINDOW | {"roi_size": [96, 96, -1]}, "size of a tile"),
        (WINDOW | {"overlap": [0.5, 0.5, 0.25]}, "differs between axes"),
        (WINDOW | {"sigma_scale": 0.25}, "sigma_scale 0.25"),
        (WINDOW | {"padding_mode": "replicate"}, "padding_mode replicate"),
        (WINDOW | {"cval": -1}, "cval -1"),
    ],
)
def test_tiles_that_no_manifest_says_are_refused(asked: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ImportRefused, match=complaint):
        inferer(config(inferer=asked).component("inferer"))


@pytest.mark.parametrize(
    ("transforms", "fields"),
    [
        (AFTER, {"activation": "softmax", "back": "probabilities"}),
        ([AFTER[1], part("AsDiscreted", keys="pred", argmax=True)], {"activation": "softmax", "back": "logits"}),
        (
            [part("Activationsd", keys="pred", sigmoid=True), part("AsDiscreted", keys="pred", threshold=0.5)],
            {"activation": "sigmoid", "back": "probabilities"},
        ),
    ],
)
def test_what_outputs_mean(transforms: list[Any], fields: dict[str, Any]) -> None:
    assert postprocessing(parts(transforms)).fields == fields


@pytest.mark.parametrize(
    ("transforms", "complaint"),
    [
        ([*AFTER, part("KeepLargestConnectedComponentd", keys="pred")], "KeepLargestConnectedComponentd"),
        ([part("Activationsd", keys="pred", other="$torch.exp")], "not executed"),
        ([part("AsDiscreted", keys="pred", threshold=0.5)], "threshold 0.5"),
        ([part("Activationsd", keys="pred", sigmoid=True), part("AsDiscreted", keys="pred", threshold=0.3)], "0.3"),
        ([part("SaveImaged", keys="pred")], "what do the outputs mean"),
    ],
)
def test_what_changes_the_labels_is_refused(transforms: list[Any], complaint: str) -> None:
    with pytest.raises(ImportRefused, match=complaint):
        postprocessing(parts(transforms))


def metadata(**changes: Any) -> dict[str, Any]:
    image = {"modality": "CT", "num_channels": 1, **changes.pop("image", {})}
    channels = changes.pop("channels", {"0": "background", "1": "Spleen (left)"})
    return {
        "name": "Spleen CT",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": {"channel_def": channels}}},
        **changes,
    }


def folder(path: Path, fields: dict[str, Any]) -> Path:
    (path / "configs").mkdir()
    (path / "configs" / "metadata.json").write_text(json.dumps(fields))
    chain = {"preprocessing": part("Compose", transforms=BEFORE), "postprocessing": part("Compose", transforms=AFTER)}
    network = part("UNet", spatial_dims=3, in_channels=1, out_channels=2, channels=[4, 8], strides=[2])
    (path / "configs" / "inference.json").write_text(json.dumps({**chain, "inferer": WINDOW, "network_def": network}))
    return path


def test_a_folder_is_read_whole(tmp_path: Path) -> None:
    found = read_monai(folder(tmp_path, metadata()))
    assert (found.name, found.labels, found.definition.name) == ("spleen-ct", ("background", "spleen-left"), "UNet")
    assert found.network["resampling"] == {"kind": "linear", "back": "probabilities"}
    assert found.network["activation"] == "softmax"


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        (metadata(image={"modality": "MR"}), "trained on MR"),
        (metadata(image={"num_channels": 4}), "4 channels"),
        (metadata(channels={}), "channel_def"),
        (metadata(channels={"0": "background", "2": "spleen"}), "0 to 1 are wanted"),
        (metadata(channels={"background": "0"}), "channels are numbers"),
    ],
)
def test_metadata_that_does_not_fit_a_ct_is_refused(tmp_path: Path, fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ImportRefused, match=complaint):
        read_monai(folder(tmp_path, fields))


def test_a_folder_that_is_no_monai_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match=r"metadata\.json") as refusal:
        read_monai(tmp_path)
    assert "configs/" in refusal.value.remedy()
