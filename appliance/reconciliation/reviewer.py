"""Looks in the archive, some studies a step, for what reviewers left of the studies that we answered."""

from __future__ import annotations

import datetime as dt
import logging
from collections import deque
from collections.abc import Collection, Sequence
from typing import Protocol

from appliance.reconciliation.reviews import Document, ReviewKind, is_reviewed
from core.errors import DeliveryError

log = logging.getLogger(__name__)

A_STEP = 10
"""Studies looked at in one step: what was missed is not kept waiting for long."""


class Archive(Protocol):
    """What is asked. DeliveryError where there is no answer."""

    name: str

    def documents(self, study_uid: str) -> Sequence[Document]:
        """What it holds of a study that may be a reviewer's."""


class ReviewedList(Protocol):
    """The durable list."""

    def unreviewed(self, since: dt.date) -> Sequence[str]:
        """Studies that a source told of, that we delivered, and of which no review is known; newest first."""

    def ours(self, sop_instance_uids: Collection[str]) -> Collection[str]:
        """Those of these objects that this box wrote."""

    def reviewed(self, study_uid: str, source: str, at: dt.datetime) -> None:
        """Somebody reviewed it."""


class Reviewer:
    """counted: the kinds of objects that show a review; none: nobody is asked."""

    def __init__(self, found: ReviewedList, counted: Collection[ReviewKind]) -> None:
        self._list, self._counted = found, frozenset(counted)
        self._waiting: deque[tuple[Archive, str]] = deque()

    def begin(self, archive: Archive, since: dt.date) -> None:
        """Look here for reviews of the studies of `since` and later, instead of for what is left of an earlier round.

        Whichever source told of a study: a scanner tells of those first whose reports lie in the PACS.
        """
        self._drop(archive)
        if self._counted:
            self._waiting += [(archive, uid) for uid in self._list.unreviewed(since)]

    def step(self, now: dt.datetime) -> int:
        """Look at some studies; returns how many are left."""
        for _ in range(min(A_STEP, len(self._waiting))):
            if not self._waiting:
                break
            archive, study_uid = self._waiting.popleft()
            try:
                documents = archive.documents(study_uid)
            except DeliveryError as error:  # it is asked again after the next answer of this source
                self._drop(archive)
                log.warning("a source did not say what was reviewed: %s; %s", error, error.remedy())
                continue
            ours = self._list.ours([one.sop_instance_uid for one in documents])
            if is_reviewed(documents, self._counted, ours):
                self._list.reviewed(study_uid, archive.name, now)
        return len(self._waiting)

    def _drop(self, archive: Archive) -> None:
        self._waiting = deque(one for one in self._waiting if one[0] is not archive)
