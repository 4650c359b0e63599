"""One instance: examined, written, recorded. What this returns from without an exception may be answered with success.

1. room            below the free-space watermark nothing new is taken
2. examine         whole, and what the request says (`examine.py`), of its study
3. known content   the same SOP Instance UID and content: nothing to do. Another content of it: kept as evidence,
                   reported, never analysed in place of the first
4. spool           its bytes are durable, and with them all that its row will say
5. ledger          its row is there; assembly hears of it in the same breath
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

from appliance.intake.assembly import Assembly
from appliance.intake.examine import examine
from appliance.intake.facts import InstanceFacts
from appliance.intake.ledger import Arrival, IntakeLedger, KnownContent, Place
from appliance.intake.recovery import about
from appliance.intake.refusal import STUDY_MISMATCH, InstanceRefused
from appliance.intake.spool import Spool, file_meta
from appliance.ports import Clock
from core.errors import StorageFull

log = logging.getLogger(__name__)
_STRIPES = 64
_NOWHERE = Place("", None, 0)


@dataclass(frozen=True)
class StoreRequest:
    """A C-STORE request as it came. association: who brings it. dataset: as encoded by the sender; sha256: of it.

    study_uid: the study that it has to be of; "" where the way in does not say.
    """

    association: Hashable
    sender: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    dataset: bytes | memoryview
    sha256: str
    study_uid: str = ""


class Storing:
    """Stores instances; may be called from many threads. `lock` is held where ledger and assembly change together."""

    def __init__(
        self,
        *,
        spool: Spool,
        ledger: IntakeLedger,
        assembly: Assembly,
        lock: threading.RLock,
        clock: Clock,
        min_free_bytes: int,
        pseudonym: Callable[[str], str],
        duplicate_content: Callable[[str], None],
        began: Callable[[str], None],
    ) -> None:
        """began: called with its UID after the first instance of a study, new or reopened, was stored."""
        self._began = began
        self._spool, self._ledger, self._assembly, self._lock, self._clock = spool, ledger, assembly, lock, clock
        self._min_free_bytes = min_free_bytes
        self._pseudonym = pseudonym
        self._duplicate_content = duplicate_content
        self._stripes = [threading.Lock() for _ in range(_STRIPES)]

    def store(self, request: StoreRequest) -> None:
        """Store an instance. InstanceRefused, StorageFull or StorageError: then nothing of it was kept."""
        wanted = self._min_free_bytes + len(request.dataset)
        if self._spool.free_bytes(at_least=wanted) < wanted:  # 1
            raise StorageFull(f"{self._spool.folder} has less than {self._min_free_bytes} bytes free")
        facts = examine(  # 2
            request.dataset, request.transfer_syntax, request.sop_class_uid, request.sop_instance_uid
        )
        if request.study_uid not in ("", facts.study_uid):
            raise InstanceRefused(
                STUDY_MISMATCH,
                "the data set is not of the study that the request is for",
                remedy="Send every study to its own address, or to the one that takes all of them.",
            )
        sha256 = request.sha256
        with self._stripes[hash(facts.sop_instance_uid) % _STRIPES]:  # the same UID on two associations at once
            known = self._ledger.contents_of(facts.sop_instance_uid)
            if any((k.study_uid, k.sha256) == (facts.study_uid, sha256) for k in known):  # 3
                self._came_again(request, facts, sha256, known)
            else:
                self._came_new(request, facts, sha256, known)

    def _came_new(
        self, request: StoreRequest, facts: InstanceFacts, sha256: str, known: Sequence[KnownContent]
    ) -> None:
        evidence = any(k.study_uid == facts.study_uid for k in known)
        arrival = self._write(request, facts, sha256, evidence)
        with self._lock:
            if not self._spool.holds(arrival.place):  # the study was pruned at this very moment
                arrival = self._write(request, facts, sha256, evidence)
            if not evidence and not self._assembly.knows(facts.study_uid):
                before = self._ledger.study(facts.study_uid)
                self._ledger.record(arrival)  # 5
                if before.facts:
                    now = self._clock.monotonic()
                    self._assembly.restore(facts.study_uid, before.facts, now, before.pruned)
                self._arrived(request, facts)
                self._began(facts.study_uid)
            else:
                self._ledger.record(arrival)  # 5
                self._active(request, facts)
        if known:
            self._report_duplicate(request, facts, arrival)

    def _came_again(
        self, request: StoreRequest, facts: InstanceFacts, sha256: str, known: Sequence[KnownContent]
    ) -> None:
        ours = [k for k in known if k.study_uid == facts.study_uid]
        evidence = ours[0].sha256 != sha256
        same = next(k for k in ours if k.sha256 == sha256)
        with self._lock:  # pruning must not run between bytes and row
            if same.pruned or not self._spool.holds(same.place):
                self._ledger.restore(self._write(request, facts, sha256, evidence))
            self._active(request, facts)

    def _write(self, request: StoreRequest, facts: InstanceFacts, sha256: str, evidence: bool) -> Arrival:
        meta = file_meta(facts.sop_class_uid, facts.sop_instance_uid, request.transfer_syntax, request.sender)
        at = self._clock.now()
        arrival = Arrival(facts, sha256, _NOWHERE, request.transfer_syntax, request.sender, at, evidence)
        place = self._spool.append(facts.study_uid, about(arrival, len(meta)), [meta, request.dataset])  # 4
        return replace(arrival, place=place)

    def _active(self, request: StoreRequest, facts: InstanceFacts) -> None:
        """What came changes nothing in a study that is complete; one that is being received had activity."""
        if self._assembly.knows(facts.study_uid):
            self._arrived(request, facts)

    def _arrived(self, request: StoreRequest, facts: InstanceFacts) -> None:
        self._assembly.instance_stored(request.association, facts, self._clock.monotonic())

    def _report_duplicate(self, request: StoreRequest, facts: InstanceFacts, arrival: Arrival) -> None:
        study = self._pseudonym(facts.study_uid)
        log.warning(
            "another content came under a SOP Instance UID that is known; both are kept, the first one counts: "
            "check how the sender makes its UIDs",
            extra={"study": study, "sender": request.sender},
        )
        self._ledger.report("duplicate_content", facts.study_uid, request.sender, arrival.at)
        self._duplicate_content(study)
