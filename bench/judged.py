"""Groups of synthetic people for a judgement, in parts that can be made one by one: what `bench.evaluate` judges.

A group that is asked for with more people takes over the parts that it has, so a first look is never wasted. Nobody in
it had a part in the making of the bundle: seeds begin at FIRST, and `fresh` compares them with all that are taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from appliance.evaluate import DicomCohort
from core import durable
from core.errors import ConfigError
from core.finding import Cancer
from engines.bundle import Bundle
from engines.evaluation.measuring import Results
from engines.evaluation.results import missing_shards, read_cases, read_header
from engines.evaluation.running import run_cases
from engines.evaluation.studies import Source
from engines.evaluation.torsos import Torsos, cohort_settings
from engines.phantom.torso.cohort import Order, make
from engines.reference.recipes import TAKEN

FIRST, BLOCK = 7_000_000, 100_000
Progressed = Callable[[int, int], None]
PART, STUDIES = 200, 10
"""People in a part; fewer as DICOM, where a study takes 170 MB for as long as its part is being judged."""
SPACING = (2.0, 2.0, 2.0)


@dataclass(frozen=True)
class Part:
    """Some of a group's people. dicom: at full resolution, through DICOM."""

    group: str
    seeds: range
    order: Order
    dicom: bool = False

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.group}-{self.seeds[0]}-{len(self.seeds)}"


@dataclass(frozen=True)
class Asked:
    """How many people: of each cancer, healthy, by the shifted law, as DICOM and beside that at working spacing."""

    positives: int
    healthy: int
    shifted: int
    dicom: int


def parts_of(asked: Asked, cancers: Sequence[Cancer]) -> list[Part]:
    """All parts, so ordered that all groups grow alike. ConfigError where a seed is taken."""
    groups = [_group("healthy", 0, asked.healthy, Order(SPACING, {}))]
    for cancer in cancers:
        number = 1 + list(Cancer).index(cancer)
        groups.append(_group(cancer.value, number, asked.positives, Order(SPACING, {cancer.value: 1})))
    groups.append(_group("shifted", 20, asked.shifted, Order(SPACING, shifted=True)))
    groups.append(_group("dicom", 30, asked.dicom, Order(None, dicom=True), dicom=True))
    groups.append(_group("beside-dicom", 30, asked.dicom, Order(SPACING)))
    fresh([part.seeds for group in groups for part in group], TAKEN)
    shares = [((i + 1) / len(group), g, part) for g, group in enumerate(groups) for i, part in enumerate(group)]
    return [part for _, _, part in sorted(shares, key=lambda item: item[:2])]


def _group(name: str, block: int, count: int, order: Order, dicom: bool = False) -> list[Part]:
    first, size = FIRST + block * BLOCK, STUDIES if dicom else PART
    return [Part(name, range(first + i, first + min(i + size, count)), order, dicom) for i in range(0, count, size)]


def fresh(judged: Sequence[range], taken: Mapping[str, range]) -> None:
    """ConfigError where somebody who is judged had a part in the making."""
    for seeds in judged:
        for what, others in taken.items():
            if max(seeds[0], others[0]) <= min(seeds[-1], others[-1]):
                raise ConfigError(
                    f"seeds {seeds[0]} to {seeds[-1]} are to be judged, but are {what}'s too",
                    remedy="Judge others: who had a part in making a bundle proves nothing.",
                )


def judge_all(
    bundle: Bundle, parts: Sequence[Part], folder: Path, jobs: int, seconds: float
) -> dict[str, list[Results]]:
    """Results of the parts that are complete, by group. No part is begun after `seconds`; what is there is read."""
    until = time.monotonic() + seconds
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    found: dict[str, list[Results]] = {}
    with Progress(*columns, TimeRemainingColumn(elapsed_when_finished=True), console=Console(stderr=True)) as progress:
        task = progress.add_task("people", total=sum(len(part.seeds) for part in parts))
        before = 0
        for part in parts:

            def tell(done: int, total: int, before: int = before) -> None:
                progress.update(task, completed=before + done)

            results = _complete(folder / part.name)
            if results is None and time.monotonic() < until:
                results = _judged(bundle, part, folder, jobs, tell)
            if results is not None:
                found.setdefault(part.group, []).append(results)
                before += len(part.seeds)
                progress.update(task, completed=before)
    return found


def _complete(folder: Path) -> Results | None:
    if not (folder / "run.json").exists():
        return None
    run = read_header(folder)
    return None if missing_shards(folder, run) else Results(run, tuple(read_cases(folder, run)))


def _judged(bundle: Bundle, part: Part, folder: Path, jobs: int, tell: Progressed) -> Results:
    source: Source = Torsos(part.seeds, part.order)
    studies = folder / "studies" / part.name
    if part.dicom:
        make(studies, part.seeds, part.order, jobs)
        source = DicomCohort(studies, tuple(part.seeds), cohort_settings(studies))
    run = run_cases(bundle, source, folder / part.name, jobs=jobs, progress=tell)
    durable.remove_tree(studies)
    return Results(run, tuple(read_cases(folder / part.name, run)))
