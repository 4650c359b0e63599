"""The pages, in a real browser, over a database with a bit of everything in it."""

from __future__ import annotations

import datetime as dt
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright

from core import wire
from core.finding import Cancer, Verdict
from deploy.embedded.ports import free_port
from registry import triage
from registry.clock import utc_now
from registry.commit import commit
from registry.config import RegistryConfig
from registry.statements import SQL
from registry.store import Connection
from registry.web.app import web_app
from tests.registry import messages as m
from tests.registry.conftest import enrol, wait_until

pytestmark = pytest.mark.integration
_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
POSITIVE, UNCLEAR = Verdict.POSITIVE, Verdict.INDETERMINATE


class serving:  # noqa: N801 - reads as a phrase
    """The web application on a thread of its own."""

    def __init__(self, settings: RegistryConfig) -> None:
        self.address = f"http://127.0.0.1:{settings.web.port}"
        config = uvicorn.Config(web_app(settings), port=settings.web.port, log_config=None)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> str:
        self._thread.start()
        wait_until(lambda: self._server.started)
        return self.address

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)


@pytest.fixture
def address(database: str, tmp_path: Path) -> Iterator[str]:
    web = {"port": free_port(), "tuf_folder": tmp_path / "tuf"}
    with serving(RegistryConfig.model_validate({"database": database, "web": web})) as at:
        yield at


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=_ARGS)
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    opened = context.new_page()
    faults: list[str] = []
    allowed = {"Failed to load resource: the server responded with a status of 503 (Service Unavailable)"}
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
    yield opened
    context.close()
    assert [fault for fault in faults if fault not in allowed] == []


def deliver(connection: Connection, *messages: tuple[str, str, Any], site: str = m.SITE) -> None:
    items = []
    for leaf, device, body in messages:
        payload = body.payload() if isinstance(body, wire.Envelope) else body.model_dump_json().encode()
        item = triage.sort(wire.topic(site, device, leaf), payload)
        assert item is not None
        items.append(item)
    commit(connection, items, utc_now())


def send(connection: Connection, *bodies: wire.ResultBody, first: int = 1) -> None:
    deliver(connection, *(("result", m.DEVICE, m.envelope(body, n)) for n, body in enumerate(bodies, first)))


@pytest.fixture
def populated(connection: Connection) -> Connection:
    """Three devices, results of every kind, an alert."""
    enrol(connection, m.SITE, "ct-2")
    enrol(connection, "valley-hospital", "ct-1")
    deliver(connection, ("status", m.DEVICE, m.status(3)), ("birth", m.DEVICE, m.birth(3)))
    day = wire.DayBody(day=m.WHEN.date(), performed=40, received=37, analysed=37, delivered=36, missing=3)
    deliver(connection, ("telemetry", m.DEVICE, m.envelope(m.telemetry(days=(day,)), 1)))
    deliver(connection, ("event", m.DEVICE, m.envelope(wire.EventBody(kind="bundle_activated", subject="1.2.0"), 1)))
    send(
        connection,
        m.result(m.study(0xA1)),
        m.result(m.study(0xB2 << 120), answers=m.answers(lung=POSITIVE, liver=UNCLEAR)),
        m.result(m.study(0xC3 << 120), patient=None, age_years=None, sex=None, answers=m.answers(liver=POSITIVE)),
        m.result(m.study(0xC3 << 120), 2, slices=65, answers=m.answers(lung=UNCLEAR)),
    )
    deliver(connection, ("result", "ct-2", m.envelope(m.result(m.study(9)), 1)))  # names ct-1: quarantine, alert
    connection.execute(
        SQL["worker_heard"], {"worker": "ingest", "started_at": utc_now(), "connected": True, "messages": 8}
    )
    return connection


def picture(page: Page, name: str) -> None:
    """Keep a picture where a person asked for one (ONESCAN_PICTURES=folder)."""
    if folder := os.environ.get("ONESCAN_PICTURES"):
        page.screenshot(path=Path(folder) / f"registry-{name}.png", full_page=True)


