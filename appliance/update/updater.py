"""The updater: walks a wanted bundle along the table of `activation`, one stage a step, and survives anything.

    step: let go of what is no longer wanted
          the wanted bundle has ...  no row, RETIRED    find it in the repository          → ANNOUNCED
                                     ANNOUNCED          say that fetching starts           → FETCHING
                                     FETCHING           fetch, verify, install             → STAGED
                                     STAGED, TRIAL      say which attempt, run the trial   → ACTIVE
                                     ACTIVE, REFUSED    nothing
          a fault of the bundle                                                            → REFUSED

The row is always written before the attempt that it speaks of. Whatever happens, the bundle that was active stays so
until the row of its successor says ACTIVE; that one write is the switch.
"""

from __future__ import annotations

import datetime as dt
import logging
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, cast

from appliance.ports import BundleRow, BundleShelf, Clock
from appliance.update.activation import (
    MAX_TRIALS,
    REPORTED_AS,
    UNFINISHED,
    Event,
    State,
    after,
    attempt_code,
    attempts_made,
)
from appliance.update.client import (
    Release,
    ReleaseRefused,
    UpdatePostponed,
    discard_staged,
    staged_digests,
)
from appliance.update.fetcher import Abandoned
from appliance.update.trial import Verdict
from core import durable
from core.errors import BundleRefused, OneScanError, StorageError

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 15.0  # after the first failure that may pass by itself; doubled each time
LONGEST_PAUSE_S = 3600.0
SUPERSEDED = "superseded"  # code of a RETIRED row that never was active
_NOT_IN_TOKENS = re.compile(r"[^A-Za-z0-9 _.+/:-]")
_Words = Literal["idle", "fetching", "verifying", "trial", "active", "refused"]


class ReleaseSource(Protocol):
    """Where releases come from: `appliance.update.client.ReleaseClient`."""

    def find(self, name: str, version: str) -> Release:
        """Signed and fresh, or an error."""

    def fetch(self, release: Release, wanted: Callable[[], bool] = ...) -> Path:
        """Install it; returns its folder."""


class Trial(Protocol):
    """Tries an installed bundle: `appliance.update.trial.ChildTrial`."""

    def run(self, folder: Path, wanted: Callable[[], bool] = ...) -> Verdict:
        """Blocks until there is a verdict."""


@dataclass(frozen=True)
class Report:
    """For `core.wire.ReportedBody` and the box's page. more: call `step` again at once, there is more to do."""

    active: BundleRow | None
    desired: tuple[str, str] | None
    state: _Words
    code: str = ""
    more: bool = False


