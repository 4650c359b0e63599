"""Who sends, and what went wrong with it: what a field engineer asks first (`onescan-appliance senders`).

One record for each calling AE title and address, in memory; written to `run/senders.json` from time to time, so it
tells of this start of the receiver. AE titles, addresses and SOP classes only: no patient and no study is in it.
"""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from appliance.intake.wire.acceptor import RefusedContext
from core import durable
from core.errors import StorageError

_SENDERS = 200
"""Beyond that the one that was quiet for longest is forgotten: anybody may connect under any name."""
_CONTEXTS = 200
"""Per sender; an association proposes 128 at most."""


@dataclass
class Sender:
    """One peer. Times are ISO 8601, UTC. not_taken: (SOP class, transfer syntaxes, result of PS3.8 table 9-18).

    requests: of storage commitment and the like. reports_owed: of storage commitments, in vain so far or not yet sent.
    """

    ae_title: str
    address: str
    tls: bool = False
    first_at: str = ""
    last_at: str = ""
    associations: int = 0
    associations_refused: int = 0
    associations_broken: int = 0
    instances: int = 0
    instances_refused: int = 0
    trouble: str = ""
    trouble_at: str = ""
    requests: int = 0
    requests_refused: int = 0
    reports_owed: int = 0
    report_trouble: str = ""
    not_taken: tuple[tuple[str, tuple[str, ...], int], ...] = ()


class Senders:
    """May be called from any thread. now: wall clock."""

    def __init__(self, now: Callable[[], dt.datetime]) -> None:
        self._now, self._lock = now, threading.Lock()
        self._known: OrderedDict[tuple[str, str], Sender] = OrderedDict()
        self._changed = False

    def connected(self, ae_title: str, address: str, tls: bool, refused: Iterable[RefusedContext]) -> None:
        """An association was accepted; some of what it proposed perhaps not."""
        with self._lock:
            sender = self._touched(ae_title, address)
            sender.tls = tls
            sender.associations += 1
            for context in refused:
                entry = (context.sop_class_uid, context.transfer_syntaxes, context.result)
                if entry not in sender.not_taken and len(sender.not_taken) < _CONTEXTS:
                    sender.not_taken += (entry,)

    def refused(self, ae_title: str, address: str, why: str) -> None:
        """An association was refused."""
        with self._lock:
            sender = self._touched(ae_title, address, why)
            sender.associations_refused += 1

    def broken(self, ae_title: str, address: str, why: str) -> None:
        """An association was not released: aborted, cut or ended for a fault."""
        with self._lock:
            sender = self._touched(ae_title, address, why)
            sender.associations_broken += 1

    def stored(self, ae_title: str, address: str) -> None:
        """An instance was answered with success."""
        with self._lock:
            self._touched(ae_title, address).instances += 1

    def instance_refused(self, ae_title: str, address: str, why: str) -> None:
        """An instance was answered with a failure."""
        with self._lock:
            sender = self._touched(ae_title, address, why)
            sender.instances_refused += 1

    def asked(self, ae_title: str, address: str) -> None:
        """A request that stores nothing was answered with success."""
        with self._lock:
            self._touched(ae_title, address).requests += 1

    def request_refused(self, ae_title: str, address: str, why: str) -> None:
        """Such a request was answered with a failure."""
        with self._lock:
            self._touched(ae_title, address, why).requests_refused += 1

    def owe(self, owed: Mapping[tuple[str, str], tuple[int, str]]) -> None:
        """All reports of storage commitments that are owed: by AE title and address how many, and a trouble."""
        with self._lock:
            for (ae_title, address), (count, why) in owed.items():
                if (ae_title, address) not in self._known:
                    self._touched(ae_title, address)
                sender = self._known[ae_title, address]
                self._changed |= (sender.reports_owed, sender.report_trouble) != (count, why)
                sender.reports_owed, sender.report_trouble = count, why
            for key, sender in self._known.items():
                if key not in owed and sender.reports_owed:
                    sender.reports_owed, sender.report_trouble, self._changed = 0, "", True

    def write(self, path: Path) -> None:
        """Write what changed since the last call; StorageError if that fails."""
        with self._lock:
            if not self._changed:
                return
            self._changed = False
            content = json.dumps([asdict(sender) for sender in reversed(self._known.values())], indent=1)
        durable.write_text(path, content + "\n")

    def _touched(self, ae_title: str, address: str, trouble: str = "") -> Sender:
        now = self._now().isoformat(timespec="seconds")
        key = (ae_title, address)
        sender = self._known.setdefault(key, Sender(ae_title, address, first_at=now))
        self._known.move_to_end(key)
        if len(self._known) > _SENDERS:
            self._known.popitem(last=False)
        sender.last_at = now
        if trouble:
            sender.trouble, sender.trouble_at = trouble, now
        self._changed = True
        return sender


def read(path: Path) -> list[Sender]:
    """What a receiver wrote, the one that was heard of last first; nothing where it has written nothing yet."""
    try:
        content = path.read_text("utf-8")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"can't read {path}: {error.strerror}") from error
    rows = json.loads(content)
    return [
        Sender(**{**row, "not_taken": tuple((sop, tuple(syntaxes), n) for sop, syntaxes, n in row["not_taken"])})
        for row in rows
    ]
