"""Every stage and every way to feed a network that a manifest can ask for, on torsos of which the answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from core.finding import Cancer, Reason, Verdict
from core.volume import Volume
from engines.bundle import Bundle, Content, write_bundle
from engines.cascade import PatientContext
from engines.cascade.budget import Budget, Watch
from engines.cascade.cascade import load
from engines.cascade.orientation import orientation_of
from engines.cascade.segment import label_count, segment
from engines.manifest import ManifestDraft
from engines.runtime.onnx import OnnxRuntime
from tests.engines.runtime import networks

from . import toy
from .test_cascade import dice, rearranged, stored_otherwise

SPLINE = {"kind": "spline"}


def draft(*more: dict[str, Any], cancers: list[dict[str, Any]], **changes: Any) -> ManifestDraft:
    base = toy.draft().model_dump(mode="json")["networks"]
    localiser = {**base[0], **changes.pop("localiser", {})}
    ours = {network["id"] for network in more}
    kept = [network for network in base[1:] if network["id"] not in ours]
    return toy.draft(networks=[localiser, *kept, *more], cancers=cancers, **changes)


def make(folder: Path, manifest: ManifestDraft, **files: bytes) -> Bundle:
    contents = {c.name: c for c in toy.files()} | {
        f"{n}.onnx": Content(f"{n}.onnx", "network", f) for n, f in files.items()
    }
    wanted = {name for network in manifest.networks for name in network.all_files}
    return write_bundle(folder, manifest, [c for name, c in contents.items() if name in wanted])


def lung(**changes: Any) -> dict[str, Any]:
    return toy.cancer("lung", "lung", "lung_lesion", "lesion", **changes)


def answer(folder: Path, manifest: ManifestDraft, volume: Volume, cancer: Cancer = Cancer.LUNG, **files: bytes) -> Any:
    analysis = toy.cascade(make(folder / "bundle", manifest, **files)).analyse(volume, PatientContext(60, "F"))
    return toy.answers(analysis)[cancer]


@pytest.mark.parametrize("blend", ["probabilities", "logits"])
def test_folds_are_averaged(tmp_path: Path, blend: str) -> None:
    """One fold sees the lesion, the other never anything: probability one half, or the mean of the logits."""
    detector = toy.detector("lung_lesion", ["background", "lesion"], files=["a.onnx", "b.onnx"], blend=blend)
    cancers = [lung(extraction={"probability": 0.3})]
    volume = toy.torso(lung_lesion_mm=12)
    # bands: logit = 20 * min(x - low, high - x), x = HU / 100: 600 HU is 5 above 100 and 4 below 1000: 80.
    never = networks.bands((5000, 5100))  # 20 * (6 - 50) = -880
    found = answer(tmp_path, draft(detector, cancers=cancers), volume, a=networks.bands((100, 1000)), b=never)
    if blend == "probabilities":
        assert found.score == pytest.approx(0.5, abs=0.01)
        assert found.verdict is Verdict.NEGATIVE
    else:
        assert (found.score, found.verdict) == (0.0, Verdict.NEGATIVE)  # (80 - 880) / 2 is far below 0
    both = answer(
        tmp_path / "2",
        draft(detector, cancers=cancers),
        volume,
        a=networks.bands((100, 1000)),
        b=networks.bands((90, 900)),
    )
    assert both.verdict is Verdict.POSITIVE


@pytest.mark.parametrize(
    "changes",
    [
        {"resampling": SPLINE, "normalise_first": True},
        {"resampling": SPLINE, "normalise_first": True, "region": "volume", "blend": "logits"},
        {"axes": "LPS", "mirror": ["x", "z"]},
        {"axes": "RAI", "region": "volume"},
        {"tiling": {"kind": "fixed", "size": [48, 40, 44]}},
        {"tiling": {"kind": "fixed", "size": [48, 40, 44]}, "axes": "PIR"},
        {"tiling": {"kind": "whole", "pad_multiple": 8}},
        {"activation": "sigmoid"},
    ],
    ids=[
        "spline",
        "spline, whole scan",
        "LPS, mirrored",
        "RAI, whole scan",
        "stretched",
        "stretched PIR",
        "whole",
        "sigmoid",
    ],
)
def test_a_lesion_is_found_where_it_is_however_its_detector_wants_the_scan(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    volume = toy.torso(lung_lesion_mm=12)
    manifest = draft(toy.detector("lung_lesion", ["background", "lesion"], **changes), cancers=[lung()])
    analysis = toy.cascade(make(tmp_path / "bundle", manifest)).analyse(volume, toy.ADULT)
    found = toy.answers(analysis)[Cancer.LUNG]
    assert found.verdict is Verdict.POSITIVE
    assert len(found.lesions) == 1
    assert dice(analysis.masks[Cancer.LUNG] > 0, volume.hu == toy.LUNG_LESION) > 0.85
    healthy = toy.cascade(make(tmp_path / "healthy", manifest)).analyse(toy.torso(), toy.ADULT)
    assert toy.answers(healthy)[Cancer.LUNG].verdict is Verdict.NEGATIVE


CLASSIFIER = {
    "id": "lung_score",
    "stage": "classify",
    "files": ["lung_score.onnx"],
    "spacing_mm": [1, 1, 1],
    "intensity": networks.INTENSITY,
    "tiling": {"kind": "fixed", "size": [24, 24, 24]},
    "activation": "softmax",
    "labels": ["healthy", "cancer"],
}


@pytest.mark.parametrize("mask", [False, True])
def test_a_classifier_scores_the_organ_s_region(tmp_path: Path, mask: bool) -> None:
    """The mean HU of the lung's region tells a dense lung; with a mask the mean of the lung alone."""
    alone = {
        **lung(),
        **{"network": None, "label": None, "extraction": None},
        "classifier": {"network": "lung_score", "label": "cancer", "combine": "classifier"},
    }
    manifest = draft({**CLASSIFIER, "mask": mask, "mirror": ["x"]}, cancers=[alone])
    # A ball of -800 HU in a box of 0 HU with a margin of 8 mm has a mean of about -300 HU; the lung alone nearly -800.
    network = networks.mean_in_mask_above if mask else networks.mean_above
    low, high = (-900, -700) if mask else (-400, -200)
    for limit, verdict in ((low, Verdict.POSITIVE), (high, Verdict.NEGATIVE)):
        found = answer(tmp_path / str(limit), manifest, toy.torso(), lung_score=network(limit))
        assert found.verdict is verdict
        assert found.lesions == ()
    dense = toy.torso()
    dense.hu[dense.hu == toy.LUNG] = -640
    found = answer(tmp_path / "dense", manifest, dense, lung_score=network(high))
    assert found.verdict is (Verdict.POSITIVE if mask else Verdict.NEGATIVE)


