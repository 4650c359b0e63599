"""What is compared with the cascade is really what the cascade ran; figures are those of that run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.finding import Cancer
from engines.bundle import Bundle
from engines.cascade import Cascade
from engines.measuring.comparing import Case, compare, dice
from engines.measuring.memory import bytes_per_voxel, forget_peak, input_channels, peak_bytes
from engines.measuring.speed import measure
from engines.measuring.watching import Watched
from engines.runtime.choice import choose
from tests.engines.cascade import toy


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return toy.bundle(tmp_path / "toy")


def test_a_watched_runtime_changes_nothing_and_notes_every_run(bundle: Bundle) -> None:
    volume = toy.torso(lung_lesion_mm=12)
    plain = toy.cascade(bundle).analyse(volume, toy.ADULT)
    watched = Watched(choose("onnx", 1).runtime, noting=True)
    analysis = Cascade(bundle, watched).analyse(volume, toy.ADULT)
    assert analysis.answers == plain.answers
    by_file = {
        name: [c for c in watched.calls if c.file == bundle.path(f"{name}.onnx")]
        for name in ("localiser", "lung_lesion")
    }
    assert len(by_file["localiser"]) == 1
    (whole,) = by_file["localiser"]
    logits = whole.network.run(whole.image)
    assert (logits.argmax(axis=1) == 1).sum() > 500  # it was given the scan: there is a lung in it
    assert len(by_file["lung_lesion"]) > 1
    assert {c.shape for c in by_file["lung_lesion"]} == {(32, 32, 32)}
    watched.noting = False
    before = len(watched.calls)
    Cascade(bundle, watched).analyse(volume, toy.ADULT)
    assert len(watched.calls) == before


def test_folds_and_mirrored_runs_are_in_the_loop(tmp_path: Path) -> None:
    draft = toy.draft()
    localiser, lung, liver = draft.networks
    lung = lung.model_copy(update={"mirror": ("z", "x"), "files": ("lung_lesion.onnx", "liver_lesion.onnx")})
    same_labels = lung.model_copy(update={"files": ("lung_lesion.onnx", "lung_lesion.onnx")})
    bundle = toy.bundle(tmp_path / "b", draft.model_copy(update={"networks": (localiser, same_labels, liver)}))
    once = toy.bundle(tmp_path / "once")
    counts = []
    for each in (once, bundle):
        watched = Watched(choose("onnx", 1).runtime, noting=True)
        Cascade(each, watched).analyse(toy.torso(), toy.ADULT)
        counts.append(sum(c.file == each.path("lung_lesion.onnx") for c in watched.calls))
    assert counts[1] == 8 * counts[0] > 0


def test_figures_of_a_run_belong_together(bundle: Bundle) -> None:
    steps: list[tuple[int, int]] = []
    found = measure(
        bundle, choose("onnx", 1).runtime, toy.torso(), toy.ADULT, 2, lambda done, total: steps.append((done, total))
    )
    assert steps == [(0, 2), (1, 2)]
    assert found.runs == len(found.ratios) == 2
    assert [share.network for share in found.networks] == ["localiser", "lung_lesion", "liver_lesion"]
    lung = found.networks[1]
    assert lung.shape == (32, 32, 32)
    assert lung.gflop == pytest.approx(lung.runs * 2 * 32**3 * 2 * 2 / 1e9)  # two convolutions, one channel to two
    assert found.gflop == pytest.approx(sum(share.gflop for share in found.networks))
    assert found.total >= found.stages["localise"] > 0
    assert found.parts["network"] > 0
    assert found.gemm_gflops > 0.1
    assert 0 < found.of_peak < 1
    assert found.peak_mb > 0
    assert found.analysis.answers


def test_the_peak_of_a_stretch_is_seen_and_forgotten() -> None:
    begun = forget_peak()
    held = np.ones(64 * 2**20, dtype=np.uint8)
    assert peak_bytes() - begun > 60 * 2**20
    del held
    forget_peak()
    assert peak_bytes() - begun < 30 * 2**20


def test_memory_of_a_network_is_counted_by_voxel_and_without_what_is_counted_elsewhere(bundle: Bundle) -> None:
    spec = bundle.manifest.network("lung_lesion")
    assert input_channels(bundle.manifest, spec) == 1
    found = bytes_per_voxel(bundle, spec, (96, 96, 96), "onnx", "fp32", 1)
    # two maps of two channels beside the result, 4 bytes each, and what ONNX Runtime needs besides
    assert 8 <= found <= 64


def test_a_bundle_agrees_with_itself_and_a_change_is_seen(bundle: Bundle, tmp_path: Path) -> None:
    draft = toy.draft()
    lung, liver = draft.cancers
    strict = lung.model_copy(update={"negative_below": 0.9999999, "positive_above": 1.0})
    other = toy.bundle(tmp_path / "other", draft.model_copy(update={"cancers": (strict, liver)}))
    cases = [Case("sick", toy.torso(lung_lesion_mm=12), toy.ADULT), Case("well", toy.torso(), toy.ADULT)]
    modelled = (Cancer.LUNG, Cancer.LIVER)
    same = compare(toy.cascade(bundle), toy.cascade(bundle), cases, modelled)
    assert same.agree
    assert [pair.dice for pair in same.pairs] == [1.0, None, None, None]
    assert {pair.score_difference for pair in same.pairs} == {0.0}
    assert all(a == b > 0 for _, _, a, b in same.organs)
    changed = compare(toy.cascade(bundle), toy.cascade(other, "onnx"), cases, modelled)
    assert len(changed.pairs) == 4
    assert {(p.case, p.cancer) for p in changed.pairs if not p.agrees} <= {("sick", Cancer.LUNG)}


def test_dice_is_counted_as_by_hand() -> None:
    a = np.array([[0, 1, 1, 0]], dtype=np.uint8)
    b = np.array([[0, 0, 2, 2]], dtype=np.uint8)
    assert dice(a, b) == 0.5
    assert dice(a, None) == 0.0
    assert dice(None, None) is None
    assert dice(a * 0, b * 0) is None
