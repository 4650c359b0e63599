"""The one way to write a file: temporary name, fsync, rename, fsync the folder.

After `write_bytes` returns, the file is there whole or (after a crash before that) not at all under its name. A full
disk raises `StorageFull`, any other failure `StorageError`; the temporary file is removed in both cases.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from core.errors import StorageError, StorageFull

_FULL = {errno.ENOSPC, errno.EDQUOT}
_TEMPORARY = ".part-"


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def writing(path: Path, mode: int = 0o640) -> Iterator[BinaryIO]:
    """A binary file that appears under `path`, durable and whole, when the block ends without an exception."""
    temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(6)}-{path.name}"[:250])
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        _discard(temporary)
        raise storage_error(path, error) from error
    except BaseException:
        _discard(temporary)
        raise


def write_bytes(path: Path, content: bytes | memoryview, mode: int = 0o640) -> None:
    """Write `content` to `path`, durably and atomically."""
    with writing(path, mode) as file:
        file.write(content)


def write_text(path: Path, content: str, mode: int = 0o640) -> None:
    """Write UTF-8 text to `path`, durably and atomically."""
    write_bytes(path, content.encode(), mode)


def make_folder(path: Path, mode: int = 0o750) -> Path:
    """Make `path` and its parents, durably; no error if it exists."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    try:
        for folder in reversed(missing):
            folder.mkdir(mode=mode, exist_ok=True)
            sync_folder(folder.parent)
    except OSError as error:
        raise storage_error(path, error) from error
    return path


def switch_link(link: Path, target: str) -> None:
    """Point the symbolic link `link` at `target`, atomically: readers see the old or the new one, never none."""
    temporary = link.with_name(f"{_TEMPORARY}{secrets.token_hex(6)}-{link.name}")
    try:
        temporary.symlink_to(target)
        temporary.replace(link)
        sync_folder(link.parent)
    except OSError as error:
        _discard(temporary)
        raise storage_error(link, error) from error


def adopt_folder(staged: Path, final: Path) -> None:
    """Make every file below `staged` durable, then rename the folder to `final` (which must not exist)."""
    try:
        for root, _, names in os.walk(staged):
            for name in names:
                with Path(root, name).open("rb") as file:
                    os.fsync(file.fileno())
            sync_folder(Path(root))
        staged.rename(final)
        sync_folder(final.parent)
    except OSError as error:
        raise storage_error(final, error) from error


def remove_tree(path: Path) -> None:
    """Remove a folder and what is below it; no error if it is gone already."""
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        raise StorageError(f"can't remove {path}")


def sweep(folder: Path, name: str = "*") -> int:
    """Remove the temporary files that a crash left in `folder`; returns how many. Only at start-up.

    name: only those of the file of this name, where others may be writing in the same folder.
    """
    leftovers = list(folder.glob(f"{_TEMPORARY}*-{name}"))
    for path in leftovers:
        _discard(path)
    return len(leftovers)


def _discard(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def storage_error(path: Path, error: OSError) -> StorageError:
    """StorageFull where the disk is full, StorageError otherwise."""
    kind = StorageFull if error.errno in _FULL else StorageError
    return kind(f"can't write {path}: {error.strerror or error}")
