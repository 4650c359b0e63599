"""`onescan-appliance import`: a stick comes in through the running receiver; again is harmless; trouble is named."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage, MRImageStorage
from typer.testing import CliRunner

from appliance import cli
from appliance.importing import look
from appliance.intake.hatch import SOCKET_NAME, Answer, Greeting, Offer, short_path
from appliance.intake.senders import read as read_senders
from appliance.intake.side_doors import SideDoorSettings
from appliance.storage.intake_reader import IntakeReader
from core.errors import DeliveryError
from tests.appliance.dicom_samples import ct_series, ct_slice, part10, uid, write_files
from tests.appliance.intake.stand import running, wait_for

ROOT = Path(__file__).resolve().parents[3]
CONFIG = """
site: hospital
device: box1
state: {state}
registry: {{mqtt_host: localhost, tuf_url: "https://localhost/tuf"}}
receiver: {{host: 127.0.0.1, port: 0, min_free_bytes: 0}}
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    made = tmp_path / ("state of a hospital with a long name " * 4)  # longer than a Unix socket's path may be
    (made / "run").mkdir(parents=True)
    (tmp_path / "config.yaml").write_text(CONFIG.format(state=json.dumps(str(made))))
    return made


def box(state: Path, **more: Any) -> Any:
    doors = {"side_doors": SideDoorSettings(hatch=state / "run"), "senders_file": state / "run" / "senders.json"}
    return running(state, **doors, **more)


def import_from(path: Path, state: Path, expected: int = 0) -> dict[str, Any]:
    arguments = ["import", str(path), "--config", str(state.parent / "config.yaml"), "--json"]
    result = CliRunner().invoke(cli.app, arguments)
    if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == expected, result.output
    told: dict[str, Any] = json.loads(result.output)
    return told


def test_a_stick_comes_in_and_a_second_time_nothing_of_it(tmp_path: Path, state: Path) -> None:
    stick = tmp_path / "stick"
    write_files(stick / "A", ct_series(5))
    write_files(stick / "B" / "deeper", ct_series(4, study="b"))
    (stick / "viewer.exe").write_bytes(b"MZ")
    before = {path: path.read_bytes() for path in stick.rglob("*") if path.is_file()}
    with box(state) as stand:
        told = import_from(stick, state)
        assert (told["studies"], told["stored"], told["known"], told["not_dicom"]) == (2, 9, 0, 1)
        assert told["refused"] == []
        wait_for(lambda: len(stand.reader.handovers_after(0)) == 2)
        assert all(h.complete_by == "geometry" for _, h in stand.reader.handovers_after(0))
        again = import_from(stick, state)
        assert (again["stored"], again["known"]) == (0, 9)
        assert len(stand.reader.handovers_after(0)) == 2
        assert {path: path.read_bytes() for path in before} == before
    (sender,) = read_senders(state / "run" / "senders.json")
    assert (sender.ae_title, sender.address, sender.instances) == ("IMPORT", "stick", 9)


def test_what_is_wrong_is_named_and_the_rest_comes_in(tmp_path: Path, state: Path) -> None:
    stick = tmp_path / "stick"
    write_files(stick, ct_series(3))
    (stick / "cut.dcm").write_bytes(part10(ct_slice(index=3))[:-700])
    (stick / "mr.dcm").write_bytes(part10(ct_slice(index=4, SOPClassUID=MRImageStorage)))
    (stick / "meta.dcm").write_bytes(part10(ct_slice(index=5))[:150])
    (stick / "DICOMDIR").write_bytes(dicomdir([["0000.DCM"], ["MISSING", "IMG1"]]))
    with box(state) as stand:
        told = import_from(stick, state, expected=1)
        assert len(stand.objects()) == 3
    reasons = {one["file"]: one["why"] for one in told["refused"]}
    assert set(reasons) == {"cut.dcm", "meta.dcm", "MISSING/IMG1"}
    assert "DICOMDIR" in reasons["MISSING/IMG1"]
    assert told["not_wanted"] == {"MR Image Storage: objects of this SOP class are not taken": 1}
    assert (told["stored"], told["not_dicom"]) == (3, 0)
    assert "Secret" not in json.dumps(told)


def test_a_dicomdir_or_a_single_file_can_be_named(tmp_path: Path, state: Path) -> None:
    stick = tmp_path / "stick"
    paths = write_files(stick, ct_series(3))
    (stick / "DICOMDIR").write_bytes(dicomdir([["0000.dcm"], ["0001.dcm"], ["0002.dcm"]]))
    with box(state) as stand:
        assert import_from(paths[1], state)["stored"] == 1
        assert import_from(stick / "DICOMDIR", state)["known"] == 1
        assert len(stand.objects()) == 3


