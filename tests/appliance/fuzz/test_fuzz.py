"""Whatever strangers send, our readers take it or refuse it as documented, within their memory; see `targets.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from appliance.imaging.decode import stored_values
from appliance.imaging.header import read_headers
from appliance.intake.examine import examine
from appliance.intake.wire.acceptor import Acceptor, Released, Request
from core.extent import Extent
from tests.appliance.fuzz import targets
from tests.appliance.fuzz.make_corpus import CORPUS, INSTANCE, picture
from tests.appliance.intake.wire.test_acceptor import CT, EXPLICIT, IMPLICIT, RULES

ROOT = Path(__file__).parents[3]
LOSS = {"1.2.840.10008.1.2.4.51": 1100, "1.2.840.10008.1.2.4.81": 2, "1.2.840.10008.1.2.4.91": 16}
"""Of a lossy stream's values, at most; dcmtk shifts them before it compresses to JPEG."""
CASES = {
    **{"messages": 350_000, "examine": 350_000, "meta": 260_000, "association": 25_000, "assembly": 15_000},
    **{"header": 5_000, "stream": 300_000, "slice": 10_000},
}
"""In all more than a million, some minutes on one core."""


def campaign(*arguments: str) -> dict[str, int]:
    """Number of cases by target; the test fails with what the process said if it did not end well."""
    seed = os.environ.get("ONESCAN_FUZZ_SEED", "1")
    command = [sys.executable, "-m", "tests.appliance.fuzz.campaign", "--seed", seed, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-4000:]
    print(done.stdout)
    return {target: int(count) for target, count in map(str.split, done.stdout.splitlines())}


def test_for_twenty_seconds_nothing_breaks() -> None:
    done = campaign("--seconds", "20")
    assert done.keys() == targets.TARGETS.keys()
    assert all(done.values())


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("target", CASES)
def test_in_a_million_cases_nothing_breaks(target: str) -> None:
    assert campaign("--target", target, "--cases", str(CASES[target])) == {target: CASES[target]}


def test_the_slow_campaign_is_a_million_cases_over_all_targets() -> None:
    assert CASES.keys() == targets.TARGETS.keys()
    assert sum(CASES.values()) >= 1_000_000


def test_what_the_mutations_start_from_is_valid() -> None:
    for seed in targets.DATASETS:
        syntax = targets.RLE if "encapsulated" in seed.name else EXPLICIT if "explicit" in seed.name else IMPLICIT
        assert examine(seed.data, syntax, CT, INSTANCE).rows == 4, seed.name
    for path in CORPUS.glob("*.dcm"):
        assert read_headers(Extent(path))
    for seed in targets.STREAMS:
        header = targets.written(seed.name, seed.data)
        assert np.abs(stored_values(header) - picture().astype(int)).max() <= LOSS.get(seed.name, 0)
    released, aborted = (
        list(targets.events((CORPUS / name).read_bytes(), Acceptor(RULES, lambda: None), targets.Random(0)))
        for name in ("released.pdus", "aborted.pdus")
    )
    assert [type(event) for event in released[1:]] == [Request, Request, Released]
    assert len(aborted) == 3