def test_the_results_page_shows_each_studys_latest_answers(populated: Connection, address: str, page: Page) -> None:
    page.goto(f"{address}/")
    rows = page.locator("table.results tbody tr")
    expect(rows).to_have_count(3)  # three studies of ct-1; ct-2's message named another device
    picture(page, "results")
    newest = rows.first
    expect(newest).to_contain_text("r2")
    expect(newest.locator(".chip")).to_have_count(7)
    expect(newest.locator(".chip.indeterminate")).to_have_text("Indeterminate")
    silent = newest.locator(".chip.not_analysed")
    expect(silent).to_have_count(5)
    assert {silent.nth(i).get_attribute("title") for i in range(5)} == {
        "Not analysed: no model in bundle",
        "Not analysed: organ not covered",
    }
    assert "Negative" not in "".join(silent.all_text_contents())
    expect(newest.locator(".synthetic")).to_have_text("synthetic")


def test_superseded_revisions_are_shown_on_request_and_marked(populated: Connection, address: str, page: Page) -> None:
    page.goto(f"{address}/results?study={m.study(0xC3 << 120)}&superseded=true")
    rows = page.locator("table.results tbody tr")
    expect(rows).to_have_count(2)
    expect(page.locator("tr.old")).to_contain_text("superseded")
    page.locator("tr.old a.mono").click()
    expect(page.locator(".notice").first).to_contain_text("later revision supersedes")
    page.get_by_role("link", name="show the current one").click()
    expect(page.locator(".notice")).to_have_count(1)
    expect(page.locator(".notice")).to_contain_text("synthetic phantoms")


def test_one_result_shows_lesions_and_reasons(populated: Connection, address: str, page: Page) -> None:
    page.goto(f"{address}/results?study={m.study(0xB2 << 120)}")
    page.locator("table.results a.mono").click()
    picture(page, "result")
    lung = page.locator(".answers tbody tr", has_text="Lung")
    expect(lung).to_contain_text("0.934")
    expect(lung).to_contain_text("14 mm")
    expect(page.locator(".answers tbody tr", has_text="Breast")).to_contain_text("organ not covered")
    expect(page.get_by_text("series")).to_have_count(0)  # one was read for all


def test_one_result_shows_which_series_an_answer_comes_from(connection: Connection, address: str, page: Page) -> None:
    read_in = {Cancer.LUNG: "ab" * 16, Cancer.LIVER: "cd" * 16}
    given = [a.model_copy(update={"series": read_in.get(a.cancer)}) for a in m.answers(lung=POSITIVE, liver=UNCLEAR)]
    send(connection, m.result(m.study(0xD4 << 120), answers=tuple(given)))
    page.goto(f"{address}/results?study={m.study(0xD4 << 120)}")
    page.locator("table.results a.mono").click()
    expect(page.locator(".answers tbody tr", has_text="Lung")).to_contain_text("series abababab")
    expect(page.locator(".answers tbody tr", has_text="Liver")).to_contain_text("series cdcdcdcd")
    expect(page.locator(".answers tbody tr", has_text="Breast")).not_to_contain_text("series")


def test_devices_are_shown_as_they_are(populated: Connection, address: str, page: Page) -> None:
    page.goto(f"{address}/devices")
    expect(page.locator("tbody tr")).to_have_count(3)
    picture(page, "devices")
    mine = page.locator("tbody tr", has_text=m.SITE).first
    expect(mine).to_contain_text("Online")
    expect(mine).to_contain_text("Jetson Orin NX 16GB")
    expect(page.locator("tbody tr", has_text="valley-hospital")).to_contain_text("Never connected")
    mine.get_by_role("link", name="ct-1").click()
    expect(page.locator("main")).to_contain_text("bundle activated")
    expect(page.locator("main")).to_contain_text("412 GB")
    picture(page, "device")


def test_trouble_lists_alerts_and_quarantine_without_contents(populated: Connection, address: str, page: Page) -> None:
    topic = wire.topic(m.SITE, m.DEVICE, "event")
    item = triage.sort(topic, b'{"PatientName": "DOE^JANE"}')
    assert item is not None
    commit(populated, [item], utc_now())
    page.goto(f"{address}/trouble")
    expect(page.locator(".tag.alert", has_text="foreign identity")).to_be_visible()
    expect(page.locator("main")).to_contain_text("malformed")
    assert "DOE" not in page.content()
    assert "PatientName" not in page.content()
    picture(page, "trouble")


