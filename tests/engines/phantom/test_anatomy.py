"""Phantoms: the same seed gives the same patient, and patients look like people where it matters."""

from __future__ import annotations

import numpy as np
import pytest

from core.volume import Volume
from engines.phantom import Kernel, LesionKind, Patient, Scan, Tissue, geometry_of, organ_mask, render, sample_patient
from engines.phantom.patient import warp_of
from engines.phantom.rendering import Labels

COARSE = Scan(spacing_mm=(5.0, 3.0, 3.0), matrix=None, kernel=None)
ORGAN_ML = {
    Tissue.LUNG: (1800, 7500),
    Tissue.LIVER: (800, 2300),
    Tissue.SPLEEN: (50, 420),
    Tissue.KIDNEY: (120, 480),
    Tissue.HEART: (250, 1000),
    Tissue.STOMACH: (60, 700),
    Tissue.PANCREAS: (20, 130),
    Tissue.COLON: (250, 1400),
}
"""Plausible adult volumes in mL, wide enough for small women and tall men."""

Rendered = dict[int, tuple[Patient, Volume, Labels]]


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    result = {}
    for seed in (1, 2, 3):
        patient = sample_patient(seed, lung=1, liver=1, diameter_mm=24)
        result[seed] = (patient, *render(patient, COARSE))
    return result


def test_same_seed_gives_the_same_images_and_another_seed_does_not() -> None:
    scan = Scan((6.0, 4.0, 4.0), None, (300, 420))
    first, first_labels = render(sample_patient(11), scan)
    again, again_labels = render(sample_patient(11), scan)
    other, _ = render(sample_patient(12), scan)
    assert np.array_equal(first.hu, again.hu)
    assert np.array_equal(first_labels, again_labels)
    assert first.hu.shape != other.hu.shape or not np.array_equal(first.hu, other.hu)


def test_noise_does_not_depend_on_how_slices_are_grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = Scan((5.0, 4.0, 4.0), None, (380, 420))
    whole, labels = render(sample_patient(5), scan)
    monkeypatch.setattr("engines.phantom.rendering._BLOCK_VOXELS", 1)
    slicewise, slicewise_labels = render(sample_patient(5), scan)
    assert np.array_equal(whole.hu, slicewise.hu)
    assert np.array_equal(labels, slicewise_labels)


def test_organ_volumes_are_those_of_adults(rendered: Rendered) -> None:
    for seed, (_, volume, labels) in rendered.items():
        for tissue, (low, high) in ORGAN_ML.items():
            ml = int((labels == tissue).sum()) * volume.geometry.voxel_mm3 / 1000
            assert low <= ml <= high, f"seed {seed}: {tissue.name} {ml:.0f} mL"


def test_organ_intensities_are_those_of_the_patient(rendered: Rendered) -> None:
    for patient, volume, labels in rendered.values():
        for tissue, expected in (
            (Tissue.LIVER, patient.hu.liver),
            (Tissue.SPLEEN, patient.hu.spleen),
            (Tissue.MUSCLE, patient.hu.muscle),
            (Tissue.HEART, patient.hu.heart),
        ):
            median = float(np.median(volume.hu[labels == tissue]))
            assert abs(median - expected) < 6, f"{tissue.name}: {median} instead of {expected}"
        assert -880 < np.median(volume.hu[labels == Tissue.LUNG]) < -740
        assert -120 < np.median(volume.hu[labels == Tissue.FAT]) < -80


def test_organs_lie_on_their_side(rendered: Rendered) -> None:
    for _, volume, labels in rendered.values():

        def middle(tissue: Tissue, volume: Volume = volume, labels: Labels = labels) -> np.ndarray:
            return volume.geometry.to_patient(np.argwhere(labels == tissue).mean(axis=0))

        liver, spleen, heart, lung = (middle(t) for t in (Tissue.LIVER, Tissue.SPLEEN, Tissue.HEART, Tissue.LUNG))
        assert liver[0] < -20 < 20 < spleen[0], "x grows to the left: liver right, spleen left"
        assert heart[0] > 0
        assert spleen[1] > heart[1], "y grows to the back"
        assert lung[2] > liver[2], "z grows to the head"


def test_women_have_breasts_and_men_have_none() -> None:
    scan = Scan((8.0, 4.0, 4.0), None, (420, 520), kernel=None)
    seen = set()
    for seed in range(8):
        patient = sample_patient(seed, lung=0, liver=0)
        has = bool((render(patient, scan)[1] == Tissue.BREAST).any())
        assert has == (patient.sex == "F")
        seen.add(patient.sex)
    assert seen == {"F", "M"}


def test_lesions_are_where_the_patient_says(rendered: Rendered) -> None:
    for patient, volume, labels in rendered.values():
        warp = warp_of(patient)
        for organ, tissue in (("lung", Tissue.LUNG_LESION), ("liver", Tissue.LIVER_LESION)):
            (lesion,) = patient.cancers(organ)
            z, y, x = warp.to_patient(lesion.centre)
            index = np.rint(volume.geometry.to_index((x, y, z))).astype(int)
            near = labels[tuple(slice(i - 1, i + 2) for i in index)]
            assert (near == tissue).any(), f"{organ}: no lesion at {index}"
            volume_mm3 = int((labels == tissue).sum()) * volume.geometry.voxel_mm3
            diameter = (6 * volume_mm3 / np.pi) ** (1 / 3)
            assert 0.6 * lesion.diameter_mm < diameter < 1.35 * lesion.diameter_mm


def test_liver_lesions_are_darker_than_the_liver_and_brighter_than_cysts() -> None:
    for seed in range(30):
        patient = sample_patient(seed, liver=3)
        for lesion in patient.lesions:
            if lesion.kind is LesionKind.LIVER_HYPODENSE:
                assert 11 < patient.hu.liver - lesion.hu < 36
            if lesion.kind is LesionKind.LIVER_CYST:
                assert lesion.hu <= 8


def test_a_patient_without_lesions_has_no_lesion_voxel() -> None:
    patient = sample_patient(3, lung=0, liver=0)
    _, labels = render(patient, Scan((6.0, 4.0, 4.0), None, kernel=None))
    assert not organ_mask(labels, Tissue.LUNG_LESION, Tissue.LIVER_LESION).any()


def test_noise_follows_kernel_and_slice_thickness() -> None:
    patient = sample_patient(2, lung=0, liver=0)

    def noise(scan: Scan) -> float:
        noisy = render(patient, scan)[0].hu.astype(float)
        clean = render(patient, Scan(scan.spacing_mm, scan.matrix, scan.coverage_mm, None))[0].hu
        return float((noisy - clean).std())

    thick = noise(Scan((5.0, 1.0, 1.0), (256, 256), (330, 345), Kernel.SOFT))
    thin = noise(Scan((1.25, 1.0, 1.0), (256, 256), (330, 345), Kernel.SOFT))
    sharp = noise(Scan((5.0, 1.0, 1.0), (256, 256), (330, 345), Kernel.SHARP))
    assert 4 < thick < 25
    assert 1.7 < thin / thick < 2.3
    assert sharp > 3 * thick


def test_geometry_covers_the_torso_axially() -> None:
    patient = sample_patient(1)
    geometry = geometry_of(patient, Scan())
    assert geometry.is_axial()
    assert geometry.shape[1:] == (512, 512)
    assert geometry.extent_mm[0] == pytest.approx(650 * patient.scale[0], abs=3)
    assert np.allclose(geometry.to_patient((0, 255.5, 255.5))[:2], 0)
