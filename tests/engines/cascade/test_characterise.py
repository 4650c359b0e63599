"""What a characteriser's probability does to a candidate's score, as the manifest says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.cascade.candidates import Candidate
from engines.cascade.characterise import references_of, told
from engines.cascade.loaded import LoadedNetwork
from engines.manifest import Characteriser, Network
from engines.runtime.onnx import OnnxRuntime

LABELS = ("benign", "malignant", "other")


def scored(score: float, malignant: float, how: str) -> float:
    candidate = Candidate(((0, 0, 0), (1, 1, 1)), np.ones((1, 1, 1), bool), score, 8.0, 2.0, 1.0)
    question = Characteriser.model_validate(
        {"network": "look", "question": "malignancy", "label": "malignant", "score": how}
    )
    return told(candidate, question, LABELS, np.array([1 - malignant, malignant, 0], np.float32)).score


@pytest.mark.parametrize(
    ("how", "score"),
    [("multiply", 0.72), ("odds", 36 / 37), ("replace", 0.8)],  # odds 9 to 1 and 4 to 1: 36 to 1
)
def test_the_manifest_says_how_two_opinions_become_one(how: str, score: float) -> None:
    assert scored(0.9, 0.8, how) == pytest.approx(score)


def test_a_reference_goes_through_the_network_s_window_and_has_a_value_where_its_organ_is_missing() -> None:
    references = [{"organ": organ, "otherwise_hu": 55} for organ in ("aorta", "liver", "spleen", "bone")]
    spec = Network.model_validate({
        "id": "look", "stage": "characterise", "files": ["look.onnx"], "spacing_mm": [2, 2, 2], "mask": True,
        "intensity": {"kind": "clip", "clip_low_hu": -160, "clip_high_hu": 240, "mean_hu": 40, "std_hu": 40},
        "tiling": {"kind": "centred", "size": [8, 8, 8]}, "activation": "softmax", "labels": LABELS,
        "references": references,
    })  # fmt: skip
    network, nothing = LoadedNetwork(spec, (), OnnxRuntime(1)), np.zeros((1, 1, 1), np.int16)
    assert spec.further_channels == 5
    found = {"aorta": 42.0, "liver": None, "bone": 700.0}
    assert references_of(network, nothing, found) == pytest.approx((0.05, 0.375, 0.375, 5.0))


@given(st.floats(0, 1))
def test_even_odds_say_nothing_and_certainty_does_not_become_no_number(score: float) -> None:
    assert scored(score, 0.5, "odds") == pytest.approx(score, abs=2e-7)
    for sure in (0.0, 1.0):
        assert 0 <= scored(score, sure, "odds") <= 1


@given(st.floats(0.3, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_probability_never_lowers_the_score(score: float, one: float, other: float) -> None:
    low, high = sorted((one, other))
    for how in ("multiply", "odds", "replace"):
        assert scored(score, low, how) <= scored(score, high, how) + 1e-12
