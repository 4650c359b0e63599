"""The days' counts: of the same studies in every column, on the box's page, in the message for the registry."""

from __future__ import annotations

import datetime as dt
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from appliance import wiring
from appliance.clock import Stamp, SystemClock
from appliance.config import ApplianceConfig, PeerTlsConfig, WebSourceConfig, parse
from appliance.console.app import create_app
from appliance.days import Days
from appliance.identity.pseudonyms import Pseudonyms
from appliance.overview import JournalOverview
from appliance.ports import Handover
from appliance.reconciliation.comparison import Performed, PerformedSeries
from appliance.reconciliation.days import Studies, count_days
from appliance.reconciliation.reconciler import Missed
from appliance.storage.intake_reader import IntakeReader
from appliance.storage.journal import Journal
from appliance.storage.reconciliation import ReconciliationList
from appliance.worker import Worker
from core import wire
from deploy.embedded.ports import free_ports
from tests.appliance.intake.stand import wait_for

TODAY = dt.date(2026, 11, 20)
DAYS = st.dates(TODAY - dt.timedelta(days=9), TODAY)
STUDIES = st.dictionaries(st.sampled_from([f"1.{n}" for n in range(8)]), DAYS)


@given(performed=STUDIES, received=STUDIES, data=st.data(), asked=st.none() | DAYS)
def test_every_study_counts_once_and_no_day_is_ahead_of_itself(
    performed: dict[str, dt.date], received: dict[str, dt.date], data: st.DataObject, asked: dt.date | None
) -> None:
    some = st.sets(st.sampled_from(sorted(received))) if received else st.just(set())
    analysed = data.draw(some)
    delivered = analysed & data.draw(some)
    missing = set(performed) - set(received)
    counted = count_days(Studies(performed, received, analysed, delivered, missing, asked=asked), TODAY, 10)
    assert [day.day for day in counted] == [TODAY - dt.timedelta(days=n) for n in range(10)]
    assert sum(day.received for day in counted) == len(received)
    assert sum(day.missing for day in counted) == len(missing)
    for day in counted:
        assert day.received >= day.analysed >= day.delivered
        assert (day.performed is None) == (asked is None or asked <= day.day)
        assert day.performed is None or day.missing <= day.performed
        assert day.reviewed is None


def stamp() -> Stamp:
    return Stamp(dt.datetime.now(dt.timezone.utc), 1, uuid.uuid4(), True)


@pytest.fixture
def config(tmp_path: Path) -> ApplianceConfig:
    (port,) = free_ports(1)
    return parse(
        f"""
site: hospital
device: ct1
state: {tmp_path}
registry: {{mqtt_host: 127.0.0.1, tuf_url: "https://127.0.0.1:1"}}
receiver: {{calling_ae_titles: [CT1]}}
reconciliation: {{sources: [{{name: pacs, host: 127.0.0.1, port: {port}, ae_title: PACS}}]}}
"""
    )


@pytest.fixture
def journal(config: ApplianceConfig) -> Iterator[Journal]:
    opened = Journal(config.journal_db, config.state, "ct1", stamp)
    yield opened
    opened.close()


def days_of(config: ApplianceConfig, found: ReconciliationList) -> Days:
    return Days(found, IntakeReader(config.intake_db), SystemClock(), ["pacs"])


def test_the_page_and_the_message_tell_of_missed_studies_without_naming_them(
    config: ApplianceConfig, journal: Journal
) -> None:
    now = dt.datetime.now(dt.timezone.utc)
    yesterday = (now.astimezone() - dt.timedelta(days=1)).date()
    journal.queue(1, Handover("h1", "1.2.3.1", 1, "geometry", "whole", now, now, ()), "ab" * 16)
    found = ReconciliationList(config.journal_db)
    series = (PerformedSeries("1.2.3.9.1", "CT", 100),)
    told = [Performed("1.2.3.1", yesterday, ("CT",), 100), Performed("1.2.3.9", yesterday, ("CT",), 100)]
    found.answered("pacs", now, "night", told, [Missed("1.2.3.9", "pacs", yesterday, True, series)])
    found.begin("1.2.3.9", now)
    found.postponed("1.2.3.9", "C-MOVE ended with status A801: it does not know us", None)
    days = days_of(config, found)
    today, before, *_ = days.counts(7)
    assert (today.performed, today.received, today.missing) == (None, 0, 0)
    assert (before.performed, before.received, before.analysed, before.missing) == (2, 1, 0, 1)
    overview = JournalOverview(
        config, journal, days, IntakeReader(config.intake_db), Pseudonyms(b"k" * 32), "0.1.0", 11112, lambda _: False
    )
    with TestClient(create_app(overview)) as client:
        page = client.get("/").text
        assert "it does not know us" in page
        assert "to be fetched" in page
        assert "1.2.3.9" not in page
        said = client.get("/api/v1/days").json()
        assert said["missed"][0]["attempts"] == 1
        assert said["days"][1]["missing"] == 1
        assert client.get("/fragment/days").status_code == 200
    body = wire.TelemetryBody(
        **{"uptime_s": 1, "cpu_load": 0, "memory_used": 0, "disk_free_bytes": 1, "studies_today": 0},
        outbox_pacs=0,
        outbox_registry=0,
        days=tuple(days.counts()),
    )
    assert "1.2.3" not in body.model_dump_json()
    assert wire.TelemetryBody.model_validate_json(body.model_dump_json()) == body
    found.close()


def test_the_tables_are_added_to_a_journal_of_an_older_release_and_stay_on_reopening(
    config: ApplianceConfig, journal: Journal
) -> None:
    for _ in range(2):
        found = ReconciliationList(config.journal_db)
        found.alive(dt.datetime(2026, 11, 20, tzinfo=dt.timezone.utc))
        assert found.alive_at() == dt.datetime(2026, 11, 20, tzinfo=dt.timezone.utc)
        found.close()
    assert journal.next() is None


def test_the_courier_asks_the_configured_sources(config: ApplianceConfig, journal: Journal) -> None:
    assert config.may_send == ("CT1", "PACS")  # what is fetched its source pushes
    with ExitStack() as stack:
        found = ReconciliationList(config.journal_db)
        stack.callback(found.close)
        asking = Worker("reconciliation", wiring.reconciler(config, found, SystemClock(), threading.Event()).step)
        stack.callback(asking.stop)
        asking.start()
        [ask] = wait_for(found.last_asks)
        assert (ask["source"], ask["performed"]) == ("pacs", None)  # nobody listens there
        assert asking.alive
    assert not asking.alive


def test_a_source_whose_files_cannot_be_used_is_told_and_ends_nothing(
    config: ApplianceConfig, journal: Journal, tmp_path: Path
) -> None:
    asked = config.reconciliation
    tls = PeerTlsConfig(ca=tmp_path / "nowhere.crt")
    secret = WebSourceConfig(name="web", url="https://127.0.0.1:1/x", credentials=tmp_path / "nowhere")
    sources = asked.model_copy(
        update={"sources": (asked.sources[0].model_copy(update={"tls": tls}),), "web": (secret,)}
    )
    found = ReconciliationList(config.journal_db)
    broken = config.model_copy(update={"reconciliation": sources})
    wiring.reconciler(broken, found, SystemClock(), threading.Event()).step()
    reasons = {ask["source"]: ask["reason"] for ask in found.last_asks()}
    assert "nowhere.crt" in reasons["pacs"]
    assert "can't read" in reasons["web"]
    found.close()
