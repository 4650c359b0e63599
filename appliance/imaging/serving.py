"""Does a series serve for a cancer? The table of questions that is put to every series, and what each reads.

The header can only rule out. Whether an organ is whole in the scan and which phase its vessels show is seen in the
images: the cascade's contraindications have the last word (ADR 0028).
"""

from __future__ import annotations

from collections.abc import Callable

from appliance.imaging.kernels import Sharpness, sharpness
from appliance.imaging.stack import Stack
from core.finding import Reason
from core.requirement import Requirement

Refusal = tuple[Reason, str]

_SLACK_MM = 1e-3  # of decimal strings


def _too_thick(stack: Stack, asked: Requirement) -> str:
    spacing = stack.geometry.spacing_mm[0]
    thickness = max((h.thickness_mm or 0.0 for h in stack.headers), default=0.0)
    if spacing > asked.max_spacing_mm + _SLACK_MM:
        return f"{spacing:g} mm between slices, at most {asked.max_spacing_mm:g} mm"
    if thickness > asked.max_thickness_mm + _SLACK_MM:
        return f"slices of {thickness:g} mm, at most {asked.max_thickness_mm:g} mm"
    return ""


def _too_narrow(stack: Stack, asked: Requirement) -> str:
    diameter = diameter_mm(stack)
    if diameter < asked.min_diameter_mm - _SLACK_MM:
        return f"the field of {diameter:.0f} mm cuts it off, at least {asked.min_diameter_mm:g} mm are needed"
    return ""


def _too_short(stack: Stack, asked: Requirement) -> str:
    extent = stack.geometry.extent_mm[0]
    if extent < asked.min_extent_mm - _SLACK_MM:
        return f"{extent:.0f} mm from end to end, at least {asked.min_extent_mm:g} mm are needed"
    return ""


def _other_kernel(stack: Stack, asked: Requirement) -> str:
    found = kernel_of(stack)
    if found.name.lower() in asked.kernels:
        return ""
    named = stack.headers[0].kernel or "(not named)"
    return f"kernel {named} is {found.name.lower()}, what serves is {', '.join(asked.kernels)}"


def _other_contrast(stack: Stack, asked: Requirement) -> str:
    given = any(h.contrast_agent for h in stack.headers)
    if asked.contrast == "forbidden" and given:
        return "the header names a contrast agent"
    if asked.contrast == "required" and not given:
        return "the header names no contrast agent"
    return ""


Question = tuple[str, Reason, Callable[[Stack, Requirement], str]]
QUESTIONS: tuple[Question, ...] = (
    # fields                              reason of a failure   what is wrong; "" where nothing is
    ("max_spacing_mm, max_thickness_mm", Reason.TOO_THICK, _too_thick),
    ("min_diameter_mm", Reason.NOT_COVERED, _too_narrow),
    ("min_extent_mm", Reason.NOT_COVERED, _too_short),
    ("kernels", Reason.KERNEL, _other_kernel),
    ("contrast", Reason.CONTRAST, _other_contrast),
)


def unserved(stack: Stack, asked: Requirement) -> Refusal | None:
    """Why a series does not serve; None if it does."""
    return next(((reason, said) for _, reason, ask in QUESTIONS if (said := ask(stack, asked))), None)


def diameter_mm(stack: Stack) -> float:
    """The field, mm: the narrower side of the matrix, or what was reconstructed of it where that is less."""
    told = (h.reconstructed_mm for h in stack.headers if h.reconstructed_mm is not None)
    return min(*stack.geometry.extent_mm[1:], *told)


def kernel_of(stack: Stack) -> Sharpness:
    """How sharp a series is."""
    first = stack.headers[0]
    return sharpness(first.manufacturer, first.kernel)
