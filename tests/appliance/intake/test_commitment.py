"""Storage commitment: what is promised is durable, what is not is named with its reason, and the report comes."""

from __future__ import annotations

import datetime as dt
import json
import socket
import sqlite3
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from appliance.association import Peer, Timeouts
from appliance.clock import SystemClock
from appliance.intake.calling import PeerCaller
from appliance.intake.commitment import (
    PUSH_MODEL,
    CommitmentReport,
    Failure,
    Held,
    Judged,
    Reference,
    judge,
    read_request,
)
from appliance.intake.commitments import Commitments, Patience
from appliance.intake.control import Asker, RequestRefused, decode
from appliance.intake.control_services import CommitmentService
from appliance.intake.senders import read as read_senders
from appliance.intake.wire.acceptor import Context
from appliance.intake.wire.gate import Listener
from appliance.intake.wire.messages import Message
from appliance.storage.commitment_file import CommitmentFile
from appliance.storage.intake_journal import IntakeJournal
from appliance.tls import server_context
from core.errors import DeliveryError
from deploy.embedded import OrthancPacs
from tests.appliance.dicom_samples import ct_series, ct_slice, encoded, uid
from tests.appliance.intake.scu import Reports, ask, asking, commitment, listening, reference
from tests.appliance.intake.stand import Stand, push, wait_for
from tests.frame.certificates import TestAuthority

ROOT = Path(__file__).resolve().parents[3]
QUICK = Patience(
    same_association=dt.timedelta(seconds=1), first=dt.timedelta(seconds=0.3), longest=dt.timedelta(seconds=0.6)
)


