"""A sender that asks for storage commitment, with pynetdicom: on its own association, and as one called back."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association

from appliance.association import keep_responses
from appliance.intake.commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE
from tests.appliance.intake.stand import AE_TITLE, wait_for

SYNTAXES = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]


@dataclass
class Reports:
    """N-EVENT-REPORTs that came, and what they are answered with."""

    status: int = 0x0000
    came: list[tuple[int, Dataset]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, event: Any) -> tuple[int, None]:
        with self.lock:
            self.came.append((event.event_type, event.event_information))
        return self.status, None

    def of(self, transaction: str) -> list[tuple[int, Dataset]]:
        with self.lock:
            return [(kind, ds) for kind, ds in self.came if ds.TransactionUID == transaction]

    def wait(self, transaction: str, seconds: float = 20.0) -> tuple[int, Dataset]:
        return wait_for(lambda: self.of(transaction), seconds)[0]


def commitment(transaction: str, datasets: Sequence[Dataset]) -> Dataset:
    """The data set of an N-ACTION."""
    request = Dataset()
    request.TransactionUID = transaction
    request.ReferencedSOPSequence = [reference(ds.SOPClassUID, ds.SOPInstanceUID) for ds in datasets]
    return request


def reference(sop_class: str, sop_instance: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance
    return item


@contextlib.contextmanager
def asking(port: int, reports: Reports, calling: str = "SCANNER1", **options: Any) -> Iterator[Association]:
    """An association for storage commitment; what is reported on it goes to `reports`."""
    ae = AE(calling)
    ae.acse_timeout = ae.dimse_timeout = 60
    for syntax in SYNTAXES:
        ae.add_requested_context(PUSH_MODEL, [syntax])
    handlers = [(evt.EVT_N_EVENT_REPORT, reports.take)]
    assoc = ae.associate("127.0.0.1", port, ae_title=AE_TITLE, evt_handlers=handlers, **options)
    assert assoc.is_established
    keep_responses(assoc)
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def ask(assoc: Association, request: Dataset, action: int = 1, instance: str = PUSH_MODEL_INSTANCE) -> int | None:
    """The status of an N-ACTION."""
    status, _ = assoc.send_n_action(request, action, PUSH_MODEL, instance)
    return status.get("Status")


@contextlib.contextmanager
def listening(reports: Reports, title: str = "SCANNER1", port: int = 0) -> Iterator[int]:
    """A sender that is called back; its port. It takes us as SCP, by role selection (PS3.7 D.3.3.4)."""
    ae = AE(title)
    ae.require_called_aet = True
    ae.add_supported_context(PUSH_MODEL, SYNTAXES, scu_role=False, scp_role=True)
    handlers = [(evt.EVT_N_EVENT_REPORT, reports.take)]
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()
