"""Golden cases pass where the bundle works and fail, saying how, where it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.errors import EngineError
from engines.bundle import Bundle, Content, write_bundle
from engines.parity import run_golden
from engines.runtime.choice import choose
from tests.engines.cascade import toy
from tests.engines.runtime import networks

BALL_ML = 235.0
CASE: dict[str, Any] = {
    "name": "torso",
    "input": "torso.npz",
    "age_years": 60,
    "answers": [
        {"cancer": "lung", "verdict": "positive", "score": 1.0, "score_tolerance": 0.02},
        {"cancer": "liver", "verdict": "negative", "score": 0.0},
        {"cancer": "pancreas", "verdict": "not_analysed", "reason": "no model in bundle"},
    ],
    "organs": [{"organ": "liver", "volume_ml": BALL_ML, "tolerance_ml": 20}],
}


def packed(folder: Path, *cases: dict[str, Any], **changed: bytes) -> Bundle:
    volume = Content("torso.npz", "golden", toy.golden_file(toy.torso(lung_lesion_mm=12)).source)
    return write_bundle(folder, toy.draft(golden=list(cases)), [*toy.files(**changed), volume])


@pytest.mark.parametrize(("name", "precision"), [("openvino", "auto"), ("openvino", "fp32"), ("onnx", "fp32")])
def test_a_working_bundle_agrees_on_every_runtime(tmp_path: Path, name: Any, precision: Any) -> None:
    (outcome,) = run_golden(packed(tmp_path / "b", CASE), choose(name, 1, precision).runtime)
    assert (outcome.case, outcome.passed) == ("torso", True), outcome.detail
    assert outcome.detail.startswith("agrees")


def changed_case(**changes: Any) -> dict[str, Any]:
    return {**CASE, **changes}


@pytest.mark.parametrize(
    ("case", "complaint"),
    [
        (
            changed_case(answers=[{"cancer": "lung", "verdict": "negative"}, *CASE["answers"][1:]]),
            "lung: positive instead",
        ),
        (
            changed_case(
                answers=[
                    {"cancer": "lung", "verdict": "positive", "score": 0.9, "score_tolerance": 0.01},
                    *CASE["answers"][1:],
                ]
            ),
            "lung: score 1.000 instead of 0.900",
        ),
        (changed_case(organs=[{"organ": "liver", "volume_ml": 900, "tolerance_ml": 20}]), "mL instead of 900"),
        (changed_case(age_years=12), "lung: no evidence for this age"),
    ],
    ids=["verdict", "score", "volume", "reason"],
)
def test_a_case_that_differs_fails_and_says_how(tmp_path: Path, case: dict[str, Any], complaint: str) -> None:
    (outcome,) = run_golden(packed(tmp_path / "b", case), choose("onnx", 1).runtime)
    assert not outcome.passed
    assert complaint in outcome.detail


def test_a_broken_network_fails_its_case(tmp_path: Path) -> None:
    (outcome,) = run_golden(packed(tmp_path / "b", CASE, lung_lesion=networks.zeros()), choose("onnx", 1).runtime)
    assert not outcome.passed
    assert "lung: analysis failed" in outcome.detail


def test_a_cancer_that_no_case_puts_to_the_test_counts_as_failed(tmp_path: Path) -> None:
    only_lung = changed_case(answers=CASE["answers"][:1])
    outcomes = run_golden(packed(tmp_path / "b", only_lung), choose("onnx", 1).runtime)
    assert [(o.case, o.passed) for o in outcomes] == [("torso", True), ("coverage", False)]
    assert outcomes[1].detail.endswith("for liver")


def test_a_bundle_without_golden_cases_never_passes(tmp_path: Path) -> None:
    (outcome,) = run_golden(toy.bundle(tmp_path / "b"), choose("onnx", 1).runtime)
    assert not outcome.passed
    without_cancers = toy.bundle(tmp_path / "c", toy.draft(cancers=[]))
    (outcome,) = run_golden(without_cancers, choose("onnx", 1).runtime)
    assert not outcome.passed


def test_a_golden_volume_that_can_not_be_read_is_an_error(tmp_path: Path) -> None:
    files = [*toy.files(), Content("torso.npz", "golden", b"no volume")]
    bundle = write_bundle(tmp_path / "b", toy.draft(golden=[CASE]), files)
    with pytest.raises(EngineError, match="not a volume file"):
        run_golden(bundle, choose("onnx", 1).runtime)
