"""Downloads end with the right bytes or with an error: never with wrong ones, never for ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadError, DownloadHTTPError, DownloadLengthMismatchError

from appliance.update.fetcher import Abandoned, Fetcher, Patience, forget
from tests.appliance.update.webserver import Site, serving

CONTENT = bytes(i * 7 % 251 for i in range(500_000))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "file").write_bytes(CONTENT)
    with serving(tmp_path / "www") as running:
        yield running


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def fetcher(pauses: list[float]) -> Fetcher:
    return Fetcher(patience=Patience(connect_s=5, gap_s=5, tries=3), sleep=pauses.append)


def test_a_link_that_breaks_all_the_time_but_moves_on_is_borne_with(
    site: Site, fetcher: Fetcher, tmp_path: Path
) -> None:
    site.cuts["file"] = [60_000] * 8
    fetcher.resume(f"{site.url}/file", tmp_path / "part", len(CONTENT))
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert site.ranges_of("file") == ["", *(f"bytes={60_000 * i}-" for i in range(1, 9))]


def test_a_dead_link_is_given_up_after_longer_and_longer_pauses(
    site: Site, fetcher: Fetcher, tmp_path: Path, pauses: list[float]
) -> None:
    site.cuts["file"] = [1000, 0, 0, 0, 0]
    with pytest.raises(DownloadError):
        fetcher.resume(f"{site.url}/file", tmp_path / "part", len(CONTENT))
    assert (tmp_path / "part").stat().st_size == 1000
    assert all(0 < pause <= 4 for pause in pauses)
    fetcher.resume(f"{site.url}/file", tmp_path / "part", len(CONTENT))
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(site: Site, fetcher: Fetcher, tmp_path: Path) -> None:
    site.cuts["file"] = [100_000, 0, 0]
    with pytest.raises(DownloadError):
        fetcher.resume(f"{site.url}/file", tmp_path / "part", len(CONTENT))
    other = bytes(len(CONTENT))
    (site.root / "file").write_bytes(other)
    fetcher.resume(f"{site.url}/file", tmp_path / "part", len(other))
    assert (tmp_path / "part").read_bytes() == other


def test_a_server_without_ranges_costs_time_but_not_the_content(site: Site, fetcher: Fetcher, tmp_path: Path) -> None:
    site.ranges = False
    site.cuts["file"] = [100_000]
    fetcher.resume(f"{site.url}/file", tmp_path / "part", len(CONTENT))
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_more_than_was_signed_for_is_not_stored(site: Site, fetcher: Fetcher, tmp_path: Path) -> None:
    with pytest.raises(DownloadLengthMismatchError):
        fetcher.resume(f"{site.url}/file", tmp_path / "part", 1000)
    assert (tmp_path / "part").stat().st_size <= 1000


def test_busy_servers_are_asked_again_and_missing_files_are_not(site: Site, fetcher: Fetcher, tmp_path: Path) -> None:
    site.failures["file"] = [503, 502]
    fetcher.resume(f"{site.url}/file", tmp_path / "part", len(CONTENT))
    assert (tmp_path / "part").read_bytes() == CONTENT
    with pytest.raises(DownloadHTTPError):
        fetcher.resume(f"{site.url}/missing", tmp_path / "other", 5)
    assert site.ranges_of("missing") == [""]


def test_what_is_no_longer_wanted_stops_and_keeps_what_came(site: Site, fetcher: Fetcher, tmp_path: Path) -> None:
    with pytest.raises(Abandoned):
        fetcher.resume(f"{site.url}/file", tmp_path / "part", len(CONTENT), wanted=lambda: False)
    assert 0 < (tmp_path / "part").stat().st_size < len(CONTENT)
    forget(tmp_path / "part")
    assert not list(tmp_path.glob("part*"))


def test_metadata_is_asked_for_again_but_not_when_it_is_missing(site: Site, fetcher: Fetcher) -> None:
    site.failures["file"] = [503]
    assert fetcher.download_bytes(f"{site.url}/file", 1_000_000) == CONTENT
    with pytest.raises(DownloadHTTPError):
        fetcher.download_bytes(f"{site.url}/missing", 1000)
    with pytest.raises(DownloadLengthMismatchError):
        fetcher.download_bytes(f"{site.url}/file", 1000)


def test_nobody_there_is_an_error_after_a_few_tries(fetcher: Fetcher, pauses: list[float]) -> None:
    with pytest.raises(DownloadError):
        fetcher.download_bytes("http://127.0.0.1:1/file", 1000)
    assert len(pauses) == 2
