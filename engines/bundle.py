"""A model bundle on disk, and the numbered checks that it must pass before anything of it is used.

A bundle is a folder: `manifest.json` and `blobs/<sha256>`, nothing else. Its digest is the SHA-256 of the bytes of
manifest.json. `open_bundle` refuses (`BundleRefused.check` is the number):

    1  manifest.json is there, of sane size, and parses: JSON, every field known, present and in range
       (a synthetic bundle with an authorisation is out of range)
    2  its schema_version is one that this release reads (asked before the fields are looked at)
    3  every listed file is there, as a regular file
    4  ... with its listed size
    5  ... and its listed SHA-256
    6  no file is there that the manifest does not list
    7  every name that one part of the manifest uses for another resolves
    8  the digest is the one that was asked for, where the caller knows it

Two more are asked by `engines.parity`, because they run the networks:

    9  golden cases answer for every cancer that the bundle models
    10 this device reproduces them

A bundle in one file (`engines.archive`) has three of its own, 11 to 13, asked before anything of it is unpacked.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from core import durable
from core.errors import BundleRefused
from engines.manifest import SCHEMA_VERSION, FileEntry, Manifest, ManifestDraft, Role

MANIFEST = "manifest.json"
BLOBS = "blobs"
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Bundle:
    """A bundle that passed the checks. digest: SHA-256 of its manifest.json, hex."""

    folder: Path
    manifest: Manifest
    digest: str

    def blob(self, sha256: str) -> Path:
        """Where the file with this SHA-256 lies; KeyError unless the manifest lists it."""
        if all(entry.sha256 != sha256 for entry in self.manifest.files):
            raise KeyError(sha256)
        return self.folder / BLOBS / sha256

    @property
    def networks(self) -> tuple[Path, ...]:
        """Where the ONNX files lie that running the bundle needs: every network's folds."""
        return tuple(self.path(name) for network in self.manifest.networks for name in network.files)

    def path(self, name: str) -> Path:
        """Where the file that the manifest calls `name` lies; KeyError if it lists none."""
        return self.folder / BLOBS / self.manifest.file(name).sha256

    def contents(self) -> tuple[Content, ...]:
        """Its files as another bundle takes them over (`write_bundle`)."""
        return tuple(Content(f.name, f.role, self.folder / BLOBS / f.sha256) for f in self.manifest.files)


@dataclass(frozen=True)
class Content:
    """A file on its way into a bundle: its name and role in the manifest, and where its bytes are."""

    name: str
    role: Role
    source: Path | bytes


def open_bundle(folder: Path, expected_digest: str | None = None) -> Bundle:
    """The bundle in `folder`, all of it read and checked. BundleRefused with the number of the check that failed."""
    raw = _read_manifest(folder)
    manifest = parse_manifest(raw)  # 1, 2
    for entry in manifest.files:
        _check_file(folder, entry)  # 3, 4, 5
    _check_nothing_foreign(folder, manifest.files)  # 6
    if dangling := manifest.unresolved():  # 7
        raise BundleRefused(7, "; ".join(dangling))
    digest = hashlib.sha256(raw).hexdigest()
    if expected_digest is not None and digest != expected_digest:  # 8
        raise BundleRefused(8, f"this is bundle {digest[:12]}, not {expected_digest[:12]}")
    return Bundle(folder, manifest, digest)


def write_bundle(folder: Path, draft: ManifestDraft, files: Sequence[Content]) -> Bundle:
    """Make a bundle in `folder` (which must not exist yet), durably and in one step, and open it."""
    if folder.exists():
        raise BundleRefused(6, f"{folder} exists already", remedy="Choose a new folder or remove the old one first.")
    durable.make_folder(folder.parent)
    staged = folder.with_name(f".staged-{folder.name}")
    if staged.exists():
        durable.remove_tree(staged)  # left by a crash
    try:
        durable.make_folder(staged / BLOBS)
        entries = tuple(_store(staged / BLOBS, content) for content in files)
        manifest = Manifest.model_validate({**draft.model_dump(exclude={"files"}), "files": entries})
        durable.write_bytes(staged / MANIFEST, manifest.to_json())
        open_bundle(staged)
        durable.adopt_folder(staged, folder)
    except ValidationError as error:
        raise BundleRefused(1, _in_words(error)) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return open_bundle(folder)


def parse_manifest(raw: bytes) -> Manifest:
    """Checks 1 and 2 on the bytes of a manifest.json."""
    try:
        fields = json.loads(raw, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise BundleRefused(1, f"{MANIFEST} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise BundleRefused(1, f"{MANIFEST} is not a JSON object")
    if fields.get("schema_version") != SCHEMA_VERSION:
        raise BundleRefused(
            2,
            f"manifest schema version {fields.get('schema_version')!r}; this release reads {SCHEMA_VERSION}",
            remedy="Update OneScan on this device, or publish the bundle for the release that it runs.",
        )
    try:
        return Manifest.model_validate_json(raw)
    except ValidationError as error:
        raise BundleRefused(1, _in_words(error)) from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hex, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def _read_manifest(folder: Path) -> bytes:
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise BundleRefused(1, f"can't read {path}: {error.strerror or error}") from error
    if len(raw) > MAX_MANIFEST_BYTES:
        raise BundleRefused(1, f"{path} is larger than {MAX_MANIFEST_BYTES} bytes")
    return raw


def _check_file(folder: Path, entry: FileEntry) -> None:
    # The name is the hash itself, 64 hex digits by the manifest's pattern: no path can lead out of the folder.
    path = folder / BLOBS / entry.sha256
    try:
        status = path.lstat()
    except OSError as error:
        raise BundleRefused(3, f"{entry.name} ({entry.sha256[:12]}) is missing") from error
    if not stat.S_ISREG(status.st_mode):
        raise BundleRefused(3, f"{entry.name} ({entry.sha256[:12]}) is not a regular file")
    if status.st_size != entry.size:
        raise BundleRefused(4, f"{entry.name} has {status.st_size} bytes instead of {entry.size}")
    try:
        actual = sha256_of(path)
    except OSError as error:
        raise BundleRefused(5, f"can't read {entry.name}: {error.strerror or error}") from error
    if actual != entry.sha256:
        raise BundleRefused(5, f"{entry.name} is damaged: SHA-256 {actual[:12]} instead of {entry.sha256[:12]}")


def _check_nothing_foreign(folder: Path, entries: Iterable[FileEntry]) -> None:
    allowed = {folder / MANIFEST, folder / BLOBS, *(folder / BLOBS / entry.sha256 for entry in entries)}
    for path in sorted(folder.rglob("*")):
        if path not in allowed:
            raise BundleRefused(6, f"{path.relative_to(folder)} is not in the manifest")


def _store(blobs: Path, content: Content) -> FileEntry:
    raw = content.source if isinstance(content.source, bytes) else content.source.read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    durable.write_bytes(blobs / digest, raw)
    return FileEntry(name=content.name, role=content.role, sha256=digest, size=len(raw))


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field stands twice in one object")
    return fields


def _in_words(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "manifest"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {first['msg']}{more}"
