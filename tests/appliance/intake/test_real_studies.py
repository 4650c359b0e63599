"""Real CT data, pushed by dcmtk's storescu."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pydicom
import pytest

from tests.appliance.intake.stand import running, storescu, wait_for

pytestmark = pytest.mark.skipif(shutil.which("storescu") is None, reason="dcmtk is not installed")


def test_the_real_chest_is_complete_by_geometry(tmp_path: Path, real_data: Path) -> None:
    folder = real_data / "lungpetctdx_A0001_chest_5mm_B"
    with running(tmp_path) as stand:
        done = storescu(stand.port, folder, options=["+sd"])
        assert done.returncode == 0, done.stderr
        ((_, handover),) = wait_for(lambda: stand.reader.handovers_after(0))
        assert handover.complete_by == "geometry"
        sent = {pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID: p for p in folder.glob("*.dcm")}
        assert {i.sop_instance_uid for i in handover.instances} == set(sent)
        for instance in handover.instances:
            ours, theirs = pydicom.dcmread(instance.extent.open()), pydicom.dcmread(sent[instance.sop_instance_uid])
            assert ours == theirs
            data_set = instance.extent.read()[132:]
            meta_length = 12 + ours.file_meta.FileMetaInformationGroupLength
            assert hashlib.sha256(data_set[meta_length:]).hexdigest() == instance.sha256


def test_the_real_tilted_head_is_complete_only_by_quiet(tmp_path: Path, real_data: Path) -> None:
    with running(tmp_path, quiet_seconds=0.5) as stand:
        done = storescu(stand.port, real_data / "dcm_qa_ct_GE_tilt", options=["+sd", "+r"])
        assert done.returncode == 0, done.stderr
        ((_, handover),) = wait_for(lambda: stand.reader.handovers_after(0))
        assert handover.complete_by == "quiet"
        assert "gantry tilt" in handover.explanation
        assert len(handover.instances) == 28
