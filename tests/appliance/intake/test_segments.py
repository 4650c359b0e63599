"""An append log: durable before it is answered; a tail that was cut is told from what is whole."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.intake import spool as spool_module
from appliance.intake.ledger import Place
from appliance.intake.segments import Retired, Segment, records
from appliance.intake.spool import Spool
from core.errors import StorageError, StorageFull
from core.extent import Extent
from tests.appliance.dicom_samples import ct_series, ct_slice, encoded
from tests.appliance.intake.stand import push, running, wait_for

ROOT = Path(__file__).resolve().parents[3]
OBJECTS = st.lists(st.tuples(st.binary(max_size=40), st.lists(st.binary(max_size=3000), max_size=4)), max_size=8)


@given(objects=OBJECTS)
def test_what_is_appended_is_found_again(
    tmp_path_factory: pytest.TempPathFactory, objects: list[tuple[bytes, list[bytes]]]
) -> None:
    segment = Segment(tmp_path_factory.mktemp("log") / "a.segment")
    written = [segment.append(about, parts) for about, parts in objects]
    segment.close()
    assert list(records(segment.path)) == written
    for record, (about, parts) in zip(written, objects, strict=True):
        assert record.about == about
        assert Extent(segment.path, record.offset, record.size).read() == b"".join(parts)


@settings(max_examples=300)
@given(objects=OBJECTS.filter(bool), data=st.data())
def test_a_cut_or_damaged_tail_ends_the_log_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, objects: list[tuple[bytes, list[bytes]]], data: st.DataObject
) -> None:
    segment = Segment(tmp_path_factory.mktemp("log") / "a.segment")
    written = [segment.append(about, parts) for about, parts in objects]
    segment.close()
    whole = bytearray(segment.path.read_bytes())
    cut = data.draw(st.integers(0, len(whole)))
    whole[cut:] = data.draw(st.sampled_from([b"", bytes(4096), os.urandom(64)]))
    segment.path.write_bytes(whole)
    found = list(records(segment.path))
    before = [record for record in written if record.offset + record.size <= cut]
    assert found[: len(before)] == before
    assert len(found) <= len(before) + 1  # the head of the next may be whole; its digest tells that its object is not


class Disk:
    """os.fdatasync, and how much of which file it covered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.covered: dict[int, int] = {}
        self.calls, self.real = 0, os.fdatasync
        self.error: OSError | None = None
        monkeypatch.setattr(os, "fdatasync", self.sync)

    def sync(self, fd: int) -> None:
        if self.error:
            raise self.error
        size = os.fstat(fd).st_size
        self.real(fd)
        self.covered[fd] = max(self.covered.get(fd, 0), size)
        self.calls += 1


def test_no_append_returns_before_a_sync_that_covers_it_and_threads_share_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, segment = Disk(monkeypatch), Segment(tmp_path / "a.segment")
    early: list[int] = []

    def sender(number: int) -> None:
        for n in range(40):
            record = segment.append(b"%d %d" % (number, n), [bytes(50_000)])
            if disk.covered.get(segment._fd, 0) < record.offset + record.size:
                early.append(record.offset)

    threads = [threading.Thread(target=sender, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    segment.close()
    assert not early
    assert disk.calls < 320, "eight senders at once, and nobody shared a sync"
    assert len({record.about for record in records(segment.path)}) == 320


def test_a_disk_that_fails_to_sync_is_never_trusted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, segment = Disk(monkeypatch), Segment(tmp_path / "a.segment")
    segment.append(b"1", [b"good"])
    disk.error = OSError(errno.EIO, "Input/output error")
    with pytest.raises(StorageError):
        segment.append(b"2", [b"lost"])
    disk.error = None
    with pytest.raises(Retired):
        segment.append(b"3", [b"later"])
    monkeypatch.undo()


def test_the_receiver_answers_a_failure_and_goes_on_in_a_new_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path) as stand:
        assert push(stand.port, tmp_path, [ct_slice(index=0)]) == [0]
        disk = Disk(monkeypatch)
        disk.error = OSError(errno.EIO, "Input/output error")
        assert push(stand.port, tmp_path, [ct_slice(index=1)]) == [0xA700]
        disk.error = None
        assert push(stand.port, tmp_path, ct_series(5)) == [0] * 5
        ((_, handover),) = wait_for(lambda: stand.reader.handovers_after(0))
        assert len({i.extent.path for i in handover.instances}) == 2
        assert len(handover.instances) == 5
        monkeypatch.undo()


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segment, real = Segment(tmp_path / "a.segment"), os.pwritev
    segment.append(b"1", [b"good"])

    def half(fd: int, parts: Sequence[memoryview], at: int) -> int:
        if at > 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, [parts[0][:50]], at)

    monkeypatch.setattr(os, "pwritev", half)
    with pytest.raises(StorageFull):
        segment.append(b"2", [bytes(10_000)])
    monkeypatch.undo()
    segment.append(b"3", [b"after"])
    assert [record.about for record in records(segment.path)] == [b"1", b"3"]


