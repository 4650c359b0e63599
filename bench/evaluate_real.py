"""A bundle on the two real CTs in ../shared/data: overlap of its organs with given labels, and what fires there.

    make bench-evaluate_real                            the bundle that comes with OneScan
    make bench-evaluate_real ARGS="--bundle model.osb --pictures docs/images"

Organs are compared on TotalSegmentator's example, whose labels are that software's (Apache-2.0). On the chest A0001 of
TCIA's Lung-PET-CT-Dx (CC BY 4.0, doi 10.7937/TCIA.2020.NNC2-0461) experts drew boxes around the lung cancer. Two scans
are no evidence; they show whether a bundle that knows only synthetic people makes sense of real ones at all.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from appliance.evaluate import read_folder
from bench import phantom_real as real
from bench.phantom_pictures import sheet
from bench.record import Goal, Record
from core import durable
from core.finding import Cancer
from core.volume import Geometry, Volume
from engines import archive
from engines.bundle import Bundle
from engines.cascade import Cascade, PatientContext
from engines.cascade.whole import segment_volume
from engines.commands.options import REFERENCE
from engines.evaluation.scoring import MOST_MARKS, score
from engines.evaluation.studies import Finding, Study
from engines.runtime import Runtime
from engines.runtime.choice import choose

Labels = npt.NDArray[np.uint8]
GIVEN = {**real.LABELS, "lungs": (10, 11, 12, 13, 14)}
"""TotalSegmentator's numbers (v2, `total`); lungs are its five lobes."""
OURS = {
    "liver": "liver", "spleen": "spleen", "kidneys": "kidney", "lungs": "lung", "stomach": "stomach", "colon": "colon",
    "pancreas": "pancreas",
}  # fmt: skip
"""Given organ → what labels of a localiser begin with."""
CHEST, BOXES = real.DATA / "lungpetctdx_A0001_chest_5mm_B", real.DATA / "lungpetctdx_A0001_annotations"


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=REFERENCE)
    parser.add_argument("--pictures", type=Path, default=Path(__file__).parents[1] / "var" / "evaluate_real")
    given = parser.parse_args()
    if not real.DATA.is_dir():
        sys.exit(f"{real.DATA} is not here: without real scans there is nothing to compare.")
    with archive.opened(given.bundle) as bundle:
        manifest = bundle.manifest
        record = Record(
            "evaluate_real", f"{manifest.name} {manifest.version} on two real CTs", {"liver_dice": Goal(0.85, True)}
        )
        runtime = choose(networks=bundle.networks).runtime
        abdomen, labels = _abdomen()
        overlaps(record, bundle, runtime, abdomen, labels)
        cascade, shown = Cascade(bundle, runtime), {}
        for name, study in (("abdomen", _plain(abdomen)), ("chest", _chest())):
            answers(record, cascade, name, study)
            shown |= firing(cascade, name, study)
    record.finish()
    durable.make_folder(given.pictures)
    captions = sorted(shown, key=lambda caption: "outlined" not in caption)
    pairs = [captions[at : at + 2] for at in range(0, len(captions), 2)]
    sheet(given.pictures / "real-fires.jpg", [[shown[one] for one in pair] for pair in pairs], pairs)
    print(f"What fires: {given.pictures / 'real-fires.jpg'}")


def overlaps(record: Record, bundle: Bundle, runtime: Runtime, volume: Volume, labels: Labels) -> None:
    """Dice of each organ that both know, over the whole scan."""
    found = segment_volume(bundle, bundle.manifest.localiser.id, runtime, volume)
    for organ, start in OURS.items():
        ours = [value for value, name in found.names.items() if name.startswith(start)]
        theirs = np.isin(labels, GIVEN[organ])
        if not ours or not theirs.any():
            continue
        mask = np.isin(found.labels, ours)
        dice = 2 * float((mask & theirs).sum()) / float(mask.sum() + theirs.sum())
        record.add(f"{organ}_dice", f"{organ}, overlap with the given label", [dice], "Dice")


def answers(record: Record, cascade: Cascade, name: str, study: Study) -> None:
    """What the bundle answers, how many marks it makes, and whether one lies on a cancer that is known."""
    for cancer, result in score(study, cascade, time.monotonic(), pictures=False).result.cancers.items():
        what = f"{name}, {cancer.value}"
        if result.score is None:
            print(f"{what}: not analysed, {result.reason.value if result.reason else ''}")
            continue
        marks = len(result.marks) + sum(lesion.score is not None for lesion in result.lesions)
        most = " or more" if len(result.marks) == MOST_MARKS else ""
        record.add(f"{name}_{cancer.value}_score", f"{what}: {result.verdict.value}", [result.score], "score")
        record.add(f"{name}_{cancer.value}_marks", f"{what}: marks, whatever their score", [marks], f"count{most}")
        if study.truth[cancer] == 1:
            hit = any(lesion.score is not None for lesion in result.lesions)
            record.add(f"{name}_{cancer.value}_hit", f"{what}: a mark lies on the cancer", [float(hit)], "1: yes")


def firing(cascade: Cascade, name: str, study: Study) -> dict[str, npt.NDArray[np.uint8]]:
    """Pictures by caption: of each cancer's strongest mark; and of the known cancer, with its outline."""
    found = {}
    unmarked = replace(study, findings=(), marks=None)
    for what, shown in (("strongest mark", unmarked), ("outlined by experts", study)):
        scored = score(shown, cascade, time.monotonic())
        for cancer, picture in scored.pictures.items():
            if shown is unmarked or study.truth[cancer] == 1:
                answer = scored.result.cancers[cancer]
                caption = f"{name}, {cancer.value}: {what}, {answer.verdict.value} ({answer.score:.2f})"
                found[caption] = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    return found


def _abdomen() -> tuple[Volume, Labels]:
    case = real.abdomen()
    assert case.labels is not None
    z, y, x = case.hu.shape
    return Volume(case.hu.round().astype(np.int16), Geometry((z, y, x), case.spacing_mm, (0.0, 0.0, 0.0))), case.labels


def _plain(volume: Volume) -> Study:
    """A patient of whom nothing is known but that adults have such scans; every mark counts as false."""
    return Study(1, 1, "judging", PatientContext(60, None), volume, dict.fromkeys(Cancer, 0), {})


def _chest() -> Study:
    """The chest as the appliance reads it, the experts' boxes as its truth."""
    scan = read_folder(CHEST)
    assert isinstance(scan.volume, Volume), scan.volume
    marks = np.zeros(scan.volume.geometry.shape, np.uint8)
    places = {header.sop_instance_uid: z for z, header in enumerate(scan.headers)}
    for path in BOXES.glob("*.xml"):
        for box in ElementTree.parse(path).iter("bndbox"):
            x0, y0, x1, y1 = (int(box.findtext(name) or 0) for name in ("xmin", "ymin", "xmax", "ymax"))
            marks[places[path.stem], y0 : y1 + 1, x0 : x1 + 1] = 1
    first = scan.headers[0]
    truth: dict[Cancer, int] = {cancer: int(cancer is Cancer.LUNG) for cancer in Cancer}
    patient = PatientContext(first.age_years, first.sex)
    cancer = Finding(1, Cancer.LUNG, "adenocarcinoma")
    return Study(2, 2, "judging", patient, scan.volume, truth, {}, (cancer,), marks)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
