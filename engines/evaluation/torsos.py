"""Synthetic torsos as studies with truth: made when they are asked for, or read from a cohort's folder.

To make one takes about as long as to read and unpack one, and needs no disk: that is how thousands are judged.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from core.errors import ConfigError, InputRefused
from core.finding import Cancer, Reason
from core.volume import Geometry, Volume
from engines.cascade import PatientContext
from engines.evaluation.cases import CaseSet, Truth
from engines.evaluation.results import Value
from engines.evaluation.studies import Finding, Labels, Study
from engines.phantom import build, organ_mask, record_of, render, sample_person, sample_scan
from engines.phantom.cohort import Order, folder_of, is_complete

_ABOUT = ("sex", "age_years", "habitus", "steatosis", "arms_up", "breast_density", "emphysema")


@dataclass(frozen=True)
class Torsos:
    """People of consecutive seeds, by one order, made on the spot."""

    seeds: range
    order: Order
    set: CaseSet = "judging"
    synthetic: bool = True

    @property
    def title(self) -> str:
        """Which people, in a sentence."""
        return f"{len(self.seeds)} synthetic torsos{told(self.order)}, seeds {self.seeds[0]} to {self.seeds[-1]}"

    @property
    def digest(self) -> str:
        """Of order and seeds."""
        return _digest({**self.order.settings(), "seeds": [self.seeds[0], len(self.seeds)], "set": self.set})

    def __len__(self) -> int:
        return len(self.seeds)

    def study(self, index: int) -> Study:
        """Draw, build and scan a person."""
        seed = self.seeds[index]
        wanted = None if self.order.wanted is None else {Cancer(name): n for name, n in self.order.wanted.items()}
        person = sample_person(seed, wanted, shifted=self.order.shifted)
        scan = sample_scan(person, self.order.spacing_mm, shifted=self.order.shifted, whole=self.order.whole)
        torso = build(person)
        rendered = render(torso, scan)
        record = record_of(torso, scan, rendered)
        return study_of(record, rendered.volume, rendered.organs, rendered.lesions, self.set, self.order.shifted)


@dataclass(frozen=True)
class Cohort:
    """The complete cases of a folder that `onescan-engines phantom --count` filled, but for how a case is read."""

    folder: Path
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]
    set: CaseSet = "judging"
    synthetic: bool = True
    form: ClassVar[str] = ""

    @property
    def title(self) -> str:
        """Which people, in a sentence."""
        shifted = ", shifted" if self.shifted else ""
        return f"{len(self.seeds)} synthetic torsos{shifted}{self.form}, seeds {self.seeds[0]} to {self.seeds[-1]}"

    @property
    def shifted(self) -> bool:
        """Whether their law is the shifted one."""
        return bool(self.settings.get("shifted"))

    @property
    def digest(self) -> str:
        """Of settings and seeds."""
        return cohort_digest(self.settings, self.seeds, self.set)

    def __len__(self) -> int:
        return len(self.seeds)

    def record(self, index: int) -> tuple[Path, dict[str, Any]]:
        """A case's folder and its truth."""
        folder = folder_of(self.folder, self.seeds[index])
        record: dict[str, Any] = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        return folder, record


class CohortFolder(Cohort):
    """Cases as volumes."""

    @classmethod
    def open(cls, folder: Path, case_set: CaseSet = "judging") -> CohortFolder:
        """ConfigError where there is no cohort of volumes."""
        settings, seeds = cohort_settings(folder), complete_seeds(folder)
        if settings.get("dicom"):
            raise ConfigError(f"{folder} holds DICOM studies", remedy="Judge them with `onescan-appliance evaluate`.")
        return cls(folder, seeds, settings, case_set)

    def study(self, index: int) -> Study:
        """Read a case."""
        folder, record = self.record(index)
        try:
            with np.load(folder / "case.npz", allow_pickle=False) as arrays:
                hu, organs, lesions, spacing, origin = (
                    arrays[name] for name in ("hu", "organs", "lesions", "spacing_mm", "origin_mm")
                )
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            refusal = InputRefused(Reason.UNREADABLE, type(error).__name__)
            return study_of(record, refusal, None, None, self.set, self.shifted)
        z, y, x = (float(v) for v in spacing)
        a, b, c = (float(v) for v in origin)
        volume = Volume(hu, Geometry(hu.shape, (z, y, x), (a, b, c)))
        return study_of(record, volume, organs, lesions, self.set, self.shifted)


