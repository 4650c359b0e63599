"""Volumes in files (`engines.volumefile`) that a table gives the outcomes of."""

from __future__ import annotations

from core.errors import EngineError, InputRefused
from core.finding import Reason
from core.volume import Volume
from engines import volumefile
from engines.cascade import PatientContext
from engines.evaluation.studies import Study
from engines.evaluation.table import Row, TableSource


class VolumeTable(TableSource):
    """The .npz files of a table."""

    def study(self, index: int) -> Study:
        """Read a volume."""
        row = self.table.rows[index]
        volume: Volume | InputRefused
        try:
            volume = volumefile.read(row.path)
        except EngineError:
            volume = InputRefused(Reason.UNREADABLE, "the file is no volume")
        return study_of_row(row, volume, PatientContext(row.age_years, row.sex))


def study_of_row(row: Row, volume: Volume | InputRefused, patient: PatientContext) -> Study:
    """A case of a table with its scan; slice spacing is added to what it can be broken down by."""
    attributes = dict(row.attributes)
    if isinstance(volume, Volume):
        attributes.setdefault("slice_mm", round(volume.geometry.spacing_mm[0], 2))
    return Study(row.case, row.person, row.set, patient, volume, row.truth, attributes)
