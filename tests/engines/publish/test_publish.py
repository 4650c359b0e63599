"""The repository is never seen half-written, never signs what it did not verify, and never changes a version."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from core import durable
from core.errors import BundleRefused
from engines.bundle import Content
from engines.publish import LIFE, PublishRefused, init_repository, publish_bundle, refresh_timestamp, register
from tests.appliance.update.device import NOW, Publisher


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    (tmp_path / "central").mkdir()
    return Publisher(tmp_path / "central").start()


def _metadata(publisher: Publisher, name: str) -> dict[str, Any]:
    signed: dict[str, Any] = json.loads((publisher.repo / "metadata" / name).read_text())["signed"]
    return signed


def test_keys_are_separate_and_private(publisher: Publisher) -> None:
    files = sorted(publisher.keys.glob("*.pem"))
    assert [f.stem for f in files] == ["root", "snapshot", "targets", "timestamp"]
    assert len({f.read_bytes() for f in files}) == 4
    assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o600}
    assert not list(publisher.repo.rglob("*.pem"))


def test_a_release_lists_every_file_with_hash_and_size(publisher: Publisher) -> None:
    release = publisher.release("1.0.0")
    targets = _metadata(publisher, "2.targets.json")["targets"]
    manifest = targets["bundles/tiny/1.0.0/manifest.json"]
    assert manifest["hashes"] == {"sha256": release.digest}
    assert manifest["custom"] == {"name": "tiny", "version": "1.0.0", "digest": release.digest}
    blobs = [path for path in targets if path.startswith("blobs/")]
    assert len(blobs) == 3
    for path in blobs:
        sha256 = path.split("/")[1]
        content = (publisher.repo / "targets" / "blobs" / f"{sha256}.{sha256}").read_bytes()
        assert hashlib.sha256(content).hexdigest() == sha256
        assert targets[path]["length"] == len(content)


def test_metadata_expires_as_stated(publisher: Publisher) -> None:
    publisher.release("1.0.0")
    for role, name in (("root", "1.root"), ("targets", "2.targets"), ("snapshot", "2.snapshot"), ("timestamp",) * 2):
        expires = dt.datetime.fromisoformat(_metadata(publisher, f"{name}.json")["expires"].replace("Z", "+00:00"))
        assert expires == NOW + LIFE[role]


def test_the_same_bundle_again_changes_nothing(publisher: Publisher) -> None:
    bundle = publisher.bundle("1.0.0")
    first = publish_bundle(publisher.repo, publisher.keys, bundle.folder, NOW)
    before = {p: p.read_bytes() for p in publisher.repo.rglob("*") if p.is_file()}
    again = publish_bundle(publisher.repo, publisher.keys, bundle.folder, NOW)
    assert (first.new, again.new) == (True, False)
    assert again.digest == first.digest
    assert {p: p.read_bytes() for p in publisher.repo.rglob("*") if p.is_file()} == before


def test_a_version_is_never_changed(publisher: Publisher, tmp_path: Path) -> None:
    publisher.release("1.0.0")
    (tmp_path / "other").mkdir()
    other = Publisher(tmp_path / "other").bundle("1.0.0", Content("chest.npz", "golden", b"another volume"))
    with pytest.raises(PublishRefused, match="published already"):
        publish_bundle(publisher.repo, publisher.keys, other.folder, NOW)


def test_a_bundle_that_fails_a_check_is_not_signed(publisher: Publisher) -> None:
    bundle = publisher.bundle("1.0.0")
    bundle.path("chest.npz").chmod(0o600)
    bundle.path("chest.npz").write_bytes(b"the volume's byte!")
    with pytest.raises(BundleRefused):
        publish_bundle(publisher.repo, publisher.keys, bundle.folder, NOW)
    assert _metadata(publisher, "timestamp.json")["version"] == 1


def test_publishing_works_without_the_root_key(publisher: Publisher) -> None:
    (publisher.keys / "root.pem").unlink()
    assert publisher.release("1.0.0").new


def test_a_missing_key_is_said_before_anything_is_written(publisher: Publisher) -> None:
    (publisher.keys / "snapshot.pem").unlink()
    before = sorted(p for p in publisher.repo.rglob("*"))
    with pytest.raises(PublishRefused, match="snapshot key"):
        publisher.release("1.0.0")
    assert sorted(p for p in publisher.repo.rglob("*")) == before


def test_a_repository_is_made_once(publisher: Publisher) -> None:
    with pytest.raises(PublishRefused, match="already"):
        init_repository(publisher.repo, publisher.keys, NOW)


def _whole(publisher: Publisher) -> list[str]:
    """Follow the references down from the timestamp, as a client does: what is missing or wrong."""
    wrong = []
    timestamp = _metadata(publisher, "timestamp.json")
    level = {f"{m['version']}.{name}": m for name, m in timestamp["meta"].items()}
    snapshot_name = next(iter(level))
    snapshot = _metadata(publisher, snapshot_name)
    level |= {f"{m['version']}.{name}": m for name, m in snapshot["meta"].items()}
    for name, meta in level.items():
        content = (publisher.repo / "metadata" / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != meta["hashes"]["sha256"]:
            wrong.append(name)
    targets = _metadata(publisher, next(n for n in level if n.endswith("targets.json")))["targets"]
    for path, target in targets.items():
        folder, _, name = path.rpartition("/")
        file = publisher.repo / "targets" / folder / f"{target['hashes']['sha256']}.{name}"
        if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != target["hashes"]["sha256"]:
            wrong.append(path)
    return wrong


def test_a_client_never_sees_half_a_release(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before any of its writes, the repository is still whole, and publishing again completes it."""
    publisher.release("1.0.0")
    real = durable.writing
    bundle = publisher.bundle("1.1.0", Content("lung_lesion.onnx", "network", b"other"))

    class PowerCut(BaseException):
        pass

    def cutting(after: int) -> Callable[..., Any]:
        left = [after]

        def writing(path: Path, mode: int = 0o640) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise PowerCut
            return real(path, mode)

        return writing

    cuts = 0
    while True:
        monkeypatch.setattr(durable, "writing", cutting(cuts))
        try:
            release = publish_bundle(publisher.repo, publisher.keys, bundle.folder, NOW)
        except PowerCut:
            assert _whole(publisher) == []
            assert _metadata(publisher, "timestamp.json")["version"] == 2
            cuts += 1
            # what was written stays there: the next run finds it
            continue
        break
    assert cuts >= 3
    assert release.new
    assert _whole(publisher) == []
    assert _metadata(publisher, "timestamp.json")["version"] == 3