class Committing:
    """A receiver with storage commitment."""

    def __init__(
        self, folder: Path, peers: dict[str, int] | None = None, patience: Patience = QUICK, **more: Any
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        IntakeJournal(folder / "intake.db", folder / "spool").close()
        self.ledger = CommitmentFile(folder / "intake.db")
        bounds = {name: more.pop(name) for name in ("most_references", "most_owed") if name in more}
        caller = PeerCaller(
            {t: Peer("127.0.0.1", p, t) for t, p in (peers or {}).items()}, "ONESCAN", Timeouts(3, 3, 3)
        )
        self.senders = folder / "senders.json"
        service = CommitmentService(self.ledger, caller, patience=patience, **bounds)
        self.stand = Stand(folder, commitment=service, senders_file=self.senders, **more)

    @property
    def port(self) -> int:
        return self.stand.port

    def __enter__(self) -> Committing:
        return self

    def __exit__(self, *_: object) -> None:
        self.stand.close()
        self.ledger.close()


def failures(ds: Dataset) -> dict[str, int]:
    return {i.ReferencedSOPInstanceUID: i.FailureReason for i in ds.get("FailedSOPSequence", [])}


def committed(ds: Dataset) -> set[str]:
    return {i.ReferencedSOPInstanceUID for i in ds.get("ReferencedSOPSequence", [])}


@pytest.mark.parametrize("keep_open", [True, False])
def test_the_report_comes_on_the_same_association_or_else_on_one_of_ours(tmp_path: Path, keep_open: bool) -> None:
    series, own, called = ct_series(5), Reports(), Reports()
    with listening(called) as port, Committing(tmp_path, {"SCANNER1": port}) as box:
        assert push(box.port, tmp_path, series) == [0] * 5
        with asking(box.port, own) as assoc:
            assert ask(assoc, commitment(uid("t"), series)) == 0
            if keep_open:  # until the box has our answer: a release before that makes it report again
                kind, report = own.wait(uid("t"))
                wait_for(lambda: box.ledger.next_due() is None)
        if not keep_open:
            kind, report = called.wait(uid("t"))
        wait_for(lambda: box.ledger.next_due() is None)
        assert len(own.of(uid("t"))) + len(called.of(uid("t"))) == 1
    assert kind == 1
    assert committed(report) == {ds.SOPInstanceUID for ds in series}
    assert not failures(report)


def test_what_is_not_committed_is_named_with_its_reason(tmp_path: Path) -> None:
    here, own = ct_slice(index=0), Reports()
    with Committing(tmp_path) as box:
        push(box.port, tmp_path, [here, ct_slice(index=1)])
        request = commitment(uid("t"), [here])
        wrong_class, absent, strange = ct_slice(index=1).SOPInstanceUID, uid("never"), uid("mr")
        request.ReferencedSOPSequence += [
            reference(EnhancedCTImageStorage, wrong_class),
            reference(CTImageStorage, absent),
            reference(MRImageStorage, strange),
        ]
        with asking(box.port, own) as assoc:
            assert ask(assoc, request) == 0
            kind, report = own.wait(uid("t"))
    assert kind == 2
    assert committed(report) == {here.SOPInstanceUID}
    assert failures(report) == {wrong_class: 0x0119, absent: 0x0112, strange: 0x0122}


def test_a_pruned_instance_is_not_committed_but_what_was_promised_before_stays_promised(tmp_path: Path) -> None:
    series, own = ct_series(5), Reports()
    with Committing(tmp_path) as box:
        push(box.port, tmp_path, series)
        ((_, handover),) = wait_for(lambda: box.stand.reader.handovers_after(0))
        with asking(box.port, Reports(status=0x0110)) as assoc:  # asked for before, reported after the pruning
            assert ask(assoc, commitment(uid("before"), series)) == 0
        box.stand.journal.mark_pruned(handover.study_uid, handover.complete_at)
        with asking(box.port, own) as assoc:
            assert ask(assoc, commitment(uid("after"), series)) == 0
            assert own.wait(uid("before"))[0] == 1
            assert set(failures(own.wait(uid("after"))[1]).values()) == {0x0112}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda r: r.__delattr__("TransactionUID"), 0x0114),
        (lambda r: setattr(r, "TransactionUID", "1.2.x"), 0x0115),
        (lambda r: r.__delattr__("ReferencedSOPSequence"), 0x0114),
        (lambda r: setattr(r, "ReferencedSOPSequence", []), 0x0114),
        (lambda r: setattr(r, "ReferencedSOPSequence", list(r.ReferencedSOPSequence) * 4), 0x0213),
        (lambda r: r.ReferencedSOPSequence[0].__delattr__("ReferencedSOPClassUID"), 0x0114),
    ],
)
def test_a_request_that_is_none_is_refused_by_its_status(tmp_path: Path, change: Any, status: int) -> None:
    with Committing(tmp_path, most_references=3) as box, asking(box.port, Reports()) as assoc:
        request = commitment(uid("t"), ct_series(2))
        change(request)
        assert ask(assoc, request) == status
        assert ask(assoc, commitment(uid("t"), ct_series(2)), action=2) == 0x0123
        assert ask(assoc, commitment(uid("t"), ct_series(2)), instance=uid("other")) == 0x0112
        assert box.ledger.next_due() is None
        assert ask(assoc, commitment(uid("t"), ct_series(2))) == 0  # the association lives
    (sender,) = read_senders(box.senders)
    assert (sender.requests, sender.requests_refused) == (1, 3)


def test_a_repeat_of_a_transaction_is_judged_anew_and_another_request_under_it_fails(tmp_path: Path) -> None:
    first, second, own = ct_series(2), ct_series(2, study="b"), Reports()
    with Committing(tmp_path) as box:
        for _ in range(2):
            with asking(box.port, Reports()) as assoc:
                assert ask(assoc, commitment(uid("t"), first)) == 0
            push(box.port, tmp_path, first)
        with asking(box.port, own) as assoc:
            assert ask(assoc, commitment(uid("t"), second)) == 0
            wait_for(lambda: len(own.of(uid("t"))) == 2)
    (good, one), (bad, two) = own.of(uid("t"))
    assert (good, committed(one)) == (1, {ds.SOPInstanceUID for ds in first})
    assert (bad, set(failures(two).values())) == (2, {0x0131})


