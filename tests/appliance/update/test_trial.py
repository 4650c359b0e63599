"""Golden cases run in a child: what passes, fails, crashes, eats memory, hangs or is no longer wanted is told apart."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import psutil
import pytest

from appliance.update.trial import ChildTrial, Verdict, judge
from engines.bundle import Bundle, Content, write_bundle
from engines.manifest import ManifestDraft
from engines.publish import publish_bundle
from tests.appliance.update.device import NOW, Device, MemoryShelf, Publisher
from tests.appliance.update.webserver import Site
from tests.engines.bundle.test_parity import CASE, packed

WRONG = {**CASE, "answers": [{"cancer": "lung", "verdict": "negative"}, *CASE["answers"][1:]]}


@pytest.fixture
def good(tmp_path: Path) -> Bundle:
    return packed(tmp_path / "good", CASE)


def _children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if "appliance.update.trial" in " ".join(p.cmdline())]


@pytest.mark.parametrize(
    ("runtime", "precision"), [("onnx", "auto"), ("openvino", "auto"), ("openvino", "fp32"), ("auto", "int8")]
)
def test_a_working_bundle_passes_on_every_runtime(good: Bundle, runtime: Any, precision: Any) -> None:
    verdict = ChildTrial(runtime, threads=1, deadline_s=120, precision=precision).run(good.folder)
    assert verdict == Verdict("passed", "", "1 golden cases")


def test_a_case_that_differs_fails_and_says_how(tmp_path: Path) -> None:
    verdict = ChildTrial("onnx", deadline_s=120).run(packed(tmp_path / "wrong", WRONG).folder)
    assert (verdict.kind, verdict.code) == ("failed", "golden case")
    assert "lung: positive instead of negative" in verdict.detail


def test_a_damaged_bundle_fails_its_numbered_check(good: Bundle) -> None:
    blob = good.path("localiser.onnx")
    blob.chmod(0o600)
    blob.write_bytes(blob.read_bytes()[:-1] + b"\0")
    verdict = ChildTrial("onnx", deadline_s=120).run(good.folder)
    assert (verdict.kind, verdict.code) == ("failed", "check 5")


def test_what_this_box_can_t_compute_in_fails_the_trial(good: Bundle) -> None:
    verdict = ChildTrial("onnx", deadline_s=120, precision="int8").run(good.folder)
    assert (verdict.kind, verdict.code) == ("failed", "engine")
    assert "int8" in verdict.detail


def test_more_memory_than_allowed_fails_the_trial_only(good: Bundle) -> None:
    verdict = ChildTrial("onnx", memory_mb=64, deadline_s=60).run(good.folder)
    assert verdict.kind == "failed"
    # A native runtime that gets no memory raises, dies, or waits for ever; the deadline ends the last.
    assert verdict.code in ("memory", "crashed", "engine", "golden case", "deadline")


def test_a_trial_that_hangs_is_ended_at_its_deadline(good: Bundle) -> None:
    verdict = ChildTrial("onnx", deadline_s=0.0).run(good.folder)
    assert (verdict.kind, verdict.code) == ("failed", "deadline")
    assert not _children()


def test_a_study_that_arrives_ends_the_trial_without_blame(good: Bundle) -> None:
    asked = iter([True, True, False])
    verdict = ChildTrial("onnx", deadline_s=120).run(good.folder, wanted=lambda: next(asked))
    assert verdict == Verdict("postponed")
    assert not _children()


def test_a_child_that_is_killed_is_a_crash_of_the_bundle_not_of_the_updater(good: Bundle) -> None:
    def kill_it() -> bool:
        for child in _children():
            child.kill()
        return True

    verdict = ChildTrial("onnx", deadline_s=120).run(good.folder, wanted=kill_it)
    assert (verdict.kind, verdict.code) == ("failed", "crashed")
    assert "SIGKILL" in verdict.detail


@pytest.mark.parametrize(
    ("returncode", "answer"),
    [
        (0, b""),
        (0, b"{}"),
        (1, b""),
        (-11, b'{"outcomes": [{"case": "a", "passed": true, "detail": ""}]}'),
        (1, b'{"outcomes": [{"case": "a", "passed": true, "detail": ""}]}'),
        (0, b'{"outcomes": []}'),
        (0, b'{"outcomes": [{"case": "a", "passed": "yes", "detail": ""}]}'),
        (0, b'{"outcomes": [{"case": "a", "passed": true'),
        (0, b"[]"),
        (0, b'{"outcomes": [{"case": "a", "passed": true, "detail": ""}], "error": {"code": "x", "what": "y"}}'),
    ],
)  # fmt: skip
def test_only_a_clear_yes_is_a_pass(returncode: int, answer: bytes) -> None:
    assert judge(returncode, answer).kind == "failed"


def test_over_the_air_with_real_networks(tmp_path: Path, publisher: Publisher, site: Site) -> None:
    """Publish, update, active; then a bundle whose golden case fails here: refused, and the first stays active."""
    trial = ChildTrial("onnx", deadline_s=120)
    device = Device(tmp_path / "state", site.url, MemoryShelf(), trial).provision(publisher)
    first = publish_bundle(publisher.repo, publisher.keys, packed(tmp_path / "one", CASE).folder, NOW)
    device.shelf.wish(first.name, first.version, NOW)
    assert device.settle().state == "active"
    broken = packed(tmp_path / "two", WRONG)
    fields = {**broken.manifest.model_dump(mode="json"), "version": "9.0.0"}
    fields.pop("files")
    files = [Content(f.name, f.role, broken.blob(f.sha256)) for f in broken.manifest.files]
    second = write_bundle(tmp_path / "three", ManifestDraft.model_validate(fields), files)
    publish_bundle(publisher.repo, publisher.keys, second.folder, NOW + dt.timedelta(hours=1))
    device.shelf.wish(second.manifest.name, "9.0.0", NOW)
    report = device.settle()
    assert (report.state, report.code) == ("refused", "golden case")
    assert report.active is not None
    assert report.active.digest == first.digest
