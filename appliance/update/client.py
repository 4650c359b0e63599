"""Get a release from the TUF repository: trust first, bytes second.

`find`, the client workflow of the TUF specification (section 5), by python-tuf:
    1  start from the root of trust that provisioning left in tuf/root.json, follow newer roots
    2  timestamp, snapshot, targets: signed, not expired at the trusted time, never older than what was seen before,
       and belonging together; what was seen is durable in tuf/metadata/
    3  the wanted manifest is listed, and its custom fields name this bundle and this digest

`fetch`, into bundles/.staging/<digest>/:
    4  the manifest, with the signed length and hash
    5  every blob that it lists: kept from an earlier try, or taken from another installed bundle, or downloaded with
       resume; each hashed before it counts
    6  the whole folder passes `engines.bundle.open_bundle` with the signed digest
    7  made durable and renamed to bundles/<digest>

A corrupt download is fetched once more from its start before the bundle is blamed: partial files may hold what a power
cut left of them.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]
from tuf.ngclient import Updater as TufUpdater  # type: ignore[attr-defined]

from appliance.update.fetcher import Fetcher, forget, sha256_of
from appliance.update.trusted_time import TrustedTime
from core import durable
from core.errors import BundleRefused, OneScanError, StorageFull, UpdateRefused
from engines.bundle import BLOBS, MANIFEST, open_bundle, parse_manifest
from engines.manifest import FileEntry, Manifest

logger = logging.getLogger(__name__)

STAGING = ".staging"
_RESERVE = 256 * 1024 * 1024  # bytes that a download never takes from the disk
_CORRUPT_DOWNLOADS = 2


class UpdatePostponed(OneScanError):
    """The update can't be had now: no link, no disk. It is tried again by itself."""

    default_remedy = "Nothing has to be done if the link is slow or down; else check the registry's address and DNS."

    def __init__(self, code: str, what: str, *, remedy: str | None = None) -> None:
        super().__init__(what, remedy=remedy)
        self.code = code


class ReleaseRefused(UpdateRefused):
    """What the repository offers can't be trusted or is not what is wanted. `code`: the word for the registry."""

    def __init__(self, code: str, what: str, *, remedy: str | None = None) -> None:
        super().__init__(what, remedy=remedy)
        self.code = code


@dataclass(frozen=True)
class Release:
    """A bundle that signed, fresh metadata names."""

    name: str
    version: str
    digest: str
    manifest: TargetFile
    find_blob: Callable[[str], TargetFile | None]  # SHA-256 → what the same metadata says of it


class ReleaseClient:
    """The device's side of the update repository.

    trust: folder with root.json (from provisioning) and metadata/ (what was seen). url: metadata/ and targets/ are
    below it. bundles: where bundles are installed.
    """

    def __init__(self, trust: Path, url: str, bundles: Path, fetcher: Fetcher, time: TrustedTime) -> None:
        self._trust = trust
        self._url = url.rstrip("/")
        self._bundles = bundles
        self._fetcher = fetcher
        self._time = time

    def find(self, name: str, version: str) -> Release:
        """The release with this name and version, by fresh metadata (steps 1 to 3).

        UpdatePostponed: the repository is away. ReleaseRefused: its metadata can't be trusted, or lacks this release.
        """
        tuf = self._refreshed()
        path = f"bundles/{name}/{version}/{MANIFEST}"
        target = tuf.get_targetinfo(path)
        if target is None:
            raise ReleaseRefused("not published", f"{name} {version} is not in the update repository")
        digest = target.hashes.get("sha256", "")
        custom = target.custom or {}  # 3
        if (custom.get("name"), custom.get("version"), custom.get("digest")) != (name, version, digest):
            raise ReleaseRefused("mislabelled", f"the release at {path} is labelled as another one")
        return Release(name, version, digest, target, lambda sha256: tuf.get_targetinfo(f"{BLOBS}/{sha256}"))

    def fetch(self, release: Release, wanted: Callable[[], bool] = lambda: True) -> Path:
        """Install the release (steps 4 to 7); returns its folder. Goes on where an earlier try stopped.

        Raises as `find` does; BundleRefused too; `fetcher.Abandoned` once `wanted` says no; StorageError.
        """
        final = self._bundles / release.digest
        staged = durable.make_folder(self._bundles / STAGING / release.digest)
        durable.make_folder(staged / BLOBS)
        parts = durable.make_folder(self._bundles / STAGING / f"{release.digest}.parts")
        if not _is_whole(final, release.digest):
            manifest = self._fetch_manifest(release, staged, parts, wanted)  # 4
            self._check_room(manifest, staged)
            for entry in manifest.files:
                self._fetch_blob(release, entry, staged / BLOBS / entry.sha256, parts, wanted)  # 5
            open_bundle(staged, release.digest)  # 6
            durable.adopt_folder(staged, final)  # 7
        discard_staged(self._bundles, release.digest)
        return final

    def _refreshed(self) -> TufUpdater:
        try:
            root = (self._trust / "root.json").read_bytes()
        except OSError as error:
            remedy = "Provision this appliance again: `onescan-provision apply`."
            raise ReleaseRefused("no root", f"there is no root of trust: {error.strerror}", remedy=remedy) from error
        cache = durable.make_folder(self._trust / "metadata")
        try:
            tuf = _DurableTuf(str(cache), f"{self._url}/metadata/", fetcher=self._fetcher, bootstrap=root)
            tuf.set_time(self._time)
            tuf.refresh()
        except DownloadError as error:
            raise _postponed(error) from error
        except RepositoryError as error:
            raise _refused(error) from error
        self._time.confirm()
        return tuf

    def _fetch_manifest(self, release: Release, staged: Path, parts: Path, wanted: Callable[[], bool]) -> Manifest:
        path = staged / MANIFEST
        if not path.exists() or sha256_of(path) != release.digest:
            self._download(release.manifest, path, parts / MANIFEST, wanted)
        return parse_manifest(path.read_bytes())

    def _fetch_blob(
        self, release: Release, entry: FileEntry, place: Path, parts: Path, wanted: Callable[[], bool]
    ) -> None:
        if place.exists() and sha256_of(place) == entry.sha256:
            return
        if self._reuse(entry.sha256, place):
            return
        target = release.find_blob(entry.sha256)
        if target is None or target.hashes.get("sha256") != entry.sha256 or target.length != entry.size:
            raise ReleaseRefused("incomplete", f"the repository does not vouch for blob {entry.sha256[:12]}")
        self._download(target, place, parts / entry.sha256, wanted)

    def _reuse(self, sha256: str, place: Path) -> bool:
        """Take the blob from an installed bundle, if one has it unharmed: a hard link costs neither link nor disk."""
        for source in self._bundles.glob(f"*/{BLOBS}/{sha256}"):
            if sha256_of(source) != sha256:
                logger.error("an installed blob is corrupt", extra={"blob": sha256, "bundle": source.parts[-3]})
                continue
            place.unlink(missing_ok=True)
            try:
                os.link(source, place)
                durable.sync_folder(place.parent)
            except OSError:  # another file system, or one without hard links
                durable.write_bytes(place, source.read_bytes())
            return True
        return False

    def _download(self, target: TargetFile, place: Path, partial: Path, wanted: Callable[[], bool]) -> None:
        url = f"{self._url}/targets/{target.get_prefixed_paths()[0]}"
        for _ in range(_CORRUPT_DOWNLOADS):
            try:
                self._fetcher.resume(url, partial, target.length, wanted)
                with partial.open("rb") as file:
                    target.verify_length_and_hashes(file)
            except (LengthOrHashMismatchError, DownloadLengthMismatchError) as error:
                logger.warning("a download is corrupt, dropped", extra={"target": target.path, "why": str(error)})
                forget(partial)
            except DownloadError as error:
                raise _postponed(error) from error
            else:
                partial.replace(place)
                durable.sync_folder(place.parent)
                return
        raise ReleaseRefused("hash mismatch", f"{target.path} is not what was signed, however often it is fetched")

    def _check_room(self, manifest: Manifest, staged: Path) -> None:
        missing = sum(e.size for e in manifest.files if not (staged / BLOBS / e.sha256).exists())
        free = shutil.disk_usage(staged).free
        if free < missing + _RESERVE:
            raise StorageFull(f"the update needs {missing + _RESERVE} bytes, {staged} has {free}")


