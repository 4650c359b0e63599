"""The model card says what the training's journals and the manifest say, and what could not be learned."""

from __future__ import annotations

import json
import math
from pathlib import Path

from core.finding import Cancer
from engines.manifest import ManifestDraft, OperatingPoint
from engines.reference.card import card
from engines.reference.manifest import draft
from engines.reference.recipes import CHARACTERISERS, RECIPES

HEADINGS = (
    "Model details", "Intended use", "Factors", "Metrics", "Evaluation data", "Training data", "Quantitative analyses",
    "Ethical considerations", "Caveats and recommendations",
)  # fmt: skip


def trained(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        (folder / name).mkdir()
        task = {"candidates": {"benign": 40, "liver": 7, "stomach": 0}} if name in CHARACTERISERS else {}
        run = {"task": task, "step": 250, "begun": [0, 100], "seed": 5, "torch": "2.13.0", "device": "cpu"}
        (folder / name / "run.json").write_text(json.dumps(run))
    tried = {"liver": {"auc": 0.913, "at95": 0.5, "at99": 0.25, "at100": 0.1}, "pancreas": {"auc": math.nan}}
    lines = [{"step": 100, "validation": {"liver": {"auc": 0.1}}}, {"step": 250, "validation": tried}, {"step": 250}]
    (folder / "abdomen" / "losses.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def calibrated(made: ManifestDraft) -> ManifestDraft:
    fields = made.model_dump()
    evidence = {
        "kind": "synthetic", "cohort": "1,000 torsos", "n_positive": 83, "n_negative": 900, "sensitivity": 0.9375,
        "sensitivity_ci95": (0.9, 0.97), "specificity": 0.9989, "specificity_ci95": (0.997, 1.0),
    }  # fmt: skip
    for model in fields["cancers"]:
        model["operating_points"] = [
            OperatingPoint.model_validate({**point, "evidence": evidence}) for point in model["operating_points"]
        ]
    return ManifestDraft.model_validate(fields)


def test_a_card_has_mitchells_headings_and_no_figure_that_nobody_measured(tmp_path: Path) -> None:
    text = card(draft("0.2.0", ()), trained(tmp_path, tuple(RECIPES)))
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")][: len(HEADINGS)] == list(HEADINGS)
    assert "**None yet.**" in text
    assert text.startswith(
        "# Model card: OneScan reference bundle 0.2.0\n\n**Synthetic reference model, never clinical.**"
    )
    assert "step 250: liver AUC 0.91, 0.50 / 0.25 / 0.10; pancreas not known" in text
    assert "NaN" not in text
    assert " nan" not in text
    assert "`liver_subtype` was not trained" in text
    assert "of 27 voxels in it. The case's score" in text  # without a third stage, a detector's score is the score


def test_a_calibrated_bundles_card_tells_of_every_threshold_and_of_labels_never_seen(tmp_path: Path) -> None:
    names = ("soft_malignancy", "liver_malignancy", "breast_malignancy")
    text = card(calibrated(draft("0.2.1", names)), trained(tmp_path, (*RECIPES, *names)))
    rows = [line for line in text.splitlines() if "0.938 (0.900–0.970) | 0.9989 (0.9970–1.0000) | 83 / 900" in line]
    assert len(rows) == 2 * len(Cancer)
    assert "- 1,000 torsos\n" in text
    assert "for pancreas, stomach, colorectum its odds times the odds that" in text
    assert "for oesophagus, breast, liver times the probability that" in text
    assert "candidates: benign 40, liver 7, stomach 0 | 250 | 5 | 2.13.0 | cpu |" in text
    assert "-160 to 240 HU, the candidate's mask, median HU of aorta and liver |" in text
    assert "-160 to 240 HU, the candidate's mask |" in text
    assert "`soft_malignancy` has seen no candidate that is stomach" in text
    assert "`soft_malignancy` was not trained" not in text
