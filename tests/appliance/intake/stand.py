"""A receiver on a free port, and senders: dcmtk's storescu and pynetdicom with raw bytes."""

from __future__ import annotations

import contextlib
import datetime as dt
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RJ

from appliance.association import keep_responses
from appliance.intake.receiver import SOP_CLASSES
from appliance.intake.role import ReceiverRole
from appliance.intake.segments import records
from appliance.intake.wire.bounds import Limits
from appliance.intake.wire.gate import Listener
from appliance.intake.wire.link import Link
from appliance.storage.intake_journal import IntakeJournal
from appliance.storage.intake_reader import IntakeReader
from core.extent import Extent
from tests.appliance.dicom_samples import part10

AE_TITLE = "ONESCAN"


_LIMITS: dict[str, Any] = {
    "associations": 20,
    "connections": 40,
    "idle_s": 60.0,
    "negotiation_s": 15.0,
    "connections_per_minute": 3000.0,
    "addresses": (),
}


class RealClock:
    """Implements ports.Clock."""

    def now(self) -> dt.datetime:
        return dt.datetime.now(dt.timezone.utc)

    def monotonic(self) -> float:
        return time.monotonic()


class CountingBell:
    """Implements ports.Doorbell."""

    def __init__(self) -> None:
        self.rung: list[str] = []

    def ring(self, role: str) -> None:
        self.rung.append(role)


def pseudonym(study_uid: str) -> str:
    return "pseudonym" if study_uid else ""


class Stand:
    """A running receiver with its ledger and a reader of it."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.spool = Path(changes.pop("spool", folder / "spool"))
        self.database = folder / "intake.db"
        self.journal = IntakeJournal(self.database, self.spool)
        self.reader = IntakeReader(self.database, self.spool)
        self.bell = CountingBell()
        self.duplicates: list[str] = []
        bounds = {name: changes.pop(name) for name in list(changes) if name in _LIMITS}
        arguments: dict[str, Any] = {
            "listeners": [Listener("127.0.0.1", changes.pop("port", 0), changes.pop("tls", None))],
            "limits": Limits(**{**_LIMITS, "connections": 2 * bounds.get("associations", 20), **bounds}),
            "ae_title": AE_TITLE,
            "calling_ae_titles": (),
            "spool": self.spool,
            "ledger": self.journal,
            "quiet_seconds": 60.0,
            "min_free_bytes": 0,
            "clock": RealClock(),
            "doorbell": self.bell,
            "pseudonym": pseudonym,
            "duplicate_content": self.duplicates.append,
        }
        self.role = ReceiverRole(**{**arguments, **changes})
        try:
            self.role.start()
        except BaseException:
            self.close()
            raise

    @property
    def port(self) -> int:
        return self.role.ports[0]

    def links(self) -> tuple[Link, ...]:
        """Connections that are open."""
        return self.role._receiver._service.links()

    def objects(self) -> list[Extent]:
        """What lies in the spool, whatever the ledger says."""
        return objects(self.spool)

    def close(self) -> None:
        self.role.stop()
        self.journal.close()


def objects(spool: Path) -> list[Extent]:
    """What lies in a spool; of a study in the order in which it came."""
    found: list[Extent] = []
    for path in sorted(spool.glob("*.segment")):
        with contextlib.suppress(FileNotFoundError):  # pruned since it was listed
            found += [Extent(path, record.offset, record.size) for record in records(path)]
    return found


@contextlib.contextmanager
def running(folder: Path, **changes: Any) -> Iterator[Stand]:
    stand = Stand(folder, **changes)
    try:
        yield stand
    finally:
        stand.close()


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The condition's value once it is true; fails the test if it never is."""
    until = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, f"not within {seconds} s: {condition}"
        time.sleep(0.02)


def storescu(port: int, *paths: Path, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Push files with dcmtk."""
    command = ["storescu", "-v", "-aec", AE_TITLE, "-aet", "SCANNER1", *options, "127.0.0.1", str(port)]
    return subprocess.run([*command, *map(str, paths)], capture_output=True, text=True, timeout=60, check=False)


@contextlib.contextmanager
def association(
    port: int, called: str = AE_TITLE, calling: str = "SCANNER1", syntax: str = ExplicitVRLittleEndian
) -> Iterator[Association]:
    """An association of a pynetdicom SCU that ends however the block leaves it."""
    ae = AE(calling)
    ae.acse_timeout = 30
    ae.dimse_timeout = 60  # pynetdicom's sender waits so long where an abort overtakes what it is about to send
    for sop_class in SOP_CLASSES:
        ae.add_requested_context(sop_class, [syntax])
    refusals: list[A_ASSOCIATE_RJ] = []
    note = (
        evt.EVT_PDU_RECV,
        lambda event: refusals.append(event.pdu) if isinstance(event.pdu, A_ASSOCIATE_RJ) else None,
    )
    assoc = ae.associate("127.0.0.1", port, ae_title=called, evt_handlers=[note])
    if refusals:  # one that comes at once pynetdicom 3.0.4 may take for a failure to connect
        assoc.is_rejected, assoc.acceptor.primitive = True, refusals[0].to_primitive()
    keep_responses(assoc)
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


_CHUNKED = threading.Lock()


def send(assoc: Association, folder: Path, content: bytes) -> Dataset:
    """Send the bytes of a Part 10 file as they are, whatever they are; returns the response."""
    path = folder / "to_send.dcm"
    path.write_bytes(content)
    with _CHUNKED:
        _config.STORE_SEND_CHUNKED_DATASET = True
        try:
            return assoc.send_c_store(path)
        finally:
            _config.STORE_SEND_CHUNKED_DATASET = False


def push(
    port: int, folder: Path, datasets: Sequence[Dataset], calling: str = "SCANNER1", called: str = AE_TITLE
) -> list[int]:
    """All data sets on one association; their statuses."""
    with association(port, called, calling) as assoc:
        return [send(assoc, folder, part10(ds)).Status for ds in datasets]


__all__ = ["CTImageStorage", "Stand", "association", "push", "running", "send", "storescu", "wait_for"]
