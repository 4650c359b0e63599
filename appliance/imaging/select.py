"""Which series of a study to read: for each cancer the best one that serves, or the reason why none does.

Pure. First every series is judged as such: images of another kind in it (a localizer, a dose capture) are left out,
then `IMAGES` is asked of all that is left, then `stack` whether they make a grid. What serves as a series is asked the
questions of `serving.QUESTIONS` for each cancer. Of the series that serve, `PREFERENCES` decide; they are the same for
all cancers, so that one reading serves as many as it can.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from appliance.imaging.header import CT_IMAGE, ImageHeader
from appliance.imaging.serving import Refusal, diameter_mm, kernel_of, unserved
from appliance.imaging.stack import Stack, StackRules, make_stack
from appliance.multiframe import MULTI_FRAME
from core.errors import InputRefused
from core.finding import Cancer, Reason
from core.requirement import DEFAULTS, Requirement

_SEEN = 0.8
_WHOLE_BODY_MM = 350.0
"""A field beyond shows no more of a patient of usual size."""
_HOLDS_THE_BODY_MM = 280.0
_PREFERRED_SPACING_MM = 2.0
_LOCALIZER = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM", "SCANO"})
_PROCESSED = frozenset(
    {"MIP", "MINIP", "MAX_IP", "MIN_IP", "PROJECTION IMAGE", "PROJECTION", "VRT", "VOLUME RENDERING", "SUBTRACTION"}
    | {"MAXIMUM", "MINIMUM", "STD_DEVIATION", "DIVISION", "MULTIPLICATION"}  # derived pixel contrast, PS3.3 C.8.16.1.4
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


@dataclass(frozen=True)
class Chosen:
    """A series to read. headers: most inferior first. cancers: that it serves best, in their order.

    others: why it does not serve the other cancers; one that it serves, but not best, is in neither.
    why: one sentence for the receipt, no patient identity.
    """

    headers: tuple[ImageHeader, ...]
    cancers: tuple[Cancer, ...]
    others: Mapping[Cancer, Refusal]
    why: str


@dataclass(frozen=True)
class Selection:
    """The outcome: every cancer is in one `series` or in `without`, never in both.

    series: the one that serves most of the cancers looked for first. without: why no series serves a cancer.
    refused: why a series serves no cancer at all, per series UID.
    """

    series: tuple[Chosen, ...]
    without: Mapping[Cancer, Refusal]
    refused: Mapping[str, Refusal]

    @property
    def chosen(self) -> tuple[ImageHeader, ...] | None:
        """The slices of the series that serves most cancers; None where none serves any."""
        return self.series[0].headers if self.series else None

    @property
    def reason(self) -> Reason | None:
        """Why no series serves any cancer; None where one does."""
        return None if self.series else self.without[Cancer.LUNG][0]

    @property
    def detail(self) -> str:
        """The same in words."""
        return "" if self.series else self.without[Cancer.LUNG][1]


def select(
    headers: Iterable[ImageHeader],
    rules: StackRules | None = None,
    asked: Mapping[Cancer, Requirement] = DEFAULTS,
    looked_for: Collection[Cancer] = tuple(Cancer),
) -> Selection:
    """Choose the series of a study to read.

    asked: what a series must be for each of the seven cancers. looked_for: those that count when series are ordered.
    """
    series: dict[str, list[ImageHeader]] = defaultdict(list)
    for header in headers:
        series[header.series_uid].append(header)
    stacks: list[Stack] = []
    refused: dict[str, Refusal] = {}
    for uid in sorted(series):
        try:
            stacks.append(make_stack(_slices(series[uid]), rules or StackRules()))
        except InputRefused as error:
            refused[uid] = (error.reason, error.detail)
    if not stacks:
        return Selection((), dict.fromkeys(Cancer, _most_telling(series, refused)), refused)
    return _for_each_cancer(stacks, asked, refused, len(series), looked_for)


def _for_each_cancer(
    stacks: Sequence[Stack],
    asked: Mapping[Cancer, Requirement],
    refused: dict[str, Refusal],
    received: int,
    looked_for: Collection[Cancer],
) -> Selection:
    without: dict[Cancer, Refusal] = {}
    best: dict[Cancer, Stack] = {}
    served: set[str] = set()
    for cancer in Cancer:
        answers = [(stack, unserved(stack, asked[cancer])) for stack in stacks]
        serving = [stack for stack, refusal in answers if refusal is None]
        served |= {_uid(stack) for stack in serving}
        if serving:
            best[cancer] = _best(serving)
        else:
            nearest = _best(stacks)  # why the one that would be read otherwise does not serve
            without[cancer] = next(r for stack, r in answers if stack is nearest and r is not None)
    for stack in stacks:
        if _uid(stack) not in served:
            refused[_uid(stack)] = next(r for c in Cancer if (r := unserved(stack, asked[c])) is not None)
    readings = _by_series(best, asked, len(stacks), received)
    # stable: where as many are served, the series of the first cancer goes first
    ordered = sorted(readings, key=lambda chosen: -len({*chosen.cancers} & {*looked_for}))
    return Selection(tuple(ordered), without, refused)


def _by_series(
    best: Mapping[Cancer, Stack], asked: Mapping[Cancer, Requirement], serving: int, received: int
) -> list[Chosen]:
    readings: dict[str, tuple[Stack, list[Cancer]]] = {}
    for cancer, stack in best.items():
        readings.setdefault(_uid(stack), (stack, []))[1].append(cancer)
    return [
        Chosen(stack.headers, tuple(cancers), _others(stack, asked), _why(stack, serving, received))
        for stack, cancers in readings.values()
    ]


def _others(stack: Stack, asked: Mapping[Cancer, Requirement]) -> dict[Cancer, Refusal]:
    return {c: refusal for c in Cancer if (refusal := unserved(stack, asked[c])) is not None}


def _best(stacks: Sequence[Stack]) -> Stack:
    """The preferred one of those that show at least 80 % of what the one shows that shows most of the body."""
    most = max(map(_seen_mm2, stacks))
    enough = [stack for stack in stacks if _seen_mm2(stack) >= _SEEN * most]
    return min(enough, key=lambda stack: (*(prefer(stack) for _, prefer in PREFERENCES), _uid(stack)))


ImageQuestion = tuple[Reason, str, Callable[[ImageHeader], bool]]
IMAGES: tuple[ImageQuestion, ...] = (
    # reason, what is said, True where an image does not serve
    (
        Reason.NO_AXIAL_SERIES,
        "derived images (projection, rendering or map)",
        lambda h: bool(_PROCESSED & {*h.image_type}),
    ),
    (Reason.NO_AXIAL_SERIES, "pixel values are not HU", lambda h: h.rescale_type not in _HU),
    (Reason.UNREADABLE, "no rescale to HU in the header", lambda h: not h.rescale_slope or h.rescale_intercept is None),
    (Reason.UNREADABLE, "a rescale to HU beyond all measure in the header", lambda h: h.rescale is None),
    (
        Reason.UNREADABLE,
        "not MONOCHROME2 images",
        lambda h: h.samples_per_pixel != 1 or h.photometric != "MONOCHROME2",
    ),
)


def _slices(images: Sequence[ImageHeader]) -> list[ImageHeader]:
    """The images of a series that may be slices of a volume. InputRefused where none is."""
    ct = [h for h in images if h.sop_class_uid in {CT_IMAGE, *MULTI_FRAME} and h.modality == "CT"]
    if not ct:
        raise InputRefused(Reason.NO_CT, "no CT images in the series")
    if any(h.frame is None and (h.frames != 1 or h.sop_class_uid in MULTI_FRAME) for h in ct):
        raise InputRefused(Reason.UNREADABLE, "a multi-frame image without a functional group for each frame")
    slices = [h for h in ct if _is_slice(h)]
    if not slices:
        raise InputRefused(Reason.NO_AXIAL_SERIES, "a localizer, or images without orientation")
    for reason, said, fails in IMAGES:
        if any(map(fails, slices)):
            raise InputRefused(reason, said)
    return slices


def _is_slice(header: ImageHeader) -> bool:
    return not _LOCALIZER & {*header.image_type} and header.orientation is not None


def may_be_slice(header: ImageHeader) -> bool:
    """True for a single-frame image that a series may be read with, as far as this image tells."""
    single = header.sop_class_uid == CT_IMAGE and header.modality == "CT" and header.frames == 1
    return single and _is_slice(header) and not any(fails(header) for _, _, fails in IMAGES)


def _coverage_mm(stack: Stack) -> float:
    return stack.geometry.extent_mm[0]


def _seen_mm2(stack: Stack) -> float:
    """How much of the body a series shows: from end to end times from side to side."""
    return _coverage_mm(stack) * min(diameter_mm(stack), _WHOLE_BODY_MM)


def _uid(stack: Stack) -> str:
    return stack.headers[0].series_uid


PREFERENCES: tuple[tuple[str, Callable[[Stack], float]], ...] = (
    # the smaller value goes first; the next line decides among equals
    ("a field that holds the body", lambda stack: float(diameter_mm(stack) < _HOLDS_THE_BODY_MM)),
    ("softest kernel", lambda stack: float(kernel_of(stack))),
    ("no contrast agent", lambda stack: float(bool(stack.headers[0].contrast_agent))),
    ("original before derived images", lambda stack: float("DERIVED" in stack.headers[0].image_type[:1])),
    (
        f"spacing nearest to {_PREFERRED_SPACING_MM:g} mm, on a logarithmic scale",
        lambda stack: abs(math.log(stack.geometry.spacing_mm[0] / _PREFERRED_SPACING_MM)),
    ),
)


def _why(stack: Stack, serving: int, all_series: int) -> str:
    first, z = stack.headers[0], stack.geometry.spacing_mm[0]
    kernel, field = kernel_of(stack).name.lower(), diameter_mm(stack)
    return (
        f"best of {serving} series that serve ({all_series} received): {len(stack.headers)} axial slices every "
        f"{z:g} mm, {_coverage_mm(stack):.0f} mm covered, field of {field:.0f} mm, "
        f"{kernel} kernel {first.kernel or '(not named)'}"
        f"{', contrast agent given' if first.contrast_agent else ''}"
    )


def _most_telling(series: Mapping[str, Sequence[ImageHeader]], refused: Mapping[str, Refusal]) -> Refusal:
    """Nearest to serving first, then most images, then the order of the table."""
    if not refused:
        return Reason.NO_CT, "the study has no images"
    uid = min(
        sorted(refused),
        key=lambda u: (refused[u][0] in _FAR_FROM_SERVING, -len(series[u]), _TELLING.index(refused[u][0])),
    )
    if refused[uid][0] in _FAR_FROM_SERVING:  # among those, the table counts more than the number of images
        uid = min(sorted(refused), key=lambda u: (_TELLING.index(refused[u][0]), -len(series[u])))
    return refused[uid]
