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
from appliance.intake.refusal import InstanceRefused
from appliance.intake.senders import Senders
from appliance.intake.storing import StoreRequest
from core.errors import OneScanError

log = logging.getLogger(__name__)
CLASS_NOT_SUPPORTED = 0x0122
"""PS3.7 C.5.6."""
SYNTAX_NOT_SUPPORTED = 0xC122
"""PS3.18 table I.2-2."""


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
        visit = self.begin(sender, address)
        broken = "it ended before it was through"
        try:
            yield visit
            broken = ""
        finally:
            self.end(visit, broken)

    def begin(self, sender: str, address: str, tls: bool = False) -> Visit:
        """As `visit`, where no block can stand for it: `end` has to follow."""
        visit = Visit(self, sender, address)
        self.senders.connected(sender, address, tls, ())
        self.opened(visit, sender, address)
        return visit

    def end(self, visit: Visit, broken: str = "") -> None:
        """broken: why it is to count as broken off; "" where it was released."""
        if broken:
            self.senders.broken(visit.sender, visit.address, broken)
        self.closed(visit, not broken)

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
                SYNTAX_NOT_SUPPORTED,
                "this transfer syntax is not taken",
                remedy="Export the images uncompressed, or with one of the compressions of the conformance statement.",
            )


class Visit:
    """One of them; stands for the association where completeness asks for one."""

    def __init__(self, door: Door, sender: str, address: str) -> None:
        self._door, self.sender, self.address = door, sender, address

    def store(self, meta: FileMeta, dataset: bytes | memoryview, sha256: str = "", study_uid: str = "") -> None:
        """Durable when this returns. InstanceRefused, StorageFull or StorageError: nothing was kept.

        sha256: "" where it is to be computed. study_uid: the one that it has to be of, "" for any.
        """
        door = self._door
        try:
            door.check(meta)
            door.store(
                StoreRequest(
                    association=self,
                    sender=self.sender,
                    sop_class_uid=meta.sop_class_uid,
                    sop_instance_uid=meta.sop_instance_uid,
                    transfer_syntax=meta.transfer_syntax,
                    dataset=dataset,
                    sha256=sha256 or hashlib.sha256(dataset).hexdigest(),
                    study_uid=study_uid,
                )
            )
        except OneScanError as error:
            door.senders.instance_refused(self.sender, self.address, str(error))
            raise
        door.senders.stored(self.sender, self.address)

    def refused(self, why: str) -> None:
        """What was brought was no instance that `store` could be asked to store."""
        self._door.senders.instance_refused(self.sender, self.address, why)
