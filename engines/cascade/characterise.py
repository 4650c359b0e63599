"""Stage 3: each candidate by itself, in its surroundings: is it malignant, and of which subtype?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from core.volume import Index, Vector
from engines.cascade.budget import Watch
from engines.cascade.calibration import logistic, logit
from engines.cascade.candidates import Candidate
from engines.cascade.intensity import Float, normaliser
from engines.cascade.loaded import LoadedNetwork
from engines.cascade.preprocess import Grid, axis_weights, interpolate
from engines.cascade.region import Region
from engines.cascade.sampling import Sampler, Scan
from engines.manifest import Characteriser

MOST = 20
"""Looked at of one cancer, highest score first: a scan with more has its verdict already."""
_AROUND = 1.5  # a stretched look spans this many times the candidate's box


def _odds(score: float, malignant: float) -> float:
    """Bayes' rule for two opinions that err independently, the second at even odds before it looked."""
    return logistic(logit(score) + logit(malignant))


_COMBINED: Mapping[str, Callable[[float, float], float]] = {
    "multiply": lambda score, malignant: score * malignant,
    "odds": _odds,
    "replace": lambda _, malignant: malignant,
}
"""Of a candidate's score and a network's probability that it is malignant, by what the manifest says."""


def characterise(
    hu: Scan,
    spacing_mm: Vector,
    candidates: tuple[Candidate, ...],
    region: Region,
    question: Characteriser,
    network: LoadedNetwork,
    watch: Watch,
    brightness: Mapping[str, float | None] = MappingProxyType({}),
) -> tuple[Candidate, ...]:
    """The candidates with what the network says of them, highest score first. hu: canonical. brightness: median HU of
    organs, None where nothing was found of one."""
    known = references_of(network, hu, brightness)
    answered = list(candidates)
    for number, candidate in enumerate(candidates[:MOST]):
        watch.check()
        scores = network.scores(_look(hu, spacing_mm, candidate, region, network, watch, known), watch)
        answered[number] = told(candidate, question, network.spec.labels, scores)
    return tuple(sorted(answered, key=lambda c: (-c.score, -c.volume_mm3, c.box)))


def told(candidate: Candidate, question: Characteriser, labels: tuple[str, ...], scores: Float) -> Candidate:
    """A candidate after one question: with another score, or with a subtype. scores: probability of each label."""
    if question.question == "subtype":
        likeliest = int(np.argmax(scores))
        return replace(candidate, subtype=(labels[likeliest], float(scores[likeliest])))
    assert question.label is not None, "the manifest gives a label to this question"
    malignant = min(1.0, max(0.0, float(scores[labels.index(question.label)])))
    return replace(candidate, score=_COMBINED[question.score](candidate.score, malignant))


def references_of(network: LoadedNetwork, hu: Scan, brightness: Mapping[str, float | None]) -> tuple[float, ...]:
    """What fills the channels of the network's references."""
    if not network.spec.references:
        return ()
    rule = normaliser(network.spec.intensity, lambda: hu)
    seen = ((brightness.get(reference.organ), reference.otherwise_hu) for reference in network.spec.references)
    return tuple(rule.value(otherwise if hu is None else hu) for hu, otherwise in seen)


def _look(
    hu: Scan,
    spacing_mm: Vector,
    candidate: Candidate,
    region: Region,
    network: LoadedNetwork,
    watch: Watch,
    known: tuple[float, ...],
) -> Float:
    """The network's input (I, Z, Y, X) in its own axes: the candidate in the middle, its mask, its references."""
    tiling = network.spec.tiling
    assert tiling.kind in ("fixed", "centred"), "the manifest allows nothing else"
    grid = _grid(candidate, region, network, network.axes.to_canonical(tiling.size))
    watch.reserve(network.memory_bytes(grid.shape, 1 + network.spec.further_channels), "looking at a lesion")
    with watch.timed("preprocess"):
        more = [_mask_on(grid, candidate, region)] if network.spec.mask else []
        more += [np.full(grid.shape, value, np.float32) for value in known]
        extra = np.stack(more) if more else None
        sampler = Sampler(network.spec, hu, spacing_mm, grid)
        return sampler.sample(grid.whole, network.runtime, extra, watch.check).image.values()


def _grid(candidate: Candidate, region: Region, network: LoadedNetwork, size: Index) -> Grid:
    source, (start, stop) = region.grid, candidate.box
    middle, extent = [], []
    axes = zip(start, stop, region.box[0], source.spacing_mm, source.origin_mm, strict=True)
    for low, high, first, mm, origin in axes:
        middle.append(origin + (first + (low + high) / 2) * mm)
        extent.append((high - low) * mm * _AROUND)
    if network.spec.tiling.kind == "centred":
        spacing = network.axes.to_canonical(network.spec.spacing_mm)
    else:
        z, y, x = (mm / n for mm, n in zip(extent, size, strict=True))
        spacing = (z, y, x)
    z, y, x = (m - s * n / 2 for m, s, n in zip(middle, spacing, size, strict=True))
    return Grid(source.source_shape, source.source_mm, spacing, (z, y, x), size)


def _mask_on(grid: Grid, candidate: Candidate, region: Region) -> Float:
    """The candidate's mask on another grid: 1 where at least half of a voxel is in it."""
    around = np.pad(candidate.mask, 1).astype(np.float32)
    weights = []
    for axis, n in enumerate(around.shape):
        step = region.grid.spacing_mm[axis]
        corner = region.grid.origin_mm[axis] + (region.box[0][axis] + candidate.box[0][axis] - 1) * step
        away = grid.origin_mm[axis] - corner
        weights.append(axis_weights(n, step, grid.spacing_mm[axis], 0, grid.shape[axis], away))
    return (interpolate(around, *weights) >= 0.5).astype(np.float32)
