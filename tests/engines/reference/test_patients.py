"""Patients to learn from: drawn as told, stored whole, the same for the same seed."""

from __future__ import annotations

import fcntl
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from core import durable
from core.finding import Cancer
from engines.phantom import ORGAN_OF, Person, sample_person
from engines.reference import patients
from engines.reference.patients import Patient, Store, crowded_person, training_person
from engines.reference.recipes import CANCER_SHARE, CROWDED_CANCERS, CROWDED_LOOKALIKES, CROWDED_SEED, TAKEN


def test_cancers_are_as_frequent_as_told_and_none_tells_of_another() -> None:
    has = np.array([[bool(training_person(seed).cancers(c.value)) for c in Cancer] for seed in range(400)], float)
    assert np.allclose(has.mean(axis=0), [CANCER_SHARE[c] for c in Cancer], atol=0.08)
    together = np.corrcoef(has.T) - np.eye(len(Cancer))
    assert np.abs(together).max() < 0.17  # of 21 pairs of 400 unrelated people hardly one is above


def test_the_crowded_have_many_cancers_and_lookalikes_each() -> None:
    people = [crowded_person(seed) for seed in range(CROWDED_SEED, CROWDED_SEED + 300)]
    for cancer, shares in CROWDED_CANCERS.items():
        counts = np.bincount([len(p.cancers(cancer.value)) for p in people], minlength=len(shares)) / len(people)
        assert np.allclose(counts, shares, atol=0.1), cancer
    for kind, chance in CROWDED_LOOKALIKES.items():
        able = [p for p in people if p.sex == "F" or not kind.startswith("breast")]
        numbers = np.array([sum(plan.kind == kind for plan in p.plans) for p in able])
        assert abs((numbers > 0).mean() - chance) < 0.1, kind
        assert numbers.max() == 3, kind


def test_whoever_asks_for_no_lookalikes_of_their_own_gets_the_laws() -> None:
    seeds = range(100)
    assert [sample_person(s).plans for s in seeds] == [sample_person(s, lookalikes={}).plans for s in seeds]
    without = dict.fromkeys(CROWDED_LOOKALIKES, 0.0)
    kinds = {plan.kind for s in seeds for plan in sample_person(s, lookalikes=without).plans}
    assert not kinds & set(without)
    assert "kidney cyst" in kinds


def test_only_the_crowded_among_the_mined_are_crowded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def stop(seed: int) -> Person:
        asked.append(seed)
        raise InterruptedError

    monkeypatch.setattr(patients, "crowded_person", stop)
    for seed in (CROWDED_SEED, TAKEN["mining"].stop - 1):
        with pytest.raises(InterruptedError):
            store.patient(seed)
    assert asked == [CROWDED_SEED, TAKEN["mining"].stop - 1]
    monkeypatch.setattr(patients, "training_person", stop)
    for seed in (CROWDED_SEED - 1, TAKEN["mining"].stop):
        with pytest.raises(InterruptedError):
            store.patient(seed)
    assert asked[2:] == [CROWDED_SEED - 1, TAKEN["mining"].stop]


def test_every_finding_is_where_its_points_say(patient: Patient) -> None:
    whole = patient.stored.read((0, 0, 0), patient.stored.shape, {})
    assert len(patient.in_findings)
    for number, z, y, x in patient.in_findings:
        assert whole["lesions"][z, y, x] == number
    for cancer, points in patient.in_organ.items():
        tissues = {int(t) for t in ORGAN_OF[cancer]}
        assert {int(v) for v in whole["organs"][tuple(points.T.astype(int))]} <= tissues


def test_it_is_noise_free_and_knows_how_noisy_it_will_be(patient: Patient) -> None:
    whole = patient.stored.read((0, 0, 0), patient.stored.shape, {})
    aorta = whole["hu"][whole["organs"] == 21]
    assert aorta.size > 1000
    assert np.median(np.abs(aorta - np.median(aorta))) < 4
    girth, profile = patient.stored.array("girth"), patient.stored.array("profile")
    assert girth.shape == patient.stored.shape[:1]
    assert profile.shape == patient.stored.shape[1:]
    assert 0.3 < girth.min() <= girth.max() < 3


def test_a_patient_is_rendered_once(store: Store, patient: Patient) -> None:
    before = patient.stored.path.stat()
    again = store.patient(patient.seed)
    assert again.stored.path.stat().st_mtime_ns == before.st_mtime_ns
    assert again.findings == patient.findings


def test_half_resolution_is_the_same_body(patient: Patient) -> None:
    coarse, fine = patient.stored.array("coarse_hu"), patient.stored.read((0, 0, 0), patient.stored.shape, {})["hu"]
    z, y, x = (n // 2 for n in fine.shape)
    blocks = fine[: 2 * z, : 2 * y, : 2 * x].reshape(z, 2, y, 2, x, 2).mean(axis=(1, 3, 5))
    inner = (slice(1, -2),) * 3
    assert np.abs(coarse[:z, :y, :x][inner] - blocks[inner]).mean() < 12


def test_two_that_need_the_same_patients_share_them_and_wait_for_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[int] = []

    def draw(seed: int, path: Path) -> None:
        rendered.append(seed)
        path.touch()

    monkeypatch.setattr("engines.reference.patients.render_patient", draw)
    durable.make_folder(tmp_path / "locks")
    with (tmp_path / "locks" / "1").open("w") as lock, ThreadPoolExecutor(1) as other:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process is at patient 1
        filling = other.submit(Store(tmp_path).fill, range(4))
        while len(rendered) < 3:
            time.sleep(0.01)
        assert rendered == [0, 2, 3]
        assert not filling.done()
        (tmp_path / "1.bricks").touch()  # it is done there
        fcntl.flock(lock, fcntl.LOCK_UN)
        filling.result()
    assert rendered == [0, 2, 3]
