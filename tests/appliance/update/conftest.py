from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.appliance.update.device import Device, MemoryShelf, Publisher, ScriptedTrial
from tests.appliance.update.webserver import Site, serving


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    folder = tmp_path / "central"
    folder.mkdir()
    return Publisher(folder).start()


@pytest.fixture
def site(publisher: Publisher) -> Iterator[Site]:
    with serving(publisher.repo) as running:
        yield running


@pytest.fixture
def device(tmp_path: Path, publisher: Publisher, site: Site) -> Device:
    return Device(tmp_path / "state", site.url, MemoryShelf(), ScriptedTrial()).provision(publisher)
