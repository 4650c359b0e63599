"""What was answered with success is there: after kill -9, on a full disk, after a stop in the middle of a push."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.intake.segments import records
from appliance.intake.spool import prunable
from appliance.storage.intake_journal import handover_id
from appliance.storage.intake_reader import IntakeReader
from appliance.study import State
from core.extent import Extent
from tests.appliance.dicom_samples import ct_series, ct_slice, encoded, part10
from tests.appliance.intake.stand import association, push, running, send, wait_for

ROOT = Path(__file__).resolve().parents[3]


def start_process(folder: Path, quiet_seconds: float) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-m", "tests.appliance.intake.receiver_process", str(folder), str(quiet_seconds)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


@pytest.mark.parametrize("kill_after", [1, 7, 19])
def test_no_instance_that_was_answered_with_success_is_lost_by_kill_9(tmp_path: Path, kill_after: int) -> None:
    series = ct_series(40)
    process, port = start_process(tmp_path, 60.0)
    succeeded: list[pydicom.Dataset] = []
    reached = threading.Event()

    def scanner() -> None:
        with association(port) as assoc, contextlib.suppress(RuntimeError):  # the receiver is gone
            for ds in series:
                answer = send(assoc, tmp_path, part10(ds)) if assoc.is_established else pydicom.Dataset()
                if answer.get("Status") != 0:
                    return
                succeeded.append(ds)
                if len(succeeded) >= kill_after:
                    reached.set()

    thread = threading.Thread(target=scanner)
    thread.start()
    try:
        assert reached.wait(30)
    finally:
        process.kill()
        process.wait()
        thread.join(120)
    assert kill_after <= len(succeeded) < 40
    (segment,) = (tmp_path / "spool").glob("*.segment")
    stored = [
        (json.loads(r.about)["sha256"], Extent(segment, r.offset, r.size).read()) for r in records(segment)
    ]  # the ledger may be behind
    for ds, (sha256, content) in zip(succeeded, stored, strict=False):
        assert sha256 == hashlib.sha256(encoded(ds)).hexdigest()
        assert content.endswith(encoded(ds))
    assert len(stored) >= len(succeeded)

    process, port = start_process(tmp_path, 60.0)  # the scanner pushes all of it again
    try:
        assert push(port, tmp_path, series) == [0] * 40
        reader = IntakeReader(tmp_path / "intake.db")
        ((_, handover),) = wait_for(lambda: reader.handovers_after(0))
        assert len(handover.instances) == 40
        assert handover.complete_by == "geometry"
    finally:
        process.kill()
        process.wait()
    assert not list((tmp_path / "spool").rglob(".part-*"))


def test_a_study_that_was_being_received_at_the_crash_is_handed_over_after_the_restart(tmp_path: Path) -> None:
    process, port = start_process(tmp_path, 60.0)
    with association(port) as assoc:
        for ds in ct_series(5):
            send(assoc, tmp_path, part10(ds))
        process.kill()
        process.wait()
    (tmp_path / "spool" / ".part-left-by-a-crash").write_bytes(b"half")
    with running(tmp_path, quiet_seconds=0.5) as stand:
        ((_, handover),) = wait_for(lambda: stand.reader.handovers_after(0))
        assert handover.complete_by == "quiet"
        assert len(handover.instances) == 5
    assert not list((tmp_path / "spool").rglob(".part-*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("a full disk needs root, to mount a small tmpfs")
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip(f"can't mount a tmpfs here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_answers_a700_and_goes_on_when_there_is_room(
    tmp_path: Path, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1024 * 1024 - 40 * 1024))
    with running(tmp_path, spool=small_disk / "spool") as stand:
        statuses = push(stand.port, tmp_path, ct_series(12))
        assert 0 in statuses
        assert 0xA700 in statuses
        assert set(statuses) == {0, 0xA700}
        assert len(stand.objects()) == statuses.count(0)
        # A row follows its slice: the spool is durable, and the journal may be behind it for a moment.
        wait_for(lambda: stand.reader.studies()[0].instances == statuses.count(0))
        assert "Free space" in caplog.text
        ballast.unlink()
        assert push(stand.port, tmp_path, ct_series(12)) == [0] * 12
        wait_for(lambda: stand.reader.handovers_after(0))


def fill(ballast: Path) -> None:
    """To the last block, whatever else takes some at the same time."""
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:  # no space left
        while True:
            file.write(bytes(4096))


def test_a_full_disk_under_the_journal_answers_a700(tmp_path: Path, small_disk: Path) -> None:
    (tmp_path / "spool").mkdir()
    with running(small_disk, spool=tmp_path / "spool") as stand:
        assert push(stand.port, tmp_path, [ct_slice(index=0)]) == [0]
        fill(small_disk / "ballast")
        statuses = push(stand.port, tmp_path, ct_series(150)[1:])  # the spool is durable: some rows may be behind
        assert set(statuses) <= {0, 0xA700}
        assert 0xA700 in statuses
        (small_disk / "ballast").unlink()
        assert push(stand.port, tmp_path, ct_series(150)) == [0] * 150
        wait_for(lambda: any(len(h.instances) == 150 for _, h in stand.reader.handovers_after(0)))


def test_below_the_watermark_new_instances_and_associations_are_refused(tmp_path: Path, small_disk: Path) -> None:
    with running(tmp_path, spool=small_disk / "spool", min_free_bytes=512 * 1024) as stand:
        with association(stand.port) as assoc:
            assert send(assoc, tmp_path, part10(ct_slice(index=0))).Status == 0
            (small_disk / "ballast").write_bytes(bytes(768 * 1024))
            assert send(assoc, tmp_path, part10(ct_slice(index=1))).Status == 0xA700
        with association(stand.port) as assoc:
            assert assoc.is_rejected
        assert len(stand.objects()) == 1
        (small_disk / "ballast").unlink()
        assert push(stand.port, tmp_path, [ct_slice(index=1)]) == [0]


def test_stop_finishes_what_is_in_flight_and_ends_everything(tmp_path: Path) -> None:
    statuses: list[int | None] = []
    with running(tmp_path) as stand:

        def scanner() -> None:
            with association(stand.port) as assoc, contextlib.suppress(RuntimeError):  # no longer established
                for ds in ct_series(200):
                    statuses.append(send(assoc, tmp_path, part10(ds)).get("Status"))

        thread = threading.Thread(target=scanner)
        thread.start()
        wait_for(lambda: len(statuses) > 5)
        port = stand.port
        stand.role.stop()
        wait_for(lambda: not any(t.name.startswith("dicom-") for t in threading.enumerate()))
        thread.join(120)  # pynetdicom's sender waits `dimse_timeout` where the abort overtakes its next request
        assert not thread.is_alive()
        assert statuses.count(0) <= len(stand.objects()) <= statuses.count(0) + 1
        assert stand.reader.studies()[0].instances == len(stand.objects())
        with association(port) as assoc:
            assert not assoc.is_established


def test_only_finished_studies_are_pruned_and_a_second_push_brings_them_back(tmp_path: Path) -> None:
    finished: set[str] = set()
    with running(tmp_path) as stand:
        for study in ("old", "new"):
            push(stand.port, tmp_path, ct_series(5, study=study))
            wait_for(lambda: stand.reader.studies()[0].state is State.COMPLETE)
        (_, old), (_, new) = stand.reader.handovers_after(0)
        finished.add(old.id)
        far = new.complete_at.replace(year=1990)
        (chosen,) = prunable(stand.journal.spooled(), finished, far, 1)
        assert chosen.study_uid == old.study_uid
        assert prunable(stand.journal.spooled(), finished, far, 0) == []
        assert prunable(stand.journal.spooled(), set(), far.replace(year=2100), 1 << 60) == []
        stand.role._spool.remove(stand.journal.mark_pruned(old.study_uid, new.complete_at))
        assert not any(i.extent.path.exists() for i in old.instances)
        assert all(i.extent.path.exists() for i in new.instances)
        assert push(stand.port, tmp_path, ct_series(5, study="old")) == [0] * 5
        assert all(i.extent.path.exists() for i in stand.reader.handovers_after(0)[0][1].instances)
        assert len(stand.reader.handovers_after(0)) == 2


def test_a_file_that_somebody_removed_comes_back_with_the_next_push(tmp_path: Path) -> None:
    with running(tmp_path) as stand:
        other = ct_slice(index=1, PatientName="Other^Name")
        push(stand.port, tmp_path, [*ct_series(4), other])
        before = [one.read() for one in stand.objects()]
        assert len(before) == 5
        for path in stand.spool.iterdir():
            path.unlink()
        assert push(stand.port, tmp_path, [*ct_series(4), other]) == [0] * 5
        assert [one.read() for one in stand.objects()] == before


def test_a_late_slice_of_a_pruned_study_waits_for_the_whole_study(tmp_path: Path) -> None:
    with running(tmp_path, quiet_seconds=0.2) as stand:
        push(stand.port, tmp_path, ct_series(5))
        ((_, first),) = wait_for(lambda: stand.reader.handovers_after(0))
        stand.role._spool.remove(stand.journal.mark_pruned(first.study_uid, first.complete_at))
        push(stand.port, tmp_path, ct_series(6)[5:])
        wait_for(lambda: "push the whole study again" in stand.reader.studies()[0].explanation)
        push(stand.port, tmp_path, ct_series(6))
        _, (_, second) = wait_for(lambda: len(h := stand.reader.handovers_after(0)) == 2 and h)
        assert all(i.extent.path.exists() for i in second.instances)


def test_finished_studies_go_by_themselves_when_they_are_old(tmp_path: Path) -> None:
    finished: set[str] = set()
    with running(tmp_path, keep_studies=dt.timedelta(0), finished=lambda: finished) as stand:
        push(stand.port, tmp_path, ct_series(5))
        ((_, handover),) = wait_for(lambda: stand.reader.handovers_after(0))
        assert stand.objects()
        finished.add(handover.id)
        stand.role._next_prune = float("-inf")
        stand.role._wake.set()
        wait_for(lambda: not stand.objects())


def test_a_reader_of_a_journal_that_is_not_there_yet_sees_nothing(tmp_path: Path) -> None:
    reader = IntakeReader(tmp_path / "intake.db")
    assert reader.handovers_after(0) == []
    assert reader.studies() == []
    assert reader.reports_after(0) == []


def test_a_newer_schema_opens(tmp_path: Path) -> None:
    with running(tmp_path) as stand:
        push(stand.port, tmp_path, ct_series(4))
        wait_for(lambda: stand.reader.handovers_after(0))
    db = sqlite3.connect(tmp_path / "intake.db")
    db.execute("ALTER TABLE instance ADD COLUMN from_the_future TEXT")
    db.execute("PRAGMA user_version = 9")
    db.commit()
    db.close()
    with running(tmp_path) as stand:
        assert push(stand.port, tmp_path, ct_series(4, study="b")) == [0] * 4
        wait_for(lambda: len(stand.reader.handovers_after(0)) == 2)
    assert sqlite3.connect(tmp_path / "intake.db").execute("PRAGMA user_version").fetchone() == (9,)


@settings(max_examples=50)
@given(contents=st.dictionaries(st.from_regex(r"[0-9.]{1,20}", fullmatch=True), st.sampled_from("abc")), data=st.data())
def test_the_hand_over_id_depends_on_content_not_on_order(contents: dict[str, str], data: st.DataObject) -> None:
    order = data.draw(st.permutations(list(contents.items())))
    assert handover_id("1.2", order) == handover_id("1.2", list(contents.items()))
    assert handover_id("1.2", [*order, ("9.9.9", "x")]) != handover_id("1.2", order)
    assert handover_id("1.3", order) != handover_id("1.2", order)
