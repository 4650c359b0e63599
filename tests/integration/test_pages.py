"""The pages in a real browser: the box's and the registry's, with a study on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from core.finding import Cancer
from tests.integration.conftest import Hospital, Sent

pytestmark = pytest.mark.integration

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def page(chromium: str) -> Iterator[Page]:
    """A page that keeps what its console said."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        yield opened
        browser.close()


@pytest.fixture(scope="module")
def sent(hospital: Hospital) -> Sent:
    """A study to look at."""
    study = hospital.phantom()
    assert hospital.send(study.files) == 0
    hospital.settled(study)
    return study


def test_the_box_shows_what_became_of_a_study(hospital: Hospital, page: Page, sent: Sent, tmp_path: Path) -> None:
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(hospital.stack.box_url)
    study = hospital.stack.pseudonyms.study(sent.uid)
    row = page.locator("tr", has_text=study[:8])
    assert "delivered" in row.inner_text()
    assert row.locator(".chip").count() == 7
    assert row.locator(".chip.not_analysed").count() == 0
    assert "Synthetic reference model, never clinical" in page.content()
    page.screenshot(path=tmp_path / "box.png")
    row.get_by_role("link").click()
    for cancer in Cancer:
        assert page.locator("td", has_text=cancer.value).count() >= 1
    assert "answers committed" in page.content()
    assert "Phantom^" not in page.content()
    assert complaints == []


def test_the_box_refreshes_by_itself(hospital: Hospital, page: Page, sent: Sent) -> None:
    page.goto(hospital.stack.box_url)
    fresh = hospital.phantom()
    name = hospital.stack.pseudonyms.study(fresh.uid)[:8]
    assert page.locator("tr", has_text=name).count() == 0
    assert hospital.send(fresh.files) == 0
    page.locator("tr", has_text=name).wait_for(timeout=60_000)


def test_the_registry_lists_the_device_and_the_result(hospital: Hospital, page: Page, sent: Sent) -> None:
    page.goto(hospital.stack.registry_url)
    page.get_by_text("box-1").first.wait_for(timeout=30_000)
    page.goto(f"{hospital.stack.registry_url}/results")
    study = hospital.stack.pseudonyms.study(sent.uid)
    page.get_by_text(study[:8]).first.wait_for(timeout=30_000)
    assert "Phantom^" not in page.content()
    assert sent.uid not in page.content()
