"""The model card of a trained bundle, under the headings of Mitchell et al., from what training left and manifest says.

Figures come from the manifest's evidence and the trainings' own journals; nothing is typed in by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from engines.manifest import CancerModel, ManifestDraft, Network, OperatingPoint
from engines.phantom import difficulty
from engines.reference.recipes import CHARACTERISERS, RECIPES, TAKEN

_TEXT = """\
# Model card: OneScan reference bundle {version}

**{label}.** It was trained on computer-drawn people and has seen no person's scan. It exists so that OneScan can be
installed, tested and understood from end to end. Headings follow Mitchell et al., *Model Cards for Model Reporting*,
FAT* 2019. Made by `engines/reference/card.py` from the training's journals and the manifest.

## Model details
- Made by the OneScan project; licence {licence}, weights included.
- Plain 3D U-Nets at half their input's resolution and small classifiers (convolution, batch norm, ReLU; no pretrained
  weights); *calipers* are a few layers that read what is measured of a candidate. Exported to ONNX opset 17, weights
  rounded to ten bits. Why so: ADR 0024.

{networks}

- A candidate is a connected part of the organ's region with a probability of at least {seeded:g}; its score is the
  highest mean probability of 27 voxels in it{scoring}. The case's score is the highest of its candidates'.

## Intended use
{intended_use}

Out of scope: any decision about a person, whatever the verdict says. `synthetic` in the signed manifest makes the
appliance refuse the mode *clinical*.

## Factors
Sex, age, size, habitus, fatty liver, fatty pancreas, emphysema, breast density, arms, coverage, kernel, dose and slice
thickness vary by law {law} of difficulty (`engines/phantom/difficulty.py`, SHA-256 {digest}). Not represented:
children, operations, contrast medium (only imitated for the localiser), motion, and all that docs/phantoms.md lists
under "What is not like people".

## Metrics
Per case: sensitivity and specificity of the whole cascade at two thresholds a cancer, with exact 95 % intervals
(Clopper and Pearson 1934). A case that is not analysed although it should have been counts as wrong.

## Evaluation data
{cohorts}

## Training data
Procedural torsos (`engines/phantom`), each with each cancer by a chance of about one half. Candidates are those of a
network's last leg, which are from *crowded* torsos too: up to three cancers of an organ, and far more look-alikes than
the law has (`CROWDED_CANCERS`, `CROWDED_LOOKALIKES` in `engines/reference/recipes.py`).

{data}

Seeds: {seeds}.

## Quantitative analyses
Synthetic patients: no evidence about people. A verdict is *negative* below the rule-out threshold, *positive* from the
rule-in threshold on, *indeterminate* between.

{evidence}

What each network reached at the end of its training on patients who took no part in it, organs known. Localiser: Dice.
Detectors: AUC; sensitivity at a specificity of 95, 99 and 100 %.

{tried_figures}

## Ethical considerations
No patient data was used, so there is none to leak. The danger is misuse: figures on phantoms say nothing about people,
and a convincing picture is not evidence. The label, the mode and the report's wording exist to prevent that.

## Caveats and recommendations
- Texture is Gaussian noise of three grains and anatomy has one topology: people will be unfamiliar in ways that this
  model can't know, and what it says of them means nothing.
- Subtypes are next to guesses: on candidates of 40 other crowded torsos 79 % of 22 were right for the pancreas (the
  commoner subtype is 77 %), 36 % of 60 for the liver (47 %).
- Candidates under 5 mm are dropped. A sign more than 64 mm from its cancer is lost on the detectors.
{gaps}
## How to reproduce
One command, which goes on where it was when it is called again; then calibration by docs/evaluation.md:
```
python -m engines.reference --work var/reference
```
Weights depend on torch's version and the processor in the last bits.
"""


def card(manifest: ManifestDraft, trained: Path) -> str:
    """The card's Markdown. trained: the folder of training, with run.json and losses.jsonl of each network."""
    runs = {network.id: _run(trained / network.id) for network in manifest.networks}
    points = [(model, point) for model in manifest.cancers for point in model.operating_points]
    extraction = manifest.cancers[0].extraction
    return _TEXT.format(
        version=manifest.version,
        label=manifest.label,
        licence=manifest.licence,
        networks=_table(("network", "sees", "says", "features"), map(_network, manifest.networks)),
        seeded=extraction.probability if extraction else 0.0,
        scoring=_scoring(manifest.cancers),
        intended_use=manifest.intended_use,
        law=difficulty.VERSION,
        digest=difficulty.digest()[:16],
        cohorts="\n".join(f"- {cohort}" for cohort in dict.fromkeys(point.evidence.cohort for _, point in points)),
        data=_table(("network", "learned from", "steps", "seed", "torch", "device"), (_data(*r) for r in runs.items())),
        seeds=", ".join(f"{what} {seeds[0]:,} onwards" for what, seeds in TAKEN.items()),
        evidence=_evidence(points),
        tried_figures="\n".join(f"- `{name}`: {_tried(trained / name)}" for name in RECIPES if name in runs),
        gaps="".join(f"- {gap}\n" for gap in _gaps(runs)),
    )


