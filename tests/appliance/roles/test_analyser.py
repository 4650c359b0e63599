"""The analyser answers every study, also one that always fails; a full disk and a stop are not the study's fault."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread

from appliance.analyser import Analyser
from appliance.clock import SystemClock
from appliance.identity.pseudonyms import Pseudonyms
from appliance.intake.facts import InstanceFacts
from appliance.intake.ledger import Arrival, Place
from appliance.pipeline import Desk
from appliance.reading import StudyReader
from appliance.reporting import Equipment
from appliance.storage.intake_journal import IntakeJournal
from appliance.storage.intake_reader import IntakeReader
from appliance.storage.journal import Journal
from appliance.study import State
from core.errors import StorageFull
from core.finding import Reason
from tests.appliance.dicom_samples import ct_series, write_files

NAMES = Pseudonyms(bytes(32))
T0 = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)


class Silent:
    """A doorbell that nobody hears."""

    def ring(self, role: str) -> None:
        """Nothing."""


def desk(state: Path) -> Desk:
    return Desk(
        cascade=None,
        without=Reason.NO_ACTIVE_BUNDLE,
        model=None,
        modes={},
        pseudonyms=NAMES,
        equipment=Equipment(serial="site.box", software_version="0"),
        state=state,
        objects=state / "objects",
        was_reported=lambda result: True,
        now=lambda: T0,
        cancelled=lambda: False,
    )


class Box:
    """Journals with one study handed over, and an analyser that reads it at `desk_of(...)`."""

    def __init__(self, state: Path, desk_of: Callable[[Path], Desk]) -> None:
        files = write_files(state / "spool", ct_series(20))
        intake = IntakeJournal(state / "intake.db", state / "spool")
        for path in files:
            image = dcmread(path)
            facts = InstanceFacts(
                str(image.SOPInstanceUID),
                str(image.SOPClassUID),
                str(image.StudyInstanceUID),
                str(image.SeriesInstanceUID),
            )
            intake.record(Arrival(facts, path.name, Place(path.name, None, 1), "1.2.840.10008.1.2.1", "CT", T0))
        intake.hand_over(str(image.StudyInstanceUID), "geometry", "20 slices, 2 mm apart", T0)
        self.journal = Journal(state / "journal.db", state, "box-1", SystemClock().stamp)
        self.analyser = Analyser(
            journal=self.journal,
            intake=IntakeReader(state / "intake.db", state / "spool"),
            reader=lambda: StudyReader(lambda: desk_of(state)),
            pseudonym=NAMES.study,
            clock=SystemClock(),
            bells=Silent(),
            destinations=["pacs"],
            max_attempts=3,
        )


def test_without_a_model_the_study_is_answered_all_the_same(tmp_path: Path) -> None:
    box = Box(tmp_path, desk)
    box.analyser.step()
    [row] = box.journal.recent()
    assert row.state is State.ANSWERED
    assert row.result_id is not None
    assert {a["reason"] for a in box.journal.answers(row.result_id)} == {"no active bundle"}
    [item] = box.journal.pacs.due(SystemClock().now())
    assert dcmread(item.path).Modality == "SR"


def test_a_study_that_always_fails_is_answered_as_failed_after_three_attempts(tmp_path: Path) -> None:
    class Broken:
        def analyse(self, *_: object, **__: object) -> None:
            raise RuntimeError("a defect")

    box = Box(tmp_path, lambda state: dataclasses.replace(desk(state), cascade=Broken()))  # type: ignore[arg-type]
    for _ in range(3):
        box.analyser.step()
        assert box.journal.recent()[0].state is State.ANALYSING
    box.analyser.step()
    [row] = box.journal.recent()
    assert row.state is State.ANSWERED
    assert row.result_id is not None
    assert {a["reason"] for a in box.journal.answers(row.result_id)} == {"analysis failed"}
    assert len(box.journal.pacs.due(SystemClock().now())) == 1
    kinds = [m.payload for m in box.journal.messages.after("event", 0)]
    assert any(b"study_failed" in payload for payload in kinds)


def test_a_full_disk_does_not_count_as_an_attempt(tmp_path: Path) -> None:
    def full(_: Path) -> Desk:
        raise StorageFull("no room")

    box = Box(tmp_path, full)
    for _ in range(10):
        assert box.analyser.step() > 0
    [row] = box.journal.recent()
    assert (row.state, row.attempts) == (State.ANALYSING, 0)


def test_a_repeat_after_a_crash_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Box(tmp_path, desk)

    def crash(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(box.journal, "commit_answers", crash)
        with pytest.raises(KeyboardInterrupt):
            box.analyser.step()
    before = {p.name: p.read_bytes() for p in (tmp_path / "objects").rglob("*.dcm")}
    box.analyser.step()
    after = {p.name: p.read_bytes() for p in (tmp_path / "objects").rglob("*.dcm")}
    assert before
    assert before == after
