"""A bundle of toy networks that answer by HU alone, and torsos drawn for it: every outcome can be told in advance.

In toy HU: air -1000, body 0, lung -800, liver 60, a lung lesion above 100, a liver lesion about 300 and a cyst about
120. The localiser calls -900..-600 and (as a mass) 500..700 lung, 40..80 liver.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.finding import Cancer
from core.volume import Geometry, Index, Vector, Volume
from engines import volumefile
from engines.bundle import Bundle, Content, write_bundle
from engines.cascade import Analysis, Budget, Cascade, PatientContext
from engines.manifest import ManifestDraft
from engines.runtime.choice import choose
from tests.engines.bundle.drafts import POINT
from tests.engines.runtime import networks

AIR, BODY, LUNG, LIVER, LUNG_LESION, LIVER_LESION = -1000, 0, -800, 60, 600, 300
ADULT = PatientContext(age_years=60)


def cancer(name: str, organ: str, network: str, label: str, **changes: Any) -> dict[str, Any]:
    extraction = {"probability": 0.5, "min_volume_mm3": 100, "min_diameter_mm": 5, "score": "peak"}
    return {
        "cancer": name,
        "organ": organ,
        "network": network,
        "label": label,
        "extraction": {**extraction, **changes.pop("extraction", {})},
        "negative_below": 0.6,
        "positive_above": 0.9,
        "operating_points": [POINT],
        "contraindications": {"max_slice_spacing_mm": 6},
        **changes,
    }


def detector(name: str, labels: list[str], **changes: Any) -> dict[str, Any]:
    return {
        "id": name,
        "files": [f"{name}.onnx"],
        "stage": "detect",
        "spacing_mm": [2, 2, 2],
        "intensity": networks.INTENSITY,
        "tiling": {"kind": "patch", "size": [32, 32, 32], "overlap": 0.25},
        "activation": "softmax",
        "labels": labels,
        **changes,
    }


def draft(**changes: Any) -> ManifestDraft:
    localiser = {
        **detector("localiser", ["background", "lung_air", "liver", "lung_mass"]),
        "stage": "localise",
        "spacing_mm": [6, 6, 6],
        "tiling": {"kind": "whole", "pad_multiple": 4},
    }
    base: dict[str, Any] = {
        "name": "toy",
        "version": "1.0.0",
        "label": "Toy",
        "manufacturer": "OneScan",
        "synthetic": True,
        "intended_use": "tests",
        "licence": "Apache-2.0",
        "networks": [
            localiser,
            detector("lung_lesion", ["background", "lesion"]),
            detector("liver_lesion", ["background", "cyst", "tumour"]),
        ],
        "organs": [
            {"name": "lung", "labels": ["lung_air", "lung_mass"], "found_from_ml": 100, "margin_mm": 8},
            {"name": "liver", "labels": ["liver"], "found_from_ml": 100, "margin_mm": 8},
        ],
        "cancers": [
            cancer("lung", "lung", "lung_lesion", "lesion"),
            cancer("liver", "liver", "liver_lesion", "tumour"),
        ],
    }
    return ManifestDraft.model_validate({**base, **changes})


def files(**changes: bytes) -> list[Content]:
    content = {
        "localiser": networks.bands((-900, -600), (40, 80), (500, 700)),
        "lung_lesion": networks.bands((100, 1000)),
        "liver_lesion": networks.bands((100, 140), (180, 420)),
        **changes,
    }
    return [Content(f"{name}.onnx", "network", raw) for name, raw in content.items()]


def bundle(folder: Path, manifest: ManifestDraft | None = None, **networks_changed: bytes) -> Bundle:
    return write_bundle(folder, manifest or draft(), files(**networks_changed))


def golden_file(volume: Volume) -> Content:
    return Content("torso.npz", "golden", volumefile.to_bytes(volume))


def cascade(toy: Bundle, runtime: str = "onnx", **options: Any) -> Cascade:
    return Cascade(toy, choose(runtime, 1, "fp32").runtime, options.pop("budget", Budget()), **options)  # type: ignore[arg-type]


def ball(hu: npt.NDArray[np.int16], geometry: Geometry, centre_mm: Vector, radius_mm: float, value: int) -> None:
    """Draw a ball; centre z-y-x in mm from the volume's corner (edge of the first voxel)."""
    z, y, x = np.ogrid[tuple(slice(0, n) for n in hu.shape)]
    squared = sum(
        ((index + 0.5) * step - at) ** 2
        for index, step, at in zip((z, y, x), geometry.spacing_mm, centre_mm, strict=True)
    )
    hu[squared <= radius_mm**2] = value


LUNG_AT: Vector = (60.0, 60.0, 60.0)
LIVER_AT: Vector = (150.0, 60.0, 60.0)


def torso(
    shape: Index = (84, 80, 80),
    spacing: Vector = (2.5, 1.5, 1.5),
    lung_lesion_mm: float = 0,
    liver_lesion_mm: float = 0,
    **values: int,
) -> Volume:
    """One lung (radius 40 mm) above one liver (radius 40 mm) in a body of 210 x 120 x 120 mm; lesion radii in mm."""
    geometry = Geometry(shape, spacing, (-60.0, -60.0, -100.0))
    hu = np.full(shape, BODY, dtype=np.int16)
    ball(hu, geometry, LUNG_AT, 40, LUNG)
    ball(hu, geometry, LIVER_AT, 40, LIVER)
    if lung_lesion_mm:
        z, y, x = LUNG_AT
        ball(hu, geometry, (z + 8, y - 10, x + 6), lung_lesion_mm, values.get("lung", LUNG_LESION))
    if liver_lesion_mm:
        z, y, x = LIVER_AT
        ball(hu, geometry, (z - 5, y + 7, x - 9), liver_lesion_mm, values.get("liver", LIVER_LESION))
    return Volume(hu, geometry)


def answers(analysis: Analysis) -> dict[Cancer, Any]:
    return {answer.cancer: answer for answer in analysis.answers}