def killed_after(folder: Path, count: int) -> dict[str, bytes]:
    """A receiver that took so many slices and was killed; what was answered with success."""
    command = [sys.executable, "-m", "tests.appliance.intake.receiver_process", str(folder), "60"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        series = [*ct_series(count, study="a"), *ct_series(count, study="b")]
        assert push(int(process.stdout.readline()), folder, series) == [0] * 2 * count
    finally:
        process.kill()
        process.wait()
    return {ds.SOPInstanceUID: encoded(ds) for ds in series}


def rows(folder: Path) -> int:
    with sqlite3.connect(folder / "intake.db") as db:
        return int(db.execute("SELECT count(*) FROM instance").fetchone()[0])


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("killed")
    return folder, killed_after(folder, 12)


_FRAME = 24 + 4096
_WAL_HEADER = 32


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.7, 0.95, 1.0])
def test_whatever_a_power_cut_leaves_of_the_ledgers_log_no_instance_is_lost(
    tmp_path: Path, killed: tuple[Path, dict[str, bytes]], kept: float
) -> None:
    folder, answered = killed
    shutil.copytree(folder, tmp_path / "box")
    log = tmp_path / "box" / "intake.db-wal"
    frames = (log.stat().st_size - _WAL_HEADER) // _FRAME
    with log.open("r+b") as file:  # in order, as SQLite writes it: what is cut off is the latest
        file.truncate(_WAL_HEADER + int(kept * frames) * _FRAME if kept else 0)
    (tmp_path / "box" / "intake.db-shm").unlink()
    with running(tmp_path / "box", quiet_seconds=0.3) as stand:
        handed = wait_for(lambda: len(h := stand.reader.handovers_after(0)) == 2 and h)
        found = {i.sop_instance_uid: i.extent.read() for _, handover in handed for i in handover.instances}
        assert set(found) == set(answered)
        assert all(found[uid].endswith(content) for uid, content in answered.items())
        assert push(stand.port, tmp_path, ct_series(12, study="a")) == [0] * 12  # known: nothing is added
        assert len(stand.objects()) == 24
    assert rows(tmp_path / "box") == 24


