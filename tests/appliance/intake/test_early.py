"""A study is read ahead while it comes in through the receiver, and read to the same answers as without."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.analyser import Analyser
from appliance.clock import SystemClock
from appliance.imaging.early import EarlySlices
from appliance.pipeline import Desk, unanswered
from appliance.ports import StoredInstance
from appliance.reading import StudyReader
from appliance.storage.journal import Journal
from appliance.study import State
from core.finding import Reason
from core.volume import Volume
from engines.cascade import Analysis, PatientContext
from tests.appliance.dicom_samples import ct_series, ct_slice, part10, uid
from tests.appliance.intake.stand import Stand, association, running, send, wait_for
from tests.appliance.roles.test_analyser import NAMES, Silent, desk

COUNT = 24


class Witness:
    """A cascade that notes which volume it was given."""

    def __init__(self) -> None:
        self.saw: list[tuple[object, str]] = []

    def analyse(
        self, volume: Volume, patient: PatientContext, refused: object, cancelled: Callable[[], bool], spent_s: float
    ) -> Analysis:
        self.saw.append((volume.geometry, hashlib.sha256(volume.hu.tobytes()).hexdigest()))
        return unanswered(Reason.NO_MODEL)


class Killed(BaseException):
    """The process ends here."""


class Deadly(EarlySlices):
    """The decoder ends the process over the fifth image."""

    def take(self, study_uid: str, instance: StoredInstance) -> None:
        if self.count == 4:
            raise Killed
        super().take(study_uid, instance)


class Box:
    """An analyser beside a receiver."""

    def __init__(self, folder: Path, stand: Stand, most_early_bytes: int = 1 << 30) -> None:
        self.witness = Witness()
        folder.mkdir(exist_ok=True)
        at: Desk = dataclasses.replace(desk(folder), cascade=self.witness)  # type: ignore[arg-type]
        self.reader = StudyReader(lambda: at, most_early_bytes=most_early_bytes)
        self.journal = Journal(folder / "journal.db", folder, "box-1", SystemClock().stamp)
        self.analyser = Analyser(
            journal=self.journal,
            intake=stand.reader,
            reader=lambda: self.reader,
            pseudonym=NAMES.study,
            clock=SystemClock(),
            bells=Silent(),
            destinations=[],
            max_attempts=3,
        )

    def read_ahead(self, count: int) -> bool:
        self.analyser.step()
        return self.reader.early.count >= count


def test_half_a_study_is_in_hu_before_the_other_half_comes(tmp_path: Path) -> None:
    slices = ct_series(COUNT)
    with running(tmp_path / "receiver") as stand:
        box, without = Box(tmp_path / "box", stand), Box(tmp_path / "without", stand, most_early_bytes=0)
        with association(stand.port) as assoc:
            assert [send(assoc, tmp_path, part10(ds)).Status for ds in slices[:12]] == [0] * 12
            wait_for(lambda: box.read_ahead(12))
            assert not stand.reader.handovers_after(0)
            assert [send(assoc, tmp_path, part10(ds)).Status for ds in slices[12:]] == [0] * 12
        wait_for(lambda: stand.reader.handovers_after(0))
        assert box.reader.early.count >= 12
        for each in (box, without):
            each.analyser.step()
            assert each.journal.recent()[0].state is State.ANSWERED
        assert box.reader.early.held_bytes == 0
        assert len(box.witness.saw) == 1
        assert box.witness.saw == without.witness.saw


def test_a_handover_goes_before_what_is_left_to_read_ahead(tmp_path: Path) -> None:
    with running(tmp_path / "receiver") as stand, association(stand.port) as second:
        box = Box(tmp_path / "box", stand)
        for ds in ct_series(COUNT, study="slow"):
            assert send(second, tmp_path, part10(ds)).Status == 0
        wait_for(lambda: box.read_ahead(1))
        assert box.reader.early.count == 1  # one a step, and there are more
        with association(stand.port) as first:
            for ds in ct_series(12, study="swift"):
                assert send(first, tmp_path, part10(ds)).Status == 0
        wait_for(lambda: stand.reader.handovers_after(0))
        box.analyser.step()
        assert [row.study_uid for row in box.journal.recent()] == [uid("swift")]
        assert box.journal.recent()[0].state is State.ANSWERED
        wait_for(lambda: box.read_ahead(COUNT))  # and then the slow one from its beginning


def test_a_study_over_which_reading_ahead_ended_the_process_is_read_after_its_handover_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(tmp_path / "receiver") as stand:
        killed, without = Box(tmp_path / "box", stand), Box(tmp_path / "without", stand, most_early_bytes=0)
        killed.reader.early = Deadly(1 << 30)
        with association(stand.port) as assoc:
            for ds in ct_series(COUNT)[:12]:
                assert send(assoc, tmp_path, part10(ds)).Status == 0
            with pytest.raises(Killed):
                wait_for(lambda: killed.read_ahead(12))
            killed.journal.close()
            again = Box(tmp_path / "box", stand)
            for ds in ct_series(COUNT)[12:]:
                assert send(assoc, tmp_path, part10(ds)).Status == 0
            wait_for(lambda: len(stand.reader.arrived(uid("a"), 0)) == COUNT)
            for _ in range(COUNT):
                assert again.analyser.step() > 0  # it waits, it does not turn round
            assert again.reader.early.held_bytes == 0
            assert caplog.text.count("the analyser was ended while it did that before") == 1
        wait_for(lambda: stand.reader.handovers_after(0))
        for each in (again, without):
            each.analyser.step()
            assert each.journal.recent()[0].state is State.ANSWERED
        assert len(again.witness.saw) == 1
        assert again.witness.saw == without.witness.saw
        with association(stand.port) as assoc:  # slices come late: that is another hand-over, and may be read ahead
            for ds in [ct_slice(index=COUNT + n) for n in range(2)]:
                assert send(assoc, tmp_path, part10(ds)).Status == 0
            wait_for(lambda: again.read_ahead(1))


def test_after_a_clean_stop_a_study_is_read_ahead_again(tmp_path: Path) -> None:
    with running(tmp_path / "receiver") as stand, association(stand.port) as assoc:
        box = Box(tmp_path / "box", stand)
        for ds in ct_series(COUNT):
            assert send(assoc, tmp_path, part10(ds)).Status == 0
        wait_for(lambda: box.read_ahead(5))
        box.analyser.stop()
        box.journal.close()
        again = Box(tmp_path / "box", stand)
        wait_for(lambda: again.read_ahead(COUNT))


def test_only_what_came_of_a_study_that_is_not_complete_is_told(tmp_path: Path) -> None:
    with running(tmp_path / "receiver") as stand:
        with association(stand.port) as assoc:
            for ds in ct_series(12):
                assert send(assoc, tmp_path, part10(ds)).Status == 0
            told = wait_for(lambda: len(found := stand.reader.arrived(uid("a"), 0)) == 12 and found)
            assert stand.reader.arrived(uid("a"), told[4][0]) == told[5:]
            assert stand.reader.arrived(uid("a"), 0, limit=3) == told[:3]
            assert stand.reader.arrived(uid("b"), 0) == []
        ((_, handover),) = wait_for(lambda: stand.reader.handovers_after(0))
        assert {instance for _, instance in told} == {*handover.instances}
        assert stand.reader.arrived(uid("a"), 0) == []
