"""C-STORE to real PACSs: pynetdicom's, dcmtk's and Debian's Orthanc."""

from __future__ import annotations

import contextlib
import datetime as dt
import shutil
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, Comprehensive3DSRStorage, ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from pynetdicom import AE, evt

from appliance.association import Timeouts
from appliance.delivery import Backoff, Destination, PacsSender, Patience
from appliance.ports import PacsItem
from deploy.embedded import OrthancPacs, StoragePacs, free_port
from tests.appliance.delivery.memory import MemoryPacsOutbox, TurnedClock

QUICK = Patience(Timeouts(connect_s=3, association_s=3, response_s=5))


def write_object(folder: Path, sop_class: str = SecondaryCaptureImageStorage) -> tuple[str, str, Path]:
    """A small object with a private element and an odd length in it, that a re-encoding would change."""
    uid = f"2.25.{uuid.uuid4().int}"
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    ds.file_meta.MediaStorageSOPInstanceUID = UID(uid)
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.11", "2.25.12"
    ds.PatientID, ds.PatientName, ds.Modality = "P1", "Test^A", "OT"
    ds.StudyDate = ds.StudyTime = ds.StudyID = ds.AccessionNumber = ""
    ds.private_block(0x0099, "ONESCAN TEST", create=True).add_new(1, "UN", b"\x01\x02\x03\x04")
    sequence_item = Dataset()
    sequence_item.CodeValue = "undefined length"
    ds.ProcedureCodeSequence = [sequence_item]
    ds["ProcedureCodeSequence"].is_undefined_length = True
    path = folder / f"{uid}.dcm"
    pydicom.dcmwrite(path, ds, enforce_file_format=True)
    return sop_class, uid, path


def data_set_bytes(path: Path) -> bytes:
    """What follows the file meta information."""
    content = path.read_bytes()
    length = int.from_bytes(content[140:144], "little")
    return content[144 + length :]


@pytest.fixture
def outbox() -> MemoryPacsOutbox:
    return MemoryPacsOutbox()


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


Fill = Callable[..., list[PacsItem]]


@pytest.fixture
def fill(outbox: MemoryPacsOutbox, tmp_path: Path) -> Fill:
    def filled(count: int, destination: str = "main", sop_class: str = SecondaryCaptureImageStorage) -> list[PacsItem]:
        return [outbox.add(destination, *write_object(tmp_path, sop_class)) for _ in range(count)]

    return filled


def sender_to(
    port: int, outbox: MemoryPacsOutbox, clock: TurnedClock, ae_title: str = "PACS", **more: object
) -> PacsSender:
    destination = Destination("127.0.0.1", port, ae_title, "ONESCAN")
    return PacsSender({"main": destination}, outbox, clock, patience=QUICK, draw=lambda: 0.5, **more)  # type: ignore[arg-type]


def test_objects_arrive_byte_for_byte_and_in_order(
    pacs: StoragePacs, outbox: MemoryPacsOutbox, clock: TurnedClock, fill: Fill
) -> None:
    items = fill(3) + fill(2, sop_class=Comprehensive3DSRStorage)
    wants = sender_to(pacs.port, outbox, clock).step()
    assert [r.sop_instance_uid for r in pacs.received] == [i.sop_instance_uid for i in items]
    for received, item in zip(pacs.received, items, strict=True):
        assert data_set_bytes(received.path) == data_set_bytes(item.path)
    assert outbox.undelivered() == []
    assert wants == QUICK.rescan_s
    assert {r.calling_ae_title for r in pacs.received} == {"ONESCAN"}


def test_pacs_down_then_up(tmp_path: Path, outbox: MemoryPacsOutbox, clock: TurnedClock, fill: Fill) -> None:
    items = fill(3)
    server = StoragePacs(tmp_path / "pacs", port=free_port())
    sender = sender_to(server.port, outbox, clock)
    assert 0 < sender.step() <= QUICK.rescan_s
    assert [outbox.why(i) for i in items] == ["no connection"] * 3
    with server:
        assert sender.step() > 0
        assert len(server.received) == 0  # not due yet
        clock.turn(3)
        sender.step()
        assert len(server.received) == 3
    assert outbox.undelivered() == []


def test_waiting_grows_while_the_pacs_is_away(outbox: MemoryPacsOutbox, clock: TurnedClock, fill: Fill) -> None:
    fill(1)
    sender = sender_to(free_port(), outbox, clock)
    waits = []
    for _ in range(4):
        sender.step()
        due = outbox.next_due()
        assert due is not None
        waits.append((due - clock.now()).total_seconds())
        clock.turn(waits[-1])
    assert waits == [2, 4, 8, 16]


