"""Patients to learn from: rendered once at working spacing without noise, kept as bricks, drawn from for good.

A patient costs some seconds, so each has several cancers, in organs drawn independently; noise, kernel, dose and slice
thickness are drawn anew whenever a piece of the patient is used (`scanner`). Kept per patient:

    bricks      hu int16, organs uint8 (`Tissue`), lesions uint8 (0 or a finding's number), at 2 mm
    coarse      the same whole torso at 4 mm, hu and organs, for the localiser
    places      voxels in each finding and in each cancer's organ, to centre pieces on
    girth, profile   how much noise the patient's girth gives each slice, and a place in it

Training renders what it lacks; `python -m engines.reference.patients FOLDER FIRST COUNT` renders ahead.
"""

from __future__ import annotations

import argparse
import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core import durable
from core.errors import EngineError
from core.finding import Cancer
from core.volume import Index
from engines.cascade.localise import looks_of
from engines.cascade.preprocess import Grid, resample
from engines.phantom import (
    COVERAGE,
    ORGAN_OF,
    Kernel,
    Person,
    Rendered,
    Scan,
    Torso,
    build,
    difficulty,
    render,
    sample_person,
)  # fmt: skip
from engines.phantom.physics import metal_streaks, slice_sd
from engines.phantom.rendering import noise_profile
from engines.reference import bricks
from engines.reference.recipes import (
    CANCER_SHARE,
    COARSE_MM,
    CROWDED_CANCERS,
    CROWDED_LOOKALIKES,
    CROWDED_SEED,
    ORGANS,
    SPACING_MM,
    TAKEN,
)

Points = npt.NDArray[np.int16]


class NoOrgan(EngineError):
    """A patient lacks an organ whose brightness a network is to be told."""

    default_remedy = "Ask for organs that every whole torso has."


_POINTS_OF_FINDING, _POINTS_OF_ORGAN = 40, 400


def training_person(seed: int) -> Person:
    """Somebody with each cancer as often as CANCER_SHARE says; who has a breast cancer is a woman."""
    rng = np.random.Generator(np.random.PCG64([seed, 78]))
    wanted = {cancer: 1 for cancer, share in CANCER_SHARE.items() if rng.random() < share}
    return sample_person(seed, wanted)


def crowded_person(seed: int) -> Person:
    """Somebody with up to three cancers of an organ, and many look-alikes: twenty lessons for one rendering."""
    rng = np.random.Generator(np.random.PCG64([seed, 78]))
    wanted = {cancer: int(rng.choice(len(shares), p=shares)) for cancer, shares in CROWDED_CANCERS.items()}
    return sample_person(seed, wanted, lookalikes=CROWDED_LOOKALIKES)


def render_patient(seed: int, path: Path) -> None:
    """Build, render and store one patient."""
    crowded = CROWDED_SEED <= seed < TAKEN["mining"].stop
    torso = build(crowded_person(seed) if crowded else training_person(seed))
    rendered = render(torso, Scan((SPACING_MM,) * 3, None, COVERAGE["torso"], kernel=None))
    hu = _with_streaks(rendered.volume.hu, torso)
    coarse = Grid(hu.shape, (SPACING_MM,) * 3, (COARSE_MM,) * 3)
    arrays: dict[str, npt.NDArray[Any]] = {
        "coarse_hu": np.rint(resample(hu, coarse, coarse.whole)).astype(np.int16),
        "coarse_organs": rendered.organs[1::2, 1::2, 1::2],
        "girth": _girth(hu),
        "profile": noise_profile(rendered.volume.geometry),
        **_places(seed, rendered, torso),
    }
    about = {
        "seed": seed,
        "sex": torso.person.sex,
        "law": {"version": difficulty.VERSION, "sha256": difficulty.digest()},
        "findings": [asdict(found) for found in torso.findings],
    }
    bricks.write(path, {"hu": hu, "organs": rendered.organs, "lesions": rendered.lesions}, arrays, about)


def _with_streaks(hu: npt.NDArray[np.int16], torso: Torso) -> npt.NDArray[np.int16]:
    """Metal's rays come before the kernel, so they belong to what is stored."""
    streaked = np.array(hu)
    for plane, source in zip(streaked, hu, strict=True):
        rays = metal_streaks(source.astype(np.float32), (SPACING_MM, SPACING_MM), torso.person.rng(91))
        if rays.size > 1:
            plane[:] = np.clip(np.rint(source + rays), -1024, 3071)
    return streaked


