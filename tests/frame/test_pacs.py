"""The storage SCP takes what dcmtk sends, in order, and refuses what is broken; Orthanc takes the same."""

from __future__ import annotations

import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pynetdicom
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE

from appliance.association import keep_responses
from deploy.embedded import OrthancPacs, StoragePacs


def _slice(number: int, study: str, series: str) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, generate_uid()
    ds.PatientName, ds.PatientID, ds.Modality = "Frame^Test", "FRAME-1", "CT"
    ds.StudyID, ds.StudyDate, ds.StudyTime, ds.AccessionNumber = "1", "20261101", "101500", ""
    ds.SeriesNumber, ds.InstanceNumber = 1, number
    ds.Rows = ds.Columns = 8
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 1
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelData = np.full((8, 8), number, np.int16).tobytes()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    study, series = generate_uid(), generate_uid()
    paths = [tmp_path / f"{number}.dcm" for number in range(1, 6)]
    for number, path in enumerate(paths, 1):
        _slice(number, study, series).save_as(path, enforce_file_format=True)
    return paths


def _storescu(port: int, called: str, *paths: Path) -> int:
    argv = ["storescu", "-aec", called, "127.0.0.1", str(port), *map(str, paths)]
    return subprocess.run(argv, check=False, capture_output=True, timeout=60).returncode


def test_a_series_arrives_whole_and_in_order(pacs: StoragePacs, series: list[Path]) -> None:
    assert _storescu(pacs.port, "PACS", *series) == 0
    sent = [dcmread(path) for path in series]
    assert [one.sop_instance_uid for one in pacs.received] == [ds.SOPInstanceUID for ds in sent]
    kept = [dcmread(one.path) for one in pacs.received]
    assert [ds.PixelData for ds in kept] == [ds.PixelData for ds in sent]
    assert {one.calling_ae_title for one in pacs.received} == {"STORESCU"}


def test_a_repeat_is_seen_and_a_changed_repeat_too(pacs: StoragePacs, series: list[Path]) -> None:
    first = series[0]
    _storescu(pacs.port, "PACS", first)
    _storescu(pacs.port, "PACS", first)
    changed = dcmread(first)
    changed.PixelData = bytes(len(changed.PixelData))
    changed.save_as(first)
    _storescu(pacs.port, "PACS", first)
    assert [(one.repeat, one.changed) for one in pacs.received] == [(False, False), (True, False), (True, True)]


def test_it_refuses_while_it_is_told_to(pacs: StoragePacs, series: list[Path]) -> None:
    pacs.refuse(0xA700)
    assert _storescu(pacs.port, "PACS", series[0]) != 0
    assert (pacs.received, pacs.refusals) == ([], 1)
    pacs.refuse(None)
    assert _storescu(pacs.port, "PACS", *series) == 0
    assert len(pacs.wait_for(lambda received: len(received) == 5)) == 5


def _send_as_is(pacs: StoragePacs, path: Path) -> int:
    """C-STORE the bytes of a file, right or wrong; returns the DICOM status."""
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = ae.associate(pacs.host, pacs.port, ae_title="PACS")
    assert association.is_established
    keep_responses(association)
    status = association.send_c_store(path)
    association.release()
    return int(status.Status)


@pytest.fixture
def raw_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    """pynetdicom then sends a file's data set without looking into it."""
    monkeypatch.setattr(pynetdicom._config, "STORE_SEND_CHUNKED_DATASET", True)


@pytest.mark.usefixtures("raw_sender")
def test_a_data_set_that_ends_early_is_refused(pacs: StoragePacs, series: list[Path]) -> None:
    assert _send_as_is(pacs, series[0]) == 0x0000
    series[1].write_bytes(series[1].read_bytes()[:-20])
    assert _send_as_is(pacs, series[1]) == 0xC000
    assert (len(pacs.received), pacs.refusals) == (1, 1)


@pytest.mark.usefixtures("raw_sender")
def test_a_data_set_with_another_uid_than_its_command_is_refused(pacs: StoragePacs, series: list[Path]) -> None:
    ds = dcmread(series[0])
    ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.save_as(series[0])
    assert _send_as_is(pacs, series[0]) == 0xA900
    assert pacs.received == []


def test_a_wrong_called_ae_title_gets_no_association(pacs: StoragePacs, series: list[Path]) -> None:
    assert _storescu(pacs.port, "SOMEONE", series[0]) != 0
    assert pacs.received == []


def test_it_answers_echo_and_comes_back_on_its_port(pacs: StoragePacs) -> None:
    argv = ["echoscu", "-aec", "PACS", pacs.host, str(pacs.port)]
    assert subprocess.run(argv, check=False, capture_output=True).returncode == 0
    pacs.stop()
    assert subprocess.run(argv, check=False, capture_output=True).returncode != 0
    pacs.start()
    assert subprocess.run(argv, check=False, capture_output=True).returncode == 0


def test_orthanc_takes_the_same_series(orthanc: OrthancPacs, series: list[Path]) -> None:
    assert _storescu(orthanc.port, "ORTHANC", *series) == 0
    sent = {str(dcmread(path).SOPInstanceUID) for path in series}
    held = orthanc.wait_for(lambda tags: sent <= {one["SOPInstanceUID"] for one in tags})
    ours = [one for one in held if one["SOPInstanceUID"] in sent]
    assert {one["InstanceNumber"] for one in ours} == {"1", "2", "3", "4", "5"}


def test_orthanc_asks_for_its_password(orthanc: OrthancPacs) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://{orthanc.host}:{orthanc.http_port}/system", timeout=60)
