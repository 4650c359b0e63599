"""Candidates are kept with their truth, and recipes and manifest agree with each other."""

from __future__ import annotations

import numpy as np

from core.finding import Answer, Cancer, Lesion, Verdict
from engines.cascade import Analysis
from engines.reference.candidates import EDGE, candidates_of, scan_of
from engines.reference.manifest import draft, model_of
from engines.reference.patients import Patient
from engines.reference.recipes import CHARACTERISERS, ORGAN_OF_CANCER, ORGANS, RECIPES


def lesion_of(mask: np.ndarray[tuple[int, int, int], np.dtype[np.bool_]], label: int) -> Lesion:
    where = np.argwhere(mask)
    low, high = where.min(axis=0), where.max(axis=0) + 1
    z, y, x = (float(v) for v in where.mean(axis=0))
    box = ((int(low[0]), int(low[1]), int(low[2])), (int(high[0]), int(high[1]), int(high[2])))
    return Lesion(label=label, score=0.7, centroid=(x, y, z), box=box, diameter_mm=20.0, volume_mm3=8.0 * len(where))


def test_a_candidate_on_a_cancer_is_that_cancer_and_one_beside_is_none(patient: Patient) -> None:
    cancer = next(c for c in Cancer if patient.cancers(c))
    number = patient.cancers(cancer)[0]
    truth = patient.stored.read((0, 0, 0), patient.stored.shape, {})["lesions"]
    elsewhere = np.zeros(truth.shape, bool)
    elsewhere[3:9, 5:12, 4:10] = True
    masks = np.where(truth == number, np.uint8(1), np.where(elsewhere, np.uint8(2), np.uint8(0)))
    lesions = (lesion_of(masks == 1, 1), lesion_of(masks == 2, 2))
    answer = Answer(Cancer.LIVER, Verdict.POSITIVE, score=0.7, lesions=lesions)
    analysis = Analysis((answer,), {Cancer.LIVER: masks}, {}, {}, "test")
    hit, miss = candidates_of(patient, analysis)
    assert (hit.asked, hit.truth, hit.seed) == ("liver", cancer.value, patient.seed)
    assert (miss.truth, miss.kind) == ("", "")
    z, y, x = miss.centre
    unpacked = miss.unpacked()
    assert unpacked.sum() == 6 * 7 * 6
    corner = [EDGE // 2 + a - c for a, c in zip((3, 5, 4), (z, y, x), strict=True)]
    assert unpacked[corner[0] : corner[0] + 6, corner[1] : corner[1] + 7, corner[2] : corner[2] + 6].all()


def test_a_patient_is_scanned_with_noise_and_alike_at_every_call(patient: Patient) -> None:
    a, b = scan_of(patient), scan_of(patient)
    clean = patient.stored.read((0, 0, 0), patient.stored.shape, {})["hu"]
    assert np.array_equal(a.hu, b.hu)
    assert a.geometry.spacing_mm == (2.0, 2.0, 2.0)
    assert np.std(a.hu.astype(np.float32) - clean) > 4


def test_every_cancer_has_one_detector_one_organ_and_one_look_at_malignancy() -> None:
    for cancer in Cancer:
        assert sum(cancer in recipe.cancers for recipe in RECIPES.values()) == 1
        model = model_of(cancer, tuple(CHARACTERISERS))
        (asked,) = (c for c in model.characterisers if c.question == "malignancy")
        recipe = CHARACTERISERS[asked.network]
        assert cancer in recipe.cancers
        assert asked.label == cancer.value
        assert cancer.value in recipe.labels
        own = f"{cancer.value}_malignancy"  # who was made for one cancer alone goes before who was made for six
        assert asked.network == (own if own in CHARACTERISERS else "soft_malignancy")
        assert ORGAN_OF_CANCER[cancer] in ORGANS


def test_the_manifest_resolves_with_and_without_the_third_stage() -> None:
    for characterisers in ((), ("soft_malignancy",), tuple(CHARACTERISERS)):
        manifest = draft("0.0.1", characterisers)
        assert manifest.unresolved() == ()
        assert manifest.synthetic
        assert len(manifest.cancers) == 7
        limits = {model.cancer: model.contraindications.sexes for model in manifest.cancers}
        assert "M" not in limits.pop(Cancer.BREAST)
        assert all("M" in sexes for sexes in limits.values())
    subtypes = {m.cancer for m in manifest.cancers if any(c.question == "subtype" for c in m.characterisers)}
    assert subtypes == {Cancer.PANCREAS, Cancer.LIVER}