def dicomdir(named: list[list[str]]) -> bytes:
    ds = Dataset()
    ds.DirectoryRecordSequence = []
    for steps in named:
        record = Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", steps
        ds.DirectoryRecordSequence.append(record)
    ds.file_meta = FileMetaDataset()
    ds.SOPClassUID, ds.SOPInstanceUID = MediaStorageDirectoryStorage, uid("dicomdir")
    return part10(ds, sop_class=MediaStorageDirectoryStorage, syntax=ExplicitVRLittleEndian)


def test_without_a_receiver_it_says_so(tmp_path: Path, state: Path) -> None:
    write_files(tmp_path / "stick", ct_series(1))
    with pytest.raises(DeliveryError) as refused:
        import_from(tmp_path / "stick", state)
    assert "receiver" in refused.value.remedy()


def test_a_full_disk_stops_it_and_it_goes_on_from_there(tmp_path: Path, state: Path) -> None:
    write_files(tmp_path / "stick", ct_series(4))
    with box(state, min_free_bytes=1 << 62) as stand, pytest.raises(DeliveryError, match="no room"):
        import_from(tmp_path / "stick", state)
    assert not stand.objects()
    with box(state):
        assert import_from(tmp_path / "stick", state)["stored"] == 4


def test_it_goes_on_after_the_receiver_was_killed(tmp_path: Path, state: Path) -> None:
    write_files(tmp_path / "stick", ct_series(200))
    reader = IntakeReader(state / "intake.db", state / "spool")
    process = start(state)
    ended: list[BaseException] = []

    def bring() -> None:
        try:
            import_from(tmp_path / "stick", state)
        except BaseException as error:
            ended.append(error)

    person = threading.Thread(target=bring)
    person.start()
    try:
        wait_for(lambda: any(s.instances >= 20 for s in reader.studies()))
    finally:
        process.kill()
        process.wait()
    person.join(30)
    assert [type(error) for error in ended] == [DeliveryError]
    process = start(state)
    try:
        told = import_from(tmp_path / "stick", state)
        assert told["known"] >= 20
        assert told["known"] + told["stored"] == 200
        ((_, handover),) = wait_for(lambda: reader.handovers_after(0))
        assert (len(handover.instances), handover.complete_by) == (200, "geometry")
    finally:
        process.kill()
        process.wait()


def start(state: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.appliance.intake.importing_process", str(state)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def hatch(state: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(20)
    with short_path(state / "run") as address:
        client.connect(address)
    return client


def offer(**changes: Any) -> bytes:
    ds = ct_slice()
    values = {"sop_class_uid": ds.SOPClassUID, "sop_instance_uid": ds.SOPInstanceUID, "length": 10, "sha256": "0" * 64}
    return Offer(**{**values, "transfer_syntax": ExplicitVRLittleEndian, **changes}).model_dump_json().encode() + b"\n"


@pytest.mark.parametrize(
    "said",
    [b"", b"\n", b"{}\n", b"x" * 100_000, b'{"source": "a"}\n[]\n', b'{"source": "a"}\n' + b"y" * 100_000],
    ids=["nothing", "empty", "no greeting", "long greeting", "no offer", "long offer"],
)
def test_who_speaks_something_else_is_shown_out(state: Path, said: bytes) -> None:
    with box(state) as stand:
        with hatch(state) as client:
            try:
                client.sendall(said)
                client.shutdown(socket.SHUT_WR)
                assert client.recv(100) == b""
            except (BrokenPipeError, ConnectionResetError):
                pass
        assert stand.role.alive
        assert not stand.objects()


def test_an_offer_that_is_too_long_or_cut_leaves_nothing(state: Path) -> None:
    with box(state, max_dataset_bytes=1 << 20) as stand:
        with hatch(state) as client, client.makefile("rb") as lines:
            client.sendall(Greeting(source="x").model_dump_json().encode() + b"\n" + offer(length=2 << 20))
            assert Answer.model_validate_json(lines.readline()).outcome == "refused"
            client.sendall(offer(length=1000))
            assert Answer.model_validate_json(lines.readline()).outcome == "go"
            client.sendall(bytes(400))
        wait_for(lambda: any(s.associations_broken for s in read_senders(state / "run" / "senders.json")))
        assert not stand.objects()


def test_more_visits_than_four_are_turned_away(state: Path) -> None:
    with box(state):
        visits = [hatch(state) for _ in range(4)]
        try:
            time.sleep(0.3)
            with hatch(state) as fifth:
                assert fifth.recv(10) == b""
        finally:
            for visit in visits:
                visit.close()


def test_the_socket_is_for_the_group_only(state: Path) -> None:
    with box(state):
        assert os.stat(state / "run" / SOCKET_NAME).st_mode & 0o777 == 0o660


def test_looking_finds_studies_and_counts_the_rest(tmp_path: Path) -> None:
    write_files(tmp_path / "A", [*ct_series(2), *ct_series(3, study="b")])
    (tmp_path / "note.txt").write_text("hello")
    seen: list[int] = []
    found = look(tmp_path, seen.append)
    assert sorted(len(files) for files in found.studies.values()) == [2, 3]
    assert (found.not_dicom, found.objects, seen[-1]) == (1, 5, 6)
