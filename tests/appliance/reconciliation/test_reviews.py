"""Whether somebody reviewed a study: what reviewers leave in a real Orthanc, by C-FIND and by QIDO-RS."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE

from appliance.association import keep_responses
from appliance.clock import SystemClock
from appliance.config import ReconciliationConfig
from appliance.days import Days
from appliance.ports import Handover
from appliance.reconciliation.comparison import Performed
from appliance.reconciliation.reviewer import A_STEP, Archive, Reviewer
from appliance.reconciliation.reviews import MODALITIES, SOP_CLASSES, Document, ReviewKind, is_reviewed, kind_of
from appliance.reconciliation.web import WebAddress, WebSource
from appliance.storage.intake_reader import IntakeReader
from appliance.storage.journal import Journal
from appliance.storage.reconciliation import ReconciliationList
from core.errors import DeliveryError
from deploy.embedded import OrthancPacs
from tests.appliance.dicom_samples import part10
from tests.appliance.intake.stand import Stand, running, send
from tests.appliance.reconciliation.test_days import config, journal
from tests.appliance.reconciliation.test_outage import TODAY, archive, at_orthanc, reconciler, study
from tests.appliance.reconciliation.test_web import PLUGIN, receiver_of

__all__ = ["config", "journal"]
BASIC_TEXT, DOSE = "1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.5.1.4.1.1.88.67"
KEY_OBJECTS, VIEW = "1.2.840.10008.5.1.4.1.1.88.59", "1.2.840.10008.5.1.4.1.1.11.1"
KINDS: tuple[ReviewKind, ...] = ("report", "document", "key-objects", "presentation-state")


def test_the_setting_takes_exactly_the_kinds_there_are() -> None:
    assert set(SOP_CLASSES) == set(KINDS)
    assert ReconciliationConfig(reviewed_by=KINDS).reviewed_by == KINDS
    assert ReconciliationConfig().reviewed_by == ()


def test_a_dose_report_is_no_review_and_a_class_says_more_than_a_modality() -> None:
    assert kind_of(Document("1", DOSE, "SR")) is None
    assert kind_of(Document("1", "", "SR")) is None  # may be one
    assert kind_of(Document("1", BASIC_TEXT, "OT")) == "report"
    assert kind_of(Document("1", "", "KO")) == "key-objects"


@given(
    documents=st.lists(
        st.builds(
            Document,
            st.sampled_from(["1", "2", "3"]),
            st.sampled_from(["", DOSE, *(uid for kind in KINDS for uid in sorted(SOP_CLASSES[kind]))]),
            st.sampled_from(sorted(MODALITIES)),
        )
    ),
    counted=st.sets(st.sampled_from(KINDS)),
    ours=st.sets(st.sampled_from(["1", "2", "3"])),
)
def test_only_others_objects_of_counted_kinds_show_a_review(
    documents: list[Document], counted: set[ReviewKind], ours: set[str]
) -> None:
    whole = is_reviewed(documents, counted, ours)
    assert whole == any(is_reviewed([one], counted, ours) for one in documents)
    assert not is_reviewed(documents, (), ours)
    assert not is_reviewed(documents, counted, {"1", "2", "3"})
    if whole:
        assert is_reviewed(documents, KINDS, ours)


def left(image: Dataset, sop_class: str, modality: str) -> Dataset:
    """What somebody left beside an image, as small as an archive takes it."""
    ds = Dataset()
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "StudyDate"):
        setattr(ds, keyword, image.get(keyword))
    ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID = sop_class, generate_uid(), generate_uid()
    ds.Modality = modality
    return ds


def leave(pacs: OrthancPacs, folder: Path, objects: Sequence[Dataset]) -> None:
    ae = AE("WORKSTATION")
    for sop_class in {ds.SOPClassUID for ds in objects}:
        ae.add_requested_context(sop_class, [ExplicitVRLittleEndian])
    assoc = ae.associate("127.0.0.1", pacs.port, ae_title=pacs.ae_title)
    keep_responses(assoc)
    assert [send(assoc, folder, part10(ds)).Status for ds in objects] == [0] * len(objects)
    assoc.release()


@contextlib.contextmanager
def by_c_find(pacs: OrthancPacs, stand: Stand) -> Iterator[Archive]:
    yield at_orthanc(pacs, stand)


@contextlib.contextmanager
def by_qido(pacs: OrthancPacs, stand: Stand) -> Iterator[Archive]:
    authorization = f"Basic {base64.b64encode(pacs.credentials.encode()).decode()}"
    address = WebAddress("pacs", f"http://127.0.0.1:{pacs.http_port}/dicom-web", None, authorization)
    yield WebSource(address, receiver_of(stand))


def delivered(journal: Journal, folder: Path, uids: Sequence[str], ours: Sequence[str] = ()) -> ReconciliationList:
    """The list of a box that has delivered these studies, and wrote these objects."""
    now = dt.datetime.now(dt.timezone.utc)
    for cursor, uid in enumerate(uids, 1):
        journal.queue(cursor, Handover(f"h{cursor}", uid, 1, "geometry", "whole", now, now, ()), f"{cursor:032x}")
    with contextlib.closing(sqlite3.connect(folder / "journal.db")) as database, database:
        database.execute("UPDATE study SET delivered_at = received_at, answered_at = received_at")
        row = "INSERT INTO object VALUES ('r', ?, '1.2', 'sr', 'x')"
        database.executemany(row, [(uid,) for uid in ours])
    return ReconciliationList(folder / "journal.db")


@pytest.mark.integration
@pytest.mark.parametrize("asked", [by_c_find, by_qido])
def test_what_reviewers_left_in_the_archive_counts_on_the_day_of_the_study(
    asked: object, tmp_path: Path, journal: Journal
) -> None:
    if asked is by_qido and not PLUGIN.exists():
        pytest.skip("Orthanc's DICOMweb plugin is not installed (apt-get install orthanc-dicomweb)")
    read, dosed, ours, marked, bare = (study(name, 1)[0] for name in ("read", "dosed", "ours", "marked", "bare"))
    mine = left(ours, BASIC_TEXT, "SR")
    objects = [left(read, BASIC_TEXT, "SR"), left(dosed, DOSE, "SR"), mine, left(marked, KEY_OBJECTS, "KO")]
    objects += [left(read, VIEW, "PR"), left(bare, VIEW, "PR")]
    uids = [image.StudyInstanceUID for image in (read, dosed, ours, marked, bare)]
    found = delivered(journal, tmp_path, uids, ours=[mine.SOPInstanceUID])
    with (
        contextlib.closing(found),
        OrthancPacs(tmp_path / "orthanc", plugins=[PLUGIN] if asked is by_qido else ()) as pacs,
        running(tmp_path / "box") as stand,
        asked(pacs, stand) as source,  # type: ignore[operator]
    ):
        archive(pacs.port, pacs.ae_title, tmp_path, [read, dosed, ours, marked, bare])
        leave(pacs, tmp_path, objects)
        working = reconciler(stand, found, source)
        working._holds = lambda uids: {}
        working._reviewer = Reviewer(found, ("report", "key-objects"))
        working._arriving = lambda since: True  # nothing is fetched
        working.step()
        assert found.reviewed_studies() == {read.StudyInstanceUID, marked.StudyInstanceUID}
        assert found.unreviewed(TODAY) == sorted(
            image.StudyInstanceUID for image in (dosed, ours, bare)
        )  # they are looked at again after the next answer
        days = Days(found, IntakeReader(tmp_path / "intake.db"), SystemClock(), ["pacs"], reviews=True)
        assert [day.reviewed for day in days.counts(2)] == [2, 0]
        silent = Days(found, IntakeReader(tmp_path / "intake.db"), SystemClock(), ["pacs"])
        assert [day.reviewed for day in silent.counts(2)] == [None, None]


class Told:
    """An archive that says what it is told to, and notes what it was asked."""

    def __init__(self, name: str, fails: bool = False) -> None:
        self.name, self.fails = name, fails
        self.asked: list[str] = []

    def documents(self, study_uid: str) -> list[Document]:
        self.asked.append(study_uid)
        if self.fails:
            raise DeliveryError("it broke off")
        return [Document(f"{study_uid}.1", BASIC_TEXT, "SR")]


def test_some_studies_a_step_and_an_archive_that_fails_waits_for_its_next_answer(
    tmp_path: Path, journal: Journal
) -> None:
    uids = [f"1.2.{n}" for n in range(A_STEP + 5)]
    now = dt.datetime.now(dt.timezone.utc)
    with contextlib.closing(delivered(journal, tmp_path, uids)) as found:
        found.answered("scanner", now, "night", [Performed(uid, TODAY) for uid in uids], [])
        broken, good = Told("scanner", fails=True), Told("pacs")
        reviewer = Reviewer(found, ("report",))
        reviewer.begin(broken, TODAY)
        reviewer.begin(good, TODAY)  # it was the scanner that told of them
        assert reviewer.step(now) == 6  # one try of the broken one, nine of the good one
        assert (len(broken.asked), len(good.asked)) == (1, A_STEP - 1)
        assert reviewer.step(now) == 0
        assert found.reviewed_studies() == set(uids)
        assert sorted(good.asked) == sorted(uids)
        reviewer.begin(good, TODAY)
        assert reviewer.step(now) == 0  # nothing is asked twice
        nobody = Reviewer(found, ())
        nobody.begin(good, TODAY)
        assert nobody.step(now) == 0
