"""After an outage exactly what was missed comes, once: real Orthanc, dcmtk's dcmqrscp, and our own receiver."""

from __future__ import annotations

import contextlib
import datetime as dt
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt

from appliance.association import Peer
from appliance.clock import Stamp, SystemClock
from appliance.reconciliation.comparison import Performed, PerformedSeries
from appliance.reconciliation.reconciler import Reconciler
from appliance.reconciliation.schedule import Rules
from appliance.reconciliation.source import DicomSource, Moved, SourceAddress
from appliance.storage.journal import Journal
from appliance.storage.reconciliation import ReconciliationList
from core.errors import DeliveryError
from deploy.embedded import OrthancPacs
from deploy.embedded.ports import free_ports
from tests.appliance.dicom_samples import ct_series, part10
from tests.appliance.intake.stand import AE_TITLE, Stand, association, push, running, send, wait_for

TODAY = dt.date.today()
RULES = Rules(
    night=dt.time(2, 30),
    downtime=dt.timedelta(minutes=10),
    settle=dt.timedelta(),
    look_back=dt.timedelta(days=2),
    studies_an_hour=3.6e6,
    tries=3,
)


def study(name: str, count: int = 5, **changes: object) -> list[Dataset]:
    """A CT study of today, new in this run."""
    return ct_series(count, study=f"{name}-{generate_uid()}", StudyDate=f"{TODAY:%Y%m%d}", **changes)


def archive(port: int, title: str, folder: Path, datasets: Sequence[Dataset]) -> None:
    """What the scanner pushed to the PACS."""
    with association(port, called=title) as assoc:
        assert [send(assoc, folder, part10(ds)).Status for ds in datasets] == [0] * len(datasets)


@pytest.fixture
def missed(tmp_path: Path) -> Iterator[ReconciliationList]:
    path = tmp_path / "journal.db"
    Journal(path, tmp_path, "box-1", lambda: Stamp(dt.datetime.now(dt.timezone.utc), 1, uuid.uuid4(), True)).close()
    found = ReconciliationList(path)
    yield found
    found.close()


