"""What a power cut took from the ledger and not from the spool: told again at start, before anything is received.

An instance is durable in its segment before its sender hears success; its row is only ordered before what follows. So a
segment may be ahead of the ledger, by its tail alone. Each object there is read and its digest compared, and its row
written as it would have been. What was cut short was never answered with success.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
from collections.abc import Iterator

from appliance.intake.facts import InstanceFacts
from appliance.intake.ledger import Arrival, IntakeLedger, Place
from appliance.intake.segments import Record, records
from appliance.intake.spool import Spool

log = logging.getLogger(__name__)


def about(arrival: Arrival, meta_bytes: int) -> bytes:
    """What a segment says of an object, besides its place. meta_bytes: of the object, before its data set."""
    told = {
        "facts": arrival.facts.to_json(),
        "sha256": arrival.sha256,
        "meta_bytes": meta_bytes,
        "transfer_syntax": arrival.transfer_syntax,
        "sender": arrival.sender,
        "at": arrival.at.isoformat(),
        "evidence": arrival.evidence,
    }
    return json.dumps(told, separators=(",", ":")).encode()


def recover(spool: Spool, ledger: IntakeLedger) -> int:
    """Write the rows that are missing, remove the segments that nobody needs; how many rows there were.

    StorageError where ledger or spool can't be read.
    """
    missing: list[Arrival] = []
    for name in spool.segments():
        missing += _ahead(spool, name, ledger.recorded(name))
    count = sum(_record(ledger, arrival) for arrival in sorted(missing, key=lambda one: one.at))
    spool.remove(name for name in spool.segments() if not ledger.needs(name))
    return count


def _ahead(spool: Spool, name: str, recorded: int) -> Iterator[Arrival]:
    for record in records(spool.folder / name, recorded):
        arrival = _arrival(spool, Place(name, record.offset, record.size), record)
        if arrival is None:
            log.warning("an object at the end of a segment is cut short: its sender heard no success")
            return
        yield arrival


def _arrival(spool: Spool, place: Place, record: Record) -> Arrival | None:
    """None where the object is not what was written: the disk got a part of it only."""
    told = json.loads(record.about)
    content = spool.extent(place).read()
    if hashlib.sha256(memoryview(content)[told["meta_bytes"] :]).hexdigest() != told["sha256"]:
        return None
    facts = InstanceFacts.from_json(told["facts"])
    at = dt.datetime.fromisoformat(told["at"])
    return Arrival(facts, told["sha256"], place, told["transfer_syntax"], told["sender"], at, told["evidence"])


def _record(ledger: IntakeLedger, arrival: Arrival) -> bool:
    facts = arrival.facts
    known = [k for k in ledger.contents_of(facts.sop_instance_uid) if k.study_uid == facts.study_uid]
    same = next((k for k in known if k.sha256 == arrival.sha256), None)
    if same is None:
        ledger.record(arrival)
    elif same.pruned:
        ledger.restore(arrival)
    return same is None or same.pruned
