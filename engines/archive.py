"""A bundle as one file, to hand on by disk or by mail: a POSIX ustar archive, uncompressed, in exactly one form.

    manifest.json, then blobs/<sha256> in the order of their names; each under a header that name and size determine;
    zeros to the next 512 bytes; 1024 zeros at the end

So one bundle has one archive, byte for byte, and `tar -xf` gives back the folder. Because nothing in it is free, it is
not parsed as tar files are (long names, links, sparse files, absolute paths): each header is compared with the one that
must stand there. `opened` and `unpack` add to the checks of `engines.bundle` (`BundleRefused.check` is the number):

    11 it is a bundle's archive: it begins with the header of a manifest.json of sane size
    12 its size is the one that its manifest implies: not cut short, nothing after its end. Asked before anything is
       written, so it also bounds what is
    13 it holds the listed files and no others, in their order, each under the one header that fits

Checks 1 and 2 are made on its manifest before 12 and 13, all the others on the unpacked folder.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from core import durable
from core.errors import BundleRefused
from engines.bundle import BLOBS, MANIFEST, MAX_MANIFEST_BYTES, Bundle, open_bundle, parse_manifest
from engines.manifest import Manifest

SUFFIX = ".osb"
"""What the files are called; never asked for: a bundle that is a file is an archive."""
_BLOCK = 512
_END = bytes(2 * _BLOCK)
_CHUNK = 1024 * 1024
_MAX_SIZE = 8**11 - 1
"""Bytes; ustar gives a file's size eleven octal digits."""


def pack(bundle: Bundle, path: Path) -> Path:
    """Write a bundle's archive, durably. The same bundle always gives the same bytes.

    BundleRefused(12) where one of its files is too large for an archive (8 GiB).
    """
    raw = (bundle.folder / MANIFEST).read_bytes()
    durable.make_folder(path.resolve().parent)
    with durable.writing(path) as file:
        file.write(header(MANIFEST, len(raw)) + raw + _padding(len(raw)))
        for sha256, size in _blobs(bundle.manifest):
            file.write(header(f"{BLOBS}/{sha256}", size))
            with bundle.blob(sha256).open("rb") as blob:
                while piece := blob.read(_CHUNK):
                    file.write(piece)
            file.write(_padding(size))
        file.write(_END)
    return path


def unpack(path: Path, folder: Path, expected_digest: str | None = None) -> Bundle:
    """Unpack an archive into `folder`, which must not exist yet; it appears whole and checked, or not at all."""
    if folder.exists():
        raise BundleRefused(6, f"{folder} exists already", remedy="Choose a new folder or remove the old one first.")
    durable.make_folder(folder.resolve().parent)
    with tempfile.TemporaryDirectory(prefix=f".staged-{folder.name}-", dir=folder.resolve().parent) as staged:
        whole = Path(staged) / "bundle"
        _extract(path, whole)
        open_bundle(whole, expected_digest)
        durable.adopt_folder(whole, folder)
    return open_bundle(folder, expected_digest)


@contextlib.contextmanager
def opened(path: Path, expected_digest: str | None = None) -> Iterator[Bundle]:
    """The bundle in a folder, or in an archive, which is unpacked for as long as the block lasts (below TMPDIR)."""
    if not path.is_file():
        yield open_bundle(path, expected_digest)
        return
    with tempfile.TemporaryDirectory(prefix="onescan-bundle-") as temporary:
        folder = Path(temporary) / "bundle"
        _extract(path, folder)
        yield open_bundle(folder, expected_digest)


def header(name: str, size: int) -> bytes:
    """The 512 bytes before a file's content (POSIX.1-1988, ustar): mode 0644, owner root, time 0."""
    if size > _MAX_SIZE:
        raise BundleRefused(12, f"{name} has {size} bytes; an archive holds files of up to 8 GiB")
    fields = (
        name.encode().ljust(100, b"\0"),
        b"0000644\0",
        b"0000000\0",  # uid, gid
        b"0000000\0",
        f"{size:011o}\0".encode(),
        b"00000000000\0",  # time
        b" " * 8,  # the checksum counts itself as blanks
        b"0".ljust(101, b"\0"),  # a regular file, no link
        b"ustar\00000",
        b"root".ljust(32, b"\0") * 2,
        b"0000000\0" * 2,  # device numbers
    )
    block = b"".join(fields).ljust(_BLOCK, b"\0")
    return block[:148] + f"{sum(block):06o}\0 ".encode() + block[156:]


def _extract(path: Path, folder: Path) -> None:
    """Checks 11, 1, 2, 12, 13 of the archive at `path`; its files into the new `folder`."""
    try:
        with path.open("rb") as file:
            raw = _read_manifest(file, path)  # 11
            manifest = parse_manifest(raw)  # 1, 2
            actual, implied = path.stat().st_size, _archive_size(len(raw), manifest)
            if actual != implied:  # 12
                fault = "cut short" if actual < implied else "followed by something else"
                raise BundleRefused(12, f"{path.name} is {fault}: {actual} bytes, its manifest implies {implied}")
            durable.make_folder(folder / BLOBS)
            durable.write_bytes(folder / MANIFEST, raw)
            for sha256, size in _blobs(manifest):
                _copy(file, f"{BLOBS}/{sha256}", size, folder / BLOBS / sha256)
            if file.read() != _END:
                raise BundleRefused(13, f"{path.name} does not end as an archive does")
    except OSError as error:
        raise BundleRefused(11, f"can't read {path}: {error.strerror or error}") from error


def _read_manifest(file: BinaryIO, path: Path) -> bytes:
    first = file.read(_BLOCK)
    try:
        size = int(first[124:135], 8)
    except ValueError:
        size = -1
    if not 0 <= size <= MAX_MANIFEST_BYTES or first != header(MANIFEST, size):
        raise BundleRefused(
            11,
            f"{path.name} is not the archive of a bundle",
            remedy="Give a bundle's folder, or an archive that `onescan-engines pack` made.",
        )
    return _content(file, size, MANIFEST)


def _copy(file: BinaryIO, name: str, size: int, to: Path) -> None:
    if file.read(_BLOCK) != header(name, size):
        raise BundleRefused(13, f"the archive has something else where {name} should stand")
    with durable.writing(to) as out:
        left = size
        while left:
            piece = file.read(min(left, _CHUNK))
            if not piece:
                raise BundleRefused(12, f"the archive ends inside {name}")
            out.write(piece)
            left -= len(piece)
    if file.read(-size % _BLOCK) != _padding(size):
        raise BundleRefused(13, f"the archive has something else after {name}")


def _content(file: BinaryIO, size: int, name: str) -> bytes:
    raw, padding = file.read(size), file.read(-size % _BLOCK)
    if len(raw) + len(padding) != size + (-size % _BLOCK):
        raise BundleRefused(12, f"the archive ends inside {name}")
    if padding != _padding(size):
        raise BundleRefused(13, f"the archive has something else after {name}")
    return raw


def _archive_size(manifest_bytes: int, manifest: Manifest) -> int:
    sizes = [manifest_bytes, *(size for _, size in _blobs(manifest))]
    return sum(_BLOCK + size + (-size % _BLOCK) for size in sizes) + len(_END)


def _blobs(manifest: Manifest) -> list[tuple[str, int]]:
    """(SHA-256, size) of each content, sorted; files of the same content lie there once."""
    return sorted({(entry.sha256, entry.size) for entry in manifest.files})


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)
