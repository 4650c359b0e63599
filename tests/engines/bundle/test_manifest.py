"""What a manifest can say of networks, cancers and evidence, and what it can't."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from pydantic import ValidationError

from core.finding import Cancer, Mode
from engines.manifest import CaseLevel, Clip, Isotonic, Network, Platt

from .drafts import INTENSITY, POINT, draft, fields


def network(**changes: Any) -> Network:
    base = {**fields()["networks"][1], **changes}
    return Network.model_validate(base)


LOOKING = {"stage": "characterise", "tiling": {"kind": "centred", "size": [32, 32, 32]}}
LIVER = {"organ": "liver", "otherwise_hu": 55}
CLASSIFIER = {"stage": "classify", "tiling": {"kind": "fixed", "size": [32, 32, 32]}}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"axes": "SPS"}, "must name one of"),
        ({"axes": "SP"}, "axes"),
        ({"axes": "spl"}, "axes"),
        ({"files": []}, "files"),
        ({"int8_files": ["a.onnx", "b.onnx"]}, "as many as files"),
        ({"region_order": [1]}, "region_order"),
        ({"region_order": [1], "activation": "sigmoid"}, "region_order"),
        ({"mask": True}, "takes a mask"),
        ({"references": [LIVER]}, "takes references"),
        ({**LOOKING, "references": [LIVER, {**LIVER, "otherwise_hu": 0}]}, "named twice"),
        ({**LOOKING, "references": [LIVER], "intensity": {"kind": "zscore"}, "normalise_first": True}, "same in every"),
        ({**LOOKING, "references": [{"organ": "liver"}]}, "otherwise_hu"),
        ({"tiling": {"kind": "centred", "size": [8, 8, 8]}}, "can't have tiling centred"),
        ({"stage": "localise", "tiling": {"kind": "fixed", "size": [8, 8, 8]}}, "can't have tiling fixed"),
        ({"stage": "classify"}, "can't have tiling patch"),
        ({**CLASSIFIER, "resampling": {"kind": "spline"}}, "spline resampling"),
        ({**CLASSIFIER, "after": "localiser"}, "can follow"),
        ({"intensity": {"kind": "zscore"}}, "normalise_first"),
        ({"intensity": {**INTENSITY, "clip_high_hu": -2000}}, "below clip_high_hu"),
        ({"intensity": {"kind": "gamma"}}, "intensity"),
        ({"mirror": ["w"]}, "mirror"),
        ({"labels": ["background", "background"]}, "named twice"),
    ],
)
def test_a_network_that_could_not_be_fed_or_read_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        network(**changes)


def test_a_network_may_say_all_that_nnu_net_needs() -> None:
    spec = network(
        files=["fold_0.onnx", "fold_1.onnx"],
        int8_files=["fold_0.int8.onnx", "fold_1.int8.onnx"],
        axes="LPS",
        resampling={"kind": "spline", "separate_z": "always"},
        intensity={"kind": "zscore"},
        normalise_first=True,
        mirror=["z", "y", "x"],
        blend="logits",
        region="volume",
        activation="sigmoid",
        labels=["whole", "core"],
        region_order=[1, 2],
    )
    assert spec.all_files == ("fold_0.onnx", "fold_1.onnx", "fold_0.int8.onnx", "fold_1.int8.onnx")
    assert spec.sees_all
    assert not spec.classifies


def cancer(**changes: Any) -> list[dict[str, Any]]:
    return [{**fields()["cancers"][0], **changes}]


SCORE = {**fields()["networks"][1], **CLASSIFIER, "id": "score"}
LOOK = {**SCORE, "id": "look", "stage": "characterise"}
NETWORKS = [*fields()["networks"], SCORE, LOOK]
ASKS = {"network": "look", "question": "subtype"}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"network": None}, "stand together"),
        ({"network": None, "label": None, "extraction": None}, "combine: classifier"),
        (
            {
                **{"network": None, "label": None, "extraction": None},
                "classifier": {"network": "score", "label": "lesion", "combine": "max"},
            },
            "combine: classifier",
        ),
        (
            {
                **{"network": None, "label": None, "extraction": None},
                "classifier": {"network": "score", "label": "lesion", "combine": "classifier"},
                "characterisers": [ASKS],
            },
            "candidates of a detecting network",
        ),
        ({"characterisers": [{**ASKS, "label": "lesion"}]}, "a label stands with question malignancy"),
        ({"characterisers": [{**ASKS, "question": "malignancy"}]}, "a label stands with question malignancy"),
        ({"characterisers": [ASKS, ASKS]}, "named twice"),
        ({"calibration": {"kind": "platt", "a": 1, "b": 0}}, "less than 0"),
        ({"calibration": {"kind": "isotonic", "scores": [0, 1], "probabilities": [1, 0]}}, "must not decrease"),
        ({"calibration": {"kind": "isotonic", "scores": [1, 0], "probabilities": [0, 1]}}, "must increase"),
        ({"calibration": {"kind": "isotonic", "scores": [0, 1], "probabilities": [0]}}, "one probability"),
        ({"contraindications": {"max_slice_spacing_mm": 5, "sexes": []}}, "sexes"),
        ({"contraindications": {"max_slice_spacing_mm": 5, "sexes": ["W"]}}, "sexes"),
    ],
)
def test_a_cancer_that_could_not_be_decided_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        draft(networks=NETWORKS, cancers=cancer(**changes))


CONTRAST = {"organ": "aorta", "low_hu": 20, "high_hu": 80, "phase": "non-contrast"}
KNOWN = {"organ": "spleen", "measure": "mean_hu", "low": 30, "high": 70}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"classifier": {"network": "lung_lesion", "label": "lesion"}}, "no network lung_lesion that is to classify"),
        ({"classifier": {"network": "score", "label": "cancer"}}, "network score has no label cancer"),
        ({"characterisers": [{**ASKS, "network": "score"}]}, "no network score that is to characterise"),
        ({"contraindications": {"max_slice_spacing_mm": 5, "contrast": CONTRAST}}, "no organ aorta"),
        ({"contraindications": {"max_slice_spacing_mm": 5, "familiar": [KNOWN]}}, "no organ spleen"),
    ],
)
def test_names_that_lead_nowhere_are_listed(changes: dict[str, Any], fault: str) -> None:
    assert draft(networks=NETWORKS, cancers=cancer(**changes)).unresolved() == (f"cancer lung: {fault}",)


@pytest.mark.parametrize(
    ("before", "fault"),
    [
        ("nobody", "no other network nobody to follow"),
        ("lung_lesion", "no other network lung_lesion to follow"),
        ("score", "score must give a map of the whole scan by itself"),
    ],
)
def test_a_network_follows_only_one_that_maps_the_whole_scan(before: str, fault: str) -> None:
    networks = [NETWORKS[0], {**NETWORKS[1], "after": before}, *NETWORKS[2:]]
    assert draft(networks=networks).unresolved() == (f"network lung_lesion: {fault}",)
    follows_the_localiser = [NETWORKS[0], {**NETWORKS[1], "after": "localiser"}, *NETWORKS[2:]]
    assert draft(networks=follows_the_localiser).unresolved() == ()


def test_a_network_is_told_of_organs_that_the_bundle_knows() -> None:
    looking = [*fields()["networks"], {**NETWORKS[-1], "references": [LIVER]}]
    assert draft(networks=looking).unresolved() == ("network look: no organ liver to compare with",)
    liver = {**fields()["organs"][0], "name": "liver"}
    told = draft(networks=looking, organs=[*fields()["organs"], liver], cancers=cancer(characterisers=[ASKS]))
    assert told.unresolved() == ()
    assert told.compared_with(told.cancers[0]) == {"liver"}


def case_level(**changes: Any) -> dict[str, Any]:
    base = {
        "budget": 0.01,
        "kind": "synthetic",
        "cohort": "phantoms",
        "n_negative": 4000,
        "specificity": 0.995,
        "specificity_ci95": [0.99, 0.998],
    }
    return {**base, **changes}


def test_seven_specificities_together_have_a_budget() -> None:
    level = draft(case_level=case_level()).case_level
    assert isinstance(level, CaseLevel)
    assert level.budget == 0.01
    with pytest.raises(ValidationError, match=r"1\.50% of healthy people are flagged, the budget is 1\.00%"):
        draft(case_level=case_level(specificity=0.985, specificity_ci95=[0.98, 0.99]))


def test_without_an_authorisation_there_is_at_most_research() -> None:
    day = dt.date(2026, 11, 25)
    point = {**POINT, "evidence": {**POINT["evidence"], "kind": "prospective"}}  # type: ignore[dict-item]
    permit = {
        "jurisdiction": "DE",
        "authority": "BfArM",
        "reference": "1",
        "cancers": ["lung"],
        "valid_from": "2026-01-01",
    }
    clinical = draft(synthetic=False, cancers=cancer(operating_points=[point]), authorisations=[permit])
    assert clinical.highest_mode(Cancer.LUNG, "DE", day) is Mode.CLINICAL
    assert clinical.highest_mode(Cancer.LUNG, "FR", day) is Mode.RESEARCH
    assert clinical.highest_mode(Cancer.LIVER, "DE", day) is Mode.SILENT
    assert draft().highest_mode(Cancer.LUNG, "DE", day) is Mode.RESEARCH


def test_a_bundle_may_segment_without_organs_or_cancers() -> None:
    alone = draft(networks=NETWORKS[1:2], organs=[], cancers=[], golden=[])
    assert alone.unresolved() == ()


def test_kinds_are_told_apart_by_their_name() -> None:
    assert isinstance(network().intensity, Clip)
    steep = {"kind": "platt", "a": -1.2, "b": 0.3}
    assert isinstance(draft(cancers=cancer(calibration=steep)).cancers[0].calibration, Platt)
    steps = {"kind": "isotonic", "scores": [0.1, 0.9], "probabilities": [0, 1]}
    assert isinstance(draft(cancers=cancer(calibration=steps)).cancers[0].calibration, Isotonic)
