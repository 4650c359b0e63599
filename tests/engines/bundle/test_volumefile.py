"""Volumes survive their file, bit for bit, and anything else is refused without being believed."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import EngineError
from core.volume import Geometry, Volume
from engines import volumefile

AXES = ((0.0, 0.0, -1.0), (0.0, 1.0, 0.0), (-1.0, 0.0, 0.0))
GEOMETRY = Geometry((3, 4, 5), (2.5, 0.7, 0.8), (-10.0, 20.5, 3.0), AXES)
HU = np.arange(-30, 30, dtype=np.int16).reshape(3, 4, 5)


def test_a_volume_comes_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "v").write_bytes(volumefile.to_bytes(Volume(HU, GEOMETRY)))
    back = volumefile.read(tmp_path / "v")
    np.testing.assert_array_equal(back.hu, HU)
    assert back.geometry == GEOMETRY


def test_the_same_volume_is_the_same_bytes() -> None:
    assert volumefile.to_bytes(Volume(HU, GEOMETRY)) == volumefile.to_bytes(Volume(HU.copy(), GEOMETRY))


def test_numpy_alone_can_write_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", hu=HU, spacing_mm=(2.5, 0.7, 0.8))
    assert volumefile.read(tmp_path / "v.npz").geometry == Geometry((3, 4, 5), (2.5, 0.7, 0.8), (0, 0, 0))


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize(
    "arrays",
    [
        {"spacing_mm": (1, 1, 1)},
        {"hu": HU},
        {"hu": HU.astype(np.float32), "spacing_mm": (1, 1, 1)},
        {"hu": HU[0], "spacing_mm": (1, 1, 1)},
        {"hu": HU[:0], "spacing_mm": (1, 1, 1)},
        {"hu": HU, "spacing_mm": (1, 0, 1)},
        {"hu": HU, "spacing_mm": (1, np.nan, 1)},
        {"hu": HU, "spacing_mm": (1, 1)},
        {"hu": HU, "spacing_mm": (1, 1, 1), "axes": np.zeros((3, 3))},
        {"hu": np.array([Harmful()], dtype=object), "spacing_mm": (1, 1, 1)},
    ],
)
def test_wrong_arrays_are_refused(tmp_path: Path, arrays: dict[str, Any]) -> None:
    np.savez(tmp_path / "v.npz", **arrays)
    with pytest.raises(EngineError, match="not a volume file"):
        volumefile.read(tmp_path / "v.npz")


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps([1]), volumefile.to_bytes(Volume(HU, GEOMETRY))[:-40]])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "v").write_bytes(content)
    with pytest.raises(EngineError, match="not a volume file"):
        volumefile.read(tmp_path / "v")
    with pytest.raises(EngineError):
        volumefile.read(tmp_path / "missing")


def test_a_file_that_would_unpack_to_more_than_any_scan_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumefile, "MAX_VOXELS", 1000)
    with zipfile.ZipFile(tmp_path / "v", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("hu.npy", bytes(10_000))
    with pytest.raises(EngineError, match="unpacks to more"):
        volumefile.read(tmp_path / "v")
