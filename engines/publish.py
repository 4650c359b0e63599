"""Sign and publish bundles: the repository side of The Update Framework (TUF 1.0, python-tuf's metadata API).

    metadata/1.root.json  N.targets.json  N.snapshot.json  timestamp.json
    targets/bundles/<name>/<version>/<sha256>.manifest.json
    targets/blobs/<sha256>.<sha256>

Any web server can serve the folder; devices trust signatures, not servers. Four Ed25519 keys, one a role:

| role | signs | expires after | where its key belongs |
|---|---|---|---|
| root | which keys are the others | 365 days | offline: a safe; needed for `renew_root` only |
| targets | which bundles exist, with SHA-256 and size | 180 days | with the person who releases models |
| snapshot | which targets.json is the newest | 30 days | beside the repository |
| timestamp | which snapshot.json is the newest | 7 days | beside the repository; `refresh_timestamp` daily |

A device that meets an expired file takes nothing new and keeps what it has; so the shortest of these is how long an
attacker (or a forgotten cron job) can hide a withdrawal from it.

A client never sees half a release: files first, then targets, snapshot, and timestamp last, each durable and under a
new name but the timestamp, whose replacement is the moment of publication. A crash before it leaves files that nobody
refers to; publishing again overwrites them.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (  # type: ignore[attr-defined]
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError

from core import durable
from core.errors import OneScanError
from engines import archive
from engines.bundle import BLOBS, MANIFEST, Bundle, open_bundle

ROLES = ("root", "targets", "snapshot", "timestamp")
LIFE = {
    "root": dt.timedelta(days=365),
    "targets": dt.timedelta(days=180),
    "snapshot": dt.timedelta(days=30),
    "timestamp": dt.timedelta(days=7),
}
_READABLE = 0o644  # served by a web server that runs as somebody else
_FOLDER = 0o755
_Role = TypeVar("_Role", Root, Targets, Snapshot, Timestamp)


class PublishRefused(OneScanError):
    """A bundle or a repository is not in a state to be signed. Nothing that devices see was changed."""

    default_remedy = "Correct what is named here and publish again; a repeated publication is harmless."


@dataclass(frozen=True)
class PublishedRelease:
    """A bundle as the repository offers it. new: False where it had been published before."""

    name: str
    version: str
    digest: str
    target: str
    targets_version: int
    new: bool


def init_repository(repo: Path, keys: Path, now: dt.datetime | None = None) -> Path:
    """Make keys and first metadata; returns the path of 1.root.json, which devices are provisioned with.

    Goes on where a crash stopped it. PublishRefused if the repository already stands.
    """
    when = now or _now()
    durable.make_folder(keys, 0o700)
    durable.make_folder(repo, _FOLDER)
    with _locked(repo):
        for folder in ("metadata", "targets/blobs", "targets/bundles"):
            durable.make_folder(repo / folder, _FOLDER)
        if (repo / "metadata" / "timestamp.json").exists():
            raise PublishRefused(f"{repo} is a repository already", remedy="Publish into it, or name another folder.")
        signers = {role: _ensure_key(keys, role) for role in ROLES}
        root = Root(version=1, expires=when + LIFE["root"], consistent_snapshot=True)
        for role, signer in signers.items():
            root.add_key(signer.public_key, role)
        _write(repo, "1.root.json", Metadata(root), signers["root"])
        targets = Targets(version=1, expires=when + LIFE["targets"])
        snapshot, timestamp = Snapshot(), Timestamp()
        snapshot.version = timestamp.version = 0  # counted up when they are signed
        _commit(repo, signers, targets, snapshot, timestamp, when)
    return repo / "metadata" / "1.root.json"


def publish_bundle(repo: Path, keys: Path, folder: Path, now: dt.datetime | None = None) -> PublishedRelease:
    """Verify the bundle in `folder`, add its files, sign. The same bundle again changes nothing.

    BundleRefused: the bundle fails a check. PublishRefused: this name and version is taken by another bundle, or a
    key is missing.
    """
    when = now or _now()
    bundle = open_bundle(folder)
    name, version = bundle.manifest.name, bundle.manifest.version
    target = f"bundles/{name}/{version}/{MANIFEST}"
    with _locked(repo):
        timestamp, snapshot, targets = _current(repo)
        if (there := targets.targets.get(target)) is not None:
            if there.hashes["sha256"] != bundle.digest:
                raise PublishRefused(
                    f"{name} {version} is published already, with other content",
                    remedy="A version is never changed: give the bundle a new one.",
                )
            return PublishedRelease(name, version, bundle.digest, target, targets.version, new=False)
        signers = {role: load_key(keys, role) for role in ("targets", "snapshot", "timestamp")}
        for path, entry in _add_files(repo, bundle, target).items():
            targets.targets[path] = entry
        targets.version += 1
        targets.expires = when + LIFE["targets"]
        _commit(repo, signers, targets, snapshot, timestamp, when)
    return PublishedRelease(name, version, bundle.digest, target, targets.version, new=True)


def refresh_timestamp(repo: Path, keys: Path, now: dt.datetime | None = None) -> dt.datetime:
    """Sign the present state anew, so that devices know it is the present one; returns when that expires.

    To be run daily. Signs the snapshot anew too when half its life is over.
    """
    when = now or _now()
    with _locked(repo):
        timestamp, snapshot, targets = _current(repo)
        signer = load_key(keys, "timestamp")
        if snapshot.expires - when < LIFE["snapshot"] / 2:
            signers = {"snapshot": load_key(keys, "snapshot"), "timestamp": signer}
            _commit(repo, signers, targets, snapshot, timestamp, when)
        else:
            _sign_timestamp(repo, signer, snapshot, timestamp, when)
    return when + LIFE["timestamp"]


def renew_root(repo: Path, keys: Path, now: dt.datetime | None = None) -> Path:
    """Sign the next root.json, same keys and a new expiry; devices follow from version to version."""
    when = now or _now()
    with _locked(repo):
        newest = max((repo / "metadata").glob("*.root.json"), key=lambda path: int(path.name.split(".")[0]))
        root = _read(newest, Root)
        root.version += 1
        root.expires = when + LIFE["root"]
        _write(repo, f"{root.version}.root.json", Metadata(root), load_key(keys, "root"))
    return repo / "metadata" / f"{root.version}.root.json"


def load_key(keys: Path, role: str) -> CryptoSigner:
    """The signer of a role from `<keys>/<role>.pem`."""
    path = keys / f"{role}.pem"
    try:
        private = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        remedy = "Name the folder that `onescan-engines init-repository` wrote, or bring the key from its safe."
        raise PublishRefused(f"can't read the {role} key {path}: {error.strerror}", remedy=remedy) from error
    except (ValueError, TypeError) as error:
        raise PublishRefused(f"{path} is not a private key: {error}") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise PublishRefused(f"{path} is not an Ed25519 key")
    return CryptoSigner(private)


def _ensure_key(keys: Path, role: str) -> CryptoSigner:
    path = keys / f"{role}.pem"
    if not path.exists():
        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        durable.write_bytes(path, pem, 0o600)
    return load_key(keys, role)


def _add_files(repo: Path, bundle: Bundle, target: str) -> dict[str, TargetFile]:
    """Copy manifest and blobs to where devices ask for them; what they are in targets.json."""
    entries: dict[str, TargetFile] = {}
    for file in bundle.manifest.files:
        _place(bundle.blob(file.sha256), repo / "targets" / BLOBS / f"{file.sha256}.{file.sha256}", file.sha256)
        path = f"{BLOBS}/{file.sha256}"
        entries[path] = TargetFile(file.size, {"sha256": file.sha256}, path)
    source = bundle.folder / MANIFEST
    place = repo / "targets" / Path(target).parent / f"{bundle.digest}.{MANIFEST}"
    durable.make_folder(place.parent, _FOLDER)
    _place(source, place, bundle.digest)
    custom = {"name": bundle.manifest.name, "version": bundle.manifest.version, "digest": bundle.digest}
    entries[target] = TargetFile(
        source.stat().st_size, {"sha256": bundle.digest}, target, unrecognized_fields={"custom": custom}
    )
    return entries


def _place(source: Path, place: Path, sha256: str) -> None:
    """A durable copy whose content is hashed again on its way: what is signed is what lies there."""
    if place.exists() and _sha256(place) == sha256:
        return
    with source.open("rb") as original, durable.writing(place, _READABLE) as copy:
        shutil.copyfileobj(original, copy, 1 << 20)
    if _sha256(place) != sha256:
        place.unlink()
        raise PublishRefused(f"{source.name} changed while it was published")


def _commit(
    repo: Path,
    signers: dict[str, CryptoSigner],
    targets: Targets,
    snapshot: Snapshot,
    timestamp: Timestamp,
    when: dt.datetime,
) -> None:
    """Sign targets (if its key is here), snapshot, timestamp, in the order in which a client may see them."""
    if "targets" in signers:
        snapshot.meta["targets.json"] = _write(
            repo, f"{targets.version}.targets.json", Metadata(targets), signers["targets"]
        )
    snapshot.version += 1
    snapshot.expires = when + LIFE["snapshot"]
    timestamp.snapshot_meta = _write(repo, f"{snapshot.version}.snapshot.json", Metadata(snapshot), signers["snapshot"])
    _sign_timestamp(repo, signers["timestamp"], snapshot, timestamp, when)


def _sign_timestamp(
    repo: Path, signer: CryptoSigner, snapshot: Snapshot, timestamp: Timestamp, when: dt.datetime
) -> None:
    timestamp.version += 1
    timestamp.expires = when + LIFE["timestamp"]
    _write(repo, "timestamp.json", Metadata(timestamp), signer)


def _write(repo: Path, name: str, metadata: Metadata[_Role], signer: CryptoSigner) -> MetaFile:
    metadata.sign(signer)
    content = metadata.to_bytes()
    durable.write_bytes(repo / "metadata" / name, content, _READABLE)
    return MetaFile(metadata.signed.version, len(content), {"sha256": hashlib.sha256(content).hexdigest()})


def _current(repo: Path) -> tuple[Timestamp, Snapshot, Targets]:
    """What devices see now, found the way they find it: from the timestamp down."""
    folder = repo / "metadata"
    timestamp = _read(folder / "timestamp.json", Timestamp)
    snapshot = _read(folder / f"{timestamp.snapshot_meta.version}.snapshot.json", Snapshot)
    targets = _read(folder / f"{snapshot.meta['targets.json'].version}.targets.json", Targets)
    return timestamp, snapshot, targets


def _read(path: Path, role: type[_Role]) -> _Role:
    try:
        signed = Metadata[_Role].from_bytes(path.read_bytes()).signed
    except OSError as error:
        remedy = "Make it a repository first: `onescan-engines init-repository`."
        raise PublishRefused(f"can't read {path}: {error.strerror}", remedy=remedy) from error
    except (RepositoryError, DeserializationError) as error:
        raise PublishRefused(f"{path} is not TUF metadata: {error}") from error
    if not isinstance(signed, role):
        raise PublishRefused(f"{path} holds {signed.type} metadata")
    return signed


@contextlib.contextmanager
def _locked(repo: Path) -> Iterator[None]:
    """One publisher at a time; the lock goes with the process."""
    if not repo.is_dir():
        raise PublishRefused(f"there is no repository at {repo}", remedy="Make one: `onescan-engines init-repository`.")
    with (repo / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc).replace(microsecond=0)


_RepoOption = Annotated[Path, typer.Option("--repo", help="Repository folder, served by the registry under /tuf/.")]
_KeysOption = Annotated[Path, typer.Option("--keys", help="Folder with the signing keys, one file a role.")]
_JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of sentences.")]


def register(app: typer.Typer) -> None:
    """Add `init-repository`, `publish`, `refresh-timestamp` and `renew-root` to `onescan-engines`."""

    @app.command("init-repository", rich_help_panel="Publish")
    def init_command(repo: _RepoOption, keys: _KeysOption, as_json: _JsonOption = False) -> None:
        """Make a new update repository and its four signing keys.

        Then take root.pem off this machine: it is only needed once a year, by renew-root. Devices are provisioned
        with the printed root file or with its SHA-256.

        Example: `onescan-engines init-repository --repo /srv/tuf --keys /media/safe/keys`
        """
        root = init_repository(repo, keys)
        _say(as_json, {"root": str(root), "sha256": _sha256(root)}, "root of trust {root}\n  sha256 {sha256}")

    @app.command("publish", rich_help_panel="Publish")
    def publish_command(
        bundle: Annotated[Path, typer.Argument(help="Bundle: a folder, or an archive.")],
        repo: _RepoOption,
        keys: _KeysOption,
        as_json: _JsonOption = False,
    ) -> None:
        """Verify a bundle, sign it, and offer it to the devices.

        Offered is not installed: the registry says which device is to run which version. Publishing the same
        bundle again changes nothing.

        Example: `onescan-engines publish my-bundle --repo /srv/tuf --keys /media/safe/keys`
        """
        with archive.opened(bundle) as opened:
            release = publish_bundle(repo, keys, opened.folder)
        text = "{name} {version} is published" if release.new else "{name} {version} was published before"
        _say(as_json, dict(vars(release)), text + "\n  digest {digest}\n  target {target}")

    @app.command("refresh-timestamp", rich_help_panel="Publish")
    def refresh_command(repo: _RepoOption, keys: _KeysOption, as_json: _JsonOption = False) -> None:
        """Sign the present state anew; run it daily, or devices stop taking updates after seven days."""
        _say(as_json, {"expires": refresh_timestamp(repo, keys).isoformat()}, "valid until {expires}")

    @app.command("renew-root", rich_help_panel="Publish")
    def renew_command(repo: _RepoOption, keys: _KeysOption, as_json: _JsonOption = False) -> None:
        """Extend the root of trust by a year; needs root.pem from its safe."""
        _say(as_json, {"root": str(renew_root(repo, keys))}, "next root of trust {root}")


def _say(as_json: bool, fields: dict[str, object], text: str) -> None:
    if as_json:
        typer.echo(json.dumps(fields))
    else:
        Console(highlight=False, soft_wrap=True).print(text.format(**fields))
