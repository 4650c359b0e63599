"""The MONAI part of `docs/bring-your-own-model.md`, run with a bundle that MONAI's own code made."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("monai", reason="MONAI is only in .venv-referees")

from engines.bundle import open_bundle
from tests.engines.importers.test_documentation import commands, run

from . import monai_bundles as made

pytestmark = [pytest.mark.slow, pytest.mark.referee, pytest.mark.timeout(600)]


def test_the_monai_walk_makes_bundles(tmp_path: Path) -> None:
    made.save(tmp_path / "spleen_ct_segmentation", made.train("UNet", 0), made.configuration(made.definition("UNet")))
    said = run(commands("sh monai"), tmp_path)
    assert "ONNX = torch within" in said
    assert open_bundle(tmp_path / "spleen").manifest.networks[0].stage == "detect"
    bound = open_bundle(tmp_path / "spleen-bound").manifest
    assert (bound.networks[0].stage, bound.organs[0].name) == ("localise", "spleen")
