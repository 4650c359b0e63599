"""Which series of a study to read: the best axial soft-kernel series, and for every other one why it does not serve.

Pure. A series is refused as a whole: images of another kind in it (a localizer, a dose capture) are left out first.
Of the series that serve, in this order: (1) at least 80 % of the longest coverage; (2) the softest kernel; (3) no
contrast agent; (4) original before derived images; (5) spacing nearest to 2 mm, on a logarithmic scale.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from appliance.imaging.header import CT_IMAGE, ENHANCED_CT, ImageHeader
from appliance.imaging.kernels import sharpness
from appliance.imaging.stack import Stack, StackRules, make_stack
from core.errors import InputRefused
from core.finding import Reason

_COVERAGE = 0.8
_PREFERRED_SPACING_MM = 2.0
_LOCALIZER = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM", "SCANO"})
_PROCESSED = frozenset(
    {"MIP", "MINIP", "MAX_IP", "MIN_IP", "PROJECTION IMAGE", "PROJECTION", "VRT", "VOLUME RENDERING", "SUBTRACTION"}
    | {"SCREEN SAVE", "SCREENSHOT", "PERFUSION", "OVERLAY", "BONE REMOVAL", "CSA MPR RGB"}
)
_HU = frozenset({"", "HU", "US"})  # US: unspecified; spectral maps say Z_EFF, MGML, HU_MOD ...

# Of several refused series, the one that came nearest to serving explains the study best.
_TELLING = (
    *(Reason.GANTRY_TILT, Reason.MISSING_SLICES, Reason.MIXED_SPACING, Reason.DUPLICATE_POSITIONS),
    *(Reason.TOO_THICK, Reason.MIXED_GEOMETRY, Reason.UNREADABLE, Reason.TOO_FEW_SLICES),
    *(Reason.NO_AXIAL_SERIES, Reason.NO_CT),
)
_FAR_FROM_SERVING = frozenset({Reason.TOO_FEW_SLICES, Reason.NO_AXIAL_SERIES, Reason.NO_CT})

Refusal = tuple[Reason, str]


@dataclass(frozen=True)
class Selection:
    """The outcome. chosen: slices, most inferior first; None where no series serves, then `reason` is set.

    refused: per series UID. why: one sentence for the receipt, no patient identity.
    """

    chosen: tuple[ImageHeader, ...] | None
    refused: Mapping[str, Refusal]
    why: str
    reason: Reason | None = None
    detail: str = ""


def select(headers: Iterable[ImageHeader], rules: StackRules | None = None) -> Selection:
    """Choose the series of a study to read."""
    series: dict[str, list[ImageHeader]] = defaultdict(list)
    for header in headers:
        series[header.series_uid].append(header)
    serving: list[Stack] = []
    refused: dict[str, Refusal] = {}
    for uid, images in series.items():
        try:
            serving.append(make_stack(_slices(images), rules or StackRules()))
        except InputRefused as error:
            refused[uid] = (error.reason, error.detail)
    if not serving:
        reason, detail = _most_telling(series, refused)
        return Selection(None, refused, f"no series serves: {reason.value}", reason, detail)
    longest = max(map(_coverage_mm, serving))
    best = min((s for s in serving if _coverage_mm(s) >= _COVERAGE * longest), key=_preference)
    return Selection(best.headers, refused, _why(best, len(serving), len(series)))


def _slices(images: Sequence[ImageHeader]) -> list[ImageHeader]:
    """The images of a series that may be slices of a volume. InputRefused where none is."""
    ct = [h for h in images if h.sop_class_uid == CT_IMAGE and h.modality == "CT"]
    if not ct:
        if any(h.sop_class_uid == ENHANCED_CT for h in images):
            raise InputRefused(Reason.NO_AXIAL_SERIES, "multi-frame Enhanced CT is kept, but not read yet")
        raise InputRefused(Reason.NO_CT, "no CT images in the series")
    slices = [h for h in ct if not _LOCALIZER & set(h.image_type) and h.orientation is not None]
    if not slices:
        raise InputRefused(Reason.NO_AXIAL_SERIES, "a localizer, or images without orientation")
    if any(_PROCESSED & set(h.image_type) for h in slices):
        raise InputRefused(Reason.NO_AXIAL_SERIES, "derived images (projection, rendering or map)")
    if any(h.rescale_type not in _HU for h in slices):
        raise InputRefused(Reason.NO_AXIAL_SERIES, "pixel values are not HU")
    if any(h.rescale_slope is None or h.rescale_intercept is None or h.rescale_slope == 0 for h in slices):
        raise InputRefused(Reason.UNREADABLE, "no rescale to HU in the header")
    if any(h.frames != 1 or h.samples_per_pixel != 1 or h.photometric != "MONOCHROME2" for h in slices):
        raise InputRefused(Reason.UNREADABLE, "not single-frame MONOCHROME2 images")
    return slices


def _coverage_mm(stack: Stack) -> float:
    return stack.geometry.extent_mm[0]


def _preference(stack: Stack) -> tuple[int, bool, bool, float, str]:
    first = stack.headers[0]
    return (
        sharpness(first.manufacturer, first.kernel),
        bool(first.contrast_agent),
        "DERIVED" in first.image_type[:1],
        abs(math.log(stack.geometry.spacing_mm[0] / _PREFERRED_SPACING_MM)),
        first.series_uid,
    )


def _why(stack: Stack, serving: int, all_series: int) -> str:
    first, z = stack.headers[0], stack.geometry.spacing_mm[0]
    kernel = sharpness(first.manufacturer, first.kernel).name.lower()
    return (
        f"best of {serving} series that serve ({all_series} received): {len(stack.headers)} axial slices every "
        f"{z:g} mm, {_coverage_mm(stack):.0f} mm covered, {kernel} kernel {first.kernel or '(not named)'}"
        f"{', contrast agent given' if first.contrast_agent else ''}"
    )


def _most_telling(series: Mapping[str, Sequence[ImageHeader]], refused: Mapping[str, Refusal]) -> Refusal:
    """Nearest to serving first, then most images, then the order of the table."""
    if not refused:
        return Reason.NO_CT, "the study has no images"
    uid = min(
        refused,
        key=lambda u: (refused[u][0] in _FAR_FROM_SERVING, -len(series[u]), _TELLING.index(refused[u][0])),
    )
    if refused[uid][0] in _FAR_FROM_SERVING:  # among those, the table counts more than the number of images
        uid = min(refused, key=lambda u: (_TELLING.index(refused[u][0]), -len(series[u])))
    return refused[uid]
