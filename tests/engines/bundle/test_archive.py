"""A bundle in one file: the same bytes always, and whatever is not exactly that is refused before it is unpacked."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from core.errors import BundleRefused
from engines import archive
from engines.bundle import Bundle, Content, open_bundle, write_bundle

from .drafts import FILES, draft


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "tiny", draft(), FILES)


@pytest.fixture
def packed(bundle: Bundle, tmp_path: Path) -> Path:
    return archive.pack(bundle, tmp_path / "tiny.osb")


def refused(path: Path, digest: str | None = None) -> int:
    """The check that refuses an archive; nothing of it is left behind."""
    target = path.parent / "unpacked"
    with pytest.raises(BundleRefused) as refusal:
        archive.unpack(path, target, digest)
    assert not target.exists()
    assert not list(path.parent.glob(".staged-*"))
    with pytest.raises(BundleRefused) as again, archive.opened(path, digest):
        pass
    assert again.value.check == refusal.value.check
    assert refusal.value.remedy()
    return refusal.value.check


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]


def tar_of(files: dict[str, bytes], path: Path) -> Path:
    """An archive in our form of anything at all."""
    content = b""
    for name, raw in files.items():
        content += archive.header(name, len(raw)) + raw + bytes(-len(raw) % 512)
    path.write_bytes(content + bytes(1024))
    return path


def test_what_was_packed_comes_back(bundle: Bundle, packed: Path, tmp_path: Path) -> None:
    again = archive.unpack(packed, tmp_path / "again", bundle.digest)
    assert again.digest == bundle.digest
    assert again.manifest == bundle.manifest
    assert open_bundle(tmp_path / "again").path("localiser.onnx").read_bytes() == b"the localiser's bytes"


def test_the_same_bundle_gives_the_same_bytes(bundle: Bundle, packed: Path, tmp_path: Path) -> None:
    copy = write_bundle(tmp_path / "copy", draft(), list(reversed(FILES)))
    assert copy.digest != bundle.digest  # the files stand in another order in the manifest
    same = write_bundle(tmp_path / "same", draft(), FILES)
    assert archive.pack(same, tmp_path / "same.osb").read_bytes() == packed.read_bytes()


def test_tar_reads_it(bundle: Bundle, packed: Path) -> None:
    found = members(packed)
    assert next(iter(found)) == "manifest.json"
    assert found["manifest.json"] == (bundle.folder / "manifest.json").read_bytes()
    assert {f"blobs/{f.sha256}" for f in bundle.manifest.files} == set(found) - {"manifest.json"}
    with tarfile.open(packed) as tar:
        assert all((m.mode, m.uid, m.mtime, m.isreg()) == (0o644, 0, 0, True) for m in tar)


def test_files_of_one_content_lie_there_once(tmp_path: Path) -> None:
    twice = [*FILES, Content("second.onnx", "network", FILES[0].source)]
    bundle = write_bundle(tmp_path / "twice", draft(), twice)
    packed = archive.pack(bundle, tmp_path / "twice.osb")
    assert len(members(packed)) == 1 + len(FILES)
    assert archive.unpack(packed, tmp_path / "again").digest == bundle.digest


def test_a_folder_and_an_archive_open_alike(bundle: Bundle, packed: Path) -> None:
    with archive.opened(bundle.folder) as folder, archive.opened(packed) as one:
        assert folder.digest == one.digest
        temporary = one.folder
        assert one.path("chest.npz").read_bytes() == b"a volume's bytes"
    assert not temporary.exists()


def test_an_existing_folder_is_not_overwritten(bundle: Bundle, packed: Path) -> None:
    with pytest.raises(BundleRefused):
        archive.unpack(packed, bundle.folder)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", bytes(10_000), b"\x7fELF" + bytes(600)])
def test_check_11_a_file_that_is_no_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign.osb"
    path.write_bytes(content)
    assert refused(path) == 11


def test_check_11_an_archive_that_begins_with_something_else(packed: Path, tmp_path: Path) -> None:
    files = members(packed)
    path = tmp_path / "other.osb"
    assert refused(tar_of({"../manifest.json": files["manifest.json"]}, path)) == 11
    assert refused(tar_of({"readme": b"", **files}, path)) == 11
    huge = bytearray(archive.header("manifest.json", 5 * 1024 * 1024))
    path.write_bytes(bytes(huge) + bytes(6 * 1024 * 1024))
    assert refused(path) == 11


def test_check_1_and_2_of_its_manifest(packed: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.osb"
    assert refused(tar_of({"manifest.json": b"{"}, path)) == 1
    assert refused(tar_of({"manifest.json": b'{"schema_version": 99}'}, path)) == 2


def test_check_12_an_archive_cut_short_anywhere(packed: Path) -> None:
    whole = packed.read_bytes()
    manifest_end = 512 + len(members(packed)["manifest.json"])
    for length in range(manifest_end + 512, len(whole), 512):
        packed.write_bytes(whole[:length])
        assert refused(packed) == 12
    packed.write_bytes(whole[:manifest_end])
    assert refused(packed) == 12


def test_check_12_something_after_its_end(packed: Path) -> None:
    packed.write_bytes(packed.read_bytes() + b"more")
    assert refused(packed) == 12


def test_check_13_other_names_links_and_orders(packed: Path, tmp_path: Path) -> None:
    whole = packed.read_bytes()
    files = members(packed)
    names = list(files)
    path = tmp_path / "other.osb"
    escaping = {("blobs/../../evil" if name == names[1] else name): raw for name, raw in files.items()}
    swapped = {name: files[name] for name in (names[0], names[2], names[1], *names[3:])}
    for wrong in (escaping, swapped):
        tar_of(wrong, path)
        assert path.stat().st_size == len(whole)
        assert refused(path) == 13
    link = bytearray(whole)
    first = 512 + -(-len(files["manifest.json"]) // 512) * 512
    link[first + 156 : first + 157] = b"2"  # a symbolic link
    path.write_bytes(link)
    assert refused(path) == 13
    hidden = bytearray(whole)
    hidden[-1] = 1  # in the end
    path.write_bytes(hidden)
    assert refused(path) == 13


def test_check_5_a_blob_with_a_flipped_bit(packed: Path) -> None:
    raw = bytearray(packed.read_bytes())
    at = raw.index(b"the localiser's bytes")
    raw[at] ^= 1
    packed.write_bytes(raw)
    assert refused(packed) == 5


def test_check_8_another_bundle_than_was_asked_for(packed: Path) -> None:
    assert refused(packed, "0" * 64) == 8
