"""Reads studies with the model on the shelf: everything heavy that the analyser has.

Imported when the first study arrives, since it brings NumPy, SciPy, highdicom and a runtime: an idle box holds none of
them. Called by `appliance.analyser` only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from appliance.imaging.early import EarlySlices
from appliance.pipeline import Desk, Reading, read_study, read_without_analysis
from appliance.ports import StoredInstance
from appliance.storage.journal import StudyRow
from engines.cascade import Cancelled


class StudyReader:
    """One study at a time. `desk` is asked for each study, so that a new bundle serves the next one."""

    def __init__(
        self, desk: Callable[[], Desk], rest: Callable[[], bool] = lambda: False, most_early_bytes: int = 1 << 30
    ) -> None:
        """rest: lets go of the model after long idleness; True if it did just now.

        most_early_bytes: of slices that are held before their study is complete.
        """
        self._desk = desk
        self.rest = rest
        self.early = EarlySlices(most_early_bytes)

    def prepare(self) -> None:
        """Open the model now: a study is on its way."""
        self._desk()

    def read(self, study: StudyRow, instances: Sequence[StoredInstance]) -> Reading | None:
        """The study's answers and objects; None where a stop came first."""
        self.early.keep(study.study_uid, instances)
        try:
            return read_study(replace(self._desk(), early=self.early), study, instances)
        except Cancelled:
            return None
        finally:
            self.early.forget()

    def give_up(self, study: StudyRow, instances: Sequence[StoredInstance]) -> Reading:
        """The same for a study that failed too often: not analysed, visibly."""
        return read_without_analysis(self._desk(), study, instances)
