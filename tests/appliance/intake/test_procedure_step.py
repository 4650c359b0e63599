"""MPPS: what a scanner says of its work is durable, answered as the standard has it, and decides what is complete."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage
from pynetdicom import AE
from pynetdicom.association import Association

from appliance.association import keep_responses
from appliance.intake.control import RequestRefused, Status, decode
from appliance.intake.control_services import StepService
from appliance.intake.procedure_step import PROCEDURE_STEP, TABLE, Operation, StepState, after, read_change
from appliance.intake.receiver import SOP_CLASSES
from appliance.intake.wire.messages import Message
from appliance.storage.intake_journal import IntakeJournal
from appliance.storage.intake_reader import IntakeReader
from appliance.storage.step_file import StepFile
from tests.appliance.dicom_samples import ct_series, encoded, uid
from tests.appliance.intake.scu import SYNTAXES, reference
from tests.appliance.intake.stand import AE_TITLE, Stand, push, wait_for

ROOT = Path(__file__).resolve().parents[3]


class Stepping:
    """A receiver with MPPS."""

    def __init__(self, folder: Path, most_references: int = 1000, most_open: int = 100, **more: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        IntakeJournal(folder / "intake.db", folder / "spool").close()
        self.ledger = StepFile(folder / "intake.db")
        self.stand = Stand(folder, steps=StepService(self.ledger, most_references, most_open), **more)
        self.reader, self.port = self.stand.reader, self.stand.port

    def __enter__(self) -> Stepping:
        return self

    def __exit__(self, *_: object) -> None:
        self.stand.close()
        self.ledger.close()


@contextlib.contextmanager
def modality(port: int, calling: str = "SCANNER1") -> Iterator[Association]:
    ae = AE(calling)
    ae.acse_timeout = ae.dimse_timeout = 60
    for syntax in SYNTAXES:
        ae.add_requested_context(PROCEDURE_STEP, [syntax])
    assoc = ae.associate("127.0.0.1", port, ae_title=AE_TITLE)
    assert assoc.is_established
    keep_responses(assoc)
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def beginning(study: str = "a", status: str | None = "IN PROGRESS") -> Dataset:
    """The data set of an N-CREATE, with a patient in it as the standard wants."""
    ds, scheduled = Dataset(), Dataset()
    scheduled.StudyInstanceUID, scheduled.ScheduledProcedureStepID = uid(study), "1"
    ds.ScheduledStepAttributesSequence = [scheduled]
    ds.PatientName, ds.PatientID, ds.PatientSex = "Secret^Name", "PID-4711", "F"
    ds.PerformedProcedureStepID, ds.PerformedStationAETitle, ds.Modality = "1", "SCANNER1", "CT"
    ds.PerformedSeriesSequence = []
    if status is not None:
        ds.PerformedProcedureStepStatus = status
    return ds


def ending(datasets: Sequence[Dataset], status: str | None = "COMPLETED") -> Dataset:
    """The data set of an N-SET."""
    ds, series = Dataset(), Dataset()
    series.SeriesInstanceUID, series.PerformingPhysicianName = uid("series"), "Secret^Name"
    series.ReferencedImageSequence = [reference(one.SOPClassUID, one.SOPInstanceUID) for one in datasets]
    ds.PerformedSeriesSequence = [series]
    if status is not None:
        ds.PerformedProcedureStepStatus = status
    return ds


def create(assoc: Association, step: str, ds: Dataset) -> int | None:
    return assoc.send_n_create(ds, PROCEDURE_STEP, step)[0].get("Status")


def change(assoc: Association, step: str, ds: Dataset) -> int | None:
    return assoc.send_n_set(ds, PROCEDURE_STEP, step)[0].get("Status")


def test_a_study_waits_for_its_step_and_is_complete_when_the_count_agrees(tmp_path: Path) -> None:
    series = [ds for n, ds in enumerate(ct_series(6)) if n != 2]  # a gap: geometry can't tell
    with Stepping(tmp_path) as box, modality(box.port) as assoc:
        assert create(assoc, uid("step"), beginning()) == 0
        for ds in series:
            push(box.port, tmp_path, [ds])
        wait_for(lambda: "in progress" in box.reader.studies()[0].explanation)
        assert change(assoc, uid("step"), ending(series)) == 0
        ((_, handover),) = wait_for(lambda: box.reader.handovers_after(0))
    assert handover.complete_by == "count"
    assert "all 5 announced" in handover.explanation


def test_a_perfect_stack_waits_for_the_rest_that_the_step_names(tmp_path: Path) -> None:
    with Stepping(tmp_path) as box, modality(box.port) as assoc:
        create(assoc, uid("step"), beginning())
        change(assoc, uid("step"), ending(ct_series(8)))
        push(box.port, tmp_path, ct_series(5))
        wait_for(lambda: "5 of 8 announced" in box.reader.studies()[0].explanation)
        assert not box.reader.handovers_after(0)
        push(box.port, tmp_path, ct_series(8))
        ((_, handover),) = wait_for(lambda: box.reader.handovers_after(0))
    assert (handover.complete_by, len(handover.instances)) == ("geometry", 8)


def test_a_step_that_never_ends_is_waited_for_until_quiet(tmp_path: Path) -> None:
    with Stepping(tmp_path, quiet_seconds=0.5) as box, modality(box.port) as assoc:
        create(assoc, uid("step"), beginning())
        push(box.port, tmp_path, ct_series(5))
        ((_, handover),) = wait_for(lambda: box.reader.handovers_after(0))
    assert handover.complete_by == "quiet"
    assert "in progress" in handover.explanation


def test_a_discontinued_step_is_told_and_not_waited_for(tmp_path: Path) -> None:
    with Stepping(tmp_path) as box, modality(box.port) as assoc:
        create(assoc, uid("step"), beginning())
        push(box.port, tmp_path, ct_series(5))
        assert change(assoc, uid("step"), ending(ct_series(9), "DISCONTINUED")) == 0
        ((_, handover),) = wait_for(lambda: box.reader.handovers_after(0))
    assert handover.complete_by == "geometry"
    assert "discontinued" in handover.explanation


def test_objects_that_are_not_taken_are_not_waited_for(tmp_path: Path) -> None:
    series = ct_series(5)
    with Stepping(tmp_path) as box, modality(box.port) as assoc:
        create(assoc, uid("step"), beginning())
        done = ending(series)
        done.PerformedSeriesSequence[0].ReferencedNonImageCompositeSOPInstanceSequence = [
            reference(MRImageStorage, uid("never"))
        ]
        change(assoc, uid("step"), done)
        push(box.port, tmp_path, series)
        wait_for(lambda: box.reader.handovers_after(0))


def test_the_association_speaks_the_table(tmp_path: Path) -> None:
    with Stepping(tmp_path) as box, modality(box.port) as assoc:
        assert change(assoc, uid("step"), ending([])) == 0x0112
        assert create(assoc, uid("step"), beginning(status="COMPLETED")) == 0x0106
        assert create(assoc, uid("step"), beginning(status="FINISHED")) == 0x0106
        assert create(assoc, uid("step"), beginning(status=None)) == 0x0120
        assert create(assoc, uid("step"), beginning()) == 0
        assert create(assoc, uid("step"), beginning()) == 0x0111
        assert change(assoc, uid("step"), ending(ct_series(2), None)) == 0
        assert change(assoc, uid("step"), ending(ct_series(3))) == 0
        assert change(assoc, uid("step"), ending(ct_series(4))) == 0x0110
        assert len(box.ledger.performed(uid("a")).completed) == 3
        assert assoc.is_established


def test_limits_of_references_and_of_steps_in_progress_and_of_the_disk(tmp_path: Path) -> None:
    with Stepping(tmp_path, most_references=3, most_open=2) as box, modality(box.port) as assoc:
        assert [create(assoc, uid("step", n), beginning()) for n in range(3)] == [0, 0, 0x0213]
        with modality(box.port, "OTHER") as other:
            assert create(other, uid("theirs"), beginning("b")) == 0
        assert change(assoc, uid("step", 0), ending(ct_series(4))) == 0x0213
        assert change(assoc, uid("step", 0), ending(ct_series(3))) == 0
        assert create(assoc, uid("step", 3), beginning()) == 0
        box.stand.role._min_free_bytes = 1 << 62
        assert change(assoc, uid("step", 3), ending(ct_series(3))) == 0x0213


def test_no_patient_is_kept_or_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Stepping(tmp_path) as box, modality(box.port) as assoc:
        create(assoc, uid("step"), beginning())
        change(assoc, uid("step"), ending(ct_series(1)))
        change(assoc, uid("step"), ending(ct_series(1)))
    ours = [record for record in caplog.records if record.name.startswith("appliance")]
    assert len(ours) >= 3
    for text in (*(f"{r.getMessage()} {vars(r)}" for r in ours),):
        assert "Secret" not in text
        assert "4711" not in text
        assert uid("a") not in text
    for file in tmp_path.glob("intake.db*"):
        assert b"Secret" not in file.read_bytes()
        assert b"4711" not in file.read_bytes()


def test_what_a_step_said_is_known_after_kill_9(tmp_path: Path) -> None:
    series = [ds for n, ds in enumerate(ct_series(6)) if n != 2]
    process, port = start(tmp_path)
    try:
        push(port, tmp_path, series[:3])
        with modality(port) as assoc:
            assert create(assoc, uid("step"), beginning()) == 0
            assert change(assoc, uid("step"), ending(series)) == 0
            process.kill()
    finally:
        process.kill()
        process.wait()
    reader = IntakeReader(tmp_path / "intake.db")
    process, port = start(tmp_path)
    try:
        wait_for(lambda: "3 of 5 announced" in reader.studies()[0].explanation)
        push(port, tmp_path, series[3:])
        ((_, handover),) = wait_for(lambda: reader.handovers_after(0))
    finally:
        process.kill()
        process.wait()
    assert handover.complete_by == "count"


def start(folder: Path) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-m", "tests.appliance.intake.stepping_process", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_the_table_has_every_case_and_no_step_begins_anew() -> None:
    states: list[StepState | None] = [None, *StepState]
    for state in states:
        for operation in Operation:
            for status in states:
                follows = TABLE[state, operation, status]
                if isinstance(follows, StepState):
                    assert (state is None) == (operation is Operation.CREATE)
                    assert state in (None, StepState.IN_PROGRESS)
                    assert after(state, operation, status) is follows
                else:
                    with pytest.raises(RequestRefused) as refused:
                        after(state, operation, status)
                    assert refused.value.status is follows is not Status.SUCCESS
    assert len(TABLE) == 4 * 2 * 4


@settings(max_examples=300)
@given(data=st.data(), first=st.booleans())
def test_a_damaged_request_is_refused_and_nothing_else(data: st.DataObject, first: bool) -> None:
    whole = bytearray(encoded(beginning() if first else ending(ct_series(3))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    content = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    operation = Operation.CREATE if first else Operation.SET
    try:
        dataset = decode(Message(1, {}, memoryview(content), ""), "1.2.840.10008.1.2.1")
        change = read_change("1.2", operation, dataset, SOP_CLASSES, 10)
    except RequestRefused:
        return
    assert len(change.instances or ()) <= 3
    assert change.studies is None or len(change.studies) == 1
