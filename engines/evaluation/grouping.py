"""Cases by what they have in common: words as they are, numbers in few classes. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from core.finding import Cancer
from engines.evaluation.results import CaseResult, Value

_EDGES: Mapping[str, tuple[float, ...]] = {
    "age_years": (40, 50, 60, 70, 80),
    "habitus": (-0.5, 0.5, 1.2),
    "bmi": (18.5, 25, 30, 35),
    "slice_mm": (1.01, 2.01, 3.01, 5.01),
    "size_mm": (10, 20, 30, 50),
}
"""Classes that readers know: [edge, next edge). Habitus is in standard deviations."""
_FEW = 6
"""A column of numbers with at most so many different ones is shown as it is."""
_CLASSES = 4

Label = Callable[[Value], str]


def labels_of(name: str, values: Sequence[Value]) -> tuple[Label, list[str]]:
    """How a column's values are grouped, and the groups' names in order. values: all that occur."""
    if not all(isinstance(v, float | int) and not isinstance(v, bool) for v in values):
        said: Label = lambda v: ("yes" if v else "no") if isinstance(v, bool) else str(v)  # noqa: E731
        return said, sorted({said(v) for v in values})
    numbers = np.unique(np.asarray(values, float))
    if name not in _EDGES and len(numbers) <= _FEW:
        return (lambda v: f"{float(v):.3g}"), list(dict.fromkeys(f"{n:.3g}" for n in numbers))
    if name in _EDGES:
        edges = np.asarray(_EDGES[name], float)
    else:
        edges = np.unique(np.round(np.quantile(numbers, np.linspace(0, 1, _CLASSES + 1)[1:-1]), 1))
    names = _named(edges)
    return (lambda v: names[int(np.searchsorted(edges, float(v), side="right"))]), names


def by_attribute(cases: Sequence[CaseResult], name: str) -> list[tuple[str, list[CaseResult]]]:
    """The cases of each group of an attribute, groups in order; those without it are left out."""
    having = [case for case in cases if name in case.attributes]
    label, order = labels_of(name, [case.attributes[name] for case in having])
    groups: dict[str, list[CaseResult]] = {group: [] for group in order}
    for case in having:
        groups[label(case.attributes[name])].append(case)
    return [(group, members) for group, members in groups.items() if members]


def by_lesion(cases: Sequence[CaseResult], cancer: Cancer, what: str) -> list[tuple[str, list[CaseResult]]]:
    """Cases with the cancer by the kind, or the size class, of their largest lesion."""
    groups: dict[tuple[float, str], list[CaseResult]] = {}
    for case in cases:
        if not (lesions := case.cancers[cancer].lesions):
            continue
        largest = max(lesions, key=lambda lesion: lesion.diameter_mm or 0.0)
        value = largest.kind if what == "subtype" else largest.size
        if value:
            groups.setdefault((_first_number(value), value), []).append(case)
    return [(value, members) for (_, value), members in sorted(groups.items())]


def _named(edges: np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[str]:
    if not len(edges):
        return ["all"]
    middle = [f"{a:g} to {b:g}" for a, b in itertools.pairwise(edges)]
    return [f"under {edges[0]:g}", *middle, f"from {edges[-1]:g}"]


def _first_number(text: str) -> float:
    digits = text.replace(">", "").split("-")[0].split(" ")[0]
    try:
        return float(digits)
    except ValueError:
        return 0.0