@pytest.mark.parametrize("seed", range(6))
def test_what_was_cut_short_is_not_taken_for_an_instance(
    tmp_path: Path, killed: tuple[Path, dict[str, bytes]], seed: int
) -> None:
    folder, answered = killed
    shutil.copytree(folder, tmp_path / "box")
    (tmp_path / "box" / "intake.db-wal").write_bytes(b"")
    (tmp_path / "box" / "intake.db-shm").unlink()
    draw = random.Random(seed)
    for path in (tmp_path / "box" / "spool").glob("*.segment"):
        last = list(records(path))[-1]
        at = draw.randrange(last.offset, last.offset + last.size)
        with path.open("r+b") as file:  # its size is there, not all of its bytes
            file.seek(at)
            file.write(bytes(last.offset + last.size - at))
        if draw.random() < 0.5:
            os.truncate(path, at)
    with running(tmp_path / "box", quiet_seconds=0.3) as stand:
        handed = wait_for(lambda: len(h := stand.reader.handovers_after(0)) == 2 and h)
        for _, handover in handed:
            assert len(handover.instances) in (11, 12)  # 12 where the bytes that were lost were zeros
            assert all(i.extent.read().endswith(answered[i.sop_instance_uid]) for i in handover.instances)
        assert push(stand.port, tmp_path, ct_series(12, study="a")) == [0] * 12  # it comes again, into a new segment
        wait_for(lambda: any(len(h.instances) == 12 for _, h in stand.reader.handovers_after(0)))


def test_a_segment_that_nobody_needs_goes_at_start(tmp_path: Path) -> None:
    with running(tmp_path) as stand:
        push(stand.port, tmp_path, ct_series(5))
        ((_, handover),) = wait_for(lambda: stand.reader.handovers_after(0))
        stand.journal.mark_pruned(handover.study_uid, handover.complete_at)  # and the power goes
        assert stand.objects()
    with running(tmp_path) as stand:
        assert not stand.objects()
        assert push(stand.port, tmp_path, ct_series(5)) == [0] * 5
        assert len(stand.objects()) == 5


def test_a_spool_of_the_first_release_is_read_on(tmp_path: Path) -> None:
    series = ct_series(5)
    with running(tmp_path) as stand:
        push(stand.port, tmp_path, [*series[:2], series[4]])  # a gap: not complete
    with sqlite3.connect(tmp_path / "intake.db") as db:  # a file an instance, and no column `start`
        for number, extent in enumerate(stand.objects()):
            folder = tmp_path / "spool" / "0123"
            folder.mkdir(exist_ok=True)
            (folder / f"{number}.dcm").write_bytes(extent.read())
            db.execute("UPDATE instance SET file = ? WHERE start = ?", (f"0123/{number}.dcm", extent.offset))
        db.execute("DROP INDEX instance_by_file")
        db.execute("ALTER TABLE instance DROP COLUMN start")
    db.close()
    with running(tmp_path) as stand:
        assert push(stand.port, tmp_path, series) == [0] * 5
        ((_, handover),) = wait_for(lambda: stand.reader.handovers_after(0))
        assert {i.extent.read()[-8192:] for i in handover.instances} == {bytes(ds.PixelData) for ds in series}
        assert sum(i.extent.path.suffix == ".dcm" for i in handover.instances) == 3
        stand.role._spool.remove(stand.journal.mark_pruned(handover.study_uid, handover.complete_at))
        assert not list((tmp_path / "spool").iterdir())


def test_closing_a_segment_that_threads_write_to_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    answered: list[tuple[bytes, Place]] = []
    over = threading.Event()

    def sender(number: int) -> None:
        for n in range(60):
            content = b"%d %d " % (number, n) * 900
            answered.append((content, spool.append(f"1.2.{n % 3}", b"{}", [content])))

    def closer() -> None:
        while not over.is_set():
            for name in spool.segments():
                segment = spool._open.get(name.partition("-")[0])
                if segment is not None:
                    segment.close()

    threads = [threading.Thread(target=sender, args=(number,)) for number in range(6)]
    disturber = threading.Thread(target=closer)
    disturber.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    disturber.join()
    spool.close()
    assert len(answered) == 360
    assert len({(place.file, place.start) for _, place in answered}) == 360
    assert all(spool.extent(place).read() == content for content, place in answered)


def test_more_studies_at_once_than_segments_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "_MOST_OPEN", 2)
    spool = Spool(tmp_path / "spool")
    places = [(n, spool.append(f"1.2.{n % 5}", b"{}", [b"%d" % n])) for n in range(50)]
    assert len(spool._open) == 2
    assert all(spool.extent(place).read() == b"%d" % n for n, place in places)
    spool.close()