CHARACTERISER = {
    **CLASSIFIER,
    "id": "look",
    "stage": "characterise",
    "files": ["look.onnx"],
    "labels": ["benign", "malignant"],
    "mask": True,
}


@pytest.mark.parametrize("tiling", [{"kind": "fixed", "size": [24] * 3}, {"kind": "centred", "size": [40] * 3}])
@pytest.mark.parametrize(("hu", "verdict"), [(400, Verdict.NEGATIVE), (700, Verdict.POSITIVE)])
def test_a_look_alike_is_told_from_a_cancer(tmp_path: Path, tiling: dict[str, Any], hu: int, verdict: Verdict) -> None:
    question = {"network": "look", "question": "malignancy", "label": "malignant"}
    manifest = draft({**CHARACTERISER, "tiling": tiling}, cancers=[lung(characterisers=[question])])
    volume = toy.torso(lung_lesion_mm=12, lung=hu)
    found = answer(tmp_path, manifest, volume, look=networks.mean_in_mask_above(450))
    assert found.verdict is verdict


@pytest.mark.parametrize(("lung_hu", "verdict"), [(-800, Verdict.POSITIVE), (-640, Verdict.NEGATIVE)])
def test_a_candidate_is_compared_with_how_bright_an_organ_is_in_this_scan(
    tmp_path: Path, lung_hu: int, verdict: Verdict
) -> None:
    """A lesion of 300 HU is 1100 HU brighter than a lung of -800 HU, and 940 HU brighter than one of -640 HU."""
    question = {"network": "look", "question": "malignancy", "label": "malignant"}
    look = {**CHARACTERISER, "references": [{"organ": "lung", "otherwise_hu": 0}]}
    volume = toy.torso(lung_lesion_mm=12, lung=300)
    volume.hu[volume.hu == toy.LUNG] = lung_hu
    manifest = draft(look, cancers=[lung(characterisers=[question])])
    found = answer(tmp_path, manifest, volume, look=networks.mean_in_mask_above_reference(1020))
    assert found.verdict is verdict


def test_a_subtype_is_told_with_its_probability(tmp_path: Path) -> None:
    question = {"network": "look", "question": "subtype"}
    manifest = draft({**CHARACTERISER, "labels": ["soft", "dense"]}, cancers=[lung(characterisers=[question])])
    for hu, subtype in ((300, "soft"), (700, "dense")):
        volume = toy.torso(lung_lesion_mm=12, lung=hu)
        found = answer(tmp_path / subtype, manifest, volume, look=networks.mean_in_mask_above(450))
        (lesion,) = found.lesions
        assert lesion.subtype == subtype
        assert lesion.subtype_score == pytest.approx(1, abs=0.01)
        assert found.verdict is Verdict.POSITIVE


def test_a_calibrated_score_is_what_is_reported(tmp_path: Path) -> None:
    steep = {"kind": "isotonic", "scores": [0.0, 1.0], "probabilities": [0.0, 0.93]}
    found = answer(tmp_path, draft(cancers=[lung(calibration=steep)]), toy.torso(lung_lesion_mm=12))
    assert found.score == pytest.approx(0.93, abs=0.01)
    assert found.lesions[0].score == found.score


