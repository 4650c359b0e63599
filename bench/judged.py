"""Groups of synthetic people for a judgement, in parts that can be made one by one: what `bench.evaluate` judges.

A group that is asked for with more people takes over the parts that it has, so a first look is never wasted. Nobody in
it had a part in the making of the bundle: seeds begin at FIRST, and `fresh` compares them with all that are taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from appliance.evaluate import DicomCohort
from core import durable
from core.errors import ConfigError
from core.finding import Cancer
from engines.bundle import Bundle
from engines.evaluation.counting import counts
from engines.evaluation.measuring import Results
from engines.evaluation.results import missing_shards, read_cases, read_header
from engines.evaluation.running import run_cases
from engines.evaluation.studies import Source
from engines.evaluation.torsos import Torsos, cohort_settings
from engines.phantom.cohort import Order, make
from engines.reference.recipes import TAKEN

FIRST, BLOCK = 12_000_000, 100_000
"""From 7,000,000 on people were looked at while 0.4.0 to 0.6.1 were made; what was seen there chose what came after."""
Progressed = Callable[[int, int], None]
PART, STUDIES = 100, 10
"""People in a part; fewer as DICOM, where a study takes 170 MB for as long as its part is being judged."""
_AT_MOST = 4
"""Times as many people with a cancer as are wanted: many a scan does not hold all of the organ, and counts not."""
SPACING = (2.0, 2.0, 2.0)


@dataclass(frozen=True)
class Part:
    """Some of a group's people. dicom: at full resolution, through DICOM. until: the part is needed as long as fewer of
    the group, who have this cancer, count."""

    group: str
    seeds: range
    order: Order
    dicom: bool = False
    until: tuple[Cancer, int] | None = None

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.group}-{self.seeds[0]}-{len(self.seeds)}"


@dataclass(frozen=True)
class Asked:
    """How many people: of each cancer who count, healthy, by the shifted law, as DICOM and the same at 2 mm."""

    positives: int
    healthy: int
    shifted: int
    dicom: int


def parts_of(asked: Asked, cancers: Sequence[Cancer]) -> list[Part]:
    """All parts, so ordered that all groups grow alike. ConfigError where a seed is taken."""
    groups = [_group("healthy", 0, asked.healthy, Order(SPACING, {}))]
    for cancer in cancers:
        number = 1 + list(Cancer).index(cancer)
        some = _group(cancer.value, number, _AT_MOST * asked.positives, Order(SPACING, {cancer.value: 1}))
        groups.append([replace(part, until=(cancer, asked.positives)) for part in some])
    groups.append(_group("shifted", 20, asked.shifted, Order(SPACING, shifted=True)))
    groups.append(_group("dicom", 30, asked.dicom, Order(None, dicom=True), dicom=True))
    groups.append(_group("beside-dicom", 30, asked.dicom, Order(SPACING)))
    fresh([part.seeds for group in groups for part in group], TAKEN)
    shares = [(_share(part, group), g, part) for g, group in enumerate(groups) for part in group]
    return [part for _, _, part in sorted(shares, key=lambda item: item[:2])]


def _share(part: Part, group: Sequence[Part]) -> float:
    """How far its group has got before a part, so that an hour's worth has some of every group; of those with a cancer
    about half count."""
    people = sum(len(p.seeds) for p in group) if part.until is None else 2 * part.until[1]
    return (part.seeds[0] - group[0].seeds[0]) / people


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
            if part.until and counted(found.get(part.group, ()), part.until[0]) >= part.until[1]:
                progress.update(task, total=(progress.tasks[task].total or 0) - len(part.seeds))
                continue

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


def counted(results: Sequence[Results], cancer: Cancer) -> int:
    """Those with the cancer who count for its sensitivity."""
    told = (case.cancers[cancer] for run in results for case in run.cases if cancer in case.cancers)
    return sum(result.truth == 1 and counts(result) for result in told)


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
