"""The one error of reporting."""

from __future__ import annotations

from core.errors import OneScanError


class ReportFailed(OneScanError):
    """The result objects of a study can't be made from what was given."""

    default_remedy = "This is a defect of OneScan: report it with the log lines of this study."
