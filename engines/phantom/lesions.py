"""Lesions and look-alikes: where they are, how they look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from engines.phantom.anatomy import Layer, build_frame
from engines.phantom.labels import Tissue
from engines.phantom.patient import Lesion, LesionKind, Patient, describe_body
from engines.phantom.shapes import Array, Both, Ellipsoid, Grid, Grown, Intensity, Lumpy, Point, Shape, Tube, Union
from engines.phantom.viscera import Organs, build_organs, sample_inside

_DIAMETER_MM: dict[LesionKind, tuple[float, float]] = {
    LesionKind.LUNG_SOLID: (6, 40),
    LesionKind.LUNG_SPICULATED: (10, 40),
    LesionKind.LUNG_GROUND_GLASS: (10, 30),
    LesionKind.LIVER_HYPODENSE: (10, 60),
    LesionKind.LUNG_GRANULOMA: (4, 9),
    LesionKind.LIVER_CYST: (6, 40),
    LesionKind.LIVER_CALCIFICATION: (3, 8),
}
_LABEL: dict[tuple[str, bool], Tissue] = {
    ("lung", True): Tissue.LUNG_LESION,
    ("liver", True): Tissue.LIVER_LESION,
    ("lung", False): Tissue.LUNG_LOOKALIKE,
    ("liver", False): Tissue.LIVER_LOOKALIKE,
}


def sample_patient(
    seed: int, lung: int | None = None, liver: int | None = None, *, diameter_mm: float | None = None
) -> Patient:
    """Draw a patient. lung, liver: how many malignant lesions there; None draws (none in half of the patients).

    diameter_mm: size of all malignant lesions, instead of drawing it. Look-alikes come on top.
    """
    patient = describe_body(seed)
    rng = patient.generator(20)
    frame = build_frame(patient)
    organs = build_organs(patient, frame)
    counts = {"lung": lung, "liver": liver}
    kinds: list[LesionKind] = []
    for organ in ("lung", "liver"):
        drawn = int(rng.integers(1, 4)) if rng.random() < 0.5 else 0
        wanted = counts[organ]
        kinds += _draw_kinds(rng, organ, drawn if wanted is None else wanted)
    lesions: list[Lesion] = []
    for kind in kinds:
        lesion = _place(rng, patient, organs, kind, lesions, diameter_mm if kind.is_cancer else None)
        if lesion is not None:
            lesions.append(lesion)
    return replace(patient, lesions=tuple(lesions))


def _draw_kinds(rng: np.random.Generator, organ: str, cancers: int) -> list[LesionKind]:
    if organ == "lung":
        choice = (LesionKind.LUNG_SOLID, LesionKind.LUNG_SPICULATED, LesionKind.LUNG_GROUND_GLASS)
        kinds = [choice[int(rng.choice(3, p=(0.5, 0.3, 0.2)))] for _ in range(cancers)]
        return kinds + [LesionKind.LUNG_GRANULOMA] * int(rng.integers(0, 3))
    kinds = [LesionKind.LIVER_HYPODENSE] * cancers
    kinds += [LesionKind.LIVER_CYST] * int(rng.choice((0, 0, 0, 1, 1, 2)))
    return kinds + [LesionKind.LIVER_CALCIFICATION] * int(rng.random() < 0.15)


def _place(
    rng: np.random.Generator,
    patient: Patient,
    organs: Organs,
    kind: LesionKind,
    others: Sequence[Lesion],
    diameter_mm: float | None,
) -> Lesion | None:
    """A lesion of `kind` inside its organ and clear of `others`; None if the organ has no room for it."""
    low, high = _DIAMETER_MM[kind]
    diameter = diameter_mm or float(np.exp(rng.uniform(np.log(low), np.log(high))))
    space = organs.lungs if kind.organ == "lung" else organs.liver
    hu = _draw_hu(rng, patient, kind)
    phase = tuple(float(v) for v in rng.uniform(0, 6.28, 3))
    for shrink in (1.0, 0.8, 0.6, 0.45):
        size = diameter if diameter_mm else max(diameter * shrink, low)
        depth = 0.5 * size * (0.85 if kind.organ == "lung" else 1.0) + 1.0
        for z, y, x in sample_inside(rng, space, 20, min(depth, 22.0)):
            clear = all(
                np.linalg.norm(np.subtract(o.centre, (z, y, x))) > 0.55 * (o.diameter_mm + size) + 4 for o in others
            )
            if clear:
                return Lesion(kind, (float(z), float(y), float(x)), size, hu, (phase[0], phase[1], phase[2]))
    return None


def _draw_hu(rng: np.random.Generator, patient: Patient, kind: LesionKind) -> float:
    if kind in (LesionKind.LUNG_SOLID, LesionKind.LUNG_SPICULATED):
        return float(rng.uniform(20, 50))
    if kind is LesionKind.LUNG_GROUND_GLASS:
        return float(rng.uniform(-700, -450))
    if kind is LesionKind.LIVER_HYPODENSE:
        # Never as dark as a cyst, so that the two stay different things in a fatty liver too.
        return float(max(patient.hu.liver - rng.uniform(15, 35), min(20.0, patient.hu.liver - 12)))
    if kind is LesionKind.LIVER_CYST:
        return float(rng.uniform(-3, 8))
    return float(rng.uniform(350, 800))


def lesion_layers(patient: Patient, organs: Organs) -> list[Layer]:
    """The patient's lesions, clipped to their organ."""
    layers = []
    mean_scale = float(np.mean(patient.scale))
    for lesion in patient.lesions:
        space = organs.lungs if lesion.kind.organ == "lung" else organs.liver
        shape = _shape(lesion, lesion.diameter_mm / 2 / mean_scale)
        label = _LABEL[lesion.kind.organ, lesion.kind.is_cancer]
        soft = {LesionKind.LUNG_GROUND_GLASS: 3.0, LesionKind.LIVER_HYPODENSE: 2.0}.get(lesion.kind, 0.0)
        layers.append(Layer(Both((shape, Grown(space, 0.5))), _mottled(lesion), label, soft))
    return layers