@pytest.mark.parametrize(("low", "high", "reason"), [(20, 100, None), (120, 300, Reason.CONTRAST)])
def test_the_contrast_phase_is_read_from_the_scan(tmp_path: Path, low: int, high: int, reason: Reason | None) -> None:
    """The toy's liver, 60 HU, stands for the aorta."""
    limits = {
        "max_slice_spacing_mm": 6,
        "contrast": {"organ": "liver", "low_hu": low, "high_hu": high, "phase": "non-contrast"},
    }
    found = answer(tmp_path, draft(cancers=[lung(contraindications=limits)]), toy.torso(lung_lesion_mm=12))
    assert found.reason is reason
    if reason:
        assert "60 HU" in found.detail


def test_a_scan_that_looks_unlike_what_the_model_knows_is_not_analysed(tmp_path: Path) -> None:
    known = {"organ": "lung", "measure": "mean_hu", "low": -700, "high": -500}
    limits = {"max_slice_spacing_mm": 6, "familiar": [known]}
    found = answer(tmp_path, draft(cancers=[lung(contraindications=limits)]), toy.torso())
    assert found.reason is Reason.OUT_OF_DISTRIBUTION
    assert "-800" in found.detail or "-799" in found.detail


def test_a_network_s_cascade_starts_from_the_labels_of_the_one_before(tmp_path: Path) -> None:
    """The follower calls lesion what is above 100 HU inside label 1 of the first network (lesion-like voxels) only."""
    first = toy.detector(
        "coarse",
        ["background", "dense"],
        spacing_mm=[4, 4, 4],
        region="volume",
        resampling=SPLINE,
        normalise_first=True,
    )
    second = toy.detector(
        "lung_lesion",
        ["background", "lesion"],
        after="coarse",
        region="volume",
        resampling=SPLINE,
        normalise_first=True,
    )
    manifest = draft(first, second, cancers=[lung()])
    volume = toy.torso(lung_lesion_mm=12)
    follower = networks.follower(100)
    found = answer(tmp_path, manifest, volume, coarse=networks.bands((100, 1000)), lung_lesion=follower)
    assert found.verdict is Verdict.POSITIVE
    blind = answer(tmp_path / "2", manifest, volume, coarse=networks.bands((5000, 5100)), lung_lesion=follower)
    assert blind.verdict is Verdict.NEGATIVE


def segmented(bundle: Bundle, volume: Volume, network_id: str = "localiser") -> npt.NDArray[np.uint8]:
    orientation = orientation_of(volume.geometry)
    network = load(bundle, network_id, OnnxRuntime(1))
    labels = segment(
        orientation.view(volume.hu),
        orientation.spacing(volume.geometry.spacing_mm),
        network,
        Watch(Budget(), lambda: False),
    )
    result = np.empty(volume.hu.shape, np.uint8)
    orientation.view(result)[...] = labels
    return result


@pytest.mark.parametrize(
    "localiser",
    [
        {"spacing_mm": [3, 3, 3]},
        {"spacing_mm": [3, 3, 3], "resampling": SPLINE, "normalise_first": True, "blend": "logits"},
        {"spacing_mm": [3, 2.5, 4], "axes": "LIP", "blend": "logits"},
        {"spacing_mm": [3, 2.5, 4], "axes": "LIP", "resampling": SPLINE, "normalise_first": True},
        {
            "spacing_mm": [3, 3, 3],
            "activation": "sigmoid",
            "tiling": {"kind": "patch", "size": [32] * 3, "overlap": 0.5},
        },
    ],
    ids=["area", "spline", "area LIP", "spline LIP", "regions"],
)
def test_labels_of_the_whole_scan_lie_where_things_are(tmp_path: Path, localiser: dict[str, Any]) -> None:
    bundle = make(tmp_path / "b", draft(cancers=[lung()], localiser=localiser))
    volume = toy.torso()
    sigmoid = localiser.get("activation") == "sigmoid"
    found = segmented(bundle, volume)
    assert label_count(bundle.manifest.localiser) == (4 if sigmoid else 3)
    # sigmoid: label values are 1 for the first channel; the toy's channel 0 (background, logit 0) never fires
    assert dice(found == (2 if sigmoid else 1), volume.hu == toy.LUNG) > 0.93
    assert dice(found == (3 if sigmoid else 2), volume.hu == toy.LIVER) > 0.93


def test_labels_do_not_depend_on_how_the_scan_is_stored(tmp_path: Path) -> None:
    bundle = make(tmp_path / "b", draft(cancers=[lung()], localiser={"spacing_mm": [3, 3, 3], "resampling": SPLINE}))
    plain = toy.torso()
    order, flips = (0, 2, 1), (True, True, False)
    stored = stored_otherwise(plain, order, flips)
    np.testing.assert_array_equal(segmented(bundle, stored), rearranged(segmented(bundle, plain), order, flips))
