"""Result objects of one study, as DICOM Part 10 files in a folder, ready for the PACS.

In: a `ReportContext`, plain values only: the seven answers, what is to be shown of each series that was analysed
(`keep`: lesion masks and slices in the source geometry, its files), who answered (model, device) and when. Out: one
`ResultObject` per file: a TID 1500 structured report, a segmentation per organ with findings, key images that any
viewer can show; each refers to the series that its answer comes from.

The same context always gives the same bytes: UIDs derive from the result id, times come from `answered_at`. Answers in
mode silent are left out, not_analysed never is. For the pipeline only.
"""

from appliance.reporting.context import Equipment, Model, ReportContext, ResultObject, object_uid
from appliance.reporting.failure import ReportFailed
from appliance.reporting.objects import write_objects
from appliance.reporting.source import SourceImage, SourceSeries, keep

__all__ = [
    "Equipment",
    "Model",
    "ReportContext",
    "ReportFailed",
    "ResultObject",
    "SourceImage",
    "SourceSeries",
    "keep",
    "object_uid",
    "write_objects",
]