class Updater:
    """One per device, in the updater role.

    idle: may the machine be used for a trial now (no study is being analysed)? tell: is given every report as soon as
    it changes, also within a step, before long work starts. stopping: is the process to end? Then a download or trial
    is left where it is.
    """

    def __init__(
        self,
        shelf: BundleShelf,
        client: ReleaseSource,
        bundles: Path,
        trial: Trial,
        clock: Clock,
        idle: Callable[[], bool] = lambda: True,
        tell: Callable[[Report], None] = lambda report: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._shelf = shelf
        self._client = client
        self._bundles = bundles
        self._trial = trial
        self._clock = clock
        self._idle = idle
        self._tell = tell
        self._stopping = stopping
        self._told: Report | None = None
        self._wish: tuple[str, str] | None = None
        self._pauses = 0
        self._not_before = 0.0  # monotonic seconds
        self._problem: tuple[_Words, str] | None = None

    def step(self) -> Report:
        """Bring the wanted bundle one stage on. Never raises for a bad bundle, link or disk: it reports."""
        self._notice(self._shelf.desired())
        self._let_go()
        row = self._wanted_row()
        if self._wish is None or (row is not None and row.state in (State.ACTIVE, State.REFUSED)):
            self._tidy()
            return self._report(more=False)
        if self._clock.monotonic() < self._not_before:
            return self._report(more=False)
        try:
            moved = self._move(row)
        except UpdatePostponed as problem:
            return self._pause(problem, REPORTED_AS[State.ANNOUNCED], problem.code)
        except StorageError as problem:
            return self._pause(problem, REPORTED_AS[State.ANNOUNCED], "storage")
        except ReleaseRefused as problem:  # the repository's fault, before any bundle is known: it may be mended
            return self._pause(problem, "refused", problem.code)
        if moved:
            self._pauses, self._problem = 0, None
        return self._report(more=moved)

    def _move(self, row: BundleRow | None) -> bool:
        """One stage. False: nothing can be done now."""
        if row is None or row.state == State.RETIRED:
            self._announce(row)
        elif row.state == State.ANNOUNCED:
            self._put(row, Event.FETCH_STARTED)
        elif row.state == State.FETCHING:
            self._fetch(row)
        elif not self._idle():
            return False
        else:
            self._try(row)
        return True

    def _announce(self, retired: BundleRow | None) -> None:
        assert self._wish is not None
        release = self._client.find(*self._wish)
        known = retired or next((r for r in self._shelf.bundles() if r.digest == release.digest), None)
        if known is not None and known.digest == release.digest and known.state == State.RETIRED:
            self._put(known, Event.WANTED_AGAIN)
            return
        row = BundleRow(release.digest, release.name, release.version, State.ANNOUNCED.value, "", self._clock.now())
        self._write(row)

    def _fetch(self, row: BundleRow) -> None:
        release = self._client.find(row.name, row.version)
        if release.digest != row.digest:
            self._refuse(row, "mislabelled", "the repository now offers another bundle under this version")
            return
        try:
            self._client.fetch(release, wanted=self._still_wanted)
        except Abandoned:
            return  # the next step goes on with it or lets it go
        except BundleRefused as fault:
            self._refuse(row, f"check {fault.check}", str(fault))
        except ReleaseRefused as fault:
            self._refuse(row, fault.code, str(fault))
        else:
            self._put(row, Event.VERIFIED)

    def _try(self, row: BundleRow) -> None:
        attempt = attempts_made(row.code) + 1
        if attempt > MAX_TRIALS:
            self._refuse(row, "trial cut off", f"{MAX_TRIALS} trials were cut off")
            return
        running = self._put(row, Event.TRIAL_STARTED, attempt_code(attempt))
        verdict = self._trial.run(self._bundles / row.digest, wanted=lambda: self._idle() and self._still_wanted())
        if verdict.kind == "postponed":
            self._put(running, Event.TRIAL_POSTPONED, attempt_code(attempt - 1) if attempt > 1 else "")
        elif verdict.kind == "failed":
            self._refuse(running, verdict.code, verdict.detail)
        else:
            self._put(running, Event.TRIAL_PASSED)
            logger.info("bundle active", extra={"bundle": row.name, "version": row.version, "digest": row.digest})

    def _refuse(self, row: BundleRow, code: str, why: str) -> None:
        logger.error("bundle refused", extra={"bundle": row.name, "version": row.version, "code": code, "why": why})
        self._put(row, Event.FAULT_FOUND, code)

    def _put(self, row: BundleRow, event: Event, code: str = "") -> BundleRow:
        """Persist where the event leads. Illegal events raise before anything is written."""
        to = after(State(row.state), event)
        changed = replace(row, state=to.value, code=_NOT_IN_TOKENS.sub(" ", code)[:64], at=self._clock.now())
        self._write(changed)
        return changed

    def _write(self, row: BundleRow) -> None:
        self._shelf.put(row)
        self._problem = None
        self._report(more=True)

    def _notice(self, wish: tuple[str, str] | None) -> None:
        """A new wish ends waiting: what went wrong with the old one says nothing about it."""
        if wish != self._wish:
            self._wish = wish
            self._pauses, self._not_before, self._problem = 0, 0.0, None

    def _let_go(self) -> None:
        for row in self._shelf.bundles():
            if row.state in {s.value for s in UNFINISHED} and (row.name, row.version) != self._wish:
                self._put(row, Event.SUPERSEDED, SUPERSEDED)
                discard_staged(self._bundles, row.digest)

    def _wanted_row(self) -> BundleRow | None:
        rows = (row for row in self._shelf.bundles() if (row.name, row.version) == self._wish)
        return next(rows, None)

    def _still_wanted(self) -> bool:
        return not self._stopping() and self._shelf.desired() == self._wish

    def _pause(self, problem: OneScanError, state: str, code: str) -> Report:
        """Something that may pass by itself: wait longer each time, with jitter, so that a fleet spreads out."""
        longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self._pauses)
        self._pauses = min(self._pauses + 1, 16)
        self._not_before = self._clock.monotonic() + longest * random.uniform(0.5, 1.0)
        self._problem = (cast("_Words", state), code)
        logger.warning("update postponed", extra={"code": code, "why": str(problem), "remedy": problem.remedy()})
        return self._report(more=False)

    def _report(self, more: bool) -> Report:
        row = self._wanted_row()
        state, code = cast("_Words", REPORTED_AS[State(row.state)]) if row else "idle", row.code if row else ""
        if self._problem is not None:
            state, code = self._problem
        report = Report(self._shelf.active(), self._wish, state, code, more)
        if self._told is None or replace(self._told, more=more) != report:
            self._told = report
            self._tell(report)
        return report

    def _tidy(self) -> None:
        """Free the disk: what is staged for nobody, refused bundles, retired ones but the latest (the way back)."""
        rows = self._shelf.bundles()
        unfinished = {r.digest for r in rows if State(r.state) in UNFINISHED}
        for digest in set(staged_digests(self._bundles)) - unfinished:
            discard_staged(self._bundles, digest)
        were_active = (r for r in rows if r.state == State.RETIRED and r.code != SUPERSEDED)
        way_back = max(were_active, key=_changed, default=None)
        for row in rows:
            gone = row.state in (State.REFUSED, State.RETIRED) and row is not way_back
            if gone and (self._bundles / row.digest).exists():
                durable.remove_tree(self._bundles / row.digest)


def _changed(row: BundleRow) -> dt.datetime:
    return row.at