_COMBINED = {
    "odds": "its odds times the odds that the third stage gives it",
    "multiply": "times the probability that the third stage gives it",
    "replace": "then what the third stage says instead",
}


def _scoring(models: Sequence[CancerModel]) -> str:
    """What becomes of a detector's score in stage 3, and for which cancers."""
    told = [
        (
            text,
            [m.cancer.value for m in models for q in m.characterisers if (q.question, q.score) == ("malignancy", how)],
        )
        for how, text in _COMBINED.items()
    ]
    return "".join(f"; for {', '.join(cancers)} {text}" for text, cancers in told if cancers)


def _run(folder: Path) -> dict[str, Any]:
    run: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return run


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _network(network: Network) -> tuple[str, ...]:
    tiling = network.tiling
    size = "the whole volume" if tiling.kind == "whole" else "×".join(map(str, tiling.size)) + " voxels"
    recipe = RECIPES.get(network.id) or CHARACTERISERS[network.id]
    window = f"{recipe.window.low:g} to {recipe.window.high:g} HU"
    seen = f"{size} at {network.spacing_mm[0]:g} mm, {window}"
    if network.mask:
        seen += ", the candidate's mask"
    if network.references:
        seen += f", median HU of {' and '.join(r.organ for r in network.references)}"
    return (f"`{network.id}`", seen, ", ".join(network.labels), "-".join(map(str, recipe.features)) or "calipers")


def _data(name: str, run: dict[str, Any]) -> tuple[str, ...]:
    task = run["task"]
    if "candidates" in task:
        what = "candidates: " + ", ".join(f"{label} {n}" for label, n in task["candidates"].items())
    else:
        ends = [*run["begun"][1:], run["step"]]
        legs = [RECIPES[name].pool(end - begun) for begun, end in zip(run["begun"], ends, strict=True)]
        what = f"{' + '.join(f'{patients:,}' for patients in legs)} patients"
    return (f"`{name}`", what, f"{run['step']:,}", str(run["seed"]), run["torch"], run["device"])


def _evidence(points: Sequence[tuple[CancerModel, OperatingPoint]]) -> str:
    if not any(point.evidence.n_positive + point.evidence.n_negative for _, point in points):
        return "**None yet.** Thresholds are placeholders until `onescan-engines calibrate` has chosen them."
    return _table(_POINT, (_point(model, point) for model, point in points))


_POINT = ("cancer", "point", "threshold", "sensitivity (95 % CI)", "specificity (95 % CI)", "with / without")


def _point(model: CancerModel, point: OperatingPoint) -> tuple[str, ...]:
    told = point.evidence
    return (
        model.cancer.value,
        point.name,
        f"{point.threshold:.3g}",
        f"{told.sensitivity:.3f} ({told.sensitivity_ci95[0]:.3f}–{told.sensitivity_ci95[1]:.3f})",
        f"{told.specificity:.4f} ({told.specificity_ci95[0]:.4f}–{told.specificity_ci95[1]:.4f})",
        f"{told.n_positive} / {told.n_negative}",
    )


def _tried(folder: Path) -> str:
    """The last line of its journal that tells of a trial."""
    journal = folder / "losses.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    tried = [line for line in lines if "validation" in line]
    if not tried:
        return "not tried"
    told = (f"{what.replace('_', ' ')} {_reached(value)}" for what, value in tried[-1]["validation"].items())
    return f"step {tried[-1]['step']:,}: {'; '.join(told)}"


def _reached(value: float | dict[str, float]) -> str:
    """Dice; or AUC and sensitivities, where there were cases of both kinds."""
    if not isinstance(value, dict):
        return f"{value:.2f}"
    if value["auc"] != value["auc"]:  # NaN
        return "not known"
    return f"AUC {value['auc']:.2f}, {value['at95']:.2f} / {value['at99']:.2f} / {value['at100']:.2f}"


def _gaps(runs: dict[str, dict[str, Any]]) -> list[str]:
    """What stages and labels could not be learned."""
    gaps = [
        f"`{name}` was not trained: the first two stages brought up too few kinds of candidates."
        for name in CHARACTERISERS
        if name not in runs
    ]
    for name, run in runs.items():
        lacking = [label for label, n in run["task"].get("candidates", {}).items() if not n]
        if lacking:
            gaps.append(f"`{name}` has seen no candidate that is {', '.join(lacking)}, and will call nothing that.")
    return gaps
