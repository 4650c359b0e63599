"""Cancers and look-alikes: each where it belongs, as large as planned, with its signs; healthy people have none."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.finding import Cancer
from engines.phantom.torso import Scan, Tissue, Torso, build, difficulty, organ_mask, record_of, render, sample_person
from engines.phantom.torso.person import Person, Plan
from engines.phantom.torso.record import size_class

SCAN = Scan((2.5, 1.5, 1.5), None, kernel=None)


@functools.cache
def _without_any(seed: int) -> Torso:
    return build(_with(sample_person(seed, {})))


def _with(person: Person, *plans: Plan) -> Person:
    return replace(person, plans=plans)


def _of(organ: str, kind: str, diameter: float = 30.0, at: float = 0.4, signs: tuple[str, ...] = ()) -> Plan:
    hu = {"lung": -600.0 if kind == "ground-glass" else 35.0, "breast": 40.0, "liver": -15.0, "pancreas": -4.0}
    thick = {"oesophagus": 13.0, "stomach": 15.0, "colorectum": 13.0}
    return Plan(organ, kind, True, diameter, hu.get(organ, 4.0), at, thick.get(organ, 0.0), signs)


EVERY = [(organ, kind) for organ, kinds in difficulty.SUBTYPES.items() for kind in kinds]


@pytest.mark.parametrize(("organ", "kind"), EVERY)
def test_every_subtype_is_painted_in_or_at_its_organ(organ: str, kind: str) -> None:
    healthy = sample_person(100, {})
    torso = build(_with(healthy, _of(organ, kind)))
    found = [f for f in torso.findings if f.cancer]
    assert found
    assert {f.kind for f in found} == {kind}
    z = found[0].centre[0] / healthy.scale[0]
    scan = replace(SCAN, coverage_mm=(z - 30, z + 30))
    ill = render(torso, scan)
    well = render(_without_any(100), scan)
    mask = ill.lesions == found[0].number
    assert mask.sum() > 20
    near = organ_mask(well.organs, organ) if organ != "breast" else well.organs == Tissue.BREAST
    zz, yy, xx = np.nonzero(mask)
    box = tuple(slice(max(int(i.min()) - 3, 0), int(i.max()) + 4) for i in (zz, yy, xx))
    assert near[box].any(), "away from its organ"
    changed = np.abs(ill.volume.hu.astype(int) - well.volume.hu)[mask]
    assert changed.mean() > 2, "nothing to see"
    entry = next(f for f in record_of(torso, scan, ill)["findings"] if f["number"] == found[0].number)
    assert entry["in_scan"]
    if organ in ("lung", "liver", "breast", "pancreas") and kind != "obstructing":
        assert 0.6 * 30 <= entry["measured_mm"] <= 2.1 * 30, "spicules reach beyond the mass, nothing else does"


def test_healthy_people_have_no_cancer_and_truth_has_no_cancer_voxel() -> None:
    for seed in (3, 4):
        person = sample_person(seed, {})
        assert not person.cancers()
        torso = build(person)
        assert not any(f.cancer for f in torso.findings)
        assert all(not f.kind or f.kind in difficulty.LOOKALIKES for f in torso.findings)


LOOKALIKES = sorted(set(difficulty.LOOKALIKES) - {"collapsed stomach", "gynaecomastia"})


@pytest.mark.parametrize("kind", LOOKALIKES)
def test_look_alikes_are_there_and_are_no_cancer(kind: str) -> None:
    from engines.phantom.torso.person import _SITE

    _, low, high = difficulty.LOOKALIKES[kind]
    person = sample_person(100, {})
    plan = Plan(_SITE[kind.split()[0]], kind, False, max((low * high) ** 0.5, 6.0) if high else 0.0, 0.0, 0.3)
    torso = build(_with(person, plan))
    assert [f.kind for f in torso.findings][:1] == [kind]
    assert not any(f.cancer for f in torso.findings)
    z = torso.findings[0].centre[0] / person.scale[0]
    rendered = render(torso, Scan((1.5, 1.2, 1.2), None, (z - 15, z + 15), kernel=None))
    assert (rendered.lesions == 1).any()


def test_gynaecomastia_is_a_mans_and_a_collapsed_stomach_is_small() -> None:
    man = sample_person(101, {})
    assert man.sex == "M"
    plan = Plan("breast", "gynaecomastia", False, 30.0, 0.0, 0.5)
    torso = build(_with(man, plan))
    assert [f.kind for f in torso.findings] == ["gynaecomastia", "gynaecomastia"]
    z = torso.findings[0].centre[0] / man.scale[0]
    rendered = render(torso, Scan((2.5, 1.5, 1.5), None, (z - 20, z + 20), kernel=None))
    assert (rendered.organs == Tissue.BREAST).sum() > 500
    full, empty = (build(_with(man, *p)) for p in ((), (Plan("stomach", "collapsed stomach", False, 0.0, 0.0, 0.5),)))
    scan = Scan((4.0, 3.0, 3.0), None, (240.0, 420.0), kernel=None)
    sizes = [int((render(t, scan).organs == Tissue.STOMACH).sum()) for t in (full, empty)]
    assert sizes[1] < 0.75 * sizes[0]


def test_a_duct_wide_and_the_gland_thin_above_a_pancreatic_cancer() -> None:
    person = sample_person(101, {})
    scan = Scan((2.5, 1.5, 1.5), None, (230.0, 345.0), kernel=None)
    plain = _of("pancreas", "ductal adenocarcinoma", 24.0, 0.1)
    signs = replace(plain, signs=("duct dilatation", "upstream atrophy", "bile duct dilatation"))
    without, having = (render(build(_with(person, p)), scan) for p in (plain, signs))
    sizes = [int(((r.organs == Tissue.PANCREAS) & (r.lesions == 0)).sum()) for r in (without, having)]
    assert sizes[1] < 0.8 * sizes[0], "no atrophy"
    bile = [int((r.organs == Tissue.BILE_DUCT).sum()) for r in (without, having)]
    assert bile[1] > 2 * bile[0]


def test_the_colon_is_wide_above_an_obstructing_cancer() -> None:
    person = sample_person(101, {})
    scan = Scan((4.0, 3.0, 3.0), None, (60.0, 340.0), kernel=None)
    plain = _of("colorectum", "annular", 40.0, 0.9)
    without, having = (
        render(build(_with(person, p)), scan) for p in (plain, replace(plain, signs=("upstream distension",)))
    )
    sizes = [int((r.organs == Tissue.COLON).sum()) for r in (without, having)]
    assert sizes[1] > 1.15 * sizes[0]


def test_cancers_are_drawn_by_the_law() -> None:
    counts: dict[str, list[float]] = {c.value: [] for c in Cancer}
    for seed in range(300):
        for plan in sample_person(seed, dict.fromkeys(Cancer, 1)).cancers():
            counts[plan.organ].append(plan.diameter_mm)
    for organ, sizes in counts.items():
        assert len(sizes) == 300
        small = sum(d < 20 for d in sizes) / 300
        expected = sum(difficulty.SIZE_SHARES[organ][:2])
        assert abs(small - expected) < 0.10, f"{organ}: {small:.2f} under 2 cm, the law says {expected:.2f}"


def test_half_of_the_drawn_people_are_healthy_and_a_breast_cancer_is_a_womans() -> None:
    people = [sample_person(seed) for seed in range(400)]
    assert 0.36 < sum(not p.cancers() for p in people) / 400 < 0.54
    assert all(p.sex == "F" for p in people if p.cancers("breast"))


def test_size_shares_and_subtypes_are_whole() -> None:
    for shares in difficulty.SIZE_SHARES.values():
        assert sum(shares) == pytest.approx(1)
    for kinds in difficulty.SUBTYPES.values():
        assert sum(kinds.values()) == pytest.approx(1)
    assert size_class(7) == "6-10 mm"
    assert size_class(20) == "20-30 mm"
    assert size_class(95) == ">80 mm"


def test_the_law_of_difficulty_is_frozen() -> None:
    """Changing it makes all figures incomparable: raise VERSION, and say so in the CHANGELOG, before this."""
    source = Path(difficulty.__file__).read_bytes()
    assert difficulty.VERSION == 1
    assert hashlib.sha256(source).hexdigest() == "84773eb5a4e56f7a5b84be8dc1d9bb08d2b7e79379c32d2934ff8256de5fee9e"
