"""Synthetic torsos beside real scans: organ HU and volumes, noise texture, times; writes docs/phantoms.md's figures.

    make bench-phantom                     everything, pictures too
    make bench-phantom ARGS="--people 40"  more people in the table

Without the real scans the torsos are measured alone.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from bench import phantom_real as real
from bench.phantom_pictures import LUNG, SOFT, outlined, plot, sheet, sized, window
from bench.record import Goal, Record
from core.finding import Cancer
from engines.phantom import (
    COVERAGE,
    Kernel,
    Rendered,
    Scan,
    Tissue,
    Torso,
    build,
    render,
    sample_person,
)
from engines.phantom.dicom import default_scan, write_study
from engines.phantom.difficulty import SUBTYPES

IMAGES = Path(__file__).parents[1] / "docs" / "images"
OURS = {
    "spleen": (Tissue.SPLEEN,), "kidneys": (Tissue.KIDNEY,), "gallbladder": (Tissue.GALLBLADDER,),
    "liver": (Tissue.LIVER,), "stomach": (Tissue.STOMACH,), "pancreas": (Tissue.PANCREAS,),
    "adrenals": (Tissue.ADRENAL,), "small bowel": (Tissue.SMALL_BOWEL,), "duodenum": (Tissue.DUODENUM,),
    "colon": (Tissue.COLON,), "bladder": (Tissue.BLADDER,), "aorta": (Tissue.AORTA,), "veins": (Tissue.VEIN,),
}  # fmt: skip
ABDOMEN_FROM_MM, CHEST_TO_MM = -12.0, 600.0
_CORE_VOXELS = 1
Measured = tuple[float, float, float]
"""Volume in mL, mean and standard deviation in HU."""


def main() -> None:
    """Measure, print the tables, draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=24)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--alike", type=int, default=6, help="people scanned as the real abdomen was")
    parser.add_argument("--no-pictures", action="store_true")
    given = parser.parse_args()
    record = Record(
        "phantom",
        "Synthetic torsos",
        {"working_s": Goal(5.0), "dicom_s": Goal(60.0)},
    )
    times(record, given.runs)
    organs(record, given.people, given.alike)
    if real.DATA.is_dir():
        noise(record)
    if not given.no_pictures:
        pictures()
    record.finish()


