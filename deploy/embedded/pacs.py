"""A PACS in the small: a storage SCP that checks what it gets and keeps it as Part-10 files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at run time

from core import durable
from core.errors import StorageError
from deploy.embedded.ports import free_port
from deploy.embedded.process import ServerError

if TYPE_CHECKING:
    from typing_extensions import Self

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
NOT_MATCHING = 0xA900  # data set does not match the SOP class
NOT_UNDERSTOOD = 0xC000
_UNDEFINED_LENGTH = 0xFFFFFFFF


@dataclass(frozen=True)
class Received:
    """One C-STORE that was taken. `repeat`: this instance was there before; `changed`: with other content."""

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    modality: str
    path: Path
    calling_ae_title: str
    at: datetime
    repeat: bool
    changed: bool


class StoragePacs:
    """Storage and verification SCP on 127.0.0.1, AE title `PACS`, any storage SOP class, uncompressed.

    Objects go to `folder/<study>/<series>/<instance>.dcm`, durable before success. An object whose data set
    does not parse, or does not say the UIDs of its command, is refused. `refuse(status)` makes it refuse
    everything, as a PACS with a full disk does, until `refuse(None)`.
    """

    def __init__(self, folder: Path, ae_title: str = "PACS", port: int | None = None) -> None:
        self.folder = folder.resolve()
        self.ae_title = ae_title
        self.port = port or free_port()
        self._arrived = threading.Condition()
        self._received: list[Received] = []
        self._refused_with: int | None = None
        self._refusals = 0
        self._server: Any = None

    @property
    def host(self) -> str:
        """Where it listens."""
        return "127.0.0.1"

    @property
    def received(self) -> list[Received]:
        """What it took since it was made, in order of arrival."""
        with self._arrived:
            return list(self._received)

    @property
    def refusals(self) -> int:
        """How many C-STOREs it answered with a failure."""
        with self._arrived:
            return self._refusals

    def refuse(self, status: int | None) -> None:
        """From now on answer every C-STORE with this DICOM status; None: take them again."""
        with self._arrived:
            self._refused_with = status

    def wait_for(self, condition: Callable[[list[Received]], bool], timeout_s: float = 60.0) -> list[Received]:
        """Wait until `condition(received)` holds. Raises `ServerError` if it doesn't in time."""
        deadline = time.monotonic() + timeout_s
        with self._arrived:
            while not condition(list(self._received)):
                left = deadline - time.monotonic()
                if left <= 0:
                    count = len(self._received)
                    raise ServerError(f"what was awaited did not reach the PACS; it has {count} objects")
                self._arrived.wait(left)
            return list(self._received)

    def start(self) -> Self:
        """Listen. No error if it does already."""
        if self._server is not None:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        ae = AE(ae_title=self.ae_title)
        ae.require_called_aet = True
        ae.maximum_pdu_size = 131072
        syntaxes: list[str | UID] = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(str(context.abstract_syntax), syntaxes)
        ae.add_supported_context(Verification)
        handlers: Any = [(evt.EVT_C_STORE, self._store), (evt.EVT_C_ECHO, lambda _event: SUCCESS)]
        try:
            self._server = ae.start_server((self.host, self.port), block=False, evt_handlers=handlers)
        except OSError as error:
            raise ServerError(f"the PACS can't listen on port {self.port}: {error.strerror}") from error
        return self

    def stop(self) -> None:
        """End every association and stop listening. No error if it does not run."""
        if self._server is not None:
            self._server.ae.shutdown()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _store(self, event: Any) -> int:
        with self._arrived:
            refused_with = self._refused_with
        status = refused_with if refused_with is not None else self._take(event)
        with self._arrived:
            self._refusals += status != SUCCESS
        return status

    def _take(self, event: Any) -> int:
        """Check, write, record; returns the DICOM status (PS3.4 table B.2-1)."""
        part10 = event.encoded_dataset()
        dataset = _parsed(part10)
        if dataset is None:
            return NOT_UNDERSTOOD
        request = event.request
        said = (dataset.get("SOPInstanceUID"), dataset.get("SOPClassUID"))
        if said != (request.AffectedSOPInstanceUID, request.AffectedSOPClassUID):
            return NOT_MATCHING
        study, series = str(dataset.get("StudyInstanceUID", "")), str(dataset.get("SeriesInstanceUID", ""))
        if not (UID(study).is_valid and UID(series).is_valid and UID(said[0]).is_valid):
            return NOT_MATCHING
        path = self.folder / study / series / f"{said[0]}.dcm"
        before = path.read_bytes() if path.exists() else None
        try:
            durable.make_folder(path.parent)
            durable.write_bytes(path, part10)
        except StorageError:
            return OUT_OF_RESOURCES
        entry = Received(
            sop_instance_uid=said[0],
            sop_class_uid=said[1],
            study_instance_uid=study,
            series_instance_uid=series,
            modality=str(dataset.get("Modality", "")),
            path=path,
            calling_ae_title=event.assoc.requestor.ae_title.strip(),
            at=datetime.now(timezone.utc),
            repeat=before is not None,
            changed=before is not None and before != part10,
        )
        with self._arrived:
            self._received.append(entry)
            self._arrived.notify_all()
        return SUCCESS


def _parsed(part10: bytes) -> Dataset | None:
    """The data set, read to its last byte; None where it does not parse or ends before it says it does."""
    try:
        dataset = dcmread(BytesIO(part10))
        for tag in dataset.keys():  # noqa: SIM118  # a Dataset iterates over its elements, and converts them
            element: Any = dataset.get_item(tag)
            if isinstance(element, RawDataElement) and not _whole(element):
                return None
        dataset.decode()
        for _ in dataset.iterall():
            pass
    except Exception:  # pydicom raises whatever it stumbles over; to the sender it is one thing
        return None
    return dataset


def _whole(element: RawDataElement) -> bool:
    return element.length == _UNDEFINED_LENGTH or len(element.value or b"") == element.length
