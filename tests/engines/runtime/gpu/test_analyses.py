"""Whole analyses of a bundle by the GPU's runtime, from the scan to answers and label maps, beside the host's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from core.errors import EngineError
from core.volume import Volume
from engines.build import profile_of
from engines.bundle import Bundle
from engines.cascade import Analysis, Cascade, PatientContext
from engines.cascade.cascade import load
from engines.cascade.whole import segment_volume
from engines.runtime import Window
from engines.runtime.gpu import TensorRtRuntime
from engines.runtime.onnx import OnnxRuntime
from tests.engines.cascade import toy
from tests.engines.cascade.test_cascade import stored_otherwise
from tests.engines.cascade.test_stages import CHARACTERISER, CLASSIFIER, SPLINE, draft, lung, make
from tests.engines.runtime import networks
from tests.engines.runtime.gpu.simulator import SimulatedDevice, runtime_on_trial

MONAI: dict[str, Any] = {
    "resampling": {"kind": "linear"},
    "axes": "RAS",
    "tiling": {
        "kind": "patch",
        "size": [32] * 3,
        "overlap": 0.25,
        "floor": 1e-3,
        "steps": "last_shifted",
        "pad": "zero_centred",
    },
}
NNUNET: dict[str, Any] = {"resampling": SPLINE, "normalise_first": True, "blend": "logits", "mirror": ["z", "x"]}


def planned(device: SimulatedDevice, bundle: Bundle, plans: Path, **changes: float) -> TensorRtRuntime:
    """The GPU's runtime with a plan for each network of a bundle."""
    runtime = runtime_on_trial(device, plans, **changes)
    for network in bundle.manifest.networks:
        for name in network.files:
            content = bundle.path(name).read_bytes()
            runtime.shelf.save(runtime.key(content), profile_of(network), "fp32", content, 0)
    return runtime


def analysed(bundle: Bundle, runtime: Any, volume: Volume) -> Analysis:
    return Cascade(bundle, runtime).analyse(volume, PatientContext(60, "F"))


def assert_alike(got: Analysis, expected: Analysis) -> None:
    assert got.organs_ml == pytest.approx(expected.organs_ml, rel=1e-3)
    for ours, theirs in zip(got.answers, expected.answers, strict=True):
        assert (ours.cancer, ours.verdict, ours.reason) == (theirs.cancer, theirs.verdict, theirs.reason), ours.detail
        assert ours.score == pytest.approx(theirs.score, abs=1e-4)
        assert len(ours.lesions) == len(theirs.lesions)
        for lesion, other in zip(ours.lesions, theirs.lesions, strict=True):
            assert lesion.volume_mm3 == pytest.approx(other.volume_mm3, rel=1e-3)
            assert lesion.centroid == pytest.approx(other.centroid, abs=0.01)
            assert lesion.subtype == other.subtype
    assert got.masks.keys() == expected.masks.keys()
    for cancer, mask in got.masks.items():
        assert_labels_alike(mask, expected.masks[cancer])


def assert_labels_alike(got: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8]) -> None:
    """All but what lies on a border to within rounding."""
    assert len(np.unique(expected)) > 1
    assert np.count_nonzero(got != expected) <= 1e-5 * expected.size


DETECTORS: dict[str, dict[str, Any]] = {
    "area": {},
    "area, axes turned": {"axes": "LIP", "spacing_mm": [2, 1.5, 3], "blend": "logits"},
    "MONAI's": MONAI,
    "nnU-Net's": NNUNET,
    "nnU-Net's, z by itself": {**NNUNET, "spacing_mm": [7, 1.5, 1.5], "axes": "SPR"},
    "z-scores, folds": {
        "intensity": {"kind": "zscore"},
        "files": ["lung_lesion.onnx", "second.onnx"],
        "region": "volume",
    },
    "stretched": {"tiling": {"kind": "fixed", "size": [48, 40, 56]}},
}


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_gpu_s_answers_are_the_host_s(simulated: SimulatedDevice, tmp_path: Path, detector: str) -> None:
    spec = toy.detector("lung_lesion", ["background", "lesion"], **DETECTORS[detector])
    scored = "intensity" in DETECTORS[detector]  # the lesion is what lies more than two deviations above the mean
    seen = networks.bands((200, 1000)) if scored else networks.bands((100, 1000))
    bundle = make(tmp_path / "bundle", draft(spec, cancers=[lung()]), lung_lesion=seen, second=seen)
    volume = stored_otherwise(toy.torso(lung_lesion_mm=12), (0, 2, 1), (True, False, True))
    expected = analysed(bundle, OnnxRuntime(1), volume)
    got = analysed(bundle, planned(simulated, bundle, tmp_path / "plans"), volume)
    assert_alike(got, expected)
    assert {lesion.label for answer in expected.answers for lesion in answer.lesions} == {1}
    assert got.runtime.startswith("tensorrt")
    assert {"resample_short", "resample_float", "normalise", "blend_tile"} <= simulated.launched
    simulated.check()


