"""A source over DICOM: C-FIND and C-MOVE as SCU (PS3.4 C), study root or patient root. An association a question.

Fetched studies travel by C-STORE from the source to our own receiver. What a source answers is read with suspicion:
attributes may be absent, empty or wrong, and answers without end are cut off.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from pydicom.dataset import Dataset
from pynetdicom.presentation import build_context

from appliance.association import Peer, Timeouts, association
from appliance.reconciliation.comparison import Performed, PerformedSeries
from appliance.reconciliation.reviews import MODALITIES, Document
from core.errors import DeliveryError

MODELS = {  # query/retrieve information models: find, move (PS3.4 C.6)
    "study-root": ("1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.2"),
    "patient-root": ("1.2.840.10008.5.1.4.1.2.1.1", "1.2.840.10008.5.1.4.1.2.1.2"),
}
_MOST_ANSWERS = 10_000
_PENDING = (0xFF00, 0xFF01)
_REMEDY = "Check that the source is up, knows this box's AE title with address and port, and lets it query and move."


@dataclass(frozen=True)
class SourceAddress:
    """Who is asked. calling: our AE title, also the destination of C-MOVE: the source has to know it."""

    name: str
    peer: Peer
    calling: str
    model: Literal["study-root", "patient-root"] = "study-root"
    timeouts: Timeouts = Timeouts(association_s=10.0, response_s=120.0)  # noqa: RUF009  # frozen


@dataclass(frozen=True)
class Moved:
    """How a C-MOVE ended: the final status, and its sub-operations where the source counts them."""

    status: int
    completed: int | None
    failed: int | None

    def words(self) -> str:
        """For a person: "" where all went well."""
        if self.status == 0x0000 and not self.failed:
            return ""
        meaning = {0xA701: "no room to count matches", 0xA702: "sub-operations failed", 0xA801: "it does not know us"}
        why = meaning.get(self.status, "some images were not sent" if self.status == 0xB000 else "it refused")
        return f"C-MOVE ended with status {self.status:04X}: {why}" + (
            f" ({self.failed} failed)" if self.failed else ""
        )


class DicomSource:
    """Questions to one source; DeliveryError where there is no answer."""

    def __init__(self, address: SourceAddress) -> None:
        self.name = address.name
        self._address = address
        self._find, self._move = MODELS[address.model]

    def studies(self, first: dt.date, last: dt.date) -> list[Performed]:
        """CT studies of these days, the last one included. A source may tell of others as well."""
        wanted = Dataset()
        wanted.QueryRetrieveLevel = "STUDY"
        wanted.StudyDate = f"{first:%Y%m%d}-{last:%Y%m%d}"
        wanted.ModalitiesInStudy = "CT"
        wanted.StudyInstanceUID = ""
        wanted.NumberOfStudyRelatedInstances = ""
        return [
            Performed(
                study_uid=str(answer.get("StudyInstanceUID") or ""),
                study_date=date_of(answer.get("StudyDate")),
                modalities=_words(answer, "ModalitiesInStudy"),
                instances=count_of(answer.get("NumberOfStudyRelatedInstances")),
            )
            for answer in self._ask(wanted)
        ]

    def series(self, study_uid: str) -> list[PerformedSeries]:
        """The series of a study, each once."""
        wanted = Dataset()
        wanted.QueryRetrieveLevel = "SERIES"
        wanted.StudyInstanceUID = study_uid
        wanted.SeriesInstanceUID = ""
        wanted.Modality = ""
        wanted.NumberOfSeriesRelatedInstances = ""
        found = {}
        for answer in self._ask(wanted):
            if uid := str(answer.get("SeriesInstanceUID") or ""):
                modality = str(answer.get("Modality") or "") or None
                found[uid] = PerformedSeries(uid, modality, count_of(answer.get("NumberOfSeriesRelatedInstances")))
        return list(found.values())

    def documents(self, study_uid: str) -> list[Document]:
        """What it holds of a study that may be a reviewer's."""
        found = []
        for series in self.series(study_uid):
            if series.modality not in MODALITIES:
                continue
            wanted = Dataset()
            wanted.QueryRetrieveLevel = "IMAGE"
            wanted.StudyInstanceUID = study_uid
            wanted.SeriesInstanceUID = series.series_uid
            wanted.SOPInstanceUID = ""
            wanted.SOPClassUID = ""
            for answer in self._ask(wanted):
                instance, kind = (str(answer.get(word) or "") for word in ("SOPInstanceUID", "SOPClassUID"))
                found.append(Document(instance, kind, series.modality))
        return found

    def fetch(self, study_uid: str, series_uid: str = "") -> Moved:
        """Make the source push a study, or one series of it, to our receiver; returns when it says that it is done."""
        wanted = Dataset()
        wanted.QueryRetrieveLevel = "SERIES" if series_uid else "STUDY"
        wanted.StudyInstanceUID = study_uid
        if series_uid:
            wanted.SeriesInstanceUID = series_uid
        with self._association(self._move) as association:
            for status, _ in association.send_c_move(wanted, self._address.calling, self._move):
                code = status.get("Status")
                if code is None:
                    break
                if code not in _PENDING:
                    done, failed = (status.get(f"NumberOf{word}Suboperations") for word in ("Completed", "Failed"))
                    return Moved(int(code), done, failed)
        raise DeliveryError(f"{self.name} broke off while it sent a study", remedy=_REMEDY)

    def _ask(self, wanted: Dataset) -> Sequence[Dataset]:
        answers: list[Dataset] = []
        with self._association(self._find) as association:
            for status, answer in association.send_c_find(wanted, self._find):
                code = status.get("Status")
                if code in _PENDING:
                    if len(answers) >= _MOST_ANSWERS:
                        raise DeliveryError(f"{self.name} answers without end", remedy=_REMEDY)
                    if answer is not None:
                        answers.append(answer)
                elif code == 0x0000:
                    return answers
                else:
                    what = "broke off" if code is None else f"refused with status {int(code):04X}"
                    raise DeliveryError(f"{self.name} {what} when it was asked for studies", remedy=_REMEDY)
        raise DeliveryError(f"{self.name} broke off when it was asked for studies", remedy=_REMEDY)

    @contextmanager
    def _association(self, model: str) -> Iterator[Any]:
        to, contexts = self._address, [build_context(model)]
        try:
            with association(to.peer, to.calling, contexts, to.timeouts, who=self.name, remedy=_REMEDY) as opened:
                yield opened
        except (RuntimeError, ValueError, AttributeError) as error:
            raise DeliveryError(f"{self.name} could not be asked: {type(error).__name__}", remedy=_REMEDY) from error


def _words(answer: Dataset, keyword: str) -> tuple[str, ...] | None:
    value = answer.get(keyword)
    if not value:
        return None
    return tuple(map(str, [value] if isinstance(value, str) else value))


def count_of(value: Any) -> int | None:
    """A count as a source tells it; None where it tells none."""
    try:
        count = int(value)
    except (TypeError, ValueError):
        return None
    return count if count >= 0 else None


def date_of(value: object) -> dt.date | None:
    """A date (DA, PS3.5 6.2) as a source tells it; None where it is none."""
    try:
        return dt.datetime.strptime(str(value), "%Y%m%d").date()
    except ValueError:
        return None
