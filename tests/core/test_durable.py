"""A durable write is there whole or not at all, and a full disk says so."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import durable
from core.errors import StorageError, StorageFull


def test_a_written_file_has_its_content_and_mode(tmp_path: Path) -> None:
    durable.write_bytes(tmp_path / "a", b"content", mode=0o600)
    assert (tmp_path / "a").read_bytes() == b"content"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_an_exception_inside_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    durable.write_text(tmp_path / "a", "old")

    def interrupted() -> None:
        with durable.writing(tmp_path / "a") as file:
            file.write(b"half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert (tmp_path / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_missing_folder_is_a_storage_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="missing/a"):
        durable.write_bytes(tmp_path / "missing" / "a", b"")


def test_a_link_switches_and_a_tree_is_adopted(tmp_path: Path) -> None:
    staged = tmp_path / "staged" / "inner"
    staged.mkdir(parents=True)
    (staged / "file").write_bytes(b"x")
    durable.adopt_folder(tmp_path / "staged", tmp_path / "final")
    assert (tmp_path / "final/inner/file").read_bytes() == b"x"
    for target in ("one", "two"):
        durable.switch_link(tmp_path / "link", target)
        assert os.readlink(tmp_path / "link") == target


def test_sweep_removes_what_a_crash_left(tmp_path: Path) -> None:
    (tmp_path / ".part-0123-a").write_bytes(b"half")
    (tmp_path / "whole").write_bytes(b"whole")
    assert durable.sweep(tmp_path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["whole"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_full_disk_is_named_and_leaves_nothing_behind(small_disk: Path) -> None:
    durable.write_bytes(small_disk / "first", b"x" * 500_000)
    with pytest.raises(StorageFull) as caught:
        durable.write_bytes(small_disk / "second", b"x" * 900_000)
    assert "Free space" in caught.value.remedy()
    assert [p.name for p in small_disk.iterdir()] == ["first"]
