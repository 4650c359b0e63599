"""Every score behind a judgement's figures, in one file that is kept with them: anybody can count again, and a
judgement that one day is too short for goes on on another, on another machine.

gzip, a line of JSON each: {"part": name, "run": run.json}, followed by that part's cases. Pictures are not kept.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from core import durable
from engines.evaluation.results import (
    CaseResult,
    Run,
    claim,
    missing_shards,
    read_cases,
    read_header,
    write_shard,
)


def keep(folder: Path, path: Path) -> int:
    """Write the complete parts of a judgement's folder; how many cases they hold."""
    lines, cases = [], 0
    for header in sorted(folder.glob("*/run.json")):
        run = read_header(header.parent)
        if missing_shards(header.parent, run):
            continue
        lines.append(json.dumps({"part": header.parent.name, "run": run.model_dump(mode="json")}))
        lines += [case.model_dump_json(exclude_defaults=True) for case in read_cases(header.parent, run)]
        cases += run.cases
    durable.write_bytes(path, gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))
    return cases


def take(path: Path, folder: Path, digest: str) -> int:
    """Put parts back that the folder lacks, of the bundle with this digest; how many cases they hold."""
    if not path.exists():
        return 0
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    cases, at = 0, 0
    while at < len(lines):
        head = json.loads(lines[at])
        run = Run.model_validate(head["run"])
        found = lines[at + 1 : at + 1 + run.cases]
        at += 1 + run.cases
        part = folder / head["part"]
        if run.bundle.digest != digest or (part / "run.json").exists():
            continue
        claim(part, run)
        results = [CaseResult.model_validate_json(line) for line in found]
        for shard in run.shards:
            write_shard(part, shard, [results[i] for i in run.cases_of(shard)], {})
        cases += run.cases
    return cases
