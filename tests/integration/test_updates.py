"""Over the air: a broken bundle is refused and the first stays active; a good one takes over, study by study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.onescan import REFERENCE_BUNDLE
from engines.bundle import Content, open_bundle, write_bundle
from engines.manifest import ManifestDraft
from tests.integration.conftest import Hospital

pytestmark = pytest.mark.integration


def variant(folder: Path, version: str, **changes: Any) -> Path:
    """The reference bundle under another version, with parts of its manifest changed."""
    bundle = open_bundle(REFERENCE_BUNDLE)
    fields = json.loads(bundle.manifest.to_json())
    listed = fields.pop("files")
    draft = ManifestDraft.model_validate({**fields, "version": version, **changes})
    contents = [Content(entry["name"], entry["role"], bundle.blob(entry["sha256"])) for entry in listed]
    write_bundle(folder, draft, contents)
    return folder


def offer(hospital: Hospital, bundle: Path, version: str) -> None:
    hospital.stack.publish(bundle)
    hospital.stack.desire("reference", version)


def device(hospital: Hospital) -> dict[str, Any]:
    [row] = json.loads(hospital.stack.ask("devices", "--json"))
    found: dict[str, Any] = row
    return found


def test_a_bundle_whose_golden_case_fails_is_refused_and_the_first_stays_active(
    hospital: Hospital, tmp_path: Path
) -> None:
    before = hospital.stack.box()["bundle"]
    golden = json.loads(open_bundle(REFERENCE_BUNDLE).manifest.to_json())["golden"]
    looked_for = [answer for answer in golden[0]["answers"] if answer["verdict"] != "not_analysed"]
    for expected in looked_for:
        expected["verdict"] = "negative" if expected["verdict"] == "positive" else "positive"
        expected["score"] = None
    assert looked_for
    offer(hospital, variant(tmp_path / "broken", "0.9.1", golden=golden), "0.9.1")
    hospital.stack.wait_for(lambda: hospital.stack.box()["bundle_trouble"], "the box refuses it", 180)
    assert "0.9.1 was refused" in hospital.stack.box()["bundle_trouble"]
    assert hospital.stack.box()["bundle"] == before
    events = hospital.stack.get("/api/v1/devices")
    assert "0.9.1" in json.dumps(events)
    sent = hospital.phantom()
    assert hospital.send(sent.files) == 0
    hospital.settled(sent)
    [result] = hospital.results(sent)
    assert f"reference {result['bundle_version']}" == before


def test_a_good_bundle_takes_over_and_the_next_study_is_read_with_it(hospital: Hospital, tmp_path: Path) -> None:
    offer(hospital, variant(tmp_path / "good", "0.9.2"), "0.9.2")
    hospital.stack.wait_for(lambda: hospital.stack.box()["bundle"] == "reference 0.9.2", "it is active", 180)
    hospital.stack.wait_for(lambda: device(hospital)["bundle_version"] == "0.9.2", "the registry knows")
    sent = hospital.phantom()
    assert hospital.send(sent.files) == 0
    hospital.settled(sent)
    [result] = hospital.results(sent)
    assert result["bundle_version"] == "0.9.2"


def test_a_killed_updater_still_brings_the_bundle(hospital: Hospital, tmp_path: Path) -> None:
    offer(hospital, variant(tmp_path / "next", "0.9.3"), "0.9.3")
    hospital.stack.role("updater").kill()
    hospital.stack.wait_for(lambda: hospital.stack.box()["bundle"] == "reference 0.9.3", "it is active", 180)
