"""What is published, signed and wished becomes active; everything else is refused and changes nothing."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import pytest

from appliance.update.client import STAGING, ReleaseRefused
from appliance.update.trial import Verdict
from appliance.update.updater import Updater
from engines.bundle import Content, open_bundle
from engines.publish import load_key, publish_bundle, refresh_timestamp
from tests.appliance.update.device import NOW, Device, Publisher, ScriptedTrial
from tests.appliance.update.webserver import Site

WEIGHTS = bytes(range(256)) * 4096  # 1 MiB


def test_a_published_bundle_becomes_active(device: Device, publisher: Publisher) -> None:
    release = publisher.release("1.0.0")
    report = device.settle("1.0.0")
    assert report.state == "active"
    assert report.active is not None
    assert report.active.digest == release.digest
    assert open_bundle(device.bundles / release.digest, release.digest).manifest.version == "1.0.0"
    assert [r.state for r in device.shelf.history] == ["announced", "fetching", "staged", "trial", "active"]


def test_the_reports_tell_the_way(device: Device, publisher: Publisher) -> None:
    publisher.release("1.0.0")
    device.settle("1.0.0")
    words = [report.state for report in device.told]
    assert [w for i, w in enumerate(words) if i == 0 or words[i - 1] != w] == [
        "fetching",
        "verifying",
        "trial",
        "active",
    ]


def test_a_bundle_that_fails_a_golden_case_is_refused_and_not_tried_again(device: Device, publisher: Publisher) -> None:
    first = publisher.release("1.0.0")
    device.settle("1.0.0")
    broken = publisher.release("1.1.0", Content("lung_lesion.onnx", "network", b"worse"))
    device.trial = trial = ScriptedTrial([Verdict("failed", "golden case", "chest: 0.2 for 0.9")])
    report = device.settle("1.1.0")
    assert (report.state, report.code) == ("refused", "golden case")
    assert report.active is not None
    assert report.active.digest == first.digest
    assert not (device.bundles / broken.digest).exists()
    assert (device.bundles / first.digest).exists()
    assert device.settle("1.1.0").state == "refused"
    assert device.settle("1.0.0").state == "active"
    assert device.settle("1.1.0").state == "refused"
    assert trial.tried == [broken.digest]
    publisher.release("1.2.0", Content("lung_lesion.onnx", "network", b"better"))
    assert device.settle("1.2.0").state == "active"


def test_a_flipped_byte_in_a_blob_is_refused(device: Device, publisher: Publisher) -> None:
    publisher.release("1.0.0")
    device.settle("1.0.0")
    bundle = publisher.bundle("1.1.0", Content("lung_lesion.onnx", "network", WEIGHTS))
    publish_bundle(publisher.repo, publisher.keys, bundle.folder, NOW)
    sha256 = bundle.manifest.file("lung_lesion.onnx").sha256
    blob = publisher.repo / "targets" / "blobs" / f"{sha256}.{sha256}"
    blob.write_bytes(WEIGHTS[:-1] + b"\0")
    report = device.settle("1.1.0")
    assert (report.state, report.code) == ("refused", "hash mismatch")
    assert report.active is not None
    assert report.active.version == "1.0.0"
    assert not list((device.bundles / STAGING).glob("*"))


@pytest.mark.parametrize("longer", [True, False])
def test_a_blob_of_another_length_is_refused(device: Device, publisher: Publisher, longer: bool) -> None:
    bundle = publisher.bundle("1.0.0", Content("lung_lesion.onnx", "network", WEIGHTS))
    publish_bundle(publisher.repo, publisher.keys, bundle.folder, NOW)
    sha256 = bundle.manifest.file("lung_lesion.onnx").sha256
    blob = publisher.repo / "targets" / "blobs" / f"{sha256}.{sha256}"
    blob.write_bytes(WEIGHTS + b"more" if longer else WEIGHTS[:-5])
    report = device.settle("1.0.0")
    if longer:
        assert (report.state, report.code) == ("refused", "hash mismatch")
    else:  # looks like a link that breaks off, and may be one: retried, never accepted
        assert (report.state, report.code) == ("fetching", "no link")
    assert report.active is None


def _tamper(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


def test_tampered_targets_are_refused(device: Device, publisher: Publisher) -> None:
    publisher.release("1.0.0")
    device.settle("1.0.0")
    publisher.release("1.1.0", Content("lung_lesion.onnx", "network", b"other"))
    _tamper(publisher.repo / "metadata" / "3.targets.json", b"1.1.0", b"1.1.1")
    report = device.settle("1.1.1")
    assert (report.state, report.code) == ("refused", "mixed")
    assert report.active is not None
    assert report.active.version == "1.0.0"


def test_metadata_signed_by_a_stranger_is_refused(device: Device, publisher: Publisher, tmp_path: Path) -> None:
    """A whole other repository, well-formed and self-consistent, behind the same address."""
    publisher.release("1.0.0")
    device.settle("1.0.0")
    (tmp_path / "evil").mkdir()
    stranger = Publisher(tmp_path / "evil").start()
    for _ in range(4):
        refresh_timestamp(stranger.repo, stranger.keys, NOW)
    stranger.release("6.6.6")
    shutil.rmtree(publisher.repo)
    shutil.copytree(stranger.repo, publisher.repo)
    report = device.settle("6.6.6")
    assert (report.state, report.code) == ("refused", "signature")
    assert report.active is not None
    assert report.active.version == "1.0.0"


def test_an_expired_timestamp_freezes_updates_until_it_is_renewed(device: Device, publisher: Publisher) -> None:
    publisher.release("1.0.0")
    device.settle("1.0.0")
    publisher.release("1.1.0")
    device.clock.at = NOW + dt.timedelta(days=8)
    report = device.settle("1.1.0")
    assert (report.state, report.code) == ("refused", "expired")
    assert report.active is not None
    assert report.active.version == "1.0.0"
    refresh_timestamp(publisher.repo, publisher.keys, device.clock.at)
    assert device.settle().state == "active"


def test_a_clock_in_1970_does_not_make_expired_metadata_fresh(device: Device, publisher: Publisher) -> None:
    publisher.release("1.0.0")
    device.clock.at = NOW + dt.timedelta(days=6)
    assert device.settle("1.0.0").state == "active"
    device.clock.at = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
    publisher.release("1.1.0", now=NOW - dt.timedelta(days=2))  # expires a day before what the box knows to be past
    report = device.settle("1.1.0")
    assert (report.state, report.code) == ("refused", "expired")


def test_an_older_state_of_the_repository_is_refused(device: Device, publisher: Publisher, tmp_path: Path) -> None:
    publisher.release("1.0.0")
    shutil.copytree(publisher.repo, tmp_path / "old")
    publisher.release("1.1.0")
    device.settle("1.1.0")
    shutil.rmtree(publisher.repo)
    shutil.copytree(tmp_path / "old", publisher.repo)
    report = device.settle("1.0.0")
    assert (report.state, report.code) == ("refused", "rollback")
    assert report.active is not None
    assert report.active.version == "1.1.0"


def test_an_older_snapshot_under_a_newer_timestamp_is_refused(device: Device, publisher: Publisher) -> None:
    """Mix and match by somebody who holds the timestamp key only."""
    publisher.release("1.0.0")
    old = (publisher.repo / "metadata" / "timestamp.json").read_bytes()
    publisher.release("1.1.0")
    device.settle("1.1.0")
    from tuf.api.metadata import Metadata

    forged = Metadata.from_bytes(old)
    forged.signed.version = 99
    forged.sign(load_key(publisher.keys, "timestamp"))
    (publisher.repo / "metadata" / "timestamp.json").write_bytes(forged.to_bytes())
    report = device.settle("1.0.0")
    assert (report.state, report.code) == ("refused", "rollback")


def test_the_way_back_is_open_without_a_new_download(device: Device, publisher: Publisher, site: Site) -> None:
    """A rollback that the registry wishes: the retired bundle is tried again and becomes active."""
    first = publisher.release("1.0.0")
    device.settle("1.0.0")
    publisher.release("1.1.0", Content("lung_lesion.onnx", "network", b"other"))
    device.settle("1.1.0")
    site.requests.clear()
    report = device.settle("1.0.0")
    assert report.state == "active"
    assert report.active is not None
    assert report.active.digest == first.digest
    assert not [path for path, _ in site.requests if "/targets/" in path]
    assert isinstance(device.trial, ScriptedTrial)
    assert device.trial.tried.count(first.digest) == 2


def test_a_version_that_nobody_published_waits(device: Device, publisher: Publisher) -> None:
    report = device.settle("9.9.9")
    assert (report.state, report.code) == ("refused", "not published")
    publisher.release("9.9.9")
    device.clock.seconds += 1
    assert device.settle().state == "active"


def test_waiting_grows_and_ends_with_a_new_wish(device: Device, publisher: Publisher, site: Site) -> None:
    publisher.release("1.0.0")
    device.shelf.wish("tiny", "9.9.9", NOW)
    updater = device.updater()
    updater.step()
    asked = len(site.requests)
    assert updater.step().code == "not published"
    assert len(site.requests) == asked  # waits, does not hammer
    device.clock.seconds += 15.0
    updater.step()
    assert len(site.requests) > asked
    device.shelf.wish("tiny", "1.0.0", NOW)
    assert updater.step().more


def test_a_newer_wish_supersedes_a_download(device: Device, publisher: Publisher) -> None:
    old = publisher.release("1.0.0", Content("lung_lesion.onnx", "network", WEIGHTS))
    publisher.release("1.1.0")
    device.shelf.wish("tiny", "1.0.0", NOW)
    updater = device.updater()
    updater.step()
    updater.step()
    assert device.shelf.rows[old.digest].state == "fetching"
    device.shelf.wish("tiny", "1.1.0", NOW)
    while updater.step().more:
        pass
    assert device.shelf.rows[old.digest].state == "retired"
    assert device.shelf.rows[old.digest].code == "superseded"
    active = device.shelf.active()
    assert active is not None
    assert active.version == "1.1.0"
    assert not list((device.bundles / STAGING).iterdir())


def test_a_newer_wish_ends_a_trial(device: Device, publisher: Publisher) -> None:
    old = publisher.release("1.0.0")
    publisher.release("1.1.0", Content("lung_lesion.onnx", "network", b"other"))
    device.trial = trial = ScriptedTrial()

    def wish_once() -> None:
        device.shelf.wish("tiny", "1.1.0", NOW)

    trial.during = wish_once
    assert device.settle("1.0.0").state == "active"
    assert device.shelf.rows[old.digest].state == "retired"
    active = device.shelf.active()
    assert active is not None
    assert active.version == "1.1.0"


def test_a_trial_waits_while_a_study_is_analysed(device: Device, publisher: Publisher) -> None:
    publisher.release("1.0.0")
    device.idle = lambda: False
    report = device.settle("1.0.0")
    assert (report.state, report.more) == ("verifying", False)
    assert isinstance(device.trial, ScriptedTrial)
    assert not device.trial.tried
    device.idle = lambda: True
    assert device.settle().state == "active"


def test_trials_that_a_study_ends_do_not_count_against_the_bundle(device: Device, publisher: Publisher) -> None:
    publisher.release("1.0.0")
    device.trial = ScriptedTrial([Verdict("postponed")] * 10)
    assert device.settle("1.0.0", steps=40).state == "active"


def test_a_bundle_that_takes_the_box_down_three_times_is_refused(device: Device, publisher: Publisher) -> None:
    publisher.release("1.0.0")

    class PowerCut(BaseException):
        pass

    def cut() -> None:
        raise PowerCut

    device.trial = ScriptedTrial(during=cut)
    for _ in range(3):
        with pytest.raises(PowerCut):
            device.settle("1.0.0")
    report = device.settle()
    assert (report.state, report.code) == ("refused", "trial cut off")


def test_blobs_that_another_bundle_has_are_not_downloaded(device: Device, publisher: Publisher, site: Site) -> None:
    publisher.release("1.0.0", Content("lung_lesion.onnx", "network", WEIGHTS))
    device.settle("1.0.0")
    site.requests.clear()
    publisher.release("1.1.0", Content("lung_lesion.onnx", "network", WEIGHTS))
    assert device.settle("1.1.0").state == "active"
    assert len([path for path, _ in site.requests if "/targets/blobs/" in path]) == 0


def test_a_blob_that_rotted_on_the_disk_is_not_reused(device: Device, publisher: Publisher, site: Site) -> None:
    first = publisher.bundle("1.0.0", Content("lung_lesion.onnx", "network", WEIGHTS))
    publish_bundle(publisher.repo, publisher.keys, first.folder, NOW)
    device.settle("1.0.0")
    sha256 = first.manifest.file("lung_lesion.onnx").sha256
    installed = device.bundles / first.digest / "blobs" / sha256
    installed.chmod(0o600)
    installed.write_bytes(WEIGHTS[:-1] + b"x")
    publisher.release("1.1.0", Content("lung_lesion.onnx", "network", WEIGHTS))
    report = device.settle("1.1.0")
    assert report.active is not None
    assert report.active.version == "1.1.0"
    open_bundle(device.bundles / report.active.digest)
    assert site.ranges_of(sha256) == ["", ""]


def test_an_interrupted_download_goes_on_where_it_broke(device: Device, publisher: Publisher, site: Site) -> None:
    bundle = publisher.bundle("1.0.0", Content("lung_lesion.onnx", "network", WEIGHTS))
    publish_bundle(publisher.repo, publisher.keys, bundle.folder, NOW)
    sha256 = bundle.manifest.file("lung_lesion.onnx").sha256
    site.cuts[sha256] = [300_000, 200_000]
    assert device.settle("1.0.0").state == "active"
    assert site.ranges_of(sha256) == ["", "bytes=300000-", "bytes=500000-"]


def test_a_stop_leaves_a_download_for_the_next_start(device: Device, publisher: Publisher, site: Site) -> None:
    bundle = publisher.bundle("1.0.0", Content("lung_lesion.onnx", "network", WEIGHTS))
    publish_bundle(publisher.repo, publisher.keys, bundle.folder, NOW)
    sha256 = bundle.manifest.file("lung_lesion.onnx").sha256
    device.shelf.wish("tiny", "1.0.0", NOW)
    partial = device.bundles / STAGING / f"{bundle.digest}.parts" / sha256
    stopped = Updater(
        device.shelf,
        device.client(),
        device.bundles,
        device.trial,
        device.clock,
        stopping=lambda: partial.exists() and partial.stat().st_size > 0,
    )
    stopped.step(), stopped.step(), stopped.step()
    assert device.shelf.rows[bundle.digest].state == "fetching"
    assert device.settle().state == "active"
    assert len(site.ranges_of(sha256)) == 2
    assert site.ranges_of(sha256)[1].startswith("bytes=")


def test_the_link_down_for_hours_loses_nothing(device: Device, publisher: Publisher, site: Site) -> None:
    bundle = publisher.bundle("1.0.0", Content("lung_lesion.onnx", "network", WEIGHTS))
    publish_bundle(publisher.repo, publisher.keys, bundle.folder, NOW)
    sha256 = bundle.manifest.file("lung_lesion.onnx").sha256
    site.cuts[sha256] = [300_000]
    site.failures[sha256] = []
    device.shelf.wish("tiny", "1.0.0", NOW)
    updater = device.updater()
    updater.step(), updater.step()
    site.failures["timestamp.json"] = [503] * 3
    report = updater.step()
    assert (report.state, report.code) == ("fetching", "http")
    device.clock.seconds += 15
    while updater.step().more:
        pass
    assert device.shelf.active() is not None
    assert site.ranges_of(sha256) == ["", "bytes=300000-"]


def test_a_box_without_a_root_of_trust_takes_nothing(device: Device, publisher: Publisher) -> None:
    publisher.release("1.0.0")
    (device.state / "tuf" / "root.json").unlink()
    report = device.settle("1.0.0")
    assert (report.state, report.code) == ("refused", "no root")


def test_every_refusal_says_what_to_do(device: Device) -> None:
    with pytest.raises(ReleaseRefused) as refused:
        device.client().find("tiny", "1.0.0")
    assert "central team" in refused.value.remedy()
