"""Ways in beside C-STORE: the same storing, the same bookkeeping of senders, the same signals for completeness.

with door.visit("IMPORT", "usb") as visit:      begins like an association ...
    visit.store(meta, dataset, sha256)          InstanceRefused or StorageError where it was not taken
                                                ... and ends like one: released, or broken off by an exception
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from appliance.intake.part10 import FileMeta
from appliance.intake.refusal import CANNOT_UNDERSTAND, InstanceRefused
from appliance.intake.senders import Senders
from appliance.intake.storing import StoreRequest
from core.errors import OneScanError

log = logging.getLogger(__name__)
CLASS_NOT_SUPPORTED = 0x0122
"""PS3.7 C.5.6."""


@dataclass(frozen=True)
class Door:
    """store, opened, closed: as the DICOM service uses them."""

    store: Callable[[StoreRequest], None]
    opened: Callable[[Hashable, str, str], None]
    closed: Callable[[Hashable, bool], None]
    knows: Callable[[str, str], bool]
    """Whether the content with this SHA-256 is here under this SOP Instance UID."""
    has_room: Callable[[], bool]
    senders: Senders
    sop_classes: Collection[str]
    transfer_syntaxes: Collection[str]

    @contextmanager
    def visit(self, sender: str, address: str) -> Iterator[Visit]:
        """Somebody brings instances. An exception ends it as an association that broke off."""
        visit = Visit(self, sender, address)
        self.senders.connected(sender, address, False, ())
        self.opened(visit, sender, address)
        released = False
        try:
            yield visit
            released = True
        finally:
            if not released:
                self.senders.broken(sender, address, "it ended before it was through")
            self.closed(visit, released)

    def check(self, meta: FileMeta) -> None:
        """InstanceRefused where objects of this class or syntax are not taken, whatever is in them."""
        if meta.sop_class_uid not in self.sop_classes:
            raise InstanceRefused(
                CLASS_NOT_SUPPORTED,
                "objects of this SOP class are not taken",
                remedy="Nothing: the box reads CT. What it takes stands in the conformance statement.",
            )
        if meta.transfer_syntax not in self.transfer_syntaxes:
            raise InstanceRefused(
                CANNOT_UNDERSTAND,
                "this transfer syntax is not taken",
                remedy="Export the images uncompressed, or with one of the compressions of the conformance statement.",
            )


class Visit:
    """One of them; stands for the association where completeness asks for one."""

    def __init__(self, door: Door, sender: str, address: str) -> None:
        self._door, self._sender, self._address = door, sender, address

    def store(self, meta: FileMeta, dataset: bytes | memoryview, sha256: str = "") -> None:
        """Durable when this returns. InstanceRefused, StorageFull or StorageError: nothing was kept."""
        door = self._door
        try:
            door.check(meta)
            door.store(
                StoreRequest(
                    association=self,
                    sender=self._sender,
                    sop_class_uid=meta.sop_class_uid,
                    sop_instance_uid=meta.sop_instance_uid,
                    transfer_syntax=meta.transfer_syntax,
                    dataset=dataset,
                    sha256=sha256 or hashlib.sha256(dataset).hexdigest(),
                )
            )
        except OneScanError as error:
            door.senders.instance_refused(self._sender, self._address, str(error))
            raise
        door.senders.stored(self._sender, self._address)
