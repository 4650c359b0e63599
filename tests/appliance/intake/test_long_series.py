"""A series of 5,000 slices: whole, complete by geometry, and each slice costs what each of a short series costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import FrameType

import pytest

from appliance.intake.assembly import Assembly, Complete
from tests.appliance.dicom_samples import ct_slice, part10
from tests.appliance.intake.stand import AE_TITLE, running, wait_for
from tests.appliance.intake.test_assembly import series

LONG, SHORT = 5000, 1000


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_five_thousand_slices_from_dcmtk_are_complete_by_geometry(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for index in range(LONG):
        ds = ct_slice(index=index, spacing=0.5, Rows=16, Columns=16, PixelData=index.to_bytes(2, "little") * 256)
        (folder / f"{index:04d}.dcm").write_bytes(part10(ds))
    with running(tmp_path) as stand:
        command = ["storescu", "+sd", "-aec", AE_TITLE, "-aet", "SCANNER1", "127.0.0.1", str(stand.port), str(folder)]
        subprocess.run(command, check=True, capture_output=True, timeout=600)
        ((_, handover),) = wait_for(lambda: stand.reader.handovers_after(0))
        assert handover.complete_by == "geometry", handover.explanation
        assert f"{LONG} slices" in handover.explanation
        assert len(handover.instances) == len(stand.objects()) == LONG


def steps_of_a_push(slices: int) -> int:
    """Lines and calls that assembly runs for one association, with a look after every slice as the receiver has it."""
    facts, steps = series(slices), 0

    def count(frame: FrameType, event: str, argument: object) -> object:
        nonlocal steps
        steps += 1
        return count

    assembly = Assembly(60.0)
    before = sys.gettrace()
    sys.settrace(count)
    try:
        assembly.association_opened("a", "CT1")
        for number, one in enumerate(facts):
            assembly.instance_stored("a", one, 0.01 * number)
            assembly.tick(0.01 * number)
        assembly.association_closed("a", released=True, now=0.01 * slices)
        (decision,) = assembly.tick(0.01 * slices)
    finally:
        sys.settrace(before)
    assert isinstance(decision, Complete)
    assert decision.by == "geometry"
    return steps


def test_the_work_of_assembly_grows_with_the_slices_not_with_their_square() -> None:
    assert steps_of_a_push(LONG) < 1.1 * LONG / SHORT * steps_of_a_push(SHORT)