def _girth(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """Noise of each slice relative to that of a patient of the usual girth."""
    usual: dict[str, float] = difficulty.SCANS["noise_sd_hu"]  # type: ignore[assignment]
    area = SPACING_MM * SPACING_MM
    sd = [slice_sd(Kernel.SOFT, plane.astype(np.float32), area, 5.0, 1.0) for plane in hu]
    return np.asarray(np.asarray(sd) / usual[Kernel.SOFT.value], np.float32)


def _places(seed: int, rendered: Rendered, torso: Torso) -> dict[str, Points]:
    """in_findings (n, 4): a finding's number and a voxel of it; in_<cancer>: (n, 3) voxels of its organ."""
    rng = np.random.Generator(np.random.PCG64([seed, 79]))
    shape = rendered.organs.shape

    def some(flat: npt.NDArray[np.intp], count: int) -> Points:
        chosen = flat[rng.integers(0, len(flat), count)] if len(flat) else flat
        return np.asarray(np.stack(np.unravel_index(chosen, shape), axis=1), np.int16)

    inside = np.flatnonzero(rendered.lesions)
    numbers = rendered.lesions.ravel()[inside]
    rows = [np.empty((0, 4), np.int16)]
    for found in torso.findings:
        points = some(inside[numbers == found.number], _POINTS_OF_FINDING)
        rows.append(np.insert(points, 0, found.number, axis=1))
    places = {"in_findings": np.concatenate(rows)}
    for cancer, tissues in ORGAN_OF.items():
        table = np.zeros(256, bool)
        table[list(tissues)] = True
        places[f"in_{cancer.value}"] = some(np.flatnonzero(table[rendered.organs]), _POINTS_OF_ORGAN)
    return places


@dataclass(frozen=True, eq=False)
class Patient:
    """A stored patient. findings: as `Found`; in_findings (n, 4), in_organ (n, 3) of each cancer: see `_places`."""

    seed: int
    stored: bricks.Bricks
    findings: list[dict[str, Any]]
    in_findings: Points
    in_organ: dict[Cancer, Points]

    def cancers(self, cancer: Cancer) -> list[int]:
        """Numbers of the findings of one cancer that have a voxel."""
        seen = set(self.in_findings[:, 0].tolist())
        return [
            f["number"] for f in self.findings if f["cancer"] and f["organ"] == cancer.value and f["number"] in seen
        ]

    def noise(self, low: Index, size: Index) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """profile (y, x) and girth (z,) of a block, as `scanner.scanned` wants them."""
        z, y, x = (
            np.clip(np.arange(a, a + n), 0, end - 1) for a, n, end in zip(low, size, self.stored.shape, strict=True)
        )
        return self.stored.array("profile")[np.ix_(y, x)], self.stored.array("girth")[z]

    def others(self) -> list[int]:
        """Numbers of the findings that are no cancer and have a voxel."""
        seen = set(self.in_findings[:, 0].tolist())
        return [f["number"] for f in self.findings if not f["cancer"] and f["number"] in seen]


def open_patient(path: Path) -> Patient:
    """A patient that `render_patient` stored."""
    stored = bricks.opened(path)
    organs = {cancer: stored.array(f"in_{cancer.value}") for cancer in Cancer}
    return Patient(stored.about["seed"], stored, stored.about["findings"], stored.array("in_findings"), organs)


@dataclass(frozen=True)
class Store:
    """A folder of patients, one file each. Several processes may draw from it and fill it at once."""

    folder: Path

    def patient(self, seed: int) -> Patient:
        """A patient, rendered now if nobody has yet; another process that is at it is waited for."""
        self._render(seed, wait=True)
        return open_patient(self._path(seed))

    def reference(self, seed: int, organ: str) -> float:
        """HU: how bright one of the localiser's organs is in a patient, before the scanner is a bit off."""
        return _reference(self, seed, organ)

    def fill(self, seeds: Sequence[int]) -> None:
        """Render those that are missing. What another process is at is left to it, and waited for at the end: two
        that need the same patients share the work."""
        for wait in (False, True):
            for seed in seeds:
                self._render(seed, wait)

    def _render(self, seed: int, wait: bool) -> None:
        path = self._path(seed)
        if not path.exists():
            with _turn(self.folder / "locks" / f"{seed % 64}", wait) as ours:
                if ours and not path.exists():
                    render_patient(seed, path)

    def _path(self, seed: int) -> Path:
        return self.folder / f"{seed}.bricks"


@cache
def _reference(store: Store, seed: int, organ: str) -> float:
    stored = store.patient(seed).stored
    mask = np.isin(stored.array("coarse_organs"), ORGANS[organ])
    hu = stored.array("coarse_hu")[tuple(slice(n) for n in mask.shape)]
    seen = looks_of(mask, hu.astype(np.float32), np.ones(mask.shape, np.float32)).median_hu
    if seen is None:
        raise NoOrgan(f"patient {seed} has no {organ} that others could be compared with")
    return seen


@contextmanager
def _turn(path: Path, wait: bool) -> Iterator[bool]:
    """Whether it is our turn; always, if we wait for it."""
    durable.make_folder(path.parent)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def main() -> None:
    """Render patients ahead; several processes may do so at once."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("first", type=int, help="seed")
    parser.add_argument("count", type=int)
    parser.add_argument("--every", type=int, default=1, help="only every so many, so that others do those between")
    a = parser.parse_args()
    store = Store(a.folder)
    for seed in range(a.first, a.first + a.count, a.every):
        store.patient(seed)


if __name__ == "__main__":
    main()