class _DurableTuf(TufUpdater):
    """python-tuf's client, with durable writes and a time that does not go back.

    Both hooks are inside python-tuf (7.0.1): `tests/appliance/update/test_client.py` fails if they are ever renamed.
    """

    def set_time(self, time: TrustedTime) -> None:
        """What expiry is judged against."""
        self._trusted_set.reference_time = time.now()

    def _persist_file(self, filename: str, data: bytes) -> None:
        """Without fsync a power cut leaves an empty timestamp.json, and with it goes the protection from rollback."""
        durable.write_bytes(Path(filename), data)


def discard_staged(bundles: Path, digest: str) -> None:
    """Remove what a fetch of this bundle left in the staging folder."""
    for name in (digest, f"{digest}.parts"):
        if (bundles / STAGING / name).exists():
            durable.remove_tree(bundles / STAGING / name)


def staged_digests(bundles: Path) -> Iterator[str]:
    """Digests of which something lies in the staging folder."""
    if (bundles / STAGING).is_dir():
        yield from {path.name.removesuffix(".parts") for path in (bundles / STAGING).iterdir()}


def _is_whole(folder: Path, digest: str) -> bool:
    """Whether this bundle is installed already; a damaged copy is put out of the way."""
    if not folder.exists():
        return False
    try:
        open_bundle(folder, digest)
        return True
    except BundleRefused as error:
        logger.error("an installed bundle is damaged, fetching it anew", extra={"why": str(error)})
        durable.remove_tree(folder)
        return False


def _postponed(error: DownloadError) -> UpdatePostponed:
    if isinstance(error, DownloadHTTPError):
        return UpdatePostponed("http", f"the update repository answered {error.status_code}")
    return UpdatePostponed("no link", f"the update repository can't be reached: {error}")


_FAULTS: tuple[tuple[type[RepositoryError], str, str, str | None], ...] = (
    (
        ExpiredMetadataError,
        "expired",
        "the repository's metadata has expired, or somebody holds back newer metadata",
        "Check this box's clock; if it is right, ask the central team to run `onescan-engines refresh-timestamp`.",
    ),
    (BadVersionNumberError, "rollback", "the repository offers older metadata than this box has seen", None),
    (UnsignedMetadataError, "signature", "the repository's metadata is not signed by the keys this box trusts", None),
    (LengthOrHashMismatchError, "mixed", "the repository's metadata files don't belong together", None),
    (RepositoryError, "metadata", "the repository's metadata is damaged", None),
)


def _refused(error: RepositoryError) -> ReleaseRefused:
    for kind, code, what, remedy in _FAULTS:
        if isinstance(error, kind):
            return ReleaseRefused(code, f"{what} ({error})", remedy=remedy)
    raise AssertionError("RepositoryError is the last of _FAULTS") from error
