"""Pixels to HU, slices to a volume; compared with pydicom on synthetic and on real data."""

from __future__ import annotations

import dataclasses
import io
import shutil
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import apply_rescale
from pydicom.uid import ImplicitVRLittleEndian, JPEG2000Lossless

from appliance.imaging.decode import decode_slice, stored_values, to_hu
from appliance.imaging.header import read_header
from appliance.imaging.select import select
from appliance.imaging.volume import build_volume
from core.errors import InputRefused
from core.extent import Extent
from core.finding import Reason
from tests.appliance.dicom_samples import ct_series, ct_slice, part10, write_files
from tests.appliance.dicom_samples import stored_values as sample_values


def decoded(folder: Path, **changes: Any) -> np.ndarray:
    (path,) = write_files(folder, [ct_slice(**changes)])
    return decode_slice(read_header(Extent(path)))


def test_header_values(tmp_path: Path) -> None:
    (path,) = write_files(tmp_path, [ct_slice(index=3, GantryDetectorTilt="")], syntax=ImplicitVRLittleEndian)
    header = read_header(Extent(path))
    assert header.position == (-20.0, -30.0, 6.0)
    assert header.pixel_spacing_mm == (6.4, 5.6)
    assert (header.rows, header.columns, header.kernel, header.age_years, header.sex) == (64, 64, "B30F", 57, "F")
    assert header.tilt_degrees is None
    assert "PID-4711" not in repr(header)
    assert header.study_uid not in repr(header)


@pytest.mark.parametrize(
    ("age", "born", "years"),
    [("057Y", None, 57), ("018M", None, 1), ("006W", None, 0), (None, "19690311", 57), (None, "19691211", 56),
     ("abc", None, None), (None, "20990101", None)],
)  # fmt: skip
def test_age_in_years(tmp_path: Path, age: str | None, born: str | None, years: int | None) -> None:
    changes = {"PatientAge": age, **({"PatientBirthDate": born} if born else {})}
    with pydicom.config.disable_value_validation():
        (path,) = write_files(tmp_path, [ct_slice(**changes)])
    assert read_header(Extent(path)).age_years == years


@pytest.mark.parametrize("content", [b"", b"text\n" * 100, part10(ct_slice())[:200]])
def test_a_broken_file_is_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(content)
    with pytest.raises(InputRefused) as refused:
        read_header(Extent(path))
    assert refused.value.reason is Reason.UNREADABLE


def test_integer_rescale(tmp_path: Path) -> None:
    assert (decoded(tmp_path) == np.maximum(sample_values(0).astype(int) - 1024, -1024)).all()


def test_fractional_rescale_is_rounded(tmp_path: Path) -> None:
    expected = np.clip(np.rint(sample_values(0) * 0.5 - 100.25), -1024, 32767)
    assert (decoded(tmp_path, RescaleSlope=0.5, RescaleIntercept=-100.25) == expected).all()


def test_beyond_int16_is_clipped_not_wrapped(tmp_path: Path) -> None:
    values = np.full((64, 64), 65535, np.uint16)
    hu = decoded(tmp_path, PixelData=values.tobytes(), BitsStored=16, HighBit=15)
    assert (hu == 32767).all()
    assert hu.dtype == np.int16


def _signed(values: np.ndarray, **more: Any) -> dict[str, Any]:
    changes = {"PixelRepresentation": 1, "RescaleIntercept": 0, "BitsStored": 16, "HighBit": 15}
    return {**changes, "PixelData": values.astype("<i2").tobytes(), **more}


def test_padding_reads_as_air(tmp_path: Path) -> None:
    values = np.full((64, 64), 40)
    values[0] = -2000
    values[1] = -900
    hu = decoded(tmp_path, **_signed(values, PixelPaddingValue=-900))
    assert (hu[0] == -1024).all()
    assert (hu[1] == -1024).all()
    assert (hu[2:] == 40).all()


def test_a_padding_value_that_is_tissue_is_ignored(tmp_path: Path) -> None:
    values = np.zeros((64, 64))
    assert (decoded(tmp_path, **_signed(values, PixelPaddingValue=0)) == 0).all()


def test_twelve_signed_bits_that_were_not_extended(tmp_path: Path) -> None:
    values = np.full((64, 64), 30)
    values[0] = -1000
    hu = decoded(tmp_path, **_signed(values & 0xFFF, BitsStored=12, HighBit=11))
    assert (hu[0] == -1000).all()
    assert (hu[1:] == 30).all()