def test_one_attempt_to_connect_serves_all_that_is_due(
    outbox: MemoryPacsOutbox, clock: TurnedClock, fill: Fill
) -> None:
    with _counting_listener() as (port, connections):
        fill(250)
        sender = sender_to(port, outbox, clock)
        while sender.step() == 0:
            pass
    assert connections() == 1
    assert len(outbox.undelivered()) == 250


@contextlib.contextmanager
def _counting_listener() -> Iterator[tuple[int, Callable[[], int]]]:
    """A listener that hangs up on everyone."""
    count = [0]
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    server.accept()[0].close()
                    count[0] += 1

        threading.Thread(target=hang_up, daemon=True).start()
        yield server.getsockname()[1], lambda: count[0]
        server.shutdown(socket.SHUT_RDWR)


def test_refusal_keeps_the_status_and_the_object(
    pacs: StoragePacs, outbox: MemoryPacsOutbox, clock: TurnedClock, fill: Fill
) -> None:
    (item,) = fill(1)
    pacs.refuse(0xA700)
    sender = sender_to(pacs.port, outbox, clock)
    sender.step()
    assert outbox.why(item) == "refused with status A700"
    pacs.refuse(None)
    clock.turn(3)
    sender.step()
    assert outbox.undelivered() == []


def _scp(port: int, answer: Callable[[evt.Event], int]) -> object:
    ae = AE("PACS")
    ae.add_supported_context(SecondaryCaptureImageStorage)
    return ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, answer)])


def test_warning_status_means_delivered(outbox: MemoryPacsOutbox, clock: TurnedClock, fill: Fill) -> None:
    fill(1)
    port = free_port()
    server = _scp(port, lambda event: 0xB006)
    try:
        sender_to(port, outbox, clock).step()
    finally:
        server.shutdown()  # type: ignore[attr-defined]
    assert outbox.undelivered() == []


def test_abort_in_the_middle_loses_nothing(outbox: MemoryPacsOutbox, clock: TurnedClock, fill: Fill) -> None:
    items = fill(5)
    port, cut = free_port(), [False]
    taken: list[str] = []

    def cut_off_third(event: evt.Event) -> int:
        if len(taken) == 2 and not cut[0]:
            cut[0] = True
            event.assoc.abort()
            return 0
        taken.append(str(event.dataset.SOPInstanceUID))
        return 0

    server = _scp(port, cut_off_third)
    sender = sender_to(port, outbox, clock)
    try:
        sender.step()
        assert outbox.undelivered() == [3, 4, 5]
        assert outbox.why(items[2]) == "the association ended before the PACS answered"
        assert outbox.attempts(items[3]) == 0  # not tried, so it comes first
        sender.step()
        clock.turn(3)
        sender.step()
    finally:
        server.shutdown()  # type: ignore[attr-defined]
    assert outbox.undelivered() == []
    uids = [i.sop_instance_uid for i in items]
    assert taken == [uids[0], uids[1], uids[3], uids[4], uids[2]]


def test_repeat_is_harmless(pacs: StoragePacs, outbox: MemoryPacsOutbox, clock: TurnedClock, fill: Fill) -> None:
    (item,) = fill(1)
    sender_to(pacs.port, outbox, clock).step()
    outbox.add("main", item.sop_class_uid, item.sop_instance_uid, item.path)
    sender_to(pacs.port, outbox, clock).step()
    assert [r.repeat for r in pacs.received] == [False, True]
    assert not any(r.changed for r in pacs.received)


def test_lost_file_and_unknown_destination_are_said_and_hold_up_nobody(
    pacs: StoragePacs, outbox: MemoryPacsOutbox, clock: TurnedClock, fill: Fill
) -> None:
    lost, fine = fill(2)
    (elsewhere,) = fill(1, destination="removed")
    lost.path.unlink()
    sender_to(pacs.port, outbox, clock).step()
    assert outbox.why(lost) == "the object's file can't be read: No such file or directory"
    assert outbox.why(elsewhere) == "no such destination in the configuration"
    assert outbox.undelivered() == [lost.id, elsewhere.id]
    assert [r.sop_instance_uid for r in pacs.received] == [fine.sop_instance_uid]


def test_kind_that_the_pacs_does_not_take_is_said(outbox: MemoryPacsOutbox, clock: TurnedClock, fill: Fill) -> None:
    (report,) = fill(1, sop_class=Comprehensive3DSRStorage)
    (image,) = fill(1)
    port = free_port()
    server = _scp(port, lambda event: 0)
    try:
        sender_to(port, outbox, clock).step()
    finally:
        server.shutdown()  # type: ignore[attr-defined]
    assert outbox.why(report) == "the PACS accepts no presentation context for this kind of object"
    assert outbox.undelivered() == [report.id]
    assert image.id not in outbox.undelivered()


