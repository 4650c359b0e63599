"""A watched folder: whole parcels come in like pushes, bad files are set aside with a reason, nothing is ever lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import DeflatedExplicitVRLittleEndian, MRImageStorage

from appliance.intake import watched
from appliance.intake.part10 import LONGEST_META, NotDicom, read_meta
from appliance.intake.refusal import InstanceRefused
from appliance.intake.senders import read as read_senders
from appliance.intake.side_doors import SideDoorSettings, Watch
from appliance.intake.watched import AfterImport
from appliance.storage.intake_reader import IntakeReader
from tests.appliance.dicom_samples import ct_series, ct_slice, part10, uid, write_files
from tests.appliance.intake.stand import objects, running, wait_for

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "LOOK_S", 0.05)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "inbox"
    made.mkdir()
    return made


def watching(folder: Path, after: AfterImport = AfterImport.MOVE, settle_s: float = 0.3, **more: Any) -> dict[str, Any]:
    return {"side_doors": SideDoorSettings(watch=Watch(folder, after, settle_s, **more))}


def lying(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("after", AfterImport)
def test_a_study_comes_in_whole_and_its_files_go_where_the_setting_says(
    tmp_path: Path, folder: Path, after: AfterImport
) -> None:
    write_files(folder / "study", ct_series(5))
    with running(tmp_path / "box", **watching(folder, after)) as stand:
        ((_, handover),) = wait_for(lambda: stand.reader.handovers_after(0))
        assert (handover.complete_by, len(handover.instances)) == ("geometry", 5)
        names = {f"study/{n:04d}.dcm" for n in range(5)}
        expected = {AfterImport.MOVE: {f"done/{n}" for n in names}, AfterImport.REMOVE: set(), AfterImport.LEAVE: names}
        wait_for(lambda: lying(folder) == expected[after])
        time.sleep(0.3)  # some looks later it is still so, and nothing came twice
        assert lying(folder) == expected[after]
        assert len(stand.reader.handovers_after(0)) == 1
        assert all(i.extent.read() for i in handover.instances)


def test_what_is_still_being_written_waits_for_its_parcel(tmp_path: Path, folder: Path) -> None:
    series = ct_series(5)
    write_files(folder / "study", series[:3])
    with running(tmp_path / "box", **watching(folder, settle_s=1.0)) as stand:
        growing = folder / "study" / "growing.dcm"
        for count in range(1, 6):  # longer than the time in which nothing may change
            growing.write_bytes(part10(series[3])[: count * 1500])
            time.sleep(0.3)
            assert not stand.reader.studies()
        growing.write_bytes(part10(series[3]))
        (folder / "study" / "last.dcm.part").write_bytes(part10(series[4]))
        (folder / "study" / "last.dcm.part").rename(folder / "study" / "last.dcm")
        ((_, handover),) = wait_for(lambda: stand.reader.handovers_after(0))
        assert len(handover.instances) == 5
    assert not list((folder).glob("refused/**/*"))


def test_a_bad_file_is_set_aside_with_its_reason_and_holds_nobody_up(tmp_path: Path, folder: Path) -> None:
    parcel = folder / "study"
    write_files(parcel, ct_series(4))
    whole = part10(ct_slice(index=4))
    (parcel / "cut.dcm").write_bytes(whole[:-700])
    (parcel / "viewer.exe").write_bytes(b"MZ" + bytes(500))
    (parcel / "empty.dcm").write_bytes(b"")
    (parcel / "mr.dcm").write_bytes(part10(ct_slice(index=5, SOPClassUID=MRImageStorage)))
    (parcel / "deflated.dcm").write_bytes(part10(ct_slice(index=6), syntax=DeflatedExplicitVRLittleEndian))
    (parcel / "other.dcm").write_bytes(part10(ct_slice(index=7), sop_instance=uid("another")))
    (parcel / ".hidden").write_bytes(b"x")
    senders = tmp_path / "senders.json"
    with running(tmp_path / "box", **watching(folder), senders_file=senders) as stand:
        wait_for(lambda: len(lying(folder / "refused")) == 12)
        wait_for(lambda: stand.reader.handovers_after(0))
        assert len(stand.objects()) == 4
        names = ("cut.dcm", "viewer.exe", "empty.dcm", "mr.dcm", "deflated.dcm", "other.dcm")
        bad = {name: (folder / "refused" / "study" / f"{name}.reason.txt").read_text() for name in names}
        assert (folder / "refused" / "study" / "cut.dcm").read_bytes() == whole[:-700]
    assert "no DICOM file" in bad["viewer.exe"]
    assert "SOP class" in bad["mr.dcm"]
    assert "transfer syntax" in bad["deflated.dcm"]
    assert "not the request's" in bad["other.dcm"]
    assert not any("Secret" in text or "4711" in text for text in bad.values())
    assert lying(folder / "study") == {".hidden"}
    (sender,) = read_senders(senders)
    assert (sender.ae_title, sender.instances) == ("WATCHED FOLDER", 4)


def test_names_that_are_taken_get_a_number(tmp_path: Path, folder: Path) -> None:
    with running(tmp_path / "box", **watching(folder)) as stand:
        for index in range(3):
            (folder / "same.dcm").write_bytes(part10(ct_slice(index=index)))
            wait_for(lambda count=index: len(lying(folder / "done")) == count + 1)
        assert lying(folder) == {"done/same.dcm", "done/same.dcm.1", "done/same.dcm.2"}
        assert len(stand.objects()) == 3


def test_below_the_watermark_files_wait_where_they_are(tmp_path: Path, folder: Path) -> None:
    write_files(folder / "study", ct_series(4))
    with running(tmp_path / "box", **watching(folder), min_free_bytes=1 << 62) as stand:
        time.sleep(1.0)
        assert len(lying(folder)) == 4
        stand.role._min_free_bytes = 0
        stand.role._receiver._store.__self__._min_free_bytes = 0  # type: ignore[attr-defined]
        wait_for(lambda: stand.reader.handovers_after(0))


def test_a_medium_that_cannot_be_written_is_read_once_and_left(tmp_path: Path, folder: Path) -> None:
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("can't mount a tmpfs here, which a medium needs that nobody may write")
    try:
        write_files(folder / "study", ct_series(4))
        (folder / "study" / "viewer.exe").write_bytes(b"MZ")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        senders = tmp_path / "senders.json"
        with running(tmp_path / "box", **watching(folder), senders_file=senders) as stand:
            wait_for(lambda: stand.reader.handovers_after(0))
            time.sleep(1.0)  # it is looked at again and again
        assert len(lying(folder)) == 5
        assert read_senders(senders)[0].instances == 4
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_folder_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "stick"
    with running(tmp_path / "box", **watching(folder)) as stand:
        time.sleep(0.3)
        assert stand.role.alive
        write_files(folder / "study", ct_series(4))
        wait_for(lambda: stand.reader.handovers_after(0))


def test_links_are_not_followed(tmp_path: Path, folder: Path) -> None:
    outside = write_files(tmp_path / "outside", ct_series(2))
    (folder / "link.dcm").symlink_to(outside[0])
    (folder / "linked").symlink_to(tmp_path / "outside")
    with running(tmp_path / "box", **watching(folder)) as stand:
        time.sleep(1.0)
        assert not stand.objects()
    assert all(path.exists() for path in outside)


@pytest.mark.parametrize("after", AfterImport)
@pytest.mark.parametrize("kill_at", [1, 9, 25])
def test_nothing_is_lost_by_kill_9(tmp_path: Path, folder: Path, after: AfterImport, kill_at: int) -> None:
    series = ct_series(40)
    write_files(folder / "study", series)
    reader = IntakeReader(tmp_path / "box" / "intake.db", tmp_path / "box" / "spool")
    process = start(tmp_path / "box", folder, after)
    try:
        wait_for(lambda: len(objects(tmp_path / "box" / "spool")) >= kill_at)  # rows may be behind
    finally:
        process.kill()
        process.wait()
    process = start(tmp_path / "box", folder, after)
    try:
        wait_for(lambda: any(s.instances == 40 for s in reader.studies()))
        wait_for(lambda: after is AfterImport.LEAVE or not lying(folder / "study"))
        # Killed when all had come and before it was handed over: then only quiet, a minute here, can complete it.
        ((_, handover),) = wait_for(lambda: reader.handovers_after(0)[-1:], 90)
    finally:
        process.kill()
        process.wait()
    contents = {part10(ds)[-len(ds.PixelData) :] for ds in series}
    assert {i.extent.read()[-len(series[0].PixelData) :] for i in handover.instances} == contents
    assert len(lying(folder)) == (0 if after is AfterImport.REMOVE else 40)
    assert not (folder / "refused").exists()


def start(box: Path, folder: Path, after: AfterImport) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.appliance.intake.watching_process", str(box), str(folder), after.value]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def test_the_meta_information_says_where_the_data_set_begins() -> None:
    ds = ct_slice()
    content = part10(ds)
    meta = read_meta(content)
    assert (meta.sop_class_uid, meta.sop_instance_uid) == (ds.SOPClassUID, ds.SOPInstanceUID)
    assert part10(ds, dataset=b"")[: meta.offset] + content[meta.offset :] == content
    assert len(part10(ds, dataset=b"")) == meta.offset
    with pytest.raises(NotDicom):
        read_meta(content[132:])


@settings(max_examples=500)
@given(data=st.data())
def test_damaged_meta_information_is_refused_and_nothing_else(data: st.DataObject) -> None:
    content = bytearray(part10(ct_slice())[:600])
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(128, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        meta = read_meta(bytes(content[: data.draw(st.integers(0, len(content)))]))
    except InstanceRefused:
        return
    assert 132 < meta.offset <= LONGEST_META