@pytest.mark.parametrize("command", [["dcmcjpeg", "+e1"], ["dcmcjpeg", "+el"], ["dcmcjpls"], ["dcmcrle"]])
def test_lossless_syntaxes_decode_to_the_same_pixels(tmp_path: Path, command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed (Debian package dcmtk)")
    (plain,) = write_files(tmp_path, [ct_slice()])
    packed = tmp_path / "packed.dcm"
    subprocess.run([*command, str(plain), str(packed)], check=True, timeout=30)
    header = read_header(Extent(packed))
    assert header.transfer_syntax != read_header(Extent(plain)).transfer_syntax
    assert (decode_slice(header) == decode_slice(read_header(Extent(plain)))).all()


def test_jpeg_2000_decodes_to_the_same_pixels(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(sample_values(0)).save(buffer, "JPEG2000", irreversible=False, no_jp2=True)
    ds = ct_slice()
    ds.PixelData = encapsulate([buffer.getvalue()])
    ds["PixelData"].is_undefined_length = True
    path = tmp_path / "j2k.dcm"
    path.write_bytes(part10(ds, syntax=JPEG2000Lossless))
    assert (stored_values(read_header(Extent(path))) == sample_values(0)).all()


@pytest.mark.parametrize("command", [["dcmcjpeg", "+e1"], ["dcmcjpls"], ["dcmcrle"]])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_cut_stream_is_unreadable_never_filled_in(tmp_path: Path, command: list[str], kept: float) -> None:
    (plain,) = write_files(tmp_path, [ct_slice()])
    packed = tmp_path / "packed.dcm"
    subprocess.run([*command, str(plain), str(packed)], check=True, timeout=30)
    ds = pydicom.dcmread(packed)
    frame = next(generate_frames(ds.PixelData, number_of_frames=1))
    ds.PixelData = encapsulate([frame[: int(len(frame) * kept)]])
    ds["PixelData"].is_undefined_length = True
    ds.save_as(packed)
    with pytest.raises(InputRefused) as refused:
        decode_slice(read_header(Extent(packed)))
    assert refused.value.reason is Reason.UNREADABLE


def test_pixels_that_no_decoder_takes_are_unreadable(tmp_path: Path) -> None:
    (path,) = write_files(tmp_path, [ct_slice(PixelData=bytes(100))])
    with pytest.raises(InputRefused) as refused:
        decode_slice(read_header(Extent(path)))
    assert refused.value.reason is Reason.UNREADABLE


def test_slices_stand_where_the_geometry_says(tmp_path: Path) -> None:
    headers = [read_header(Extent(p)) for p in write_files(tmp_path, ct_series(12, spacing=2.5)[::-1])]
    seen: list[tuple[int, int]] = []
    volume = build_volume(headers, progress=lambda done, of: seen.append((done, of)))
    assert [int(v) for v in volume.hu[:, 0, 0]] == list(range(12))
    assert volume.geometry.spacing_mm == (2.5, 6.4, 5.6)
    assert volume.geometry.is_axial()
    assert tuple(volume.geometry.to_patient((11, 0, 0))) == (-20.0, -30.0, 27.5)
    assert seen == [(i + 1, 12) for i in range(12)]


@pytest.mark.parametrize(
    ("orientation", "axes"),
    [
        ([-1, 0, 0, 0, -1, 0], ((0, 0, 1), (0, -1, 0), (-1, 0, 0))),  # prone
        ([1, 0, 0, 0, -1, 0], ((0, 0, 1), (0, -1, 0), (1, 0, 0))),  # rows upside down: the normal points down
    ],
)
def test_z_grows_to_superior_however_the_patient_lies(tmp_path: Path, orientation: list[int], axes: Any) -> None:
    paths = write_files(tmp_path, ct_series(12, ImageOrientationPatient=orientation))
    volume = build_volume([read_header(Extent(p)) for p in paths])
    assert [int(v) for v in volume.hu[:, 0, 0]] == list(range(12))
    assert np.allclose(volume.geometry.axes, axes)


def test_a_gap_is_refused_here_again(tmp_path: Path) -> None:
    headers = [read_header(Extent(p)) for p in write_files(tmp_path, ct_series(14))]
    with pytest.raises(InputRefused) as refused:
        build_volume(headers[:6] + headers[7:])
    assert refused.value.reason is Reason.MISSING_SLICES


def test_memory_stays_at_one_volume_and_some_slices(tmp_path: Path) -> None:
    headers = [read_header(Extent(p)) for p in write_files(tmp_path, ct_series(60))]
    volume_bytes, slice_bytes = 60 * 64 * 64 * 2, 64 * 64 * 2
    build_volume(headers)
    tracemalloc.start()
    build_volume(headers)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < volume_bytes + 20 * slice_bytes


def test_a_volume_beyond_the_limit_is_refused_before_room_is_made_for_it(tmp_path: Path) -> None:
    slices = ct_series(12, SeriesNumber=3, Rows=40_000, Columns=40_000)  # the pixels for it need not be there
    headers = [read_header(Extent(p)) for p in write_files(tmp_path, slices)]
    tracemalloc.start()
    with pytest.raises(InputRefused) as refused:
        build_volume(headers)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.value.reason is Reason.MEMORY
    assert "series 3: a volume of 12x40000x40000 voxels takes 36621 MiB, at most 2048" in str(refused.value)
    assert "analyser.max_volume_mb" in refused.value.remedy()
    assert peak < 16 << 20


def test_a_volume_of_just_the_limit_is_read(tmp_path: Path) -> None:
    headers = [read_header(Extent(p)) for p in write_files(tmp_path, ct_series(12))]
    size = 12 * 64 * 64 * 2
    assert build_volume(headers, most_bytes=size).hu.nbytes == size
    with pytest.raises(InputRefused):
        build_volume(headers, most_bytes=size - 1)


@pytest.mark.parametrize(("rows", "columns"), [(0, 64), (64, 0), (-64, -64)])
def test_an_image_without_area_is_unreadable(tmp_path: Path, rows: int, columns: int) -> None:
    (path,) = write_files(tmp_path, [ct_slice()])
    with pytest.raises(InputRefused) as refused:
        decode_slice(dataclasses.replace(read_header(Extent(path)), rows=rows, columns=columns))
    assert refused.value.reason is Reason.UNREADABLE


@pytest.mark.parametrize(
    ("slope", "intercept"), [("1e308", "0"), ("-1e39", "0"), ("1", "1e18"), ("0.5", "-1e39"), ("1001", "0")]
)
def test_a_rescale_beyond_all_measure_is_refused(tmp_path: Path, slope: str, intercept: str) -> None:
    paths = write_files(tmp_path, ct_series(12, RescaleSlope=slope, RescaleIntercept=intercept))
    headers = [read_header(Extent(p)) for p in paths]
    selection = select(headers)
    assert (selection.reason, "beyond all measure" in selection.detail) == (Reason.UNREADABLE, True)
    with pytest.raises(InputRefused) as refused:
        decode_slice(headers[0])
    assert refused.value.reason is Reason.UNREADABLE


@pytest.mark.parametrize("slope", [1.0, 999.5, -999.5, 1e-300])
@pytest.mark.parametrize("intercept", [0.0, -1e6, 1e6, 0.5])
def test_no_rescale_that_is_taken_overflows(tmp_path: Path, slope: float, intercept: float) -> None:
    (path,) = write_files(tmp_path, [ct_slice()])
    header = dataclasses.replace(read_header(Extent(path)), rescale_slope=slope, rescale_intercept=intercept)
    stored = np.array([[0, 1, 32767, 65535]], np.uint16)
    hu = to_hu(stored, header)
    exact = np.clip(np.rint(stored * slope + intercept), -1024, 32767)
    assert np.abs(hu - exact).max() <= 1


def test_rescale_of_any_value_agrees_with_pydicom(tmp_path: Path) -> None:
    (path,) = write_files(tmp_path, [ct_slice()])
    header = read_header(Extent(path))
    stored = np.arange(0, 4096, dtype=np.uint16).reshape(64, 64)
    for slope, intercept in ((1.0, -1024.0), (0.25, -1000.0), (2.0, -1024.5)):
        ours = to_hu(stored, dataclasses.replace(header, rescale_slope=slope, rescale_intercept=intercept))
        assert np.abs(ours - np.clip(stored * slope + intercept, -1024, 32767)).max() <= 0.5


def test_the_real_chest_becomes_a_volume(real_data: Path) -> None:
    paths = sorted((real_data / "lungpetctdx_A0001_chest_5mm_B").glob("*.dcm"))
    selection = select([read_header(Extent(p)) for p in paths])
    assert selection.chosen is not None
    volume = build_volume(selection.chosen)
    assert volume.geometry.shape == (64, 512, 512)
    assert volume.geometry.spacing_mm == (5.0, 0.841796875, 0.841796875)
    assert volume.geometry.origin_mm == pytest.approx((-228.036842, -93.0631599, -439.0))
    assert volume.geometry.is_axial()
    truth = sorted((pydicom.dcmread(p) for p in paths), key=lambda ds: float(ds.ImagePositionPatient[2]))
    for z, ds in enumerate(truth):
        assert (volume.hu[z] == np.maximum(apply_rescale(ds.pixel_array, ds), -1024)).all()


def test_the_real_tilted_head_is_refused_for_its_tilt(real_data: Path) -> None:
    folder = real_data / "dcm_qa_ct_GE_tilt"
    selection = select([read_header(Extent(p)) for p in sorted(folder.rglob("*")) if p.is_file()])
    assert selection.chosen is None
    assert selection.reason is Reason.GANTRY_TILT
    assert "18.5 degrees" in selection.detail
