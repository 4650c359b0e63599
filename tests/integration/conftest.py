"""One whole OneScan per run, shared by all tests here; each test sends studies of its own."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from deploy.demo import push
from deploy.onescan import OneScan, SetUpFailed, Site
from engines.phantom import Scan, build, sample_person
from engines.phantom.dicom import write_series

SMALL = Scan(spacing_mm=(5.0, 2.0, 2.0), matrix=(256, 256))
"""Quick to make, send and read; a whole torso is about 130 slices."""
SEED = 9000


@dataclass(frozen=True)
class Sent:
    """A study as it was sent."""

    uid: str
    files: list[Path]


class Hospital:
    """The stack, and the questions that tests ask of it."""

    def __init__(self, stack: OneScan, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        self._rendered = write_series(build(sample_person(SEED)), SMALL, folder / "rendered")
        self._numbers = itertools.count(1)

    def phantom(self) -> Sent:
        """A study that was never sent before: the rendered patient, scanned again under new UIDs."""
        number = next(self._numbers)
        folder = self.folder / f"phantom-{number}"
        folder.mkdir()
        study, series, frame = generate_uid(), generate_uid(), generate_uid()
        for path in self._rendered:
            image = dcmread(path)
            image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            image.save_as(folder / path.name)
        return Sent(str(study), sorted(folder.iterdir()))

    def send(self, files: list[Path]) -> int:
        """Push with storescu; returns its exit code."""
        return push(self.stack, files).wait(120)

    def sending(self, files: list[Path]) -> subprocess.Popen[bytes]:
        """Push with storescu, in the background."""
        return push(self.stack, files)

    def results(self, sent: Sent) -> list[dict[str, Any]]:
        """The registry's results of a study, every revision, oldest first."""
        study = self.stack.pseudonyms.study(sent.uid)
        return sorted((r for r in self.stack.results() if r["study"] == study), key=lambda r: int(r["revision"]))

    def view(self, sent: Sent) -> dict[str, Any] | None:
        """The box's newest view of a study."""
        study = self.stack.pseudonyms.study(sent.uid)
        return next((s for s in self.stack.studies() if s["pseudonym"] == study), None)

    def reports(self, sent: Sent) -> list[Path]:
        """Structured reports of a study in the PACS, in order of arrival, repeats left out."""
        taken = [r for r in self.stack.pacs.received if r.study_instance_uid == sent.uid and r.modality == "SR"]
        return list(dict.fromkeys(r.path for r in taken))

    def settled(self, sent: Sent, revision: int = 1, patience_s: float = 180) -> dict[str, Any]:
        """Wait until PACS and registry both have this revision; the box's view."""

        def done() -> dict[str, Any] | None:
            view = self.view(sent)
            if not view or not view["acknowledged"] or view["objects_waiting"]:
                return None
            return view if view["revision"] == revision else None

        try:
            found: dict[str, Any] = self.stack.wait_for(done, f"revision {revision} is delivered", patience_s)
        except SetUpFailed as error:
            log = self.stack.appliance.log.read_text().splitlines()[-40:]
            pytest.fail("\n".join([str(error), f"the box shows {self.view(sent)}", *log]))
        return found

    def exactly_one_result(self, sent: Sent) -> None:
        """One final result in the registry, one report in the PACS: none lost, none twice."""
        results = self.results(sent)
        assert [r["revision"] for r in results] == [1]
        assert len(self.reports(sent)) == 1
        assert not [r for r in self.stack.pacs.received if r.changed], "an object came again with other bytes"


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """Everything running, with the reference model active."""
    folder = tmp_path_factory.mktemp("onescan")
    # quiet_seconds: longer than a killed receiver and its sender are away, however busy the machine: what they left is
    # then no study. max_attempts: a minute of kills at random takes more from one study than any box ever will.
    # reserve_bytes: two segments' worth, so that a box with a reserve is what is killed.
    site = Site(quiet_seconds=60.0, max_attempts=50, receiver={"reserve_bytes": 128 << 20})
    with OneScan(folder / "stack", site) as stack:
        yield Hospital(stack, folder)


@pytest.fixture
def phantom(hospital: Hospital) -> Callable[[], Sent]:
    """Makes phantom studies."""
    return hospital.phantom
