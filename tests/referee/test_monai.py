"""MONAI judges: a bundle that MONAI's own code made, run by MONAI's own pipeline, gives the same labels as ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("monai", reason="MONAI is only in .venv-referees")

from engines.cascade.budget import Budget, Watch
from engines.cascade.loaded import LoadedNetwork
from engines.cascade.sampling import Sampler
from engines.cascade.segment import segment
from engines.importers import ImportRefused
from engines.importers.binding import unbound
from engines.importers.monai import Imported, import_monai, read_monai
from engines.runtime.choice import choose
from engines.runtime.onnx import OnnxRuntime

from . import monai_bundles as made

pytestmark = [pytest.mark.slow, pytest.mark.referee, pytest.mark.timeout(900)]
SPACING_MM = (0.9, 1.1, 2.5)
STEPS = {"SegResNet": 80, "VNet": 40, "AttentionUnet": 60, "FlexibleUNet": 30, "SwinUNETR": 60}
FEW = 20
"""Training steps after which a network tells the blobs apart; unlearnt, its labels are noise, and so is their Dice."""


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, Path]:
    hu, _ = made.scan(7, (90, 80, 60))
    path = tmp_path_factory.mktemp("case") / "scan.nii"
    made.save_nifti(hu, SPACING_MM, path)
    return hu, path


def ours(imported: Imported, hu: np.ndarray, precision: str) -> np.ndarray:
    """Labels (x, y, z) in the file's order, by our cascade."""
    spec = imported.bundle.manifest.networks[0]
    runtime = choose("openvino", 2, precision).runtime  # type: ignore[arg-type]
    network = LoadedNetwork(spec, (runtime.load(imported.bundle.path(spec.files[0])),), runtime)
    canonical = np.ascontiguousarray(hu.transpose(2, 1, 0))  # z, y, x: the file grows to L, P, S
    dx, dy, dz = SPACING_MM
    return segment(canonical, (dz, dy, dx), network, Watch(Budget(), lambda: False)).transpose(2, 1, 0)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """The worst over labels 1 and 2, both of which must be there."""
    assert all((other == label).sum() > 1000 for label in (1, 2))
    return min(2 * ((one == k) & (other == k)).sum() / ((one == k).sum() + (other == k).sum()) for k in (1, 2))


def change(transforms: list[dict[str, Any]], name: str, **changes: Any) -> list[dict[str, Any]]:
    return [{**t, **changes} if t["_target_"] == name else t for t in transforms]


@pytest.mark.parametrize("kind", list(made.NETWORKS))
def test_every_known_network_gives_monais_labels(kind: str, case: tuple[np.ndarray, Path], tmp_path: Path) -> None:
    hu, path = case
    config = made.configuration(made.definition(kind), patch=list(made.TILES.get(kind, made.TILE)))
    folder = made.save(tmp_path / "monai", made.train(kind, STEPS.get(kind, FEW)), config)
    source = read_monai(folder)
    imported = import_monai(source, tmp_path / "bundle", unbound(source.name))
    expected = made.run(folder, path)
    scores = {precision: dice(ours(imported, hu, precision), expected) for precision in ("fp32", "auto")}
    print(f"{kind}: ONNX to torch {imported.difference:.1e}, Dice {scores}")
    assert scores["fp32"] >= 0.999
    assert scores["auto"] >= 0.99


