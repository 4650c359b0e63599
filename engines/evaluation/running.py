"""All cases of a source through a bundle, in shards: in parallel, resumable, each shard whole or not there.

Every worker process opens the bundle itself and uses one thread: several cases side by side are quicker than one case
on several cores. What a case's result says depends on neither workers nor order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import ConfigError
from core.finding import Cancer, Verdict
from engines import workers
from engines.bundle import Bundle, open_bundle
from engines.cascade import Cascade
from engines.evaluation.hardest import SHOWN
from engines.evaluation.results import (
    CancerResult,
    JudgedBundle,
    Run,
    Thresholds,
    claim,
    missing_shards,
    picture_name,
    write_shard,
)
from engines.evaluation.scoring import Scored, score
from engines.evaluation.studies import Source
from engines.runtime.choice import Precision, Preference, choose

Progress = Callable[[int, int], None]
SHARD = 10
NEXT = 2
"""Pictures kept of each shard and cancer where nobody without it is flagged: thresholds may move."""


@dataclass(frozen=True)
class Work:
    """What a worker needs to make any shard. bundle: its folder. threads: of one worker."""

    bundle: Path
    source: Source
    folder: Path
    run: Run
    runtime: Preference
    precision: Precision
    threads: int
    pictures: bool


def run_cases(
    bundle: Bundle,
    source: Source,
    folder: Path,
    *,
    jobs: int = 1,
    runtime: Preference = "auto",
    precision: Precision = "auto",
    threads: int = 1,
    shard_size: int = SHARD,
    pictures: bool = True,
    progress: Progress = lambda done, total: None,
) -> Run:
    """Make what is missing in `folder`. progress(cases there, cases in all).

    ConfigError where the folder holds another run; EngineError where networks can't run here or a worker died.
    """
    if not len(source):
        raise ConfigError("there are no cases", remedy="Name a cohort or a table that has some.")
    choice = choose(runtime, threads, precision, networks=bundle.networks)
    ran = f"{choice.runtime.name} {choice.runtime.precision}"
    run = Run(
        bundle=judged(bundle),
        cohort=source.title,
        synthetic=source.synthetic,
        source=source.digest,
        cases=len(source),
        shard_size=shard_size,
        runtime=ran,
    )
    claim(folder, run)
    work = Work(bundle.folder, source, folder, run, runtime, precision, threads, pictures)
    missing = missing_shards(folder, run)
    done = run.cases - sum(len(run.cases_of(shard)) for shard in missing)
    progress(done, run.cases)
    for shard in _each(work, missing, jobs):
        done += len(run.cases_of(shard))
        progress(done, run.cases)
    return run


def judged(bundle: Bundle) -> JudgedBundle:
    """A bundle as results name it."""
    manifest = bundle.manifest
    return JudgedBundle(
        name=manifest.name,
        version=manifest.version,
        label=manifest.label,
        digest=bundle.digest,
        synthetic=manifest.synthetic,
        thresholds={
            model.cancer: Thresholds(negative_below=model.negative_below, positive_above=model.positive_above)
            for model in manifest.cancers
        },
    )


def make_shard(work: Work, cascade: Cascade, shard: int) -> int:
    """Judge the cases of a shard and write it; its number comes back."""
    scored = []
    for index in work.run.cases_of(shard):
        began = time.monotonic()
        study = work.source.study(index)
        scored.append(score(study, cascade, began, work.pictures))
    write_shard(work.folder, shard, [case.result for case in scored], _hardest(scored))
    return shard


def _hardest(scored: Sequence[Scored]) -> dict[str, bytes]:
    """Pictures of those with a cancer that scored lowest, and of those without that scored highest.

    As many as a page shows: whoever is among its worst of all shards is among the worst of his own."""
    kept = {}
    for cancer in Cancer:
        shown = [(case.result.cancers[cancer], case) for case in scored if cancer in case.pictures]
        ill = sorted((pair for pair in shown if pair[0].truth == 1), key=lambda pair: _height(pair[0]))
        well = sorted((pair for pair in shown if pair[0].truth == 0), key=lambda pair: -_height(pair[0]))
        flagged = sum(result.verdict is Verdict.POSITIVE for result, _ in well)
        for _, case in [*ill[:SHOWN], *well[: min(SHOWN, max(NEXT, flagged))]]:
            kept[picture_name(case.result.case, cancer)] = case.pictures[cancer]
    return kept


def _height(result: CancerResult) -> float:
    return -1.0 if result.score is None else result.score


def _each(work: Work, shards: Sequence[int], jobs: int) -> Iterator[int]:
    if jobs <= 1 or len(shards) <= 1:
        if shards:
            cascade = _open(work)
            for shard in shards:
                yield make_shard(work, cascade, shard)
        return
    yield from workers.each(_work_on, shards, jobs, _begin, (work,))


def _open(work: Work) -> Cascade:
    bundle = open_bundle(work.bundle, work.run.bundle.digest)
    choice = choose(work.runtime, work.threads, work.precision, networks=bundle.networks)
    return Cascade(bundle, choice.runtime)


_here: tuple[Work, Cascade] | None = None
"""Of a worker process: set once when it begins."""


def _begin(work: Work) -> None:
    global _here
    _here = (work, _open(work))


def _work_on(shard: int) -> int:
    assert _here is not None
    return make_shard(*_here, shard)