def _cpu(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def times(record: Record, runs: int) -> None:
    """CPU seconds of one thread's work: what a core needs, whatever else runs on the machine."""
    working = Scan((2.0, 2.0, 2.0), None)
    built, rendered, studies = [], [], []
    for seed in range(900, 900 + runs):
        person = sample_person(seed)
        torsos: list[Torso] = []
        built.append(_cpu(lambda person=person, into=torsos: into.append(build(person))))  # type: ignore[misc]
        torso = torsos[0]
        rendered.append(_cpu(lambda torso=torso: render(torso, working)))  # type: ignore[misc]
        scan = default_scan(torso, 2.0)
        length = (scan.coverage_mm[1] - scan.coverage_mm[0]) * person.scale[0]
        scan = Scan((length / 300, *scan.spacing_mm[1:]), (512, 512), scan.coverage_mm, scan.kernel)
        with tempfile.TemporaryDirectory() as folder:
            study = _cpu(lambda torso=torso, scan=scan, folder=folder: write_study(torso, scan, Path(folder)))  # type: ignore[misc]
        studies.append(built[-1] + study)
    record.add("build_s", "anatomy", built, "CPU s")
    record.add("render_s", "whole torso at 2 mm", rendered, "CPU s")
    record.add(
        "working_s", "a patient at working spacing", [a + b for a, b in zip(built, rendered, strict=True)], "CPU s"
    )
    record.add("dicom_s", "512×512×300 as DICOM with truth as SEG", studies, "CPU s")


def organs(record: Record, people: int, alike: int) -> None:
    """Volume, and HU within (one voxel below the surface): the real abdomen's beside the torsos' mean and spread.

    alike: how many torsos are also scanned in 5 mm slices and interpolated to 3 mm, as the real one was, for their SD.
    """
    scan = Scan((3.0, 3.0, 3.0), None)
    ours: dict[str, list[Measured]] = {name: [] for name in OURS}
    resampled: dict[str, list[Measured]] = {name: [] for name in OURS}
    for seed in range(1000, 1000 + people):
        torso = build(sample_person(seed, {}))
        rendered = render(torso, scan)
        _measure_all(rendered.volume.hu, rendered.organs, ours)
        if seed < 1000 + alike:
            _measure_all(*_as_the_real_one(torso), resampled)
    theirs: Mapping[str, Measured] = {}
    if real.DATA.is_dir():
        case = real.abdomen()
        assert case.labels is not None
        theirs = {n: _measured(case.hu, np.isin(case.labels, ids), 27.0) for n, ids in real.LABELS.items()}
    heads = ("organ", "mL torsos (5–95 %)", "mL real", "HU torsos (SD between)", "HU real", "SD within torsos",
             "SD within, scanned alike", "SD real")  # fmt: skip
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for name, rows in ours.items():
        ml, mean, sd = np.array(rows).T
        cells = [f"{np.median(ml):.0f} ({np.percentile(ml, 5):.0f}–{np.percentile(ml, 95):.0f})", _or(theirs, name, 0)]
        cells += [f"{np.nanmean(mean):.0f} ({np.nanstd(mean):.0f})", _or(theirs, name, 1), f"{np.nanmean(sd):.0f}"]
        cells += [f"{np.nanmean([r[2] for r in resampled[name]]):.0f}" if alike else "–", _or(theirs, name, 2)]
        print(f"| {name} | {' | '.join(cells)} |")
        key = name.replace(" ", "_")
        record.add(f"{key}_ml", f"{name}, volume", ml.tolist(), "mL")
        record.add(f"{key}_hu", f"{name}, mean", mean[np.isfinite(mean)].tolist(), "HU")


def _measure_all(hu: npt.NDArray[np.generic], organs: npt.NDArray[np.uint8], into: dict[str, list[Measured]]) -> None:
    for name, tissues in OURS.items():
        into[name].append(_measured(hu, np.isin(organs, [int(t) for t in tissues]), 27.0))


def _as_the_real_one(torso: Torso) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """A belly in 5 mm slices and pixels of 0.78 mm, interpolated linearly to voxels of 3 mm; labels by the nearest."""
    scan = Scan((5.0, 0.78, 0.78), (512, 512), COVERAGE["abdomen and pelvis"])
    rendered = render(torso, scan)
    steps = [np.arange(0, n - 1, 3.0 / s) for n, s in zip(rendered.volume.hu.shape, scan.spacing_mm, strict=True)]
    hu = rendered.volume.hu.astype(np.float32)
    for axis, at in enumerate(steps):
        low = np.floor(at).astype(int)
        share = (at - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
        hu = np.take(hu, low, axis) * (1 - share) + np.take(hu, low + 1, axis) * share
    return hu, rendered.organs[np.ix_(*(np.rint(at).astype(int) for at in steps))]


def _or(table: Mapping[str, Measured], name: str, i: int) -> str:
    return f"{table[name][i]:.0f}" if name in table else "–"


def _measured(hu: npt.NDArray[np.generic], mask: npt.NDArray[np.bool_], voxel_mm3: float) -> Measured:
    inner = ndimage.binary_erosion(mask, iterations=_CORE_VOXELS)
    values = np.asarray(hu, np.float32)[inner if inner.sum() > 20 else mask]
    return float(mask.sum()) * voxel_mm3 / 1000, float(values.mean()), float(values.std())


def noise(record: Record) -> None:
    """Noise power in the liver of the real chest, and in a torso's liver with the same pixels and thickness."""
    chest = real.chest()
    pixel = chest.spacing_mm[1]
    patches = _patches(chest.hu[:6], None, 40.0, 75.0)
    theirs = _spectrum(patches, pixel)
    lines = {"real, Philips B, 5 mm": theirs}
    record.add("real_noise_hu", "noise in the real liver", [float(p.std()) for p in patches], "HU")
    torso = build(sample_person(1101, {}))
    for kernel in Kernel:
        scan = Scan((5.0, pixel, pixel), (512, 512), (320.0, 370.0), kernel)
        rendered = render(torso, scan)
        liver = rendered.organs == Tissue.LIVER
        ours = _patches(rendered.volume.hu.astype(np.float32), liver, -200.0, 300.0)
        record.add(
            f"{kernel.value}_noise_hu",
            f"noise in a torso's liver, {kernel.value}",
            [float(p.std()) for p in ours],
            "HU",
        )
        lines[f"torso, {kernel.value}"] = _spectrum(ours, pixel)
    for name, (f, power) in lines.items():
        mean, peak = np.sum(np.multiply(f, power)) / np.sum(power), f[int(np.argmax(power))]
        print(f"{name}: mean frequency {mean:.3f} /mm, peak {peak:.3f} /mm")
    plot(IMAGES / "phantom-nps.svg", lines, "spatial frequency, cycles per mm", "noise power, normalised to area 1")


def _patches(
    hu: npt.NDArray[np.float32], organ: npt.NDArray[np.bool_] | None, low: float, high: float, side: int = 40
) -> list[npt.NDArray[np.float32]]:
    """Even patches: all liver (by mask, or by a mean between low and high and little variation), trend removed."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    design = np.stack(
        [np.ones(side * side), y.ravel(), x.ravel(), (y * y).ravel(), (x * x).ravel(), (x * y).ravel()], axis=1
    )
    found: list[npt.NDArray[np.float32]] = []
    for z in range(hu.shape[0]):
        for top in range(0, hu.shape[1] - side, side // 2):
            for left in range(0, hu.shape[2] - side, side // 2):
                patch = hu[z, top : top + side, left : left + side]
                if organ is not None and not organ[z, top : top + side, left : left + side].all():
                    continue
                if organ is None and (not low < patch.mean() < high or patch.min() < -30 or patch.max() > 140):
                    continue
                fit, *_ = np.linalg.lstsq(design, patch.ravel(), rcond=None)
                found.append((patch.ravel() - design @ fit).reshape(side, side).astype(np.float32))
    if organ is None:  # no outline: keep the quieter half, which holds no vessels and no edges
        found.sort(key=lambda p: float(p.std()))
        found = found[: max(len(found) // 2, 1)]
    return found


def _spectrum(patches: list[npt.NDArray[np.float32]], pixel: float) -> tuple[list[float], list[float]]:
    side = patches[0].shape[0]
    power = np.mean([np.abs(np.fft.fft2(p)) ** 2 for p in patches], axis=0)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(side, pixel), np.fft.fftfreq(side, pixel), indexing="ij"))
    edges = np.arange(0, 0.5 / pixel, 0.5 / side / pixel * 2)
    which = np.digitize(f.ravel(), edges)
    radial = [float(power.ravel()[which == i].mean()) for i in range(1, len(edges))]
    middle = (edges[1:] + edges[:-1]) / 2
    area = float(np.sum(radial) * (edges[1] - edges[0]))
    return middle.tolist(), [v / area for v in radial]


def pictures() -> None:
    """Sheets of slices: real beside synthetic, a coronal view, every cancer."""
    _beside_real()
    _upright()
    _gallery()


def _beside_real() -> None:
    rows, captions = [], []
    man = build(sample_person(1104, {}))
    if real.DATA.is_dir():
        belly, chest = real.abdomen(), real.chest()
        theirs = [(belly, z, SOFT) for z in (104, 86, 78, 30, 12)] + [
            (chest, z, w) for z in (52, 36, 20) for w in (SOFT, LUNG)
        ]
        cells = [sized(window(c.hu[z], w), c.spacing_mm[1:], 1.5, 200, 270) for c, z, w in theirs]
        names = ["real, TotalSegmentator's example"] * 5 + ["real, Lung-PET-CT-Dx A0001"] * 6
        rows.append(cells)
        captions.append(names)
    levels = [(375, SOFT), (305, SOFT), (278, SOFT), (110, SOFT), (12, SOFT)]
    levels += [(z, w) for z in (552, 480, 425) for w in (SOFT, LUNG)]
    for torso, name in ((man, "synthetic"), (build(sample_person(1100, {})), "synthetic, another")):
        ours = []
        for z, w in levels:
            thick = 3.0 if z < 400 else 5.0
            pixel = 1.5 if z < 400 else 0.84
            matrix = (300, 380) if z < 400 else (512, 512)
            scan = Scan((thick, pixel, pixel), matrix, (z, z + thick / torso.person.scale[0]))
            ours.append(sized(window(render(torso, scan).volume.hu[0], w), (pixel, pixel), 1.5, 200, 270))
        rows.append(ours)
        captions.append([f"{name}, {torso.person.sex} {torso.person.age_years}"] * len(ours))
    for part, name in ((slice(0, 5), "abdomen"), (slice(5, 11), "chest")):
        sheet(IMAGES / f"phantom-{name}.jpg", [list(r[part]) for r in rows], [c[part] for c in captions])


def _upright() -> None:
    """Coronal and sagittal planes of four people."""
    rows, captions = [], []
    for seed in (1104, 1100, 1102, 1107):
        person = sample_person(seed, {})
        hu = render(build(person), Scan((2.0, 2.0, 2.0), (180, 250))).volume.hu[::-1]
        planes = [hu[:, int(share * 180)] for share in (0.36, 0.5, 0.62)]
        planes.append(np.pad(hu[:, :, 125], ((0, 0), (35, 35)), constant_values=-1000))
        rows.append([_height(window(plane, SOFT), 340) for plane in planes])
        captions.append([f"{person.sex} {person.age_years}, {person.height_m} m"] * 4)
    sheet(IMAGES / "phantom-upright.jpg", rows, captions)


def _height(plane: npt.NDArray[np.uint8], height: int) -> npt.NDArray[np.uint8]:
    return np.pad(plane[:height], ((0, max(height - len(plane), 0)), (0, 0)))


def _gallery() -> None:
    rows, captions = [], []
    for cancer in Cancer:
        kinds = list(SUBTYPES[cancer.value])
        for three in (kinds[:3], kinds[3:]):
            cells, names = [], []
            for kind in three:
                torso = _with_kind(cancer, kind)
                cells += _views(torso, cancer)
                names += [f"{cancer.value}: {kind}", f"{torso.findings[-1].diameter_mm:.0f} mm, truth"]
            if cells:
                rows.append(cells + [np.full_like(cells[0], 255)] * (6 - len(cells)))
                captions.append(names + [""] * (6 - len(names)))
    sheet(IMAGES / "phantom-cancers.jpg", rows, captions)


def _with_kind(cancer: Cancer, kind: str) -> Torso:
    for seed in range(2000, 2200):
        person = sample_person(seed, {cancer: 1})
        plan = person.cancers()[0]
        if plan.kind == kind and 18 < plan.diameter_mm < 45:
            return build(person)
    raise LookupError(f"no {kind} among the seeds")


def _views(torso: Torso, cancer: Cancer) -> list[npt.NDArray[np.uint8]]:
    found = next(f for f in torso.findings if f.cancer)
    z = found.centre[0] / torso.person.scale[0]
    scan = Scan((3.0, 0.75, 0.75), (512, 512), (z, z + 3 / torso.person.scale[0]))
    rendered: Rendered = render(torso, scan)
    geometry = rendered.volume.geometry
    _, row, column = (round(float(v)) for v in geometry.to_index((found.centre[2], found.centre[1], found.centre[0])))
    half = 85
    box = (slice(max(row - half, 0), row + half), slice(max(column - half, 0), column + half))
    view = LUNG if cancer is Cancer.LUNG else (40.0, 250.0)
    plane = window(rendered.volume.hu[0], view)[box]
    mask = (rendered.lesions[0] == found.number)[box]
    whole = np.zeros((2 * half, 2 * half, 3), np.uint8)
    pair = []
    for picture in (np.repeat(plane[..., None], 3, axis=2), outlined(plane, mask)):
        cell = whole.copy()
        cell[: picture.shape[0], : picture.shape[1]] = picture
        pair.append(cell)
    return pair


if __name__ == "__main__":
    main()
