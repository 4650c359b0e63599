"""A source over DICOMweb (PS3.18): asked with QIDO-RS, fetched with WADO-RS, an instance at a time, and sent to our own
receiver by C-STORE: what is fetched passes the same limits, spool and ledger as what a scanner pushes.
"""

from __future__ import annotations

import datetime as dt
import email.message
import io
import json
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import urllib3
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom.presentation import build_context

from appliance.association import Peer, Timeouts, association
from appliance.reconciliation.comparison import Performed, PerformedSeries
from appliance.reconciliation.reviews import MODALITIES, Document
from appliance.reconciliation.source import Moved, count_of, date_of
from core.errors import DeliveryError

_STUDY_DATE, _MODALITIES, _STUDY_UID = "00080020", "00080061", "0020000D"
_MODALITY, _SERIES_UID, _IN_STUDY, _IN_SERIES = "00080060", "0020000E", "00201208", "00201209"
_INSTANCE_UID, _CLASS_UID = "00080018", "00080016"
_PAGE, _MOST_ANSWERS = 500, 10_000
_LONGEST_ANSWER = 64 << 20
_LONGEST_INSTANCE = 2 << 30
_TO_OURSELVES = Timeouts(association_s=60.0)
_SEE_RECEIVER = "See `onescan-appliance senders`, and the receiver's log."
_REMEDY = "Check the source's address, its certificate's authority and the credentials in reconciliation.web."
Answer = Mapping[str, Any]


@dataclass(frozen=True)
class WebAddress:
    """url: of the DICOMweb service, below which `studies` is. authorization: the whole header, "" for none."""

    name: str
    url: str
    ca: Path | None = None
    authorization: str = ""
    connect_s: float = 10.0
    response_s: float = 120.0


@dataclass(frozen=True)
class OwnReceiver:
    """Where fetched instances go. contexts: the (SOP class, transfer syntax) pairs that it takes, at most 128."""

    peer: Peer
    contexts: Sequence[tuple[str, str]]