def test_the_timestamp_is_refreshed_and_the_snapshot_when_it_is_old(publisher: Publisher) -> None:
    publisher.release("1.0.0")
    refresh_timestamp(publisher.repo, publisher.keys, NOW + dt.timedelta(days=1))
    assert _metadata(publisher, "timestamp.json")["meta"]["snapshot.json"]["version"] == 2
    expires = refresh_timestamp(publisher.repo, publisher.keys, NOW + dt.timedelta(days=20))
    assert expires == NOW + dt.timedelta(days=27)
    assert _metadata(publisher, "timestamp.json")["meta"]["snapshot.json"]["version"] == 3
    assert _whole(publisher) == []


def test_the_commands(tmp_path: Path) -> None:
    app = typer.Typer()
    register(app)
    place = ["--repo", str(tmp_path / "repo"), "--keys", str(tmp_path / "keys"), "--json"]
    made = CliRunner().invoke(app, ["init-repository", *place])
    root = json.loads(made.stdout)
    assert hashlib.sha256(Path(root["root"]).read_bytes()).hexdigest() == root["sha256"]
    (tmp_path / "bundles").mkdir()
    bundle = Publisher(tmp_path / "bundles").bundle("1.0.0")
    published = CliRunner().invoke(app, ["publish", str(bundle.folder), *place])
    assert json.loads(published.stdout)["digest"] == bundle.digest
    assert "expires" in CliRunner().invoke(app, ["refresh-timestamp", *place]).stdout
    assert CliRunner().invoke(app, ["renew-root", *place]).stdout.endswith('2.root.json"}\n')
