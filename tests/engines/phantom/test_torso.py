"""Synthetic torsos: a seed is a person, anatomy is where and as large as in people, and truth is what is painted."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from core.finding import Cancer
from engines.phantom import (
    COVERAGE,
    LOBES,
    Kernel,
    Rendered,
    Scan,
    Tissue,
    Torso,
    build,
    organ_mask,
    render,
    sample_person,
)

COARSE = Scan((4.0, 3.0, 3.0), None, kernel=None)
SEEDS = (100, 101, 104, 107)  # women and men, 54 to 79, slim to stout
ORGAN_ML = {
    "lungs": (2200, 7500),
    Tissue.LIVER: (800, 2200),
    Tissue.SPLEEN: (50, 420),
    Tissue.KIDNEY: (150, 480),
    Tissue.PANCREAS: (20, 130),
    Tissue.HEART: (200, 900),
    Tissue.STOMACH: (50, 900),
    Tissue.COLON: (300, 1500),
    Tissue.BLADDER: (20, 500),
    Tissue.GALLBLADDER: (5, 90),
    Tissue.AORTA: (90, 400),
    Tissue.BONE: (1200, 3200),
}
"""Adult volumes in mL, wide enough for small women and tall men."""

Built = dict[int, tuple[Torso, Rendered]]


@pytest.fixture(scope="module")
def built() -> Built:
    made = {}
    for seed in SEEDS:
        torso = build(sample_person(seed, {}))
        made[seed] = (torso, render(torso, COARSE))
    return made


def _mask(rendered: Rendered, tissue: object) -> np.ndarray:
    return np.isin(rendered.organs, [int(t) for t in (LOBES if tissue == "lungs" else (tissue,))])  # type: ignore[arg-type]


def test_the_same_seed_is_the_same_person_and_the_same_images() -> None:
    scan = Scan((6.0, 4.0, 4.0), None, (300, 400))
    first, again = (render(build(sample_person(11)), scan) for _ in range(2))
    other = render(build(sample_person(12)), scan)
    assert np.array_equal(first.volume.hu, again.volume.hu)
    assert np.array_equal(first.organs, again.organs)
    assert np.array_equal(first.lesions, again.lesions)
    assert first.volume.hu.shape != other.volume.hu.shape or not np.array_equal(first.volume.hu, other.volume.hu)


def test_images_do_not_depend_on_how_slices_are_grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    torso, scan = build(sample_person(5)), Scan((5.0, 4.0, 4.0), None, (380, 420))
    whole = render(torso, scan)
    monkeypatch.setattr("engines.phantom.rendering._BLOCK", 1)
    slicewise = render(torso, scan)
    # The order of a matrix product's sums may differ: by rounding, never by more.
    assert np.abs(whole.volume.hu.astype(int) - slicewise.volume.hu).max() <= 1
    assert (whole.organs != slicewise.organs).mean() < 1e-4


def test_organ_volumes_are_those_of_adults(built: Built) -> None:
    for seed, (_, rendered) in built.items():
        for tissue, (low, high) in ORGAN_ML.items():
            ml = float(_mask(rendered, tissue).sum()) * rendered.volume.geometry.voxel_mm3 / 1000
            assert low <= ml <= high, f"seed {seed}: {tissue!r} {ml:.0f} mL"


def test_organ_intensities_are_those_of_the_person(built: Built) -> None:
    for torso, rendered in built.values():
        hu = torso.person.hu
        for tissue, expected, off in (
            (Tissue.LIVER, hu.liver, 4),
            (Tissue.SPLEEN, hu.spleen, 4),
            (Tissue.KIDNEY, hu.kidney, 5),
            (Tissue.HEART, hu.blood, 5),
            (Tissue.AORTA, hu.blood, 5),
            (Tissue.MUSCLE, hu.muscle, 8),
        ):
            median = float(np.median(rendered.volume.hu[rendered.organs == tissue]))
            assert abs(median - expected) <= off, f"{tissue.name}: {median} instead of {expected}"
        assert -900 < np.median(rendered.volume.hu[_mask(rendered, "lungs")]) < -770
        assert -125 < np.median(rendered.volume.hu[rendered.organs == Tissue.FAT]) < -85
        assert np.percentile(rendered.volume.hu[rendered.organs == Tissue.BONE], 90) > 330


def test_organs_lie_where_they_lie_in_people(built: Built) -> None:
    for _, rendered in built.values():
        centre = {
            t: np.array([float(i.mean()) for i in np.nonzero(_mask(rendered, t))])
            for t in (*ORGAN_ML, Tissue.SPINAL_CANAL)
        }
        middle = centre[Tissue.SPINAL_CANAL][2]
        assert centre[Tissue.LIVER][2] < middle < centre[Tissue.SPLEEN][2], "liver right, spleen left"
        assert centre[Tissue.STOMACH][2] > middle
        assert centre["lungs"][0] > centre[Tissue.LIVER][0] > centre[Tissue.BLADDER][0]
        assert centre[Tissue.HEART][1] < centre[Tissue.SPINAL_CANAL][1], "heart before the spine"
        assert centre[Tissue.KIDNEY][1] > centre[Tissue.PANCREAS][1], "kidneys behind the pancreas"
        for lobe in LOBES:
            assert (rendered.organs == lobe).sum() > 1000, lobe.name


def test_women_have_breasts_and_a_uterus_men_a_prostate(built: Built) -> None:
    for torso, rendered in built.values():
        ml = rendered.volume.geometry.voxel_mm3 / 1000
        gland = float((rendered.organs == Tissue.BREAST).sum()) * ml
        if torso.person.sex == "F":
            assert gland > 60
            assert (rendered.organs == Tissue.UTERUS).any()
            assert not (rendered.organs == Tissue.PROSTATE).any()
        else:
            assert gland < 30
            assert (rendered.organs == Tissue.PROSTATE).any()
            assert not (rendered.organs == Tissue.UTERUS).any()


def test_partial_coverage_leaves_out_what_is_outside() -> None:
    torso = build(sample_person(100, {}))
    chest = render(torso, replace(COARSE, coverage_mm=COVERAGE["chest"]))
    belly = render(torso, replace(COARSE, coverage_mm=COVERAGE["abdomen and pelvis"]))
    assert not (chest.organs == Tissue.BLADDER).any()
    assert np.isin(chest.organs, [int(t) for t in LOBES]).sum() > 0
    assert (belly.organs == Tissue.BLADDER).any()
    assert not (belly.organs == Tissue.THYROID).any()


def test_fine_slices_averaged_are_thick_slices() -> None:
    torso = build(sample_person(100, {}))
    low = 300.0
    high = low + 36 / torso.person.scale[0]
    fine = Scan((1.0, 1.0, 1.0), (366, 366), (low, high), kernel=None, with_couch=False)
    coarse = replace(fine, spacing_mm=(3.0, 3.0, 3.0), matrix=(122, 122))
    thin, thick = render(torso, fine), render(torso, coarse)
    n = thick.volume.hu.shape[0]
    assert n == 12
    averaged = thin.volume.hu.reshape(n, 3, 122, 3, 122, 3).mean(axis=(1, 3, 5))
    difference = (averaged - thick.volume.hu)[np.abs(averaged) < 900]
    assert abs(float(difference.mean())) < 2
    assert float(np.percentile(np.abs(difference), 95)) < 25
    same = thin.organs[1::3, 1::3, 1::3] == thick.organs
    assert same.mean() > 0.95


def test_noise_has_the_kernels_strength_and_texture() -> None:
    torso = build(sample_person(101, {}))
    quiet = Scan((5.0, 0.8, 0.8), (512, 512), (330.0, 342.0), kernel=None)
    sd, peak = {}, {}
    clean = render(torso, quiet)
    liver = organ_mask(clean.organs, Cancer.LIVER.value)[0]
    for kernel in Kernel:
        noisy = render(torso, replace(quiet, kernel=kernel))
        difference = noisy.volume.hu[0].astype(float) - clean.volume.hu[0]
        sd[kernel] = float(difference[liver].std())
        assert 0.6 < sd[kernel] / float(noisy.noise_hu[0]) < 1.6
        power = np.abs(np.fft.fft2(difference[200:264, 150:214] - difference[200:264, 150:214].mean())) ** 2
        f = np.hypot(*np.meshgrid(np.fft.fftfreq(64, 0.8), np.fft.fftfreq(64, 0.8)))
        peak[kernel] = float((power * f).sum() / power.sum())
    assert sd[Kernel.ITERATIVE] < sd[Kernel.SOFT] < 0.4 * sd[Kernel.SHARP]
    assert peak[Kernel.ITERATIVE] < peak[Kernel.SOFT] < peak[Kernel.SHARP]


def test_less_dose_and_thinner_slices_are_noisier() -> None:
    torso = build(sample_person(101, {}))
    scan = Scan((4.0, 3.0, 3.0), None, (330.0, 342.0))
    usual = float(render(torso, scan).noise_hu[0])
    assert float(render(torso, replace(scan, dose=0.25)).noise_hu[0]) == pytest.approx(2 * usual, rel=1e-3)
    thin = float(render(torso, replace(scan, spacing_mm=(1.0, 3.0, 3.0))).noise_hu[0])
    assert thin == pytest.approx(2 * usual, rel=0.05)


def test_anatomy_needs_numpy_alone() -> None:
    program = (
        "import sys; from engines.phantom import build, render, sample_person; "
        "print(sorted({'scipy', 'pydicom', 'highdicom', 'torch'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
