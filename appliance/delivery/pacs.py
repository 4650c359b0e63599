"""Result objects to the PACS by C-STORE: the stored file's own bytes, never encoded anew.

One association per destination and step, with a presentation context per (SOP class, transfer syntax) that its items
need. Success and warning mean delivered (PS3.4 B.2.3); anything else postpones the item and says why. A PACS that can't
be reached postpones all its items by one attempt. Sending twice is harmless: the same UID carries the same bytes.
"""

from __future__ import annotations

import datetime as dt
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID
from pynetdicom import _config
from pynetdicom.presentation import build_context
from pynetdicom.status import code_to_category

from appliance.association import Peer, Timeouts, association
from appliance.delivery.outbox import Backoff, by_destination
from appliance.ports import Clock, PacsItem, PacsOutbox
from core.errors import DeliveryError

# With this, pynetdicom sends the bytes that follow the file meta information as they are.
_config.STORE_SEND_CHUNKED_DATASET = True

_log = logging.getLogger(__name__)
_BATCH = 100
_NO_ANSWER = "the association ended before the PACS answered"
_MOST_CONTEXTS = 128  # PS3.8 9.3.2.2: odd numbers from 1 to 255


@dataclass(frozen=True)
class Destination:
    """A PACS: its address, its AE title, and the one by which it knows this appliance."""

    host: str
    port: int
    ae_title: str
    calling_ae_title: str


@dataclass(frozen=True)
class Patience:
    """How long to wait for a PACS; when a person should know, in hours; how often to look, in seconds."""

    timeouts: Timeouts = Timeouts()  # noqa: RUF009  # frozen
    stalled_after_h: float = 6.0
    rescan_s: float = 5.0


class PacsSender:
    """Sends what is due. One thread calls `step` again and again; what it did stands in the outbox.

    on_stalled: told once per item (and process) that delivery has been failing for `Patience.stalled_after_h`.
    stopping: asked between two objects.
    """

    def __init__(
        self,
        destinations: Mapping[str, Destination],
        outbox: PacsOutbox,
        clock: Clock,
        backoff: Backoff = Backoff(),  # noqa: B008  # frozen
        patience: Patience = Patience(),  # frozen
        on_stalled: Callable[[PacsItem, str], None] = lambda item, why: None,
        stopping: Callable[[], bool] = lambda: False,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._destinations = dict(destinations)
        self._outbox = outbox
        self._clock = clock
        self._backoff = backoff
        self._patience = patience
        self._on_stalled = on_stalled
        self._stopping = stopping
        self._draw = draw
        self._unreachable: dict[str, tuple[int, dt.datetime, str]] = {}  # failures in a row, closed until, why
        self._stalled: set[int] = set()

    @property
    def stalled(self) -> int:
        """How many items were found stalled since the start and are not delivered yet."""
        return len(self._stalled)

    def step(self) -> float:
        """Send what is due; returns in how many seconds it wants to be called again (at most a rescan interval)."""
        items = self._outbox.due(self._clock.now(), limit=_BATCH)
        for name, group in by_destination(items).items():
            self._serve(name, group)
        if self._stopping():
            return 0.0
        due = self._outbox.next_due()
        if due is None:
            return self._patience.rescan_s
        return min(max((due - self._clock.now()).total_seconds(), 0.0), self._patience.rescan_s)

    def _serve(self, name: str, items: Sequence[PacsItem]) -> None:
        destination = self._destinations.get(name)
        if destination is None:
            self._postpone_all(items, "no such destination in the configuration", failures=1)
            return
        failures, closed_until, why = self._unreachable.get(name, (0, self._clock.now(), ""))
        if failures and self._clock.now() < closed_until:
            for item in items:  # more of the same, found due a moment after the attempt that failed
                self._postpone(item, why, closed_until)
            return
        try:
            peer = Peer(destination.host, destination.port, destination.ae_title)
            contexts = [build_context(*pair) for pair in _contexts(items)]
            with association(peer, destination.calling_ae_title, contexts, self._patience.timeouts) as opened:
                self._unreachable.pop(name, None)
                self._send_all(opened, items)
        except DeliveryError as error:
            until = self._postpone_all(items, str(error), failures + 1)
            self._unreachable[name] = (failures + 1, until, str(error))
            _log.warning("PACS not reached", extra={"destination": name, "why": str(error), "objects": len(items)})

    def _send_all(self, association: Any, items: Sequence[PacsItem]) -> None:
        """Send until done, told to stop, or cut off; what was not tried stays due and comes first next time."""
        for item in items:
            if self._stopping() or not association.is_established:
                return
            failure = _store(association, item)
            if failure is None:
                self._outbox.delivered(item, self._clock.now())
                self._stalled.discard(item.id)
            else:
                delay = self._backoff.delay_s(item.attempts + 1, self._draw())
                self._postpone(item, failure, self._clock.now() + dt.timedelta(seconds=delay))
            if failure == _NO_ANSWER:  # the association may not know yet that it is over
                return

    def _postpone_all(self, items: Sequence[PacsItem], why: str, failures: int) -> dt.datetime:
        """Postpone items that share their cause, all until the same moment."""
        delay = self._backoff.delay_s(failures, self._draw())
        until = self._clock.now() + dt.timedelta(seconds=delay)
        for item in items:
            self._postpone(item, why, until)
        return until

    def _postpone(self, item: PacsItem, why: str, until: dt.datetime) -> None:
        self._outbox.postponed(item, why, until)
        told = item.id in self._stalled
        if not told and self._backoff.is_stalled(item.attempts + 1, self._patience.stalled_after_h):
            self._stalled.add(item.id)
            _log.error("delivery to the PACS is stalled", extra={"destination": item.destination, "why": why})
            self._on_stalled(item, why)


def _contexts(items: Sequence[PacsItem]) -> list[tuple[str, str]]:
    """(SOP class, transfer syntax) pairs that the items need, each once. An unreadable file shows when it is sent."""
    pairs: dict[tuple[str, str], None] = {}
    for item in items:
        try:
            pairs[item.sop_class_uid, str(read_file_meta_info(item.path).TransferSyntaxUID)] = None
        except (OSError, InvalidDicomError, AttributeError):
            pairs[item.sop_class_uid, str(UID("1.2.840.10008.1.2.1"))] = None
    return list(pairs)[:_MOST_CONTEXTS]


def _store(association: Any, item: PacsItem) -> str | None:
    """C-STORE one object. None where it is delivered, otherwise why not. Never a UID: this goes into logs."""
    try:
        status = association.send_c_store(item.path)
    except OSError as error:
        return f"the object's file can't be read: {error.strerror or type(error).__name__}"
    except ValueError:
        return "the PACS accepts no presentation context for this kind of object"
    except (RuntimeError, AttributeError, InvalidDicomError) as error:
        return f"the object was not sent: {type(error).__name__}"
    if "Status" not in status:
        return _NO_ANSWER
    code = int(status.Status)
    category = code_to_category(code)
    if category == "Warning":
        _log.warning("the PACS stored an object with a warning", extra={"status": f"{code:04X}"})
    return None if category in ("Success", "Warning") else f"refused with status {code:04X}"