def test_organs_and_lesions_are_looked_at_alike(simulated: SimulatedDevice, tmp_path: Path) -> None:
    """A classifier of the organ, a characteriser of the lesion: small images with a mask, made on the device."""
    question = {"network": "look", "question": "malignancy", "label": "malignant"}
    look = {"network": "organ", "label": "lesion"}
    classifier = {
        **CLASSIFIER,
        "id": "organ",
        "files": ["organ.onnx"],
        "labels": ["background", "lesion"],
        "mask": True,
    }
    manifest = draft(CHARACTERISER, classifier, cancers=[lung(characterisers=[question], classifier=look)])
    contents = {"look": networks.mean_in_mask_above(450), "organ": networks.mean_in_mask_above(-1000, 0.5)}
    bundle, volume = make(tmp_path / "bundle", manifest, **contents), toy.torso(lung_lesion_mm=12)
    expected = analysed(bundle, OnnxRuntime(1), volume)
    assert_alike(analysed(bundle, planned(simulated, bundle, tmp_path / "plans"), volume), expected)


LOCALISERS: dict[str, dict[str, Any]] = {
    "area": {},
    "area, axes turned": {"spacing_mm": [3, 2.5, 4], "axes": "LIP", "blend": "logits"},
    "nnU-Net's": {**NNUNET, "tiling": {"kind": "patch", "size": [24] * 3, "overlap": 0.5}},
    "nnU-Net's, z by itself": {**NNUNET, "spacing_mm": [9, 2, 2], "mirror": []},
    "MONAI's, regions": {**MONAI, "activation": "sigmoid"},
    "MONAI's, blended logits": {**MONAI, "blend": "logits"},
    "z-scores": {"intensity": {"kind": "zscore"}, "resampling": {"kind": "linear", "back": "logits"}},
}


def noisy(volume: Volume) -> Volume:
    """No two voxels alike: between saturated ones classes are equal half-way, and rounding would decide."""
    noise = np.random.default_rng(4).normal(scale=25, size=volume.hu.shape)
    return Volume((volume.hu + noise).astype(np.int16), volume.geometry)


@pytest.mark.parametrize("localiser", LOCALISERS)
def test_the_gpu_s_label_maps_are_the_host_s(simulated: SimulatedDevice, tmp_path: Path, localiser: str) -> None:
    changes = {"spacing_mm": [3, 3, 3], **LOCALISERS[localiser]}
    gentle = networks.bands((-900, -600), (40, 80), (500, 700), steepness=2.0)
    bundle = make(tmp_path / "bundle", draft(cancers=[lung()], localiser=changes), localiser=gentle)
    volume = noisy(toy.torso(lung_lesion_mm=12))
    expected = segment_volume(bundle, "localiser", OnnxRuntime(1), volume).labels
    got = segment_volume(bundle, "localiser", planned(simulated, bundle, tmp_path / "plans"), volume).labels
    assert_labels_alike(got, expected)
    assert ("region_slab" if changes.get("activation") == "sigmoid" else "label_slab") in simulated.launched
    assert "drain" in simulated.launched
    simulated.check()


def test_a_network_that_follows_another_gets_its_labels_on_the_device(
    simulated: SimulatedDevice, tmp_path: Path
) -> None:
    def network(name: str, labels: list[str], **changes: Any) -> dict[str, Any]:
        return toy.detector(name, labels, region="volume", resampling=SPLINE, normalise_first=True, **changes)

    first = network("coarse", ["background", "dense"], spacing_mm=[4, 4, 4])
    second = network("lung_lesion", ["background", "lesion"], after="coarse")
    contents = {"coarse": networks.bands((100, 1000)), "lung_lesion": networks.follower(100)}
    bundle = make(tmp_path / "bundle", draft(first, second, cancers=[lung()]), **contents)
    volume = toy.torso(lung_lesion_mm=12)
    expected = analysed(bundle, OnnxRuntime(1), volume)
    assert_alike(analysed(bundle, planned(simulated, bundle, tmp_path / "plans"), volume), expected)
    assert expected.masks


@pytest.mark.parametrize("written", [0.0, 0.9])
def test_a_label_map_of_an_output_not_written_in_full_is_a_failure(
    simulated: SimulatedDevice, tmp_path: Path, written: float
) -> None:
    bundle = make(tmp_path / "bundle", draft(cancers=[lung()], localiser={"spacing_mm": [3, 3, 3]}))
    runtime = planned(simulated, bundle, tmp_path / "plans", written=written)
    with pytest.raises(EngineError, match="not written in full"):
        segment_volume(bundle, "localiser", runtime, toy.torso())


def test_an_image_of_another_runtime_is_refused(simulated: SimulatedDevice, tmp_path: Path) -> None:
    from engines.runtime.host import HostImage

    bundle = make(tmp_path / "bundle", draft(cancers=[lung()]))
    runtime = planned(simulated, bundle, tmp_path / "plans")
    folds = load(bundle, "lung_lesion", runtime).folds
    with pytest.raises(EngineError, match="another runtime"):
        runtime.open_pass(folds, HostImage(np.zeros((1, 8, 8, 8), np.float32)), Window((32, 32, 32), 2, (0.0,)))
