"""The MONAI and nnU-Net parts of `docs/bring-your-own-model.md`, run with what their own code made."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("monai", reason="MONAI is only in .venv-referees")
pytest.importorskip("nnunetv2", reason="nnU-Net is only in .venv-referees")

from engines.bundle import open_bundle
from tests.engines.importers.nnunet_recipes import Recipe
from tests.engines.importers.test_documentation import commands, run

from . import monai_bundles as made
from . import nnunet_training

pytestmark = [pytest.mark.slow, pytest.mark.referee, pytest.mark.timeout(600)]


def test_the_monai_walk_makes_bundles(tmp_path: Path) -> None:
    made.save(tmp_path / "spleen_ct_segmentation", made.train("UNet", 0), made.configuration(made.definition("UNet")))
    said = run(commands("sh monai"), tmp_path)
    assert "ONNX = torch within" in said
    assert open_bundle(tmp_path / "spleen").manifest.networks[0].stage == "detect"
    bound = open_bundle(tmp_path / "spleen-bound").manifest
    assert (bound.networks[0].stage, bound.organs[0].name) == ("localise", "spleen")


def test_the_nnunet_walk_makes_a_bundle(tmp_path: Path) -> None:
    trained = nnunet_training.train(Recipe("short", iterations=1), tmp_path / "results")
    shutil.copytree(trained, tmp_path / "Dataset7" / "nnUNetTrainer__nnUNetPlans__3d_fullres")
    said = run(commands("sh nnunet"), tmp_path)
    assert "torch" in said
    assert open_bundle(tmp_path / "pancreas").manifest.networks[0].resampling.kind == "spline"
