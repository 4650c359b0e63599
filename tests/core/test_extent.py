"""A stretch of a file reads as a file of its own."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.extent import Extent

WHOLE = bytes(n * 7 % 251 for n in range(40_000))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("extent") / "segment"
    path.write_bytes(WHOLE)
    return path


def test_the_whole_file(file: Path) -> None:
    assert Extent(file).read() == WHOLE


@given(
    offset=st.integers(0, 41_000),
    size=st.none() | st.integers(0, 41_000),
    steps=st.lists(st.tuples(st.integers(0, 45_000), st.sampled_from([0, 1, 2]), st.integers(-1, 20_000)), max_size=8),
)
def test_it_reads_and_seeks_as_those_bytes_in_memory(
    file: Path, offset: int, size: int | None, steps: list[tuple[int, int, int]]
) -> None:
    part = WHOLE[offset:] if size is None else WHOLE[offset : offset + size]
    with Extent(file, offset, size).open() as ours, io.BytesIO(part) as theirs:
        for to, whence, count in steps:
            assert ours.seek(to, whence) == theirs.seek(to, whence)
            assert ours.read(count) == theirs.read(count)
            assert ours.tell() == theirs.tell()
    assert Extent(file, offset, size).read() == part


def test_there_is_nothing_before_the_beginning(file: Path) -> None:
    with Extent(file, 10, 10).open() as part, pytest.raises(OSError, match="before the beginning"):
        part.seek(-1)


def test_an_absent_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Extent(tmp_path / "gone", 1, 1).read()


def test_pydicom_reads_an_object_out_of_a_longer_file(tmp_path: Path) -> None:
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = pydicom.uid.CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "2.25.7"
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    (tmp_path / "log").write_bytes(b"before" + buffer.getvalue() + b"behind")
    with Extent(tmp_path / "log", 6, len(buffer.getvalue())).open() as file:
        assert pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID == "2.25.7"


@pytest.mark.parametrize("extent", [(0, None), (0, 30_000), (100, 20_000), (39_990, None)])
@pytest.mark.parametrize("before", [0, 5, 17_000])
def test_a_false_length_makes_no_room_beyond_what_is_there(
    file: Path, extent: tuple[int, int | None], before: int
) -> None:
    offset, size = extent
    there = WHOLE[offset:][:size]
    with Extent(file, offset, size).open() as window:
        window.read(before)
        tracemalloc.start()
        rest = window.read(1 << 30)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert rest == there[before:]
    assert peak < 1 << 20