def test_a_sender_without_an_address_hears_on_its_next_association_and_nobody_else_does(tmp_path: Path) -> None:
    series, own, other = ct_series(3), Reports(), Reports()
    with Committing(tmp_path) as box:
        push(box.port, tmp_path, series)
        with asking(box.port, Reports(status=0x0110)) as assoc:
            assert ask(assoc, commitment(uid("t"), series)) == 0
        wait_for(lambda: "receiver.commitment.peers" in box.ledger.owed().get(("SCANNER1", "127.0.0.1"), (0, ""))[1])
        wait_for(lambda: any(s.reports_owed == 1 for s in read_senders(box.senders)))
        with asking(box.port, other, calling="OTHER") as theirs, asking(box.port, own):
            own.wait(uid("t"))
            assert ask(theirs, commitment(uid("u"), series)) == 0
            other.wait(uid("u"))
        assert not other.of(uid("t"))
        wait_for(lambda: box.ledger.next_due() is None)


@pytest.mark.parametrize("taken", [True, False])
def test_what_was_on_its_way_elsewhere_comes_on_this_association_if_and_only_if_that_failed(
    tmp_path: Path, taken: bool
) -> None:
    class Elsewhere:
        """Calls the sender, who pauses on its own association at just that moment."""

        def knows(self, ae_title: str) -> bool:
            return True

        def report(self, ae_title: str, report: CommitmentReport) -> None:
            meanwhile.append(commitments.next_report("association"))
            if not taken:
                raise DeliveryError("no connection", remedy="")

    meanwhile: list[tuple[int, CommitmentReport] | None] = []
    IntakeJournal(tmp_path / "intake.db", tmp_path / "spool").close()
    ledger, asker = CommitmentFile(tmp_path / "intake.db"), Asker("SCANNER1", "127.0.0.1")
    commitments = Commitments(
        ledger=ledger, caller=Elsewhere(), clock=SystemClock(), supported=[CTImageStorage], most_references=10,
        most_owed=10, has_room=lambda: True, settle=lambda: None, announced=lambda _: None, given_up=lambda _: None,
        patience=Patience(same_association=dt.timedelta()),
    )  # fmt: skip
    now = dt.datetime.now(dt.timezone.utc)
    request = read_request(commitment(uid("t"), ct_series(1)), 10)
    ledger.add(request, asker, [CTImageStorage], now, now)
    commitments.opened("association", asker, [Context(PUSH_MODEL, ExplicitVRLittleEndian)])
    commitments.step()
    afterwards = commitments.next_report("association")
    ledger.close()
    assert meanwhile == [None]
    assert (afterwards is None) == taken


def test_a_sender_that_is_away_is_called_until_it_answers(tmp_path: Path) -> None:
    series, called = ct_series(3), Reports()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Committing(tmp_path, {"SCANNER1": port}) as box:
        push(box.port, tmp_path, series)
        with asking(box.port, Reports()) as assoc:
            assert ask(assoc, commitment(uid("t"), series)) == 0
        wait_for(lambda: "no connection" in box.ledger.owed().get(("SCANNER1", "127.0.0.1"), (0, ""))[1])
        with listening(called, port=port):
            assert called.wait(uid("t"))[0] == 1
            wait_for(lambda: box.ledger.next_due() is None)


def test_a_report_that_is_refused_comes_again(tmp_path: Path) -> None:
    called = Reports(status=0x0110)
    with listening(called) as port, Committing(tmp_path, {"SCANNER1": port}) as box:
        with asking(box.port, Reports()) as assoc:
            assert ask(assoc, commitment(uid("t"), ct_series(1))) == 0
        wait_for(lambda: len(called.of(uid("t"))) == 2)
        called.status = 0x0000
        wait_for(lambda: box.ledger.next_due() is None)


def test_a_report_that_nobody_takes_is_given_up_and_told(tmp_path: Path) -> None:
    with Committing(tmp_path, patience=Patience(dt.timedelta(seconds=0.1), report_for=dt.timedelta(seconds=1))) as box:
        with asking(box.port, Reports()) as assoc:
            assert ask(assoc, commitment(uid("t"), ct_series(1))) == 0
        wait_for(lambda: box.ledger.next_due() is None)
        ((_, report),) = wait_for(lambda: box.stand.reader.reports_after(0))
        assert (report.kind, report.code, report.study_uid) == ("delivery_stalled", "SCANNER1", "")


