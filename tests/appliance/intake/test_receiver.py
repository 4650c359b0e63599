"""What a sender meets: real senders (dcmtk, pynetdicom) against a running receiver."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import JPEGLosslessSV1, RLELossless

from appliance.study import State
from tests.appliance.dicom_samples import ct_series, ct_slice, encoded, part10, write_files
from tests.appliance.intake.stand import association, push, running, send, storescu, wait_for


def test_echo_from_dcmtk_is_answered(tmp_path: Path) -> None:
    with running(tmp_path) as stand:
        done = subprocess.run(
            ["echoscu", "-aec", "ONESCAN", "127.0.0.1", str(stand.port)], timeout=30, check=False, capture_output=True
        )
        assert done.returncode == 0, done.stderr


def test_a_pushed_series_is_stored_byte_for_byte_and_handed_over_by_geometry(tmp_path: Path) -> None:
    series = ct_series(12)
    paths = write_files(tmp_path / "out", series)
    with running(tmp_path) as stand:
        done = storescu(stand.port, *paths)
        assert done.returncode == 0, done.stderr
        ((_, handover),) = wait_for(lambda: stand.reader.handovers_after(0))
        wait_for(lambda: stand.bell.rung == ["analyser"] * 2)  # at the first slice, and at the hand-over
        assert handover.complete_by == "geometry"
        assert handover.generation == 1
        assert len(handover.instances) == 12
        sent = {ds.SOPInstanceUID: encoded(ds) for ds in series}
        for instance in handover.instances:
            content = instance.extent.read()
            assert content.endswith(sent[instance.sop_instance_uid])
            file = pydicom.dcmread(instance.extent.open())
            assert file.file_meta.SourceApplicationEntityTitle == "SCANNER1"
            assert file.file_meta.MediaStorageSOPInstanceUID == instance.sop_instance_uid
        (study,) = stand.reader.studies()
        assert (study.state, study.instances, study.sender) == (State.COMPLETE, 12, "SCANNER1")


def test_the_same_study_pushed_twice_adds_nothing(tmp_path: Path) -> None:
    series = ct_series(5)
    with running(tmp_path) as stand:
        assert push(stand.port, tmp_path, series) == [0] * 5
        wait_for(lambda: stand.reader.handovers_after(0))
        before = stand.objects()
        assert push(stand.port, tmp_path, series) == [0] * 5
        assert push(stand.port, tmp_path, ct_series(5, study="b")) == [0] * 5
        wait_for(lambda: len(stand.reader.handovers_after(0)) == 2)
        assert [h.study_uid == series[0].StudyInstanceUID for _, h in stand.reader.handovers_after(0)] == [True, False]
        assert set(before) < set(stand.objects())
        assert not stand.duplicates


def test_one_slice_more_is_a_second_generation(tmp_path: Path) -> None:
    series = ct_series(6)
    with running(tmp_path, quiet_seconds=0.5) as stand:
        push(stand.port, tmp_path, series[:5])
        wait_for(lambda: stand.reader.handovers_after(0))
        push(stand.port, tmp_path, series[5:])
        (_, first), (_, second) = wait_for(lambda: len(h := stand.reader.handovers_after(0)) == 2 and h)
        assert (first.generation, second.generation) == (1, 2)
        assert (len(first.instances), len(second.instances)) == (5, 6)
        assert second.received_at == first.received_at
        assert second.complete_by == "quiet"


def test_other_content_under_a_known_uid_is_kept_as_evidence_and_reported(tmp_path: Path) -> None:
    series = ct_series(4)
    with running(tmp_path) as stand:
        push(stand.port, tmp_path, series)
        wait_for(lambda: stand.reader.handovers_after(0))
        first = {one: one.read() for one in stand.objects()}
        changed = ct_slice(index=2, PatientName="Other^Name")
        assert push(stand.port, tmp_path, [changed, changed]) == [0, 0]
        assert stand.duplicates == ["pseudonym"]
        assert len(stand.objects()) == 5
        assert {one: one.read() for one in first} == first
        ((_, report),) = stand.reader.reports_after(0)
        assert (report.kind, report.code) == ("duplicate_content", "SCANNER1")
        assert stand.reader.studies()[0].state is State.COMPLETE
        assert stand.reader.studies()[0].instances == 4


def test_wrong_called_ae_title_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (path,) = write_files(tmp_path / "out", [ct_slice()])
    with running(tmp_path) as stand, caplog.at_level(logging.WARNING):
        done = storescu(stand.port, path, options=["-aec", "SOMEONE"])
        assert done.returncode != 0
        assert "Called AE Title Not Recognized" in done.stderr + done.stdout
        wait_for(lambda: "set ours at the sender" in caplog.text)
        assert storescu(stand.port, path).returncode == 0


def test_calling_ae_title_must_be_on_the_list(tmp_path: Path) -> None:
    with running(tmp_path, calling_ae_titles=("CT1", "CT2")) as stand:
        with association(stand.port, calling="CT3") as assoc:
            assert assoc.is_rejected
        with association(stand.port, calling="CT2") as assoc:
            assert assoc.is_established


TEXT = b"This is a text file that somebody renamed to .dcm. " * 40


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [
        ("truncated in the pixels", part10(ct_slice(), encoded(ct_slice())[:-100]), 0xC001),
        ("truncated in the header", part10(ct_slice(), encoded(ct_slice())[:333]), 0xC001),
        ("truncated before the pixels", part10(ct_slice(), encoded(ct_slice(PixelData=None))), 0xC003),
        ("text file renamed", part10(ct_slice(), TEXT), 0xC000),
        ("0 bytes", part10(ct_slice(), b""), 0xC002),
        ("pixels shorter than declared", part10(ct_slice(PixelData=bytes(100))), 0xC003),
        ("more frames than any float", part10(ct_slice(NumberOfFrames="9" * 308)), 0xC003),
        ("no study UID", part10(ct_slice(StudyInstanceUID=None)), 0xC002),
        ("another SOP Instance UID", part10(ct_slice(), sop_instance="1.2.3.4"), 0xA900),
        ("another SOP Class", part10(ct_slice(), sop_class="1.2.840.10008.5.1.4.1.1.7"), 0xA900),
    ],
)
def test_broken_data_sets_are_refused_and_the_association_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: bytes, status: int
) -> None:
    with running(tmp_path) as stand, association(stand.port) as assoc, caplog.at_level(logging.WARNING):
        answer = send(assoc, tmp_path, content)
        assert f"{answer.Status:04X}" == f"{status:04X}", name
        assert answer.ErrorComment
        assert not stand.objects()
        assert not stand.reader.studies()
        (record,) = [r for r in caplog.records if "instance refused" in r.message]
        assert record.sender == "SCANNER1"
        assert "Push the study again" in record.message
        assert send(assoc, tmp_path, part10(ct_slice())).Status == 0
        assert len(stand.objects()) == 1


def test_text_as_implicit_vr_is_refused(tmp_path: Path) -> None:
    syntax = "1.2.840.10008.1.2"
    with running(tmp_path) as stand, association(stand.port, syntax=syntax) as assoc:
        assert send(assoc, tmp_path, part10(ct_slice(), TEXT, syntax=syntax)).Status == 0xC001
        assert send(assoc, tmp_path, part10(ct_slice(), syntax=syntax)).Status == 0


@pytest.mark.parametrize(("tool", "syntax"), [("+e1", JPEGLosslessSV1), ("rle", RLELossless)])
def test_compressed_images_are_taken_whole_and_refused_cut(tmp_path: Path, tool: str, syntax: str) -> None:
    (plain,) = write_files(tmp_path / "out", [ct_slice()])
    packed = tmp_path / "packed.dcm"
    command = ["dcmcrle"] if tool == "rle" else ["dcmcjpeg", tool]
    subprocess.run([*command, str(plain), str(packed)], check=True, timeout=30)
    whole = packed.read_bytes()
    with running(tmp_path) as stand, association(stand.port, syntax=syntax) as assoc:
        assert send(assoc, tmp_path, whole[:-8]).Status == 0xC001  # the sequence delimiter is missing
        assert send(assoc, tmp_path, whole).Status == 0
        assert pydicom.dcmread(stand.objects()[0].open()).file_meta.TransferSyntaxUID == syntax


def test_no_patient_identity_and_no_uid_reach_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    series = ct_series(4)
    with caplog.at_level(logging.DEBUG), running(tmp_path) as stand:
        push(stand.port, tmp_path, [*series, ct_slice(index=1, PatientName="Other^Secret")])
        with association(stand.port) as assoc:
            send(assoc, tmp_path, part10(ct_slice(index=9), encoded(ct_slice(index=9))[:400]))
        wait_for(lambda: stand.reader.handovers_after(0))
        ours = [r for r in caplog.records if r.name.startswith("appliance")]
        everything = " ".join(f"{r.getMessage()} {r.__dict__}" for r in ours)
        assert "Secret" not in everything
        assert "PID-4711" not in everything
        assert series[0].StudyInstanceUID not in everything
        assert series[0].SOPInstanceUID not in everything
        assert "pseudonym" in everything
