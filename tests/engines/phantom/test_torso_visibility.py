"""d' of a finding is a matched filter's signal to noise: against simulated noise, dose, contrast and texture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engines.phantom import Found, Kernel, Scan, Torso, build, difficulty, render, sample_person
from engines.phantom.person import Plan
from engines.phantom.visibility import signal_of, texture_power, visibility

SCAN = Scan((2.0, 2.0, 2.0), None, (300.0, 400.0))


def _with_lesion(contrast: float) -> tuple[Torso, Found]:
    plan = Plan("liver", "hepatocellular carcinoma", True, 16.0, contrast, 0.4)
    torso = build(replace(sample_person(101, {}), plans=(plan,)))
    return torso, next(f for f in torso.findings if f.cancer)


@pytest.fixture(scope="module")
def lesion() -> tuple[Torso, Found]:
    return _with_lesion(-14.0)


def test_the_signal_is_the_lesion_alone(lesion: tuple[Torso, Found]) -> None:
    torso, found = lesion
    signal = signal_of(torso, SCAN, found)
    plainer = signal_of(_with_lesion(-28.0)[0], SCAN, found)
    assert (plainer - signal).min() == pytest.approx(-14, abs=1.5), "its contrast, the texture being the same"
    ball = np.pi / 6 * 16**3 / 8
    assert 0.3 * ball < (signal < -4).sum() < 1.5 * ball
    assert not signal[0].any()
    assert not signal[:, 0].any()


def test_d_prime_is_that_of_the_optimal_template_in_rendered_noise(
    lesion: tuple[Torso, Found], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whitened template is applied to noise as `render` makes it: its response has the sd that d' promises."""
    torso, found = lesion
    monkeypatch.setitem(difficulty.TEXTURE_HU, "liver", {})  # type: ignore[misc]
    from engines.phantom.physics import SliceFilter

    signal = signal_of(torso, SCAN, found)
    filter_ = SliceFilter((signal.shape[1], signal.shape[2]), (2.0, 2.0), Kernel.SOFT)
    sd, rng = 20.0, np.random.default_rng(3)
    flat = np.zeros(signal.shape[1:], np.float32)
    level = np.full(flat.shape, sd * 1.08, np.float32)
    seen = np.stack([filter_(plane, np.zeros_like(level), rng) for plane in signal])
    from engines.phantom import visibility as module

    power = module._noise_power(filter_, signal.shape, SCAN, sd * 1.08)
    template = np.fft.ifftn(np.fft.fftn(seen) / power).real
    responses = [float((template * np.stack([filter_(flat, level, rng) for _ in signal])).sum()) for _ in range(300)]
    measured = float((template * seen).sum()) / float(np.std(responses))
    promised = visibility(torso, SCAN, found, sd).known
    # W is held up at the lowest frequencies, so the true template does at least as well as promised.
    assert 0.9 * promised < measured < 1.5 * promised


def test_more_noise_and_less_contrast_are_less_visible(lesion: tuple[Torso, Found]) -> None:
    torso, found = lesion
    usual = visibility(torso, SCAN, found, 15.0)
    assert visibility(torso, SCAN, found, 30.0).known < usual.known
    assert usual.uneven <= usual.known
    fainter, same = _with_lesion(-7.0)
    assert visibility(fainter, SCAN, same, 15.0).known < 0.7 * usual.known


def test_texture_lowers_d_prime(lesion: tuple[Torso, Found], monkeypatch: pytest.MonkeyPatch) -> None:
    torso, found = lesion
    usual = visibility(torso, SCAN, found, 8.0).known
    monkeypatch.setitem(difficulty.TEXTURE_HU, "liver", {9.0: 6.0})  # type: ignore[misc]
    assert visibility(torso, SCAN, found, 8.0).known < 0.8 * usual


def test_textures_power_is_its_variance() -> None:
    """The power over all frequencies is the variance (Parseval), but for what is finer than the voxels."""
    shape = (40, 44, 48)
    power = texture_power(shape, SCAN, "liver")
    variance = sum(sd**2 for sd in difficulty.TEXTURE_HU["liver"].values())
    assert power.sum() / np.prod(shape) ** 2 == pytest.approx(variance, rel=0.1)


def test_the_painted_liver_has_the_laws_texture() -> None:
    torso = build(sample_person(101, {}))
    quiet = Scan((2.0, 2.0, 2.0), None, (330.0, 360.0), kernel=None)
    rendered = render(torso, quiet)
    liver = rendered.organs == 30
    hu = rendered.volume.hu[liver & (np.abs(rendered.volume.hu - torso.person.hu.liver) < 12)]
    law = float(np.sqrt(sum(sd**2 for sd in difficulty.TEXTURE_HU["liver"].values())))
    assert 0.7 * law < hu.std() < 1.6 * law


def test_without_a_kernel_there_is_nothing_to_see_through(lesion: tuple[Torso, Found]) -> None:
    torso, found = lesion
    with pytest.raises(ValueError, match="kernel"):
        visibility(torso, replace(SCAN, kernel=None), found, 10.0)
    away = Scan((2.0, 2.0, 2.0), None, (0.0, 40.0))
    assert visibility(torso, away, found, 10.0).known == 0