class Overnight(SystemClock):
    """The real clock, and hours that a test lets pass."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = dt.timedelta()

    def now(self) -> dt.datetime:
        return super().now() + self.ahead


def reconciler(
    stand: Stand, missed: ReconciliationList, source: object, clock: SystemClock | None = None
) -> Reconciler:
    return Reconciler(
        [source],  # type: ignore[list-item]
        missed,
        RULES,
        clock or SystemClock(),
        holds=stand.reader.held,
        arriving=lambda since: False,
    )


def source_at(name: str, port: int, title: str) -> DicomSource:
    return DicomSource(SourceAddress(name, Peer("127.0.0.1", port, title), AE_TITLE))


def at_orthanc(orthanc: OrthancPacs, stand: Stand) -> DicomSource:
    orthanc.add_modality(AE_TITLE, stand.port)
    return source_at("pacs", orthanc.port, "ORTHANC")


def test_after_an_outage_exactly_what_was_missed_is_fetched_and_handed_over_once(
    tmp_path: Path, orthanc: OrthancPacs, missed: ReconciliationList
) -> None:
    before, half, during = study("before"), study("half"), [study(f"during-{n}") for n in range(3)]
    other = study("other", Modality="MR")
    with running(tmp_path) as stand:
        push(stand.port, tmp_path, [*before, *half[:3]])  # then the power went
        wait_for(lambda: len(stand.reader.handovers_after(0)) == 2)
    for datasets in (before, half, *during, other, during[0]):  # the PACS got all, one twice
        archive(orthanc.port, "ORTHANC", tmp_path, datasets)
    with running(tmp_path) as stand:
        working = reconciler(stand, missed, at_orthanc(orthanc, stand))
        ours = {one[0].StudyInstanceUID for one in (before, half, *during, other)}
        wanted = {one[0].StudyInstanceUID for one in (half, *during)}
        for _ in range(100):  # other tests' studies may stand before ours: the PACS is shared
            working.step()
            rows = [row for row in missed.missed_since(TODAY) if row["study_uid"] in ours]
            if all(row["state"] == "fetched" for row in rows):
                break
        assert {(row["study_uid"], row["state"], row["attempts"]) for row in rows} == {
            (uid, "fetched", 1) for uid in wanted
        }
        for datasets in (before, half, *during):
            held = stand.reader.held([datasets[0].StudyInstanceUID])[datasets[0].StudyInstanceUID]
            assert sum(held.series.values()) == 5
        assert other[0].StudyInstanceUID not in stand.reader.held([other[0].StudyInstanceUID])

        def generations() -> list[tuple[str, int, int]]:
            handed = [h for _, h in stand.reader.handovers_after(0, 1000) if h.study_uid in ours]
            return sorted((h.study_uid, h.generation, len(h.instances)) for h in handed)

        assert wait_for(lambda: len(found := generations()) >= 6 and found) == sorted(
            [
                (before[0].StudyInstanceUID, 1, 5),
                (half[0].StudyInstanceUID, 1, 3),
                (half[0].StudyInstanceUID, 2, 5),
                *((one[0].StudyInstanceUID, 1, 5) for one in during),
            ]
        )
        [ask] = missed.last_asks()
        assert (ask["why"], ask["source"]) == ("first", "pacs")


@contextlib.contextmanager
def dcmqrscp(folder: Path, receiver: int) -> Iterator[int]:
    """dcmtk's archive as AE `QRSCP`, which knows our receiver."""
    if shutil.which("dcmqrscp") is None:
        pytest.skip("dcmtk's dcmqrscp is not installed")
    (port,) = free_ports(1)
    database = folder / "qr"
    database.mkdir()
    settings = folder / "dcmqrscp.cfg"
    settings.write_text(
        f"""NetworkTCPPort = {port}
MaxPDUSize = 16384
MaxAssociations = 16
HostTable BEGIN
onescan = ({AE_TITLE}, 127.0.0.1, {receiver})
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
QRSCP {database} RW (200, 1024mb) ANY
AETable END
"""
    )
    with (folder / "dcmqrscp.log").open("w") as log:
        process = subprocess.Popen(["dcmqrscp", "-c", str(settings)], stdout=log, stderr=log)
    try:
        wait_for(lambda: _echoes(port))
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _echoes(port: int) -> bool:
    command = ["echoscu", "-aec", "QRSCP", "127.0.0.1", str(port)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_dcmtks_archive_is_understood_as_well(tmp_path: Path, missed: ReconciliationList) -> None:
    here, away = study("here"), study("away")
    with running(tmp_path) as stand, dcmqrscp(tmp_path, stand.port) as port:
        push(stand.port, tmp_path, here)
        for datasets in (here, away):
            archive(port, "QRSCP", tmp_path, datasets)
        working = reconciler(stand, missed, source_at("scanner", port, "QRSCP"))
        for _ in range(3):
            working.step()
        [row] = missed.missed_since(TODAY)
        assert (row["study_uid"], row["state"]) == (away[0].StudyInstanceUID, "fetched")
        assert wait_for(lambda: len(stand.reader.handovers_after(0)) == 2)


class Fickle:
    """A source whose fetches fail as they are told to, by pushing fewer slices than it has."""

    name = "pacs"

    def __init__(self, stand: Stand, folder: Path, datasets: list[Dataset], told: bool = True) -> None:
        self.stand, self.folder, self.datasets, self.told = stand, folder, datasets, told
        self.uid = datasets[0].StudyInstanceUID
        self.sends: list[int | None] = []

    def studies(self, first: dt.date, last: dt.date) -> list[Performed]:
        return [Performed(self.uid, None, ("CT",), len(self.datasets) if self.told else None)]

    def series(self, study_uid: str) -> list[PerformedSeries]:
        if not self.told:
            return []
        return [PerformedSeries(self.datasets[0].SeriesInstanceUID, "CT", len(self.datasets))]

    def fetch(self, study_uid: str, series_uid: str = "") -> Moved:
        count = self.sends.pop(0)
        if count is None:
            raise DeliveryError("pacs broke off while it sent a study")
        push(self.stand.port, self.folder, self.datasets[:count])
        return Moved(0x0000 if count == len(self.datasets) else 0xB000, count, len(self.datasets) - count)


def test_an_interrupted_fetch_is_tried_again_and_one_that_can_not_be_fetched_is_shown(
    tmp_path: Path, missed: ReconciliationList
) -> None:
    clock = Overnight()
    with running(tmp_path) as stand:
        source = Fickle(stand, tmp_path, study("fickle"))
        working = reconciler(stand, missed, source, clock)
        source.sends = [None, 0, 0, 5]
        reasons = []
        for _ in range(3):
            working._rules = RULES
            working.step()
            [row] = missed.missed_since(TODAY)
            reasons.append((row["state"], row["attempts"], row["reason"]))
            clock.ahead += dt.timedelta(minutes=11)
        assert [(state, n) for state, n, _ in reasons] == [("wanted", 1), ("wanted", 2), ("wanted", 3)]
        assert "broke off" in reasons[0][2]
        assert "B000" in reasons[1][2]
        assert "nothing arrived" in reasons[2][2]
        working.step()
        assert source.sends == [5]  # after three tries it waits for the next night, and is still in the list
        clock.ahead += dt.timedelta(days=1)
        working.step()
        [row] = missed.missed_since(TODAY)
        assert (row["state"], row["attempts"], row["reason"]) == ("fetched", 4, "")


def test_an_attempt_that_a_crash_ended_counts_and_is_taken_up_again(tmp_path: Path, missed: ReconciliationList) -> None:
    class PowerCut(Exception):
        pass

    class Cut(Fickle):
        def fetch(self, study_uid: str, series_uid: str = "") -> Moved:
            super().fetch(study_uid, series_uid)
            raise PowerCut

    clock = Overnight()
    with running(tmp_path) as stand:
        datasets = study("cut")
        source = Cut(stand, tmp_path, datasets)
        source.sends = [2]
        with pytest.raises(PowerCut):
            reconciler(stand, missed, source, clock).step()
        [row] = missed.missed_since(TODAY)
        assert (row["state"], row["attempts"], row["reason"]) == ("wanted", 1, "interrupted")
        clock.ahead += dt.timedelta(minutes=11)
        again = Fickle(stand, tmp_path, datasets)
        again.sends = [5]
        reconciler(stand, missed, again, clock).step()
        [row] = missed.missed_since(TODAY)
        assert (row["state"], row["attempts"]) == ("fetched", 2)
        assert sum(stand.reader.held([again.uid])[again.uid].series.values()) == 5


def test_a_source_that_tells_neither_series_nor_counts_serves_too(tmp_path: Path, missed: ReconciliationList) -> None:
    with running(tmp_path) as stand:
        source = Fickle(stand, tmp_path, study("terse"), told=False)
        source.sends = [5]
        working = reconciler(stand, missed, source)
        working.step()
        [row] = missed.missed_since(TODAY)
        assert (row["state"], row["attempts"]) == ("fetched", 1)


def test_what_somebody_pushed_meanwhile_is_not_fetched(tmp_path: Path, missed: ReconciliationList) -> None:
    clock = Overnight()
    with running(tmp_path) as stand:
        source = Fickle(stand, tmp_path, study("late"))
        source.sends = [None]
        working = reconciler(stand, missed, source, clock)
        working._arriving = lambda since: True
        working.step()  # asked, and a scanner pushes: nothing is fetched
        assert source.sends == [None]
        push(stand.port, tmp_path, source.datasets)
        wait_for(lambda: stand.reader.handovers_after(0))
        working._arriving = lambda since: False
        working.step()
        [row] = missed.missed_since(TODAY)
        assert (row["state"], row["attempts"], source.sends) == ("pushed", 0, [None])


def test_a_source_that_is_away_is_written_down_and_asked_again_later(
    tmp_path: Path, missed: ReconciliationList
) -> None:
    (port,) = free_ports(1)
    with running(tmp_path) as stand:
        working = reconciler(stand, missed, source_at("pacs", port, "NOBODY"))
        working.step()
        working.step()
        [ask] = missed.last_asks()
        assert (ask["performed"], "no connection" in ask["reason"]) == (None, True)
        assert missed.asked("pacs").failures == 1


@contextlib.contextmanager
def answering(*answers: Dataset, final: int = 0x0000) -> Iterator[DicomSource]:
    """An SCP that answers C-FIND with these, whatever it is asked."""
    ae = AE("ODD")
    ae.add_supported_context("1.2.840.10008.5.1.4.1.2.2.1")

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        for answer in answers:
            yield 0xFF00, answer
        if final:
            yield final, None

    (port,) = free_ports(1)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_FIND, find)])
    try:
        yield source_at("odd", port, "ODD")
    finally:
        server.shutdown()


def test_answers_with_fewer_or_odd_attributes_are_read_with_suspicion() -> None:
    bare, odd, none = Dataset(), Dataset(), Dataset()
    bare.StudyInstanceUID = "1.2.3"
    odd.StudyInstanceUID, odd.StudyDate, odd.ModalitiesInStudy = "1.2.4", "20261301", ["CT", "SR"]
    odd.NumberOfStudyRelatedInstances = None
    none.StudyDate = "20261101"
    with answering(bare, odd, none) as source:
        found = source.studies(TODAY, TODAY)
    assert found == [
        Performed("1.2.3"),
        Performed("1.2.4", None, ("CT", "SR"), None),
        Performed("", dt.date(2026, 11, 1)),
    ]
    with answering(final=0xA700) as source, pytest.raises(DeliveryError, match="A700"):
        source.studies(TODAY, TODAY)