def study_of(
    record: Mapping[str, Any],
    volume: Volume | InputRefused,
    organs: Labels | None,
    lesions: Labels | None,
    case_set: CaseSet,
    shifted: bool,
) -> Study:
    """A study of a torso's record and label maps (`Tissue` numbers; findings' numbers)."""
    person, findings = record["person"], tuple(map(_finding, record["findings"]))
    whole = None if organs is None else {cancer: is_whole(organs, cancer) for cancer in Cancer}
    return Study(
        case=int(record["seed"]),
        person=int(record["seed"]),
        set=case_set,
        patient=PatientContext(int(person["age_years"]), str(person["sex"])),
        volume=volume,
        truth=_truth(record["findings"]),
        attributes=_attributes(record, shifted),
        findings=findings,
        marks=lesions,
        whole=whole,
        organ=None if organs is None else lambda cancer: organ_mask(organs, cancer.value),
    )


def is_whole(organs: Labels, cancer: Cancer) -> bool:
    """Whether a cancer's organ is in the scan and touches neither its first nor its last slice."""
    mask = organ_mask(organs[[0, -1]], cancer.value)
    return not mask.any() and bool(organ_mask(organs, cancer.value).any())


def told(order: Order) -> str:
    """An order in words, to follow "torsos"."""
    wanted = order.wanted
    what = "" if wanted is None else f" with cancer of {', '.join(wanted)}" if wanted else " without cancer"
    where = "" if order.spacing_mm is None else f" at {order.spacing_mm[0]:g} mm"
    return f"{what}{where}{', shifted' if order.shifted else ''}{', scanned whole' if order.whole else ''}"


def cohort_settings(folder: Path) -> dict[str, Any]:
    """What a cohort's folder says that it is. ConfigError where it is none."""
    try:
        settings = json.loads((folder / "cohort.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder} is no cohort: {error}", remedy="Make one with `onescan-engines phantom SEED FOLDER --count N`."
        ) from error
    return dict(settings)


def cohort_digest(settings: Mapping[str, Any], seeds: Sequence[int], case_set: CaseSet) -> str:
    """SHA-256 of what a cohort's cases are."""
    return _digest({**settings, "seeds": list(seeds), "set": case_set})


def complete_seeds(folder: Path) -> tuple[int, ...]:
    """Of the cases that are there, whole. ConfigError without any."""
    named = sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    seeds = tuple(seed for seed in named if is_complete(folder, seed))
    if not seeds:
        raise ConfigError(f"{folder} has no complete case", remedy="Let `onescan-engines phantom` finish.")
    return seeds


def _truth(findings: list[Mapping[str, Any]]) -> dict[Cancer, Truth]:
    """A cancer of which this scan shows nothing proves neither that it was missed nor that it was not."""
    truth: dict[Cancer, Truth] = dict.fromkeys(Cancer, 0)
    for item in findings:
        if item["cancer"]:
            cancer = Cancer(item["organ"])
            if item["in_scan"]:
                truth[cancer] = 1
            elif truth[cancer] == 0:
                truth[cancer] = "unknown"
    return truth


def _finding(item: Mapping[str, Any]) -> Finding:
    cancer = Cancer(item["organ"]) if item["cancer"] else None
    size = float(item["measured_mm"]) or float(item["diameter_mm"])
    return Finding(int(item["number"]), cancer, str(item["kind"]), size, str(item["size_class"]))


def _attributes(record: Mapping[str, Any], shifted: bool) -> dict[str, Value]:
    scan, person = record["scan"], record["person"]
    values: dict[str, Value] = {name: person[name] for name in _ABOUT if name in person}
    values["kernel"] = str(scan["kernel"])
    values["slice_mm"] = float(scan["spacing_mm"][0])
    values["noise_hu"] = float(scan["noise_hu"])
    values["cohort"] = "shifted" if shifted else "standard"
    if "vendor" in record:
        values["vendor"] = str(record["vendor"])
    return values


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
