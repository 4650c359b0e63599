"""A box that was off: what was performed meanwhile is fetched from the PACS and answered, each study exactly once."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import dcmread

from deploy.embedded import OrthancPacs
from deploy.onescan import OneScan, Site
from tests.appliance.intake.stand import association, send
from tests.integration.conftest import Hospital, Sent

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]


def of_today(sent: Sent) -> Sent:
    for path in sent.files:
        image = dcmread(path)
        image.StudyDate = f"{dt.date.today():%Y%m%d}"
        image.save_as(path)
    return sent


def archive(pacs: OrthancPacs, sent: Sent, folder: Path) -> None:
    with association(pacs.port, called=pacs.ae_title) as assoc:
        assert {send(assoc, folder, path.read_bytes()).Status for path in sent.files} == {0}


def test_what_was_performed_while_the_box_was_off_is_fetched_and_answered_once(tmp_path: Path) -> None:
    with OrthancPacs(tmp_path / "orthanc") as pacs:
        source = {"name": "archive", "host": "127.0.0.1", "port": pacs.port, "ae_title": pacs.ae_title}
        asked: dict[str, Any] = {"sources": [source], "studies_an_hour": 3600, "look_back_days": 2}
        asked |= {"downtime_minutes": 0.01, "settle_minutes": 0}
        stack = OneScan(tmp_path / "stack", Site(quiet_seconds=60.0, reconciliation=asked))
        pacs.add_modality(stack.site.ae_title, stack.dicom_port)
        with stack:
            hospital = Hospital(stack, tmp_path)
            before = of_today(hospital.phantom())
            assert hospital.send(before.files) == 0
            hospital.settled(before)
            archive(pacs, before, tmp_path)
            assert stack.appliance.stop() == 0
            during = [of_today(hospital.phantom()) for _ in range(2)]
            for sent in during:
                archive(pacs, sent, tmp_path)
            stack.appliance.start()
            for sent in during:
                hospital.settled(sent)
            for sent in (before, *during):
                hospital.exactly_one_result(sent)
            told = httpx.get(f"{stack.box_url}/api/v1/days").json()
            assert [one["state"] for one in told["missed"]] == ["fetched", "fetched"]
            assert {one["attempts"] for one in told["missed"]} == {1}
            assert told["days"][0]["received"] == 3
            assert told["days"][0]["missing"] == 0

            def registry_knows() -> bool:
                where = f"/api/v1/devices/{stack.site.site}/{stack.site.device}/days"
                return any(day["delivered"] == 3 for day in stack.get(where) or [])

            stack.wait_for(registry_knows, "the registry knows the day", 150)
