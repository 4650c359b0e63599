"""A bundle gets int8 files where its golden cases hold with them, and stays float where they don't."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import EngineError
from engines import volumefile
from engines.bundle import Bundle, Content, open_bundle, write_bundle
from engines.importers import ImportRefused
from engines.importers.assembly import expectations
from engines.importers.graph import read
from engines.importers.int8 import add_int8
from engines.importers.quantise import check_int8
from engines.manifest import ManifestDraft
from engines.parity import run_golden
from engines.runtime.choice import choose
from tests.engines.cascade import toy
from tests.engines.runtime import networks

REFERENCE = Path(__file__).parents[3] / "engines" / "bundles" / "reference"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """The toy with one golden case: its networks are thresholds, which eight bits over HU / 100 blur."""
    volume = toy.torso(lung_lesion_mm=9, liver_lesion_mm=10)
    plain = toy.bundle(tmp_path / "plain")
    answered = expectations(toy.cascade(plain).analyse(volume, toy.ADULT))
    case = {"name": "torso", "input": "torso.npz", "age_years": 60, **answered}
    return write_bundle(tmp_path / "toy", toy.draft(golden=[case]), [*toy.files(), toy.golden_file(volume)])


def test_a_network_gets_int8_exactly_where_the_golden_cases_hold(bundle: Bundle, tmp_path: Path) -> None:
    made, trials = add_int8(bundle, [volumefile.read(bundle.path("torso.npz"))], tmp_path / "int8")
    assert {trial.network: trial.kept for trial in trials} == {
        "localiser": False,  # its liver begins at 40 HU, and 256 steps over 2000 HU can't tell 40 from 47
        "lung_lesion": True,
        "liver_lesion": True,
    }
    assert "liver: " in trials[0].why
    assert made.manifest.version == "1.0.0+int8"
    for trial in trials:
        network = made.manifest.network(trial.network)
        assert network.files == bundle.manifest.network(trial.network).files
        assert bool(network.int8_files) == trial.kept
        for name in network.int8_files:
            check_int8(read(made.path(name), name), name)
    assert all(outcome.passed for outcome in run_golden(made, choose("openvino", 1, "int8").runtime))


def test_a_network_without_a_convolution_stays_float_and_keeps_no_other_from_int8(tmp_path: Path) -> None:
    look = toy.detector(
        "look", ["benign", "malignant"], stage="characterise", mask=True, tiling={"kind": "centred", "size": [16] * 3}
    )
    question = {"network": "look", "question": "malignancy", "label": "malignant", "score": "odds"}
    fields = toy.draft().model_dump()
    fields["networks"] = [*fields["networks"], look]
    fields["cancers"][0]["characterisers"] = [question]
    files = [*toy.files(), Content("look.onnx", "network", networks.without_convolution())]
    volume = toy.torso(lung_lesion_mm=9, liver_lesion_mm=10)
    plain = write_bundle(tmp_path / "plain", ManifestDraft.model_validate(fields), files)
    answered = expectations(toy.cascade(plain).analyse(volume, toy.ADULT))
    fields["golden"] = [{"name": "torso", "input": "torso.npz", "age_years": 60, **answered}]
    whole = write_bundle(tmp_path / "whole", ManifestDraft.model_validate(fields), [*files, toy.golden_file(volume)])
    _, trials = add_int8(whole, [volume], tmp_path / "int8")
    told = {trial.network: trial for trial in trials}
    assert told["look"].images > 0
    assert not told["look"].kept
    assert told["look"].why == "it has no convolution, and nothing else is quantised"
    assert told["lung_lesion"].kept


def test_a_bundle_without_golden_cases_gets_no_int8(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match="no golden case"):
        add_int8(toy.bundle(tmp_path / "toy"), [toy.torso()], tmp_path / "int8")


def test_int8_is_asked_for_by_name_and_only_of_openvino() -> None:
    choice = choose("auto", 1, "int8")
    assert (choice.runtime.name, choice.runtime.precision) == ("openvino", "int8")
    assert "int8, as asked for" in choice.why
    with pytest.raises(EngineError, match="does not run int8") as refusal:
        choose("onnx", 1, "int8")
    assert refusal.value.remedy()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_reference_bundles_detectors_pass_in_int8(tmp_path: Path) -> None:
    reference = open_bundle(REFERENCE)
    volumes = [volumefile.read(reference.path(case.input)) for case in reference.manifest.golden]
    made, trials = add_int8(reference, volumes, tmp_path / "int8")
    assert {trial.network for trial in trials if trial.kept} & {"abdomen", "chest", "lung"}
    assert all(outcome.passed for outcome in run_golden(made, choose("openvino", 2, "int8").runtime))
