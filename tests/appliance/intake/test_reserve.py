"""Space that is written ahead: it changes nothing but how long a sync takes, and nobody has to wait for it."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.intake import reserve as reserve_module
from appliance.intake.reserve import Interrupted, Reserve
from appliance.intake.segments import Retired, Segment, records
from appliance.intake.spool import Spool
from core.errors import StorageFull
from core.extent import Extent
from tests.appliance.dicom_samples import ct_series, encoded
from tests.appliance.intake.stand import association, objects, push, running, wait_for
from tests.appliance.intake.test_segments import OBJECTS, ROOT

SPARE, PLENTY = 1 << 20, 1 << 40


def idle() -> bool:
    return False


def filled(folder: Path, total: int = 3 * SPARE) -> Reserve:
    folder.mkdir(exist_ok=True)
    reserve = Reserve(folder, total, SPARE)
    while reserve.fill(PLENTY, idle):
        pass
    return reserve


def test_it_is_filled_taken_and_given_back(tmp_path: Path) -> None:
    reserve = filled(tmp_path)
    assert reserve.held_bytes == 3 * SPARE
    assert [path.stat().st_blocks * 512 >= SPARE for path in tmp_path.iterdir()] == [True] * 3
    assert reserve.take(tmp_path / "a", 1000) == SPARE
    assert (tmp_path / "a").read_bytes() == bytes(SPARE)
    assert reserve.take(tmp_path / "b", SPARE + 1) == 0
    assert not (tmp_path / "b").exists()
    assert reserve.give_back() == 2 * SPARE
    assert reserve.take(tmp_path / "b", 1) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_next_process_goes_on_with_it_and_only_with_what_is_whole(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "half.zeros").write_bytes(bytes(SPARE // 2))
    assert Reserve(tmp_path, 2 * SPARE, SPARE).held_bytes == 2 * SPARE
    assert len(list(tmp_path.iterdir())) == 2
    assert Reserve(tmp_path, 0, SPARE).held_bytes == 0
    assert not list(tmp_path.iterdir())


def test_it_takes_at_most_an_eighth_of_what_is_free(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path, 10 * SPARE, SPARE)
    room = 24 * SPARE
    while reserve.fill(room - reserve.held_bytes, idle):
        pass
    assert reserve.held_bytes == 3 * SPARE
    assert not Reserve(tmp_path / "none", 10 * SPARE, SPARE).fill(-5, idle)


def test_who_sends_does_not_wait_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reserve_module, "_PIECE", bytes(64 << 10))
    looks = iter([False, False, True])
    reserve = Reserve(tmp_path, SPARE, SPARE)
    for busy in (lambda: next(looks), lambda: True):
        with pytest.raises(Interrupted):
            reserve.fill(PLENTY, busy)
        assert not list(tmp_path.iterdir())
    assert reserve.fill(PLENTY, idle)


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(StorageFull):
        Reserve(tmp_path, SPARE, SPARE).fill(PLENTY, idle)
    assert not list(tmp_path.iterdir())


def test_a_spare_that_somebody_removed_is_passed_over(tmp_path: Path) -> None:
    reserve = filled(tmp_path, 2 * SPARE)
    sorted(tmp_path.iterdir())[0].unlink()
    assert [reserve.take(tmp_path / name, 1) for name in "ab"].count(SPARE) == 1
    assert reserve.take(tmp_path / "c", 1) == 0


def test_threads_that_take_at_once_get_different_ones(tmp_path: Path) -> None:
    reserve = filled(tmp_path, 8 * SPARE)
    taken: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: taken.append(reserve.take(tmp_path / f"{n}.segment", 1)))  # type: ignore[misc]
        for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [0] * 4 + [SPARE] * 8
    assert len(list(tmp_path.glob("*.segment"))) == 8


@given(objects=OBJECTS)
def test_a_segment_of_zeros_is_a_segment(
    tmp_path_factory: pytest.TempPathFactory, objects: list[tuple[bytes, list[bytes]]]
) -> None:
    path = tmp_path_factory.mktemp("log") / "a.segment"
    path.write_bytes(bytes(200_000))
    segment = Segment(path, 200_000)
    written = [segment.append(about, parts) for about, parts in objects]
    assert list(records(path)) == written  # before it is closed, and so after a crash
    segment.close()
    assert list(records(path)) == written
    assert path.stat().st_size == (written[-1].offset + written[-1].size if written else 0)


@settings(max_examples=300)
@given(objects=OBJECTS.filter(bool), data=st.data())
def test_a_power_cut_leaves_any_of_the_pages_of_the_last_record_and_all_before(
    tmp_path_factory: pytest.TempPathFactory, objects: list[tuple[bytes, list[bytes]]], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("log") / "a.segment"
    path.write_bytes(bytes(200_000))
    segment = Segment(path, 200_000)
    *before, last = [segment.append(about, parts) for about, parts in objects]
    segment._zeros = 0  # nobody closes it when the power goes
    segment.close()
    content, page = bytearray(path.read_bytes()), 512
    begin = before[-1].offset + before[-1].size if before else 0
    for start in range(begin, last.offset + last.size, page):
        if data.draw(st.booleans()):
            content[start : start + page] = bytes(len(content[start : start + page]))
    path.write_bytes(content)
    assert list(records(path))[: len(before)] == before
    assert len(list(records(path))) <= len(objects)


def test_a_full_one_is_retired_and_a_write_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.segment"
    path.write_bytes(bytes(50_000))
    segment, real = Segment(path, 50_000), os.pwritev
    segment.append(b"1", [bytes(20_000)])
    with pytest.raises(Retired):
        segment.append(b"2", [bytes(40_000)])

    def half(fd: int, parts: list[memoryview], at: int) -> int:
        if at > 20_100:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, [parts[0][:50]], at)

    monkeypatch.setattr(os, "pwritev", half)
    with pytest.raises(Exception, match="can't write"):
        segment.append(b"3", [b"x" * 10_000])
    monkeypatch.undo()
    segment.append(b"4", [bytes(40_000)])  # it grows now
    segment.close()
    assert [record.about for record in records(path)] == [b"1", b"4"]


def test_a_study_goes_through_spares_and_beyond_them(tmp_path: Path) -> None:
    spool = spool_with(tmp_path, 2 * SPARE)
    contents = [bytes([n]) * 300_000 for n in range(12)]
    places = [spool.append("1.2", b"{}", [content]) for content in contents]
    assert [spool.extent(place).read() for place in places] == contents
    assert len({place.file for place in places}) == 3
    large = spool.append("1.3", b"{}", [bytes(2 * SPARE)])
    assert spool.extent(large).read() == bytes(2 * SPARE)
    spool.close()
    kept = objects(tmp_path)
    assert len(kept) == 13
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 13 * 300_000 + 2 * SPARE + 1000


def spool_with(folder: Path, total: int, change: Callable[[Spool], None] | None = None) -> Spool:
    """A spool whose reserve of small spares is full."""
    spool = Spool(folder)
    spool._reserve = filled(folder, total)
    return spool


def test_the_receiver_fills_it_while_nobody_sends_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_spares(monkeypatch)
    with running(tmp_path, reserve_bytes=4 * SPARE, quiet_seconds=1.0) as stand:
        zeros = lambda: len(list(stand.spool.glob("[!.]*.zeros")))  # noqa: E731
        wait_for(lambda: zeros() == 4)
        series = ct_series(200)
        with association(stand.port):
            assert push(stand.port, tmp_path, series) == [0] * 200
            held = zeros()
            assert held < 4
            ((_, handover),) = wait_for(lambda: stand.reader.handovers_after(0))
            for _ in range(20):  # one is connected still
                stand.role._wake.set()
                assert not stand.role._fill_reserve()
            assert zeros() == held
        assert len(handover.instances) == 200
        found = {i.sop_instance_uid: i.extent.read() for i in handover.instances}
        assert all(found[ds.SOPInstanceUID].endswith(encoded(ds)) for ds in series)
        stand.role._wake.set()
        wait_for(lambda: zeros() == 4)


@pytest.mark.parametrize("ends_by", [Interrupted(), StorageFull("no room")])
def test_what_kept_it_from_being_filled_is_not_met_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends_by: Exception
) -> None:
    tried: list[None] = []

    def fill(*_: object) -> bool:
        tried.append(None)
        raise ends_by

    monkeypatch.setattr(Spool, "fill_reserve", fill)
    with running(tmp_path) as stand:
        wait_for(lambda: tried)
        for _ in range(5):
            assert not stand.role._fill_reserve()
    assert len(tried) == 1


def test_a_disk_that_is_short_of_room_gets_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_spares(monkeypatch)
    spool = Spool(tmp_path / "spool", 4 * SPARE)
    while spool.fill_reserve(0, idle):
        pass
    free = spool.free_bytes()
    assert spool.free_bytes(at_least=free - (100 << 20)) <= free + (100 << 20)
    assert spool._reserve.held_bytes == 4 * SPARE
    spool.free_bytes(at_least=1 << 60)
    assert spool._reserve.held_bytes == 0
    assert not list((tmp_path / "spool").iterdir())


def small_spares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.intake.spool.Reserve", lambda folder, total: Reserve(folder, total, SPARE))


@pytest.mark.parametrize("kept", [0.0, 0.5, 1.0])
def test_a_receiver_that_was_killed_over_its_reserve_has_all_that_it_answered(tmp_path: Path, kept: float) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.appliance.intake.receiver_process",
        str(tmp_path / "box"),
        "60",
        f"reserve_bytes={256 << 20}",
    ]
    series = ct_series(40)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        wait_for(lambda: list((tmp_path / "box" / "spool").glob("[!.]*.zeros")))
        assert push(port, tmp_path, series) == [0] * 40
        process.kill()
    log = tmp_path / "box" / "intake.db-wal"
    os.truncate(log, int(kept * log.stat().st_size))
    (tmp_path / "box" / "intake.db-shm").unlink()
    (segment,) = (tmp_path / "box" / "spool").glob("*.segment")
    assert segment.stat().st_size == reserve_module.SPARE_BYTES
    with running(tmp_path / "box", quiet_seconds=0.3) as stand:
        ((_, handover),) = wait_for(lambda: stand.reader.handovers_after(0))
        found = {i.sop_instance_uid: i.extent.read() for i in handover.instances}
        assert len(found) == 40
        assert all(found[ds.SOPInstanceUID].endswith(encoded(ds)) for ds in series)
        assert not list(stand.spool.glob("[!.]*.zeros"))
    shutil.rmtree(tmp_path / "box")


def test_extents_of_a_segment_that_is_being_written_are_whole(tmp_path: Path) -> None:
    spool = spool_with(tmp_path, SPARE)
    first = spool.append("1.2", b"{}", [b"first"])
    assert Extent(tmp_path / first.file, first.start or 0, first.size).read() == b"first"
    assert spool.holds(first)
    spool.close()
