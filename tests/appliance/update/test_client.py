"""Trust on the device: durable, bounded by a clock that does not go back, and really hooked into python-tuf."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from appliance.update.client import ReleaseRefused
from appliance.update.trusted_time import TrustedTime
from core import durable
from engines.publish import renew_root
from tests.appliance.update.device import NOW, Device, Publisher, TurnedClock


def test_all_metadata_is_written_durably(device: Device, publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    """python-tuf's own writes would go past `durable`: a rename of its hook must not pass unseen."""
    written: list[str] = []
    real = durable.write_bytes

    def noted(path: Path, content: bytes, mode: int = 0o640) -> None:
        written.append(path.name)
        real(path, content, mode)

    publisher.release("1.0.0")
    monkeypatch.setattr(durable, "write_bytes", noted)
    device.client().find("tiny", "1.0.0")
    assert {"1.root.json", "timestamp.json", "snapshot.json", "targets.json"} <= set(written)


def test_the_trusted_time_is_what_expiry_is_judged_against(device: Device, publisher: Publisher) -> None:
    publisher.release("1.0.0")
    device.clock.at = NOW + dt.timedelta(days=7, minutes=-1)
    device.client().find("tiny", "1.0.0")
    device.clock.at = NOW + dt.timedelta(days=7, minutes=1)
    with pytest.raises(ReleaseRefused) as refused:
        device.client().find("tiny", "1.0.0")
    assert refused.value.code == "expired"


def test_a_root_that_was_renewed_is_followed(device: Device, publisher: Publisher) -> None:
    publisher.release("1.0.0")
    device.client().find("tiny", "1.0.0")
    renew_root(publisher.repo, publisher.keys, NOW + dt.timedelta(days=5))
    publisher.release("1.1.0", now=NOW + dt.timedelta(days=366))
    device.clock.at = NOW + dt.timedelta(days=366)  # past the first root's expiry
    assert device.client().find("tiny", "1.1.0").version == "1.1.0"


def test_damaged_metadata_on_the_disk_is_fetched_anew(device: Device, publisher: Publisher) -> None:
    publisher.release("1.0.0")
    device.client().find("tiny", "1.0.0")
    for file in (device.state / "tuf" / "metadata").glob("*.json"):
        if not file.is_symlink():
            file.write_bytes(b"")
    assert device.client().find("tiny", "1.0.0").name == "tiny"


def test_trusted_time_never_goes_back(tmp_path: Path) -> None:
    clock = TurnedClock()
    time = TrustedTime(tmp_path / "t", clock, NOW - dt.timedelta(days=30))
    time.confirm()
    clock.at = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
    assert time.now() == NOW
    assert TrustedTime(tmp_path / "t", clock, NOW - dt.timedelta(days=30)).now() == NOW
    (tmp_path / "t").write_text("nonsense")
    assert time.now() == NOW - dt.timedelta(days=30)
