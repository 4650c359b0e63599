"""The reference bundle as a manifest says it: networks, organs, cancers; everything but evidence and files.

Thresholds here hide next to nothing and their evidence says that there is none. `onescan-engines calibrate` replaces
both from an evaluation.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from core.finding import Cancer
from engines.manifest import (
    CancerModel,
    Centred,
    Characteriser,
    Clip,
    Contraindications,
    ContrastWindow,
    Evidence,
    Extraction,
    GoldenCase,
    ManifestDraft,
    Network,
    OperatingPoint,
    Organ,
    Patches,
    Reference,
    WholeVolume,
)
from engines.manifest.cancers import Sex
from engines.reference.recipes import (
    CHARACTERISERS,
    MIRROR,
    ORGAN_OF_CANCER,
    RECIPES,
    SPACING_MM,
    CharacteriserRecipe,
    Recipe,
    Window,
)

LABEL = "Synthetic reference model, never clinical"
_FROM_ML: dict[str, float] = {
    "lung": 800, "liver": 350, "pancreas": 8, "oesophagus": 8, "stomach": 25, "colon": 80, "breast": 2, "aorta": 20,
}  # fmt: skip
"""mL; less than this of an organ counts as not seen."""
_MARGIN_MM: dict[str, float] = {
    "lung": 8, "liver": 8, "pancreas": 14, "oesophagus": 12, "stomach": 12, "colon": 12, "breast": 12, "aorta": 0,
}  # fmt: skip
_OTHERWISE_HU: dict[str, float] = {"aorta": 42, "liver": 55}
"""What most people's look like, should one not be found: the rules below refuse such a scan."""
_SEXES: dict[Cancer, tuple[Sex, ...]] = {Cancer.BREAST: ("F", "O")}
"""Whose cancer is looked for: torsos of men have none of the breast, so nothing was learned of it."""
_SEEDED = 0.3
"""Probability from which a voxel belongs to a candidate: below one half, because stage 3 looks again."""


def networks(characterisers: Collection[str]) -> tuple[Network, ...]:
    """All networks of stages 1 and 2, and those of stage 3 that are named."""
    first = tuple(_map_network(recipe) for recipe in RECIPES.values())
    return first + tuple(_looking_network(r) for r in CHARACTERISERS.values() if r.name in characterisers)


def _map_network(recipe: Recipe) -> Network:
    return Network(
        id=recipe.name,
        files=(f"{recipe.name}.onnx",),
        stage=recipe.stage,
        spacing_mm=(recipe.spacing_mm,) * 3,
        intensity=_clip(recipe.window),
        tiling=WholeVolume(pad_multiple=recipe.multiple)
        if recipe.stage == "localise"
        else Patches(size=recipe.patch, overlap=0.25, air_below_hu=-940),
        activation="softmax",
        labels=recipe.labels,
        bytes_per_voxel=256,
    )


def _looking_network(recipe: CharacteriserRecipe) -> Network:
    return Network(
        id=recipe.name,
        files=(f"{recipe.name}.onnx",),
        stage="characterise",
        spacing_mm=(SPACING_MM,) * 3,
        intensity=_clip(recipe.window),
        tiling=Centred(size=recipe.block),
        mask=True,
        references=tuple(Reference(organ=organ, otherwise_hu=_OTHERWISE_HU[organ]) for organ in recipe.references),
        mirror=MIRROR if recipe.features else (),
        activation="softmax",
        labels=recipe.labels,
        bytes_per_voxel=256,
    )


def _clip(window: Window) -> Clip:
    return Clip(clip_low_hu=window.low, clip_high_hu=window.high, mean_hu=window.mean, std_hu=window.std)


def organs() -> tuple[Organ, ...]:
    """The seven organs, and the aorta, which tells the phase of contrast."""
    return tuple(
        Organ(name=name, labels=(name,), found_from_ml=ml, margin_mm=_MARGIN_MM[name]) for name, ml in _FROM_ML.items()
    )


def model_of(cancer: Cancer, characterisers: Collection[str]) -> CancerModel:
    """How one cancer is looked for. characterisers: networks of stage 3 that there are."""
    detector = next(r.name for r in RECIPES.values() if cancer in r.cancers)
    none = Evidence(
        kind="synthetic", cohort="none: draft", n_positive=0, n_negative=0,
        sensitivity=0, sensitivity_ci95=(0, 1), specificity=0, specificity_ci95=(0, 1),
    )  # fmt: skip
    return CancerModel(
        cancer=cancer,
        organ=ORGAN_OF_CANCER[cancer],
        network=detector,
        label=cancer.value,
        extraction=Extraction(probability=_SEEDED, min_volume_mm3=100, min_diameter_mm=5, score="core"),
        characterisers=_questions(cancer, characterisers),
        negative_below=_THRESHOLD,
        positive_above=0.5,
        operating_points=(
            OperatingPoint(name="rule-out", threshold=_THRESHOLD, evidence=none),
            OperatingPoint(name="rule-in", threshold=0.5, evidence=none),
        ),
        contraindications=Contraindications(
            min_age_years=18,
            unknown_age="analyse",
            sexes=_SEXES.get(cancer, ("F", "M", "O")),
            max_slice_spacing_mm=8.5,
            contrast=ContrastWindow(organ="aorta", low_hu=15, high_hu=80, phase="non-contrast"),
        ),
    )


_THRESHOLD = 0.001
_VETOED = (Cancer.LUNG, Cancer.BREAST, Cancer.LIVER, Cancer.OESOPHAGUS)
"""Their detectors are as sure of some look-alikes as one can be: there the third stage has the last word (ADR 0024)."""


def _questions(cancer: Cancer, characterisers: Collection[str]) -> tuple[Characteriser, ...]:
    asked = {}
    for recipe in CHARACTERISERS.values():
        if cancer not in recipe.cancers or recipe.name not in characterisers:
            continue
        malignancy = recipe.question == "malignancy"
        label = cancer.value if malignancy else None
        score: Literal["multiply", "odds"] = "multiply" if cancer in _VETOED else "odds"
        asked[recipe.question] = Characteriser(network=recipe.name, question=recipe.question, label=label, score=score)
    return tuple(asked.values())


def draft(
    version: str,
    characterisers: Collection[str],
    golden: tuple[GoldenCase, ...] = (),
    measured: tuple[Network, ...] | None = None,
) -> ManifestDraft:
    """Everything that the manifest says but files and evidence.

    characterisers: networks of stage 3 that there are. measured: the networks with the memory they take.
    """
    return ManifestDraft(
        name="reference",
        version=version,
        label=LABEL,
        manufacturer="OneScan",
        synthetic=True,
        intended_use=(
            "Demonstration and testing of OneScan on non-contrast torso CT. Trained and evaluated on procedural "
            "phantoms only; no performance on people is claimed. Never for clinical use."
        ),
        licence="Apache-2.0",
        networks=measured or networks(characterisers),
        organs=organs(),
        cancers=tuple(model_of(cancer, characterisers) for cancer in Cancer),
        golden=golden,
    )