def test_pages_refresh_themselves_and_say_when_they_cannot(populated: Connection, database: str, page: Page) -> None:
    settings = RegistryConfig.model_validate({"database": database, "web": {"port": free_port()}})
    with serving(settings) as address:
        page.goto(f"{address}/results")
        expect(page.locator("table.results tbody tr")).to_have_count(3)
        send(populated, m.result(m.study(0xD4 << 120)), first=5)
        expect(page.locator("table.results tbody tr")).to_have_count(4, timeout=15_000)
        page.route(re.compile("/fragments/"), lambda route: route.fulfill(status=503, body="down"))
        expect(page.locator("main section")).to_have_class(re.compile("stale"), timeout=15_000)
        page.unroute(re.compile("/fragments/"))
        expect(page.locator("main section")).not_to_have_class(re.compile("stale"), timeout=15_000)


def test_the_dark_and_the_narrow_page_fit(populated: Connection, address: str, browser: Browser) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme="dark")
    page = context.new_page()
    page.goto(f"{address}/results")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 1440, "height": 900})
    picture(page, "results-dark")
    context.close()


def test_the_api_gives_the_same_to_programs(populated: Connection, address: str) -> None:
    with httpx.Client(base_url=address, trust_env=False) as client:
        rows = client.get("/api/v1/results", params={"study": m.study(0xC3 << 120)}).json()
        assert [(r["revision"], r["current"]) for r in rows] == [(2, True)]
        assert [a["cancer"] for a in rows[0]["answers"]] == [
            "pancreas", "oesophagus", "lung", "breast", "liver", "stomach", "colorectum",
        ]  # fmt: skip
        future = (utc_now() + dt.timedelta(hours=1)).isoformat()
        assert client.get("/api/v1/results", params={"since": future}).json() == []
        assert client.get("/api/v1/results", params={"device": "ct-2"}).json() == []
        devices = client.get("/api/v1/devices").json()
        assert [(d["site"], d["device"], d["online"]) for d in devices] == [
            (m.SITE, "ct-1", True), (m.SITE, "ct-2", False), ("valley-hospital", "ct-1", False),
        ]  # fmt: skip
        assert client.get("/healthz").json() == {"database": True, "ingest": True}
        metrics = client.get("/metrics").text
        assert f'onescan_device_online{{site="{m.SITE}",device="ct-1"}} 1.0' in metrics
        assert "onescan_results_total 4" in metrics


def test_no_page_lets_scripts_of_others_in(populated: Connection, address: str) -> None:
    with httpx.Client(base_url=address, trust_env=False) as client:
        for path in ("/results", "/devices", "/trouble", f"/devices/{m.SITE}/{m.DEVICE}"):
            answer = client.get(path)
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert not re.search(r"<script(?![^>]*src=)|\son\w+=|style=", answer.text)
        wild = client.get("/results", params={"site": '"><script>alert(1)</script>'})
        assert "<script>alert" not in wild.text
        shown = client.get(f"/devices/{m.SITE}/{m.DEVICE}").text
        assert '<span class="bad-text">3</span>' in shown
        [told] = client.get(f"/api/v1/devices/{m.SITE}/{m.DEVICE}/days").json()
        assert (told["performed"], told["missing"], told["reviewed"]) == (40, 3, None)
        assert client.get("/devices/nowhere/nothing").status_code == 404
        assert client.get("/devices/..%2f/x").status_code in (404, 422)


def test_the_update_repository_is_served_in_pieces(address: str, tmp_path: Path) -> None:
    blob = os.urandom(50_000)
    (tmp_path / "tuf/targets/blobs").mkdir(parents=True)
    (tmp_path / "tuf/targets/blobs/aa").write_bytes(blob)
    with httpx.Client(base_url=address, trust_env=False) as client:
        whole = client.get("/tuf/targets/blobs/aa")
        assert whole.content == blob
        part = client.get("/tuf/targets/blobs/aa", headers={"Range": "bytes=40000-", "If-Range": whole.headers["etag"]})
        assert (part.status_code, part.content) == (206, blob[40_000:])
        changed = client.get("/tuf/targets/blobs/aa", headers={"Range": "bytes=40000-", "If-Range": '"another"'})
        assert (changed.status_code, changed.content) == (200, blob)
        assert client.get("/tuf/../secret").status_code == 404


def test_pages_say_so_while_the_database_is_down(tmp_path: Path) -> None:
    database = f"host=127.0.0.1 port={free_port()} dbname=none"
    settings = RegistryConfig.model_validate({"database": database, "web": {"port": free_port()}})
    with serving(settings) as address, httpx.Client(base_url=address, trust_env=False, timeout=30) as client:
        answer = client.get("/results")
        assert answer.status_code == 503
        assert "Start PostgreSQL" in answer.text
        assert client.get("/healthz").json()["database"] is False