def test_wrong_ae_title_is_said(orthanc: OrthancPacs, outbox: MemoryPacsOutbox, clock: TurnedClock, fill: Fill) -> None:
    (item,) = fill(1)
    sender = sender_to(orthanc.port, outbox, clock, ae_title="SOMEONE")
    for _ in range(5):  # Orthanc closes right behind its rejection, and now and then TCP loses the words with it
        sender.step()
        if outbox.why(item) != "no connection":
            break
        clock.turn(3600)
    assert outbox.why(item).startswith("association rejected: Called AE title not recognised")
    assert outbox.undelivered() == [item.id]


def test_stalled_delivery_is_told_once_and_still_tried(
    outbox: MemoryPacsOutbox, clock: TurnedClock, fill: Fill, tmp_path: Path
) -> None:
    fill(1)
    told: list[str] = []
    server = StoragePacs(tmp_path / "pacs", port=free_port())
    patience = Patience(Timeouts(connect_s=1), stalled_after_h=1)
    sender = PacsSender(
        {"main": Destination("127.0.0.1", server.port, "PACS", "ONESCAN")}, outbox, clock,
        backoff=Backoff(first_s=600, ceiling_s=900), patience=patience, draw=lambda: 0.5,
        on_stalled=lambda item, why: told.append(why),
    )  # fmt: skip
    for _ in range(8):
        sender.step()
        clock.turn(900)
    assert told == ["no connection"]
    assert sender.stalled == 1
    with server:
        sender.step()
    assert outbox.undelivered() == []
    assert sender.stalled == 0


def test_told_to_stop_it_stops_between_two_objects(
    pacs: StoragePacs, outbox: MemoryPacsOutbox, clock: TurnedClock, fill: Fill
) -> None:
    fill(4)
    sender = sender_to(pacs.port, outbox, clock, stopping=lambda: len(pacs.received) >= 2)
    sender.step()
    assert len(outbox.undelivered()) == 2


def test_orthanc_takes_and_keeps_the_objects(
    orthanc: OrthancPacs, outbox: MemoryPacsOutbox, clock: TurnedClock, fill: Fill
) -> None:
    fill(2)
    fill(1, sop_class=Comprehensive3DSRStorage)
    sender_to(orthanc.port, outbox, clock, ae_title=orthanc.ae_title).step()
    assert outbox.undelivered() == []


@contextlib.contextmanager
def _storescp(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """dcmtk's receiver, writing what it gets bit by bit."""
    folder.mkdir(exist_ok=True)
    program = shutil.which("storescp")
    assert program is not None, "dcmtk is not installed: make setup"
    command = [program, "--bit-preserving", "-aet", "PACS", "-od", str(folder), "-fe", ".dcm", str(port)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until(lambda: _listens(port))
        yield child
    finally:
        child.kill()
        child.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.2):
        return True
    return False


def _wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "what was awaited did not happen"
        time.sleep(0.02)


def test_storescp_gets_the_same_bytes(tmp_path: Path, outbox: MemoryPacsOutbox, clock: TurnedClock, fill: Fill) -> None:
    items = fill(2)
    port = free_port()
    with _storescp(tmp_path / "scp", port):
        sender_to(port, outbox, clock).step()
    stored = {data_set_bytes(p) for p in (tmp_path / "scp").iterdir()}
    assert stored == {data_set_bytes(i.path) for i in items}
    assert outbox.undelivered() == []


def test_pacs_killed_while_receiving_gets_everything_after_its_restart(
    tmp_path: Path, outbox: MemoryPacsOutbox, clock: TurnedClock, fill: Fill
) -> None:
    items = fill(40)
    port = free_port()
    with _storescp(tmp_path / "scp", port) as child:
        outbox.on_delivered = lambda item: child.kill() if item.id == 5 else None
        sender = sender_to(port, outbox, clock)
        sender.step()
        child.wait()
    assert 0 < len(outbox.undelivered()) <= 35
    with _storescp(tmp_path / "scp", port):
        for _ in range(20):
            clock.turn(5)
            sender.step()
    assert outbox.undelivered() == []
    stored = {data_set_bytes(p) for p in (tmp_path / "scp").iterdir()}
    assert {data_set_bytes(i.path) for i in items} <= stored


def test_next_step_is_when_the_next_item_is_due(outbox: MemoryPacsOutbox, clock: TurnedClock, fill: Fill) -> None:
    sender = sender_to(free_port(), outbox, clock)
    assert sender.step() == QUICK.rescan_s
    (item,) = fill(1)
    outbox.postponed(item, "", clock.now() + dt.timedelta(seconds=1.5))
    assert sender.step() == 1.5