class WebSource:
    """Questions to one source; DeliveryError where there is no answer. receiver: asked at each fetch."""

    def __init__(self, address: WebAddress, receiver: Callable[[], OwnReceiver]) -> None:
        self.name = address.name
        self._url, self._receiver = address.url.rstrip("/"), receiver
        context = ssl.create_default_context()
        if address.ca is not None:
            try:
                context.load_verify_locations(cafile=str(address.ca))
            except (OSError, ssl.SSLError) as error:
                raise DeliveryError(f"{address.ca} can't be used: {error}", remedy=_REMEDY) from error
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=address.connect_s, read=address.response_s),
            retries=False,
            ssl_context=context,
            headers={"Authorization": address.authorization} if address.authorization else None,
        )

    def studies(self, first: dt.date, last: dt.date) -> list[Performed]:
        """CT studies of these days, the last one included. A source may tell of others as well."""
        question = {
            "StudyDate": f"{first:%Y%m%d}-{last:%Y%m%d}",
            "ModalitiesInStudy": "CT",
            "includefield": f"{_MODALITIES},{_IN_STUDY}",
        }
        return [
            Performed(
                study_uid=_text(one, _STUDY_UID),
                study_date=date_of(_text(one, _STUDY_DATE)),
                modalities=tuple(map(str, _values(one, _MODALITIES))) or None,
                instances=count_of(_text(one, _IN_STUDY)),
            )
            for one in self._ask("studies", question)
        ]

    def series(self, study_uid: str) -> list[PerformedSeries]:
        """The series of a study, each once."""
        asked = self._ask(f"studies/{_safe(study_uid)}/series", {"includefield": f"{_MODALITY},{_IN_SERIES}"})
        found = {uid: one for one in asked if (uid := _text(one, _SERIES_UID))}
        return [
            PerformedSeries(uid, _text(one, _MODALITY) or None, count_of(_text(one, _IN_SERIES)))
            for uid, one in found.items()
        ]

    def documents(self, study_uid: str) -> list[Document]:
        """What it holds of a study that may be a reviewer's."""
        return [
            Document(_text(one, _INSTANCE_UID), _text(one, _CLASS_UID), series.modality)
            for series in self.series(study_uid)
            if series.modality in MODALITIES
            for one in self._ask(
                f"{_series_path(study_uid, series.series_uid)}/instances", {"includefield": _CLASS_UID}
            )
        ]

    def fetch(self, study_uid: str, series_uid: str = "") -> Moved:
        """Bring the CT series of a study, or one series, to our receiver, on one association."""
        series = (
            [series_uid] if series_uid else [s.series_uid for s in self.series(study_uid) if s.modality in ("CT", None)]
        )
        done = failed = 0
        ours = self._receiver()
        contexts = [build_context(*pair) for pair in ours.contexts]
        with association(
            ours.peer, ours.peer.ae_title, contexts, _TO_OURSELVES, who="our own receiver", remedy=_SEE_RECEIVER
        ) as opened:
            for uid in series:
                folder = f"{_series_path(study_uid, uid)}/instances"
                for instance in {_text(one, _INSTANCE_UID): None for one in self._ask(folder, {})}:
                    if instance and self._bring(opened, f"{folder}/{_safe(instance)}"):
                        done += 1
                    else:
                        failed += 1
        return Moved(0xB000 if failed else 0x0000, done, failed)

    def _bring(self, opened: Any, path: str) -> bool:
        kind = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        content = part_of(*self._get(path, {}, kind, _LONGEST_INSTANCE))
        try:
            status = opened.send_c_store(dcmread(io.BytesIO(content)))
        except RuntimeError as error:
            raise DeliveryError("our receiver ended the association", remedy=_SEE_RECEIVER) from error
        except (ValueError, AttributeError, InvalidDicomError):
            return False  # a kind of object that the receiver does not take, or no DICOM at all
        if "Status" not in status:
            raise DeliveryError("our receiver ended the association", remedy=_SEE_RECEIVER)
        return int(status.Status) == 0x0000

    def _ask(self, path: str, question: Mapping[str, str]) -> list[Answer]:
        """QIDO-RS, page after page; a source that knows no pages gives the same one again, which ends it."""
        answers: list[Answer] = []
        while len(answers) < _MOST_ANSWERS:
            paged = {**question, "limit": str(_PAGE), "offset": str(len(answers))}
            _, content = self._get(path, paged, "application/dicom+json", _LONGEST_ANSWER)
            page = _parsed(self.name, content)
            if not page or page[0] in answers[:1]:
                return answers
            answers += page
            if len(page) < _PAGE:
                return answers
        raise DeliveryError(f"{self.name} answers without end", remedy=_REMEDY)

    def _get(self, path: str, question: Mapping[str, str], accept: str, most: int) -> tuple[str, bytes]:
        url = f"{self._url}/{path}" + (f"?{urlencode(question, safe=',')}" if question else "")
        try:
            response = self._pool.request(
                "GET", url, headers={**self._pool.headers, "Accept": accept}, preload_content=False
            )
            try:
                content = response.read(most + 1)
                if response.status not in (200, 204):
                    raise DeliveryError(f"{self.name} answered with HTTP status {response.status}", remedy=_REMEDY)
                if len(content) > most:
                    raise DeliveryError(f"{self.name} sends more than {most} bytes at once", remedy=_REMEDY)
                return response.headers.get("Content-Type", ""), content
            finally:
                response.release_conn()
        except urllib3.exceptions.HTTPError as error:
            raise DeliveryError(f"{self.name} did not answer: {type(error).__name__}", remedy=_REMEDY) from error


def part_of(content_type: str, content: bytes) -> bytes:
    """The one part of a multipart answer (RFC 2046 5.1), or the whole where it is none. DeliveryError if it is cut."""
    header = email.message.Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary()
    if header.get_content_maintype() != "multipart" or not boundary:
        return content
    mark = b"--" + boundary.encode("ascii", "replace")
    head = content.find(b"\r\n\r\n", max(0, content.find(mark)))
    end = content.rfind(b"\r\n" + mark + b"--")
    if mark not in content or head < 0 or end < head + 4:
        raise DeliveryError("a multipart answer is cut short", remedy=_REMEDY)
    return content[head + 4 : end]


def _series_path(study_uid: str, series_uid: str) -> str:
    return f"studies/{_safe(study_uid)}/series/{_safe(series_uid)}"


def _safe(uid: str) -> str:
    """A UID as one step of a path, whatever a source says that it is."""
    return quote(uid, safe="")


def _parsed(name: str, content: bytes) -> list[Answer]:
    try:
        page = json.loads(content) if content.strip() else []
    except ValueError as error:
        raise DeliveryError(f"{name} does not answer in JSON", remedy=_REMEDY) from error
    if not isinstance(page, list) or not all(isinstance(one, dict) for one in page):
        raise DeliveryError(f"{name} does not answer as QIDO-RS has it", remedy=_REMEDY)
    return page


def _values(answer: Answer, tag: str) -> list[Any]:
    element = answer.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return [one for one in values if one not in (None, "")] if isinstance(values, list) else []


def _text(answer: Answer, tag: str) -> str:
    return next((str(one) for one in _values(answer, tag)), "")
