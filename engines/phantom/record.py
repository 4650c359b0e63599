"""What is true of one case, as plain values for JSON: who, how scanned, every finding, by which law of difficulty."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.phantom import difficulty
from engines.phantom.labels import ORGAN_OF, Tissue
from engines.phantom.rendering import Rendered, Scan
from engines.phantom.studio import Found
from engines.phantom.torso import Torso

FORMAT, VERSION = "onescan-torso", 1


def record_of(torso: Torso, scan: Scan, rendered: Rendered) -> dict[str, Any]:
    """The case's record. Sizes and volumes of findings are measured in the truth of this very scan.

    cnr: contrast to the painted surroundings over the noise of the slices that the finding touches. in_scan: false
    where partial coverage, or voxels too coarse for it, leave nothing of it.
    """
    person = torso.person
    about = {k: v for k, v in asdict(person).items() if k not in ("plans", "seed")}
    return {
        "format": FORMAT,
        "version": VERSION,
        "synthetic": True,
        "seed": person.seed,
        "law": {"version": difficulty.VERSION, "sha256": difficulty.digest()},
        "person": about,
        "scan": {
            "spacing_mm": list(scan.spacing_mm),
            "shape": list(rendered.volume.geometry.shape),
            "coverage_mm": list(scan.coverage_mm),
            "kernel": scan.kernel.value if scan.kernel else None,
            "dose": round(scan.dose, 3),
            "noise_hu": round(float(rendered.noise_hu.mean()), 2),
        },
        "organs_ml": _volumes(rendered),
        "findings": [_finding(found, rendered) for found in torso.findings],
    }


def size_class(diameter_mm: float) -> str:
    """The law's class that a diameter falls into, such as "10-20 mm"."""
    for low, high in difficulty.SIZE_CLASSES_MM:
        if diameter_mm < high:
            return f"{low:g}-{high:g} mm"
    return f">{difficulty.SIZE_CLASSES_MM[-1][1]:g} mm"


def longest_axial_mm(mask: npt.NDArray[np.bool_], spacing_yx_mm: tuple[float, float]) -> float:
    """The longest diameter of a mask (z, y, x) within one slice, pixel edges included, mm; 0 for an empty one."""
    angles = np.linspace(0, np.pi, 24, endpoint=False)
    best = 0.0
    for plane in mask[mask.any(axis=(1, 2))]:
        y, x = np.nonzero(plane)
        along = np.outer(y * spacing_yx_mm[0], np.sin(angles)) + np.outer(x * spacing_yx_mm[1], np.cos(angles))
        best = max(best, float(np.ptp(along, axis=0).max()))
    return best + float(np.mean(spacing_yx_mm)) if mask.any() else 0.0


def _volumes(rendered: Rendered) -> dict[str, float]:
    ml = rendered.volume.geometry.voxel_mm3 / 1000
    # Plane by plane, because bincount copies what it counts to 8 bytes each.
    counts = np.sum([np.bincount(plane.ravel(), minlength=256) for plane in rendered.organs], axis=0)
    return {t.name.lower(): round(float(counts[t]) * ml, 2) for t in Tissue if counts[t]}


def _finding(found: Found, rendered: Rendered) -> dict[str, Any]:
    geometry = rendered.volume.geometry
    mask = rendered.lesions == found.number
    touched = mask.any(axis=(1, 2))
    noise = float(rendered.noise_hu[touched].mean()) if touched.any() else 0.0
    return {
        "number": found.number,
        "organ": found.organ,
        "kind": found.kind,
        "cancer": found.cancer,
        "diameter_mm": found.diameter_mm,
        "size_class": size_class(found.diameter_mm),
        "hu": found.hu,
        "contrast_hu": found.contrast_hu,
        "cnr": round(abs(found.contrast_hu) / noise, 3) if noise else None,
        "signs": list(found.signs),
        "centre_mm": [round(v, 1) for v in found.centre[::-1]],
        "in_scan": bool(touched.any()),
        "measured_mm": round(longest_axial_mm(mask, geometry.spacing_mm[1:]), 1),
        "volume_ml": round(float(mask.sum()) * geometry.voxel_mm3 / 1000, 3),
    }


def organ_mask(organs: npt.NDArray[np.uint8], cancer: str) -> npt.NDArray[np.bool_]:
    """Where a cancer's organ is."""
    wanted = next(tissues for c, tissues in ORGAN_OF.items() if c.value == cancer)
    return np.isin(organs, [int(t) for t in wanted])