def test_a_sender_that_takes_no_reports_is_refused_at_the_limit(tmp_path: Path) -> None:
    with Committing(tmp_path, most_owed=3) as box, asking(box.port, Reports(status=0x0110)) as assoc:
        statuses = [ask(assoc, commitment(uid("t", n), ct_series(1))) for n in range(5)]
    assert statuses == [0, 0, 0, 0x0213, 0x0213]


def test_below_the_watermark_no_transaction_is_taken(tmp_path: Path) -> None:
    with Committing(tmp_path) as box, asking(box.port, Reports()) as assoc:
        box.stand.role._min_free_bytes = 1 << 62
        assert ask(assoc, commitment(uid("t"), ct_series(1))) == 0x0213


def test_a_data_set_beyond_the_limit_ends_the_association_only(tmp_path: Path) -> None:
    with Committing(tmp_path, max_request_bytes=1000) as box:
        with asking(box.port, Reports()) as assoc:
            assert ask(assoc, commitment(uid("t"), ct_series(20))) is None
            wait_for(lambda: not assoc.is_established)
        assert push(box.port, tmp_path, ct_series(1)) == [0]  # an object may be longer


def test_a_commitment_request_completes_what_geometry_cannot(tmp_path: Path) -> None:
    tilted = ct_series(6, GantryDetectorTilt="12.0")
    tilted = [ds for n, ds in enumerate(tilted) if n != 2]  # a gap: nothing but a count can tell
    with Committing(tmp_path) as box:
        for ds in tilted:
            push(box.port, tmp_path, [ds])
        assert not box.stand.reader.handovers_after(0)
        with asking(box.port, Reports()) as assoc:
            assert ask(assoc, commitment(uid("t"), tilted)) == 0
        ((_, handover),) = wait_for(lambda: box.stand.reader.handovers_after(0))
        assert handover.complete_by == "count"
        assert "all 5 announced" in handover.explanation


def test_a_request_for_more_than_is_here_holds_a_perfect_stack_back(tmp_path: Path) -> None:
    with Committing(tmp_path) as box:
        push(box.port, tmp_path, ct_series(1))
        with asking(box.port, Reports()) as assoc:
            assert ask(assoc, commitment(uid("t"), ct_series(7))) == 0
        push(box.port, tmp_path, ct_series(5))
        wait_for(lambda: "5 of 7 announced" in box.stand.reader.studies()[0].explanation)
        assert not box.stand.reader.handovers_after(0)
        push(box.port, tmp_path, ct_series(7))
        wait_for(lambda: box.stand.reader.handovers_after(0))


def test_over_tls_the_report_comes_on_the_same_association(tmp_path: Path) -> None:
    authority = TestAuthority(tmp_path)
    certificate, key = authority.issue("127.0.0.1")
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.check_hostname = False
    series, own = ct_series(2), Reports()
    tls = server_context(certificate, key, None)
    listeners = [Listener("127.0.0.1", 0), Listener("127.0.0.1", 0, tls)]
    with Committing(tmp_path, listeners=listeners) as box:
        push(box.port, tmp_path, series)
        with asking(box.stand.role.ports[1], own, tls_args=(context, "localhost")) as assoc:
            assert ask(assoc, commitment(uid("t"), series)) == 0
            assert own.wait(uid("t"))[0] == 1