def _shape(lesion: Lesion, radius: float) -> Shape:
    rng = np.random.Generator(np.random.PCG64([int(p * 1e6) for p in lesion.phase]))
    stretch = rng.uniform(0.85, 1.15, 3)
    stretch /= np.cbrt(stretch.prod())
    radii = (radius * float(stretch[0]), radius * float(stretch[1]), radius * float(stretch[2]))
    core = Ellipsoid(lesion.centre, radii, (float(rng.uniform(0, 3)), float(rng.uniform(0, 3)), 0.0))
    if lesion.kind in (LesionKind.LIVER_CYST, LesionKind.LUNG_GRANULOMA, LesionKind.LIVER_CALCIFICATION):
        return core
    lumpy = Lumpy(core, 0.28 * radius, max(2.2 * radius, 8.0), lesion.phase)
    if lesion.kind is not LesionKind.LUNG_SPICULATED:
        return lumpy
    spikes: list[Shape] = []
    for direction in rng.normal(0, 1, (14, 3)):
        tip = np.asarray(lesion.centre) + direction / np.linalg.norm(direction) * radius * rng.uniform(1.3, 1.9)
        end: Point = (float(tip[0]), float(tip[1]), float(tip[2]))
        spikes.append(Tube((lesion.centre, end), (0.3 * radius, 0.4)))
    return Union((lumpy, *spikes), blend_mm=1.0)


def _mottled(lesion: Lesion) -> Intensity:
    strength = {LesionKind.LUNG_GROUND_GLASS: 40.0, LesionKind.LIVER_HYPODENSE: 2.5, LesionKind.LUNG_SOLID: 6.0}
    swing = np.float32(strength.get(lesion.kind, 0.0))

    def texture(grid: Grid, distance: Array) -> Array:
        a, b, c = (np.float32(p) for p in lesion.phase)
        wave = np.sin(grid.z * 0.5 + a) * np.sin(grid.y * 0.55 + b) * np.sin(grid.x * 0.45 + c)
        return np.asarray(np.float32(lesion.hu) + swing * wave, np.float32)

    return texture
