"""Trained networks → the reference bundle.

    python -m engines.reference.pack draft  --from var/reference --into var/reference/draft
    python -m engines.reference.pack final  --from var/reference --into engines/bundles/reference
    python -m engines.reference.pack again  --from OLD --into NEW

A draft has no evidence and no thresholds of its own: it exists to score cases with. The final bundle takes both from
`tuning.json` and `evidence.json` (see `evaluate`), and its golden cases from what the cascade answers here in fp32.
`again` needs nothing that training left: a finished bundle with today's model card, licence and version, its memory
measured anew, its networks, thresholds, evidence and golden cases as they were.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core import durable
from core.finding import Cancer
from core.volume import Geometry, Volume
from engines import volumefile
from engines.bundle import Bundle, Content, open_bundle, write_bundle
from engines.calibration import choose_thresholds
from engines.cascade import Analysis, Cascade, PatientContext
from engines.manifest import (
    CancerModel,
    Clip,
    Contraindications,
    Evidence,
    Extraction,
    GoldenAnswer,
    GoldenCase,
    GoldenOrgan,
    ManifestDraft,
    Network,
    OperatingPoint,
    Organ,
    Patches,
    WholeVolume,
)
from engines.measuring.memory import with_memory
from engines.phantom import Patient, Scan, render, sample_patient
from engines.reference.evaluate import evidence_of, read_scores
from engines.reference.recipes import RECIPES, Recipe
from engines.runtime.onnx import OnnxRuntime

VERSION = "0.1.1"
GOLDEN: dict[str, tuple[int, int]] = {"lung-and-liver-lesion": (500_010, 1), "no-lesion": (500_001, 0)}
"""Golden cases: name → seed and number of lesions (of 25 mm) in each organ."""
ORGANS = {Cancer.LUNG: "lung", Cancer.LIVER: "liver"}
WANTED_SENSITIVITY, WANTED_SPECIFICITY = 0.90, 0.90
MEMORY_RUNS = 3
REPOSITORY = Path(__file__).resolve().parents[2]
TEXTS = (
    Content("licence.txt", "licence", REPOSITORY / "LICENSE"),
    Content("model-card.md", "model_card", REPOSITORY / "docs" / "model-card.md"),
)


@dataclass(frozen=True)
class Judgement:
    """Thresholds of one cancer and the evidence at each."""

    negative_below: float
    positive_above: float
    rule_out: Evidence
    rule_in: Evidence


def draft_judgement() -> Judgement:
    """Thresholds that hide nothing, and evidence that says that there is none."""
    none = Evidence(
        kind="synthetic", cohort="none: draft for scoring", n_positive=0, n_negative=0,
        sensitivity=0, sensitivity_ci95=(0, 1), specificity=0, specificity_ci95=(0, 1),
    )  # fmt: skip
    return Judgement(0.5, 0.5, none, none)


def measured_judgement(folder: Path, cancer: Cancer) -> Judgement:
    """Thresholds from tuning.json, evidence from evidence.json."""
    tuning = [r for r in read_scores(folder / "tuning.json", cancer) if r.score is not None]
    low, high = choose_thresholds(
        [r.score or 0.0 for r in tuning], [r.truth for r in tuning], WANTED_SENSITIVITY, WANTED_SPECIFICITY
    )
    rows = read_scores(folder / "evidence.json", cancer)
    seeds = [r.seed for r in rows]
    cohort = (
        f"procedural phantoms, seeds {min(seeds)} to {max(seeds)}, disjoint from training and tuning; lesions of "
        "6-40 mm (lung) or 10-60 mm (liver), look-alikes in both groups"
    )
    return Judgement(low, high, evidence_of(low, rows, cohort), evidence_of(high, rows, cohort))


def network_of(recipe: Recipe) -> Network:
    """A recipe as the manifest says it."""
    return Network(
        id=recipe.name,
        files=(f"{recipe.name}.onnx",),
        stage="localise" if recipe.patch is None else "detect",
        spacing_mm=(recipe.spacing_mm,) * 3,
        intensity=Clip(
            clip_low_hu=recipe.clip_hu[0], clip_high_hu=recipe.clip_hu[1], mean_hu=recipe.mean_hu, std_hu=recipe.std_hu
        ),
        tiling=WholeVolume(pad_multiple=recipe.multiple)
        if recipe.patch is None
        else Patches(size=recipe.patch, overlap=0.25, air_below_hu=-940),
        activation="softmax",
        labels=recipe.labels,
    )


def model_of(cancer: Cancer, judgement: Judgement) -> CancerModel:
    """How one cancer is looked for."""
    return CancerModel(
        cancer=cancer,
        organ=ORGANS[cancer],
        network=f"{ORGANS[cancer]}_lesion",
        label="lesion",
        extraction=Extraction(
            probability=0.5,
            min_volume_mm3=270 if cancer is Cancer.LUNG else 450,
            min_diameter_mm=8,
            score="mean",
            inside_share=0.2,
        ),
        negative_below=judgement.negative_below,
        positive_above=judgement.positive_above,
        operating_points=(
            OperatingPoint(name="rule-out", threshold=judgement.negative_below, evidence=judgement.rule_out),
            OperatingPoint(name="rule-in", threshold=judgement.positive_above, evidence=judgement.rule_in),
        ),
        contraindications=Contraindications(min_age_years=18, unknown_age="analyse", max_slice_spacing_mm=6),
    )


def manifest_draft(
    judgements: dict[Cancer, Judgement], golden: tuple[GoldenCase, ...], networks: tuple[Network, ...] | None = None
) -> ManifestDraft:
    """Everything that the manifest says but the files. networks: those of the recipes, measured."""
    return ManifestDraft(
        name="reference",
        version=VERSION,
        label="Synthetic reference model, never clinical",
        manufacturer="OneScan",
        synthetic=True,
        intended_use=(
            "Demonstration and testing of OneScan on non-contrast torso CT. Trained and evaluated on procedural "
            "phantoms only; no performance on people is claimed. Never for clinical use."
        ),
        licence="Apache-2.0",
        networks=networks or tuple(network_of(r) for r in RECIPES.values()),
        organs=(
            Organ(name="lung", labels=("lung",), found_from_ml=800, margin_mm=2),
            Organ(name="liver", labels=("liver",), found_from_ml=350, margin_mm=3),
        ),
        cancers=tuple(model_of(cancer, judgement) for cancer, judgement in judgements.items()),
        golden=golden,
    )


def golden_input(seed: int, lesions: int) -> tuple[Patient, Volume]:
    """A patient with `lesions` lesions of 25 mm in lung and in liver; chest and upper abdomen, small enough to ship."""
    patient = sample_patient(seed, lung=lesions, liver=lesions, diameter_mm=25)
    volume, _ = render(patient, Scan((4.0, 2.0, 2.0), None, (180.0, 645.0), dose=30.0))
    return patient, without_air(volume)


def without_air(volume: Volume, keep: int = 6) -> Volume:
    """The rows of a volume that hold the body, and `keep` more on either side: noise in air does not compress."""
    held = np.flatnonzero((volume.hu > -500).any(axis=(0, 2)))
    first, last = max(0, int(held[0]) - keep), int(held[-1]) + 1 + keep
    hu, old = np.ascontiguousarray(volume.hu[:, first:last]), volume.geometry
    x, y, z = (float(v) for v in old.to_patient((0, first, 0)))
    slices, rows, columns = hu.shape
    return Volume(hu, Geometry((slices, rows, columns), old.spacing_mm, (x, y, z), old.axes))


def golden_case(name: str, patient: Patient, analysis: Analysis) -> GoldenCase:
    """What the cascade answered, as the expectation of every device; tolerances leave room for bf16."""
    return GoldenCase(
        name=name,
        input=f"golden-{name}.npz",
        age_years=patient.age_years,
        sex=patient.sex,
        answers=tuple(
            GoldenAnswer(
                cancer=a.cancer,
                verdict=a.verdict,
                reason=a.reason,
                score=None if a.score is None else round(a.score, 4),
                score_tolerance=0.05,
            )
            for a in analysis.answers
        ),
        organs=tuple(
            GoldenOrgan(organ=organ, volume_ml=round(ml, 1), tolerance_ml=round(max(0.05 * ml, 20), 1))
            for organ, ml in analysis.organs_ml.items()
        ),
    )


def networks(trained: Path, scratch: Path) -> list[Content]:
    """The ONNX files, each compared with torch."""
    from engines.reference.export import check_against_torch, load_trained, to_onnx  # torch: `again` does without

    contents = []
    durable.make_folder(scratch)
    for recipe in RECIPES.values():
        model = load_trained(recipe, trained / recipe.name)
        path = scratch / f"{recipe.name}.onnx"
        durable.write_bytes(path, to_onnx(model, recipe))
        difference = check_against_torch(model, recipe, path)
        print(f"{recipe.name}: {path.stat().st_size} bytes, ONNX = torch within {difference:.1e}")
        contents.append(Content(path.name, "network", path))
    return contents


def pack(trained: Path, into: Path, final: bool) -> Bundle:
    """Export, judge, run the golden cases in fp32, write the bundle. An existing bundle in `into` is replaced."""
    judgements = {c: measured_judgement(trained, c) if final else draft_judgement() for c in ORGANS}
    inputs = {name: golden_input(*drawn) for name, drawn in GOLDEN.items()}
    contents = [
        *networks(trained, trained / "onnx"),
        *(Content(f"golden-{n}.npz", "golden", volumefile.to_bytes(volume)) for n, (_, volume) in inputs.items()),
        *(TEXTS if final else TEXTS[:1]),
    ]
    first = trained / "without-golden"
    durable.remove_tree(first)
    unmeasured = write_bundle(first, manifest_draft(judgements, ()), contents)
    cascade = Cascade(unmeasured, OnnxRuntime(1))
    golden = tuple(_answered(name, *inputs[name], cascade) for name in inputs)
    durable.remove_tree(into)
    durable.make_folder(into.parent)
    return write_bundle(
        into, manifest_draft(judgements, golden, with_memory(unmeasured, say=print, runs=MEMORY_RUNS)), contents
    )


def again(old: Bundle, into: Path) -> Bundle:
    """A finished bundle anew in `into`, which must not exist: only version, texts and memory differ."""
    texts = {content.name: content for content in TEXTS}
    contents = [texts.get(content.name, content) for content in old.contents()]
    fields = old.manifest.model_dump(exclude={"files"})
    changed = {**fields, "version": VERSION, "networks": with_memory(old, say=print, runs=MEMORY_RUNS)}
    return write_bundle(into, ManifestDraft.model_validate(changed), contents)


def _answered(name: str, patient: Patient, volume: Volume, cascade: Cascade) -> GoldenCase:
    analysis = cascade.analyse(volume, PatientContext(patient.age_years, patient.sex))
    for answer in analysis.answers:
        print(f"golden case {name}: {answer.cancer.value} {answer.verdict.value} {answer.score} {answer.detail}")
    return golden_case(name, patient, analysis)


def main() -> None:
    """Assemble a draft or the final bundle, or a finished one again."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("what", choices=("draft", "final", "again"))
    parser.add_argument("--from", dest="trained", type=Path, required=True, help="var/reference; again: a bundle")
    parser.add_argument("--into", type=Path, required=True)
    a = parser.parse_args()
    bundle = again(open_bundle(a.trained), a.into) if a.what == "again" else pack(a.trained, a.into, a.what == "final")
    print(f"{a.into}: bundle {open_bundle(a.into).digest}, {sum(f.size for f in bundle.manifest.files)} bytes")


if __name__ == "__main__":
    main()
