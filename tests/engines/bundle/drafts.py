"""A small valid manifest draft, for tests that then break it."""

from __future__ import annotations

from typing import Any

from engines.bundle import Content
from engines.manifest import ManifestDraft

FILES = (
    Content("localiser.onnx", "network", b"the localiser's bytes"),
    Content("lung_lesion.onnx", "network", b"the detector's bytes"),
    Content("chest.npz", "golden", b"a volume's bytes"),
)
INTENSITY = {"kind": "clip", "clip_low_hu": -1000, "clip_high_hu": 400, "mean_hu": -200, "std_hu": 300}
POINT = {
    "name": "balanced",
    "threshold": 0.6,
    "evidence": {
        "kind": "synthetic",
        "cohort": "phantoms 1..200",
        "n_positive": 100,
        "n_negative": 100,
        "sensitivity": 0.9,
        "sensitivity_ci95": [0.82, 0.95],
        "specificity": 0.95,
        "specificity_ci95": [0.89, 0.98],
    },
}


def fields(**changes: Any) -> dict[str, Any]:
    """The draft's fields as JSON values, with `changes` at the top level."""
    base: dict[str, Any] = {
        "name": "tiny",
        "version": "1.0.0",
        "label": "Tiny",
        "manufacturer": "OneScan",
        "synthetic": True,
        "intended_use": "tests",
        "licence": "Apache-2.0",
        "networks": [
            {
                "id": "localiser",
                "files": ["localiser.onnx"],
                "stage": "localise",
                "spacing_mm": [6, 6, 6],
                "intensity": INTENSITY,
                "tiling": {"kind": "whole", "pad_multiple": 8},
                "activation": "softmax",
                "labels": ["background", "lung"],
            },
            {
                "id": "lung_lesion",
                "files": ["lung_lesion.onnx"],
                "stage": "detect",
                "spacing_mm": [2, 2, 2],
                "intensity": INTENSITY,
                "tiling": {"kind": "patch", "size": [32, 32, 32], "overlap": 0.25},
                "activation": "softmax",
                "labels": ["background", "lesion"],
            },
        ],
        "organs": [{"name": "lung", "labels": ["lung"], "found_from_ml": 100, "margin_mm": 6}],
        "cancers": [
            {
                "cancer": "lung",
                "organ": "lung",
                "network": "lung_lesion",
                "label": "lesion",
                "extraction": {
                    "probability": 0.5,
                    "min_volume_mm3": 30,
                    "min_diameter_mm": 4,
                    "score": "peak",
                },
                "negative_below": 0.3,
                "positive_above": 0.6,
                "operating_points": [POINT],
                "contraindications": {"max_slice_spacing_mm": 6},
            }
        ],
        "golden": [
            {
                "name": "chest",
                "input": "chest.npz",
                "age_years": 60,
                "answers": [{"cancer": "lung", "verdict": "positive", "score": 0.9}],
                "organs": [{"organ": "lung", "volume_ml": 4000, "tolerance_ml": 200}],
            }
        ],
    }
    return {**base, **changes}


def draft(**changes: Any) -> ManifestDraft:
    """The draft itself."""
    return ManifestDraft.model_validate(fields(**changes))
