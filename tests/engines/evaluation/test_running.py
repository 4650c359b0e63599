"""A run judges every case as its truth says, is resumed where it was killed, and is the same whoever made it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.errors import ConfigError
from core.finding import Cancer, Verdict
from engines.bundle import open_bundle
from engines.evaluation.results import CaseResult, missing_shards, read_cases, read_header
from engines.evaluation.running import run_cases
from tests.engines.cascade import toy
from tests.engines.evaluation.toys import KINDS, Toys, ran


def told(cases: list[CaseResult]) -> list[object]:
    """What was said, without the seconds that it took."""
    return [case.model_dump(exclude={"seconds"}) for case in cases]


def test_every_kind_of_case_is_judged_as_its_truth_says(tmp_path: Path) -> None:
    run, cases = ran(tmp_path)
    by_kind = dict(zip(KINDS, cases, strict=True))
    lung, liver = Cancer.LUNG, Cancer.LIVER
    assert run.cases == len(KINDS)
    assert by_kind["lung"].cancers[lung].verdict is Verdict.POSITIVE
    assert [x.score for x in by_kind["lung"].cancers[lung].lesions] == [1.0]
    assert by_kind["small lung"].cancers[lung].verdict is Verdict.NEGATIVE
    assert [x.score for x in by_kind["hidden"].cancers[liver].lesions] == [None]
    dense = by_kind["dense"].cancers[lung]
    assert (dense.truth, dense.verdict, [m.on for m in dense.marks]) == (0, Verdict.POSITIVE, ["dense"])
    assert by_kind["cyst"].cancers[liver].marks == ()
    assert by_kind["healthy"].healthy
    names = {path.name for path in (tmp_path / "run" / "pictures").iterdir()}
    assert {"0000002-lung.jpg", "0000005-liver.jpg", "0000006-lung.jpg"} <= names
    assert all(path.read_bytes()[:2] == b"\xff\xd8" for path in (tmp_path / "run" / "pictures").iterdir())


def test_all_that_a_page_may_show_as_worst_have_pictures(tmp_path: Path) -> None:
    kinds = ("hidden",) * 4 + ("dense",) * 3 + ("healthy",) * 4
    bundle = toy.bundle(tmp_path / "bundle")
    run_cases(bundle, Toys(kinds), tmp_path / "run", runtime="onnx", precision="fp32", shard_size=len(kinds))
    names = {path.name for path in (tmp_path / "run" / "pictures").iterdir()}
    assert {f"{case:07}-liver.jpg" for case in range(4)} | {f"{case:07}-lung.jpg" for case in (4, 5, 6)} <= names
    assert len([name for name in names if name.endswith("-liver.jpg")]) <= 4 + 2


def test_two_workers_say_what_one_says(tmp_path: Path) -> None:
    _, one = ran(tmp_path)
    bundle = open_bundle(tmp_path / "bundle")
    steps: list[tuple[int, int]] = []
    run = run_cases(
        *(bundle, Toys(KINDS), tmp_path / "two"),
        jobs=2,
        runtime="onnx",
        precision="fp32",
        shard_size=3,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert told(list(read_cases(tmp_path / "two", run))) == told(one)
    assert steps[0] == (0, 7)
    assert steps[-1] == (7, 7)


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    kinds = KINDS * 12
    toy.bundle(tmp_path / "bundle")
    script = f"from tests.engines.evaluation.toys import ran, Path; ran(Path({str(tmp_path)!r}), {kinds!r})"
    process = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[3], env=dict(os.environ))
    shards = tmp_path / "run" / "shards"
    while not (shards.is_dir() and len(list(shards.glob("0*.jsonl"))) >= 3):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    header = read_header(tmp_path / "run")
    left = missing_shards(tmp_path / "run", header)
    assert 0 < len(left) < len(header.shards)
    with pytest.raises(ConfigError, match="still missing"):
        list(read_cases(tmp_path / "run", header))
    there = {path.name: path.stat().st_mtime_ns for path in shards.glob("0*.jsonl")}
    _, cases = ran(tmp_path, kinds)
    assert [case.case for case in cases] == list(range(len(kinds)))
    assert all((shards / name).stat().st_mtime_ns == at for name, at in there.items()), "made twice"
    assert not list(shards.glob(".part-*"))


def test_a_folder_of_other_cases_or_another_bundle_is_refused(tmp_path: Path) -> None:
    ran(tmp_path)
    with pytest.raises(ConfigError, match="another run: it differs in cases"):
        ran(tmp_path, KINDS[:4])
    other = toy.bundle(tmp_path / "other", toy.draft(version="2.0.0"))
    with pytest.raises(ConfigError, match="differs in bundle"):
        run_cases(other, Toys(KINDS), tmp_path / "run", runtime="onnx", precision="fp32", shard_size=3)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    run, _ = ran(tmp_path)
    (tmp_path / "run" / "shards" / "00001.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="00001"):
        list(read_cases(tmp_path / "run", run))
