"""`inspect` says everything that a manifest says."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from engines import show
from engines.manifest import ManifestDraft
from tests.engines.bundle.drafts import POINT
from tests.engines.cascade import toy

PATIENTS = {**POINT, "evidence": {**POINT["evidence"], "kind": "retrospective"}}


def shown(draft: ManifestDraft) -> str:
    manifest: Any = draft
    out = Console(file=io.StringIO(), highlight=False, soft_wrap=True, width=400)
    show.contents(out, manifest)
    return out.file.getvalue()  # type: ignore[attr-defined]


def everything() -> ManifestDraft:
    """A manifest that uses every part of the schema."""
    fields = toy.draft().model_dump(mode="json")
    localiser, lung_lesion, liver_lesion = fields["networks"]
    lung_lesion.update(
        files=["lung_lesion.onnx", "second.onnx"],
        int8_files=["a.onnx", "b.onnx"],
        axes="RAI",
        resampling={"kind": "spline", "separate_z": "always"},
        intensity={"kind": "zscore"},
        normalise_first=True,
        mirror=["z", "x"],
        blend="logits",
        region="volume",
        after="localiser",
        activation="sigmoid",
        region_order=[7, 9],
    )
    classifier = {
        **liver_lesion,
        "id": "whole_liver",
        "stage": "classify",
        "tiling": {"kind": "fixed", "size": [8, 9, 10]},
    }
    kind = {
        **liver_lesion,
        "id": "kind",
        "stage": "characterise",
        "tiling": {"kind": "centred", "size": [11, 12, 13]},
        "mask": True,
        "references": [{"organ": "lung", "otherwise_hu": -800}],
    }
    fields["networks"] = [localiser, lung_lesion, liver_lesion, classifier, kind]
    lung, liver = fields["cancers"]
    lung["calibration"] = {"kind": "platt", "a": -1.25, "b": 0.5}
    lung["operating_points"] = [PATIENTS]
    liver.update(
        classifier={"network": "whole_liver", "label": "tumour"},
        characterisers=[
            {"network": "kind", "question": "malignancy", "label": "tumour", "score": "replace"},
            {"network": "kind", "question": "subtype"},
        ],
        calibration={"kind": "isotonic", "scores": [0.1, 0.8], "probabilities": [0, 1]},
        contraindications={
            "min_age_years": 40,
            "max_age_years": 80,
            "sexes": ["F"],
            "unknown_sex": "refuse",
            "max_slice_spacing_mm": 3,
            "coverage": "partial",
            "contrast": {"organ": "liver", "low_hu": 30, "high_hu": 60, "phase": "non-contrast"},
            "familiar": [{"organ": "lung", "measure": "sd_hu", "low": 1, "high": 99}],
        },
    )
    fields["case_level"] = {
        "budget": 0.1, "kind": "retrospective", "cohort": "two hospitals", "n_negative": 500,
        "specificity": 0.95, "specificity_ci95": [0.93, 0.97],
    }  # fmt: skip
    fields.update(synthetic=False, udi_di="04012345678901")
    fields["authorisations"] = [
        {
            "jurisdiction": "EU",
            "authority": "Body 1",
            "reference": "no. 7",
            "cancers": ["lung"],
            "valid_from": "2026-01-01",
        }
    ]
    return ManifestDraft.model_validate(fields)


def test_every_part_of_a_manifest_is_shown() -> None:
    said = shown(everything())
    for part in (
        "2 × 2 × 2 mm along R A I, splines of order 3 as nnU-Net",
        "the coarse axis by itself",
        "z-score of the scan, before resampling",
        "the whole scan, in tiles 32×32×32, overlap 25%, Gaussian",
        "then the labels of localiser",
        "logits over 2 folds × 4 mirrorings (z, x)",
        "sigmoid of background, lesion, written as 7, 9 in this order",
        "explicit Q/DQ variants of 2 folds",
        "stretched to 8×9×10",
        "each candidate, 11×12×13 around it, then a mask, then how bright the lung is",
        "whole_liver: tumour for the organ as a whole, max of it and the best candidate",
        "kind: malignancy of each candidate, tumour to replace the score",
        "kind: subtype of each candidate",
        "Platt, 1 / (1 + exp(-1.250 · logit(score) +0.500))",
        "isotonic, 2 points from 0.100 to 0.800",
        "40 to 80 years (age unknown: not analysed)",
        "sex F (unknown: not analysed)",
        "slices up to 3 mm apart; part of the organ will do",
        "non-contrast: 30 to 60 HU in the liver",
        "sd_hu of the lung from 1 to 99",
        "95.0% (93.0% to 97.0%) of 500 people without cancer",
        "at most 10.0% of them flagged",
        "UDI-DI 04012345678901",
        "8 mm beyond it",
    ):
        assert part in said, said


def test_an_authorisation_says_where_what_for_and_by_whom() -> None:
    from engines.show_parts import authorisation

    (item,) = everything().authorisations
    assert authorisation(item) == "authorised in EU for lung: Body 1 no. 7, from 2026-01-01"


def test_what_was_not_measured_is_said() -> None:
    said = shown(toy.draft())
    assert "how many healthy people are flagged for one cancer or more is not known" in said
    assert "none: scores are as the networks give them" in said
