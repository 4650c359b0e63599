"""Enhanced CT through the receiver: sent by dcmtk, by Orthanc and by pynetdicom, read as the analyser reads it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLSLossless, RLELossless

from appliance.choosing import choose
from appliance.imaging.volume import build_volume
from appliance.ports import Handover
from deploy.embedded import OrthancPacs
from tests.appliance.dicom_samples import ct_series, enhanced, part10, write_files
from tests.appliance.intake.stand import Stand, association, push, running, send, storescu, wait_for

COUNT = 24


def image(study: str) -> Dataset:
    return enhanced(ct_series(COUNT, study=study))


def handed_over(stand: Stand) -> Handover:
    ((_, handover),) = wait_for(lambda: stand.reader.handovers_after(0))
    return handover


def assert_read_as_sent(handover: Handover) -> None:
    choice = choose(handover.instances)
    assert choice.refusal is None
    volume = build_volume(choice.series[0].headers)
    assert [int(v) for v in volume.hu[:, 0, 0]] == list(range(COUNT))
    assert np.allclose(volume.geometry.spacing_mm, (2.0, 6.4, 5.6))


def test_dcmtk_sends_one_and_it_is_handed_over_at_once(tmp_path: Path) -> None:
    with running(tmp_path) as stand:
        done = storescu(stand.port, *write_files(tmp_path / "out", [image("dcmtk")]))
        assert done.returncode == 0, done.stderr
        handover = handed_over(stand)
        assert handover.complete_by == "count"
        assert f"{COUNT} slices, 1 of them multi-frame and whole" in handover.explanation
        assert len(handover.instances) == 1
        assert_read_as_sent(handover)


def test_compressed_by_dcmtk(tmp_path: Path) -> None:
    [plain] = write_files(tmp_path / "out", [image("packed")])
    packed = tmp_path / "packed.dcm"
    subprocess.run(["dcmcjpls", "+el", "+fs", "1", str(plain), str(packed)], check=True, timeout=30)
    with running(tmp_path) as stand, association(stand.port, syntax=JPEGLSLossless) as assoc:
        assert send(assoc, tmp_path, packed.read_bytes()).Status == 0
        assoc.release()
        assert_read_as_sent(handed_over(stand))


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[OrthancPacs]:
    with OrthancPacs(tmp_path / "orthanc") as running_pacs:
        yield running_pacs


@pytest.mark.integration
def test_orthanc_sends_one(tmp_path: Path, orthanc: OrthancPacs) -> None:
    done = storescu(orthanc.port, *write_files(tmp_path / "out", [image("orthanc")]), options=["-aec", "ORTHANC"])
    assert done.returncode == 0, done.stderr
    with running(tmp_path / "box") as stand:
        box = orthanc.add_modality("ONESCAN", stand.port)
        [study] = orthanc.rest("/studies", "GET")
        orthanc.rest(f"/modalities/{box}/store", "POST", {"Resources": [study], "Synchronous": True})
        assert_read_as_sent(handed_over(stand))


def test_fewer_pixels_or_fragments_than_frames_are_refused(tmp_path: Path) -> None:
    short, cut = image("short"), image("cut")
    short.PixelData = short.PixelData[:-2]
    cut.PixelData = encapsulate([b"frame"] * (COUNT - 1))
    cut["PixelData"].is_undefined_length = True
    with running(tmp_path) as stand:
        with association(stand.port, syntax=RLELossless) as assoc:
            assert send(assoc, tmp_path, part10(cut, syntax=RLELossless)).Status != 0
        assert push(stand.port, tmp_path, [short]) != [0]
        assert not stand.reader.handovers_after(0)