def variations() -> dict[str, dict[str, Any]]:
    plain = made.configuration({})
    before, after = plain["preprocessing"]["transforms"], plain["postprocessing"]["transforms"]
    window = plain["inferer"]
    first = [before[0], before[1], before[2], before[4], before[3], before[5]]  # intensities before Spacingd
    standard = {"_target_": "NormalizeIntensityd", "keys": "image"}
    return {
        "constant weights": {"inferer": {**window, "mode": "constant", "overlap": 0.25}},
        "axes LPS": {"preprocessing": change(before, "Orientationd", axcodes="LPS")},
        "axes SAL": {"preprocessing": change(before, "Orientationd", axcodes="SAL")},
        "intensities first": {"preprocessing": first},
        "z-score": {"preprocessing": [standard if t["_target_"] == "ScaleIntensityRanged" else t for t in before]},
        "tiles larger than the scan": {"patch": [64, 64, 48]},
        "logits inverted": {"postprocessing": [after[1], after[2]]},
        "sigmoid": {
            "postprocessing": [
                {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
                after[1],
                {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
            ]
        },
    }


@pytest.fixture(scope="module")
def trained() -> Any:
    return made.train("UNet", FEW)


@pytest.mark.parametrize("name", list(variations()))
def test_every_variation_gives_monais_labels(
    name: str, case: tuple[np.ndarray, Path], trained: Any, tmp_path: Path
) -> None:
    hu, path = case
    changes = dict(variations()[name])
    for key in ("preprocessing", "postprocessing"):
        if key in changes:
            changes[key] = {"_target_": "Compose", "transforms": changes[key]}
    folder = made.save(tmp_path / "monai", trained, made.configuration(made.definition("UNet"), **changes))
    imported = import_monai(read_monai(folder), tmp_path / "bundle", unbound("net"))
    expected, found = made.run(folder, path, every_channel=name == "sigmoid"), ours(imported, hu, "fp32")
    if name == "sigmoid":
        expected = np.where(expected.any(axis=0), 3 - np.argmax(expected[::-1], axis=0), 0)  # later labels lie on top
        agree = float((expected == found).mean())
        assert agree >= 0.999
        return
    score = dice(found, expected)
    print(f"{name}: Dice {score:.5f}")
    assert score >= 0.999


def test_the_networks_see_the_same_numbers(case: tuple[np.ndarray, Path], trained: Any, tmp_path: Path) -> None:
    from monai.bundle import ConfigParser

    hu, path = case
    folder = made.save(tmp_path / "monai", trained, made.configuration(made.definition("UNet")))
    imported = import_monai(read_monai(folder), tmp_path / "bundle", unbound("net"))
    parser = ConfigParser(json.loads((folder / "configs" / "inference.json").read_text()))
    expected = parser.get_parsed_content("preprocessing")({"image": str(path)})["image"][0].numpy()
    dx, dy, dz = SPACING_MM
    sampler = Sampler(imported.bundle.manifest.networks[0], np.ascontiguousarray(hu.transpose(2, 1, 0)), (dz, dy, dx))
    (found,) = sampler.sample(sampler.grid.whole, OnnxRuntime(1)).image.values()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_torchscript_is_opened_only_where_it_is_trusted(trained: Any, tmp_path: Path) -> None:
    config = made.configuration(made.definition("UNet"))
    folder = made.save(tmp_path / "monai", trained, config, torchscript=True)
    with pytest.raises(ImportRefused, match="a program") as refusal:
        import_monai(read_monai(folder), tmp_path / "bundle", unbound("net"))
    assert "--trust-torchscript" in refusal.value.remedy()
    assert not (tmp_path / "bundle").exists()
    plain = made.save(tmp_path / "plain", trained, config)
    one = import_monai(read_monai(folder), tmp_path / "bundle", unbound("net"), trust_torchscript=True)
    other = import_monai(read_monai(plain), tmp_path / "other", unbound("net"))
    networks = [made.bundle.path("blob-segmentation.onnx").read_bytes() for made in (one, other)]
    assert networks[0] == networks[1]


def test_a_checkpoint_that_wants_to_run_code_is_refused(trained: Any, tmp_path: Path) -> None:
    import torch

    folder = made.save(tmp_path / "monai", trained, made.configuration(made.definition("UNet")))
    torch.save(trained, folder / "models" / "model.pt")  # the module itself: a pickle that imports classes
    with pytest.raises(ImportRefused, match="no plain state dict"):
        import_monai(read_monai(folder), tmp_path / "bundle", unbound("net"))


def test_weights_of_another_network_are_refused(trained: Any, tmp_path: Path) -> None:
    folder = made.save(tmp_path / "monai", trained, made.configuration(made.definition("SegResNet")))
    with pytest.raises(ImportRefused, match="not those of network_def"):
        import_monai(read_monai(folder), tmp_path / "bundle", unbound("net"))


def test_a_tile_that_a_transformer_cannot_take_is_refused_with_its_reason(tmp_path: Path) -> None:
    network = made.train("SwinUNETR", 0)
    config = made.configuration(made.definition("SwinUNETR"), patch=[64, 64, 48])
    folder = made.save(tmp_path / "monai", network, config)
    with pytest.raises(ImportRefused, match=r"SwinUNETR.*divisible by 2\*\*5") as refusal:
        import_monai(read_monai(folder), tmp_path / "bundle", unbound("net"))
    assert "roi_size" in refusal.value.remedy()
    assert not (tmp_path / "bundle").exists()


def test_a_network_in_two_dimensions_is_refused(trained: Any, tmp_path: Path) -> None:
    definition = {"_target_": "FlexibleUNet", "in_channels": 1, "out_channels": 3, "backbone": "efficientnet-b0"}
    folder = made.save(tmp_path / "monai", trained, made.configuration(definition))
    with pytest.raises(ImportRefused, match="spatial_dims is 2; this bundle needs 3"):
        import_monai(read_monai(folder), tmp_path / "bundle", unbound("net"))


def test_the_documents_table_is_what_is_tested() -> None:
    from engines.importers.monai_networks import KNOWN

    page = (Path(__file__).parents[2] / "docs" / "bring-your-own-model.md").read_text()
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("|") and "| yes" in line]
    assert sorted(rows) == sorted(KNOWN) == sorted(made.NETWORKS)


@pytest.mark.parametrize("target", ["monai.networks.nets.AHNet", "my.package.UNet", "os.system"])
def test_a_network_that_is_not_known_is_refused(trained: Any, tmp_path: Path, target: str) -> None:
    definition = {**made.definition("UNet"), "_target_": target}
    folder = made.save(tmp_path / "monai", trained, made.configuration(definition))
    with pytest.raises(ImportRefused, match="known are UNet"):
        import_monai(read_monai(folder), tmp_path / "bundle", unbound("net"))