@pytest.mark.parametrize("moment", range(3))
def test_a_transaction_that_was_accepted_is_reported_after_kill_9(tmp_path: Path, moment: int) -> None:
    series, called = ct_series(4), Reports()
    with listening(called) as port:
        process, ours = start(tmp_path, port)
        try:
            push(ours, tmp_path, series)
            with asking(ours, Reports()) as assoc:
                assert ask(assoc, commitment(uid("t"), series)) == 0
                if moment == 1:
                    process.kill()
            if moment == 2:
                called.wait(uid("t"))
        finally:
            process.kill()
            process.wait()
        process, _ = start(tmp_path, port)
        try:
            assert committed(called.wait(uid("t"))[1]) == {ds.SOPInstanceUID for ds in series}
            database = sqlite3.connect(tmp_path / "intake.db")
            wait_for(
                lambda: database.execute("SELECT count(*) FROM commitment WHERE due_at IS NULL").fetchone()[0] == 1
            )
            assert 1 <= len(called.of(uid("t"))) <= 2  # the last one may have been killed before it noted the answer
        finally:
            process.kill()
            process.wait()


def start(folder: Path, peer: int) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-m", "tests.appliance.intake.committing_process", str(folder), str(peer)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def instance_in(orthanc: OrthancPacs, ds: Dataset) -> str:
    query = {"Level": "Instance", "Query": {"SOPInstanceUID": ds.SOPInstanceUID}}
    return str(orthanc.rest("/tools/find", "POST", query)[0])


def test_orthanc_gets_its_commitment(tmp_path: Path, orthanc: OrthancPacs) -> None:
    series = ct_series(3, study="committed by orthanc")
    with Committing(tmp_path, {"ORTHANC": orthanc.port}) as box:
        name = orthanc.add_modality("ONESCAN", box.port)
        for ds in series:
            push(orthanc.port, tmp_path, [ds], called="ORTHANC")
        push(box.port, tmp_path, series[:2])
        ids = [instance_in(orthanc, ds) for ds in series]
        answer = orthanc.rest(f"/modalities/{name}/storage-commitment", "POST", {"Resources": ids})
        path = f"/storage-commitment/{answer['ID']}"
        wait_for(lambda: orthanc.rest(path)["Status"] != "Pending")
        report = orthanc.rest(path)
    assert report["Status"] == "Failure"
    assert {one["SOPInstanceUID"] for one in report["Success"]} == {ds.SOPInstanceUID for ds in series[:2]}
    assert [one["SOPInstanceUID"] for one in report["Failures"]] == [series[2].SOPInstanceUID], json.dumps(report)


UIDS = st.sampled_from(["1.1", "1.2", "1.3", "1.4"])
CLASSES = st.sampled_from([str(CTImageStorage), str(EnhancedCTImageStorage), str(MRImageStorage)])


@settings(max_examples=300)
@given(
    references=st.lists(st.builds(Reference, CLASSES, UIDS), unique=True, min_size=1),
    held=st.dictionaries(UIDS, st.lists(st.builds(Held, CLASSES, st.sampled_from(["9.1", "9.2"])), min_size=1)),
)
def test_nothing_is_promised_that_is_not_held_under_its_class(
    references: list[Reference], held: dict[str, list[Held]]
) -> None:
    judged = judge(references, held, {str(CTImageStorage), str(EnhancedCTImageStorage)})
    assert [one.reference for one in judged] == references
    for one in judged:
        classes = {h.sop_class_uid for h in held.get(one.reference.sop_instance_uid, [])}
        assert (one.failure is None) == (one.reference.sop_class_uid in classes)
        assert (one.failure is Failure.CLASS_CONFLICT) == (bool(classes) and one.failure is not None)


def test_missing_instances_belong_to_the_only_study_that_was_named() -> None:
    references = [Reference("1.2", "1.1"), Reference("1.2", "1.2")]
    assert judge(references, {"1.1": [Held("1.2", "9.1")]}, {"1.2"})[1] == Judged(
        references[1], Failure.NO_SUCH_INSTANCE, "9.1"
    )
    assert judge(references, {}, {"1.2"})[1].study_uid == ""


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_request_is_refused_and_nothing_else(data: st.DataObject) -> None:
    whole = bytearray(encoded(commitment(uid("t"), ct_series(3))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    content = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    message = Message(1, {}, memoryview(content), "")
    try:
        request = read_request(decode(message, "1.2.840.10008.1.2.1"), 10)
    except RequestRefused:
        return
    assert 1 <= len(request.references) <= 3
    assert request.transaction_uid.isascii()
