"""Cancers and look-alikes: each where it belongs, as large as planned, with its signs; healthy people have none."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.finding import Cancer
from engines.phantom import (
    Rendered,
    Scan,
    Tissue,
    build,
    difficulty,
    organ_mask,
    record_of,
    render,
    sample_person,
)
from engines.phantom.fields import Field
from engines.phantom.person import Person, Plan, site_of
from engines.phantom.record import size_class

SCAN = Scan((2.5, 1.5, 1.5), None, kernel=None)


def _with(person: Person, *plans: Plan) -> Person:
    return replace(person, plans=plans)


def _of(organ: str, kind: str, diameter: float = 30.0, at: float = 0.4, signs: tuple[str, ...] = ()) -> Plan:
    hu = {"lung": -600.0 if kind == "ground-glass" else 35.0, "breast": 40.0, "liver": -15.0, "pancreas": -4.0}
    thick = {"oesophagus": 13.0, "stomach": 15.0, "colorectum": 13.0}
    return Plan(organ, kind, True, diameter, hu.get(organ, 4.0), at, thick.get(organ, 0.0), signs)


ROUNDS = max(len(kinds) for kinds in difficulty.SUBTYPES.values())


@pytest.fixture(scope="module")
def healthy() -> Rendered:
    return render(build(_with(sample_person(100, {}))), SCAN)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_every_subtype_is_painted_in_or_at_its_organ(number: int, healthy: Rendered) -> None:
    """One woman with a cancer of each organ; every round another subtype."""
    plans = [_of(o, list(kinds)[number]) for o, kinds in difficulty.SUBTYPES.items() if number < len(kinds)]
    torso = build(_with(sample_person(100, {}), *plans))
    ill = render(torso, SCAN)
    records = record_of(torso, SCAN, ill)["findings"]
    for plan in plans:
        entry = next(f for f in records if f["organ"] == plan.organ)
        assert (entry["kind"], entry["cancer"], entry["in_scan"]) == (plan.kind, True, True)
        mask = ill.lesions == entry["number"]
        assert mask.sum() > 60, plan
        box = tuple(slice(max(int(i.min()) - 3, 0), int(i.max()) + 4) for i in np.nonzero(mask))
        assert organ_mask(healthy.organs, plan.organ)[box].any(), f"{plan.kind} away from its organ"
        changed = np.abs(ill.volume.hu.astype(int) - healthy.volume.hu)[mask]
        assert changed.mean() > 2, f"{plan.kind}: nothing to see"
        if plan.organ in ("lung", "liver", "breast", "pancreas") and plan.kind != "obstructing":
            assert 0.6 * 30 <= entry["measured_mm"] <= 2.1 * 30, "spicules reach beyond the mass, nothing else does"


@pytest.mark.parametrize("seed", [7012, 7014, 7021, 50001])
def test_no_cancer_is_lost_between_neighbours(seed: int) -> None:
    """In these people vessels, liver or pelvis once clipped a whole cancer away."""
    torso = build(sample_person(seed, dict.fromkeys(Cancer, 1)))
    assert {f.organ for f in torso.findings if f.cancer} == {c.value for c in Cancer}
    for found in torso.findings:
        fields = [layer.shape for layer in torso.layers if layer.lesion == found.number]
        if found.cancer:
            assert any((s.values < -1.2).any() for s in fields if isinstance(s, Field)), f"{found} is a sliver"


def test_healthy_people_have_no_cancer_and_truth_has_no_cancer_voxel() -> None:
    for seed in (3, 4):
        person = sample_person(seed, {})
        assert not person.cancers()
        torso = build(person)
        assert not any(f.cancer for f in torso.findings)
        assert all(not f.kind or f.kind in difficulty.LOOKALIKES for f in torso.findings)


def test_look_alikes_are_there_and_are_no_cancer() -> None:
    person = sample_person(100, {})
    plans = []
    for kind, (_, low, high) in difficulty.LOOKALIKES.items():
        if kind not in ("collapsed stomach", "gynaecomastia"):
            plans.append(Plan(site_of(kind), kind, False, max((low * high) ** 0.5, 7.0) if high else 0.0, 0.0, 0.3))
    torso = build(_with(person, *plans))
    rendered = render(torso, SCAN)
    assert {f.kind for f in torso.findings} == {p.kind for p in plans}
    assert not any(f.cancer for f in torso.findings)
    seen = {f.kind for f in torso.findings if (rendered.lesions == f.number).any()}
    # thinner than the voxels here: strands of a scar, surgical clips
    assert {p.kind for p in plans} - seen <= {"lung scar", "metal"}


def test_lung_that_lies_on_the_back_is_ill_aired_and_old_tops_are_scarred() -> None:
    person = sample_person(100, {})
    scan = Scan((4.0, 3.0, 3.0), None, (330.0, 620.0), kernel=None)
    low = Plan("lung", "lung dependent atelectasis", False, 14.0, 0.0, 0.3)
    cap = Plan("lung", "lung apical cap", False, 10.0, 0.0, 0.3)
    plain, other = (render(build(_with(person, *plans)), scan) for plans in ((), (low, cap)))
    lung = organ_mask(plain.organs, "lung")
    changed = lung & (other.volume.hu - plain.volume.hu.astype(int) > 100)
    z, y, _ = np.nonzero(lung)
    for number, where in ((1, "low"), (3, "top")):
        at = np.nonzero(changed & (np.isin(other.lesions, (number, number + 1))))
        assert len(at[0]) > 100, where
        if where == "low":
            assert np.median(at[1]) > np.percentile(y, 75), "behind"
            assert np.median(at[0]) < np.median(z), "low"
        else:
            assert np.median(at[0]) > np.percentile(z, 90), "at the top"


def test_a_breast_cancer_is_denser_than_gland_and_fibroadenoma() -> None:
    assert difficulty.FIBROADENOMA_HU[1] < difficulty.ABSOLUTE_HU["breast"][0]
    person = sample_person(100, {})
    dense = replace(person, hu=replace(person.hu, gland=44.0))
    found = next(f for f in build(_with(dense, _of("breast", "spiculated"))).findings if f.cancer)
    assert found.hu == pytest.approx(44 + difficulty.ABOVE_GLAND_HU)


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
            if plan.organ == "liver":
                assert abs(plan.hu) * plan.diameter_mm >= difficulty.FAINTEST_HU_MM["liver"] - 1e-6
            if plan.organ == "pancreas" and not {"duct dilatation", "upstream atrophy"} & set(plan.signs):
                assert abs(plan.hu) >= difficulty.FAINTEST_WITHOUT_SIGN_HU["pancreas"]
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
    assert difficulty.VERSION == 2
    assert hashlib.sha256(source).hexdigest() == "ec73d8d8399aae1189ae3ecff5397318c20bf2e8586494e08f8943d521ebd064"
