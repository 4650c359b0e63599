"""A device for tests: the ports of `appliance.ports` in memory or in a file, a repository to publish into."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from appliance.ports import BundleRow
from appliance.update.client import ReleaseClient
from appliance.update.fetcher import Fetcher, Patience
from appliance.update.trial import Verdict
from appliance.update.trusted_time import TrustedTime
from appliance.update.updater import Report, Trial, Updater
from core import durable
from engines.bundle import Bundle, Content, write_bundle
from engines.publish import PublishedRelease, init_repository, publish_bundle
from tests.engines.bundle.drafts import FILES, draft

NOW = dt.datetime(2026, 11, 23, 12, tzinfo=dt.timezone.utc)


@dataclass
class TurnedClock:
    """A clock that tests turn."""

    at: dt.datetime = NOW
    seconds: float = 0.0

    def now(self) -> dt.datetime:
        return self.at

    def monotonic(self) -> float:
        return self.seconds


class MemoryShelf:
    """BundleShelf in memory. history: every row that was written, in order."""

    def __init__(self) -> None:
        self.rows: dict[str, BundleRow] = {}
        self.history: list[BundleRow] = []
        self.wished: tuple[str, str] | None = None

    def bundles(self) -> Sequence[BundleRow]:
        last = {row.digest: i for i, row in enumerate(self.history)}
        return sorted(self.rows.values(), key=lambda row: -last.get(row.digest, -1))

    def active(self) -> BundleRow | None:
        return next((row for row in self.rows.values() if row.state == "active"), None)

    def put(self, row: BundleRow) -> None:
        previous = self.active()
        if row.state == "active" and previous is not None and previous.digest != row.digest:
            self.rows[previous.digest] = replace(previous, state="retired", code="", at=row.at)
        self.rows[row.digest] = row
        self.history.append(row)

    def desired(self) -> tuple[str, str] | None:
        return self.wished

    def wish(self, name: str, version: str, at: dt.datetime) -> None:
        self.wished = (name, version)


class FileShelf(MemoryShelf):
    """The same, in one durable file: survives the death of its process."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        if path.exists():
            stored = json.loads(path.read_text())
            self.wished = tuple(stored["wished"]) if stored["wished"] else None
            self.rows = {r["digest"]: _row(r) for r in stored["rows"]}
            self.history = [_row(r) for r in stored["history"]]

    def put(self, row: BundleRow) -> None:
        super().put(row)
        self._save()

    def wish(self, name: str, version: str, at: dt.datetime) -> None:
        super().wish(name, version, at)
        self._save()

    def _save(self) -> None:
        stored = {
            "wished": self.wished,
            "rows": [asdict(r) for r in self.rows.values()],
            "history": [asdict(r) for r in self.history],
        }
        durable.write_text(self._path, json.dumps(stored, default=str))


def _row(fields: dict[str, str]) -> BundleRow:
    return BundleRow(**{**fields, "at": dt.datetime.fromisoformat(fields["at"])})  # type: ignore[arg-type]


@dataclass
class ScriptedTrial:
    """Trial that answers from a list; then it passes. tried: folders, in order."""

    verdicts: list[Verdict] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    during: Callable[[], None] = lambda: None

    def run(self, folder: Path, wanted: Callable[[], bool] = lambda: True) -> Verdict:
        self.tried.append(folder.name)
        self.during()
        if not wanted():
            return Verdict("postponed")
        return self.verdicts.pop(0) if self.verdicts else Verdict("passed")


@dataclass
class Publisher:
    """The central team's side: keys, repository, bundles."""

    folder: Path

    @property
    def repo(self) -> Path:
        return self.folder / "repo"

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    def start(self, now: dt.datetime = NOW) -> Publisher:
        init_repository(self.repo, self.keys, now)
        return self

    def bundle(self, version: str, *changed: Content) -> Bundle:
        """A bundle whose files are the tiny draft's, except for those in `changed`."""
        names = {content.name for content in changed}
        files = [*changed, *(content for content in FILES if content.name not in names)]
        return write_bundle(self.folder / "made" / version, draft(version=version), files)

    def release(self, version: str, *changed: Content, now: dt.datetime = NOW) -> PublishedRelease:
        return publish_bundle(self.repo, self.keys, self.bundle(version, *changed).folder, now)


@dataclass
class Device:
    """A device's state folder and its updater."""

    state: Path
    url: str
    shelf: MemoryShelf
    trial: Trial
    clock: TurnedClock = field(default_factory=TurnedClock)
    idle: Callable[[], bool] = lambda: True
    told: list[Report] = field(default_factory=list)

    def provision(self, publisher: Publisher) -> Device:
        durable.make_folder(self.state / "tuf")
        shutil.copy(publisher.repo / "metadata" / "1.root.json", self.state / "tuf" / "root.json")
        return self

    @property
    def bundles(self) -> Path:
        return self.state / "bundles"

    def client(self) -> ReleaseClient:
        time = TrustedTime(self.state / "tuf" / "trusted-time", self.clock, NOW - dt.timedelta(days=1))
        fetcher = Fetcher(patience=Patience(connect_s=5, gap_s=5, tries=3), sleep=lambda seconds: None)
        return ReleaseClient(self.state / "tuf", self.url, self.bundles, fetcher, time)

    def updater(self) -> Updater:
        return Updater(self.shelf, self.client(), self.bundles, self.trial, self.clock, self.idle, self.told.append)

    def settle(self, wish: str | None = None, steps: int = 20) -> Report:
        """Wish for a version of `tiny`, then step until there is no more to do."""
        if wish is not None:
            self.shelf.wish("tiny", wish, self.clock.now())
        updater = self.updater()
        for _ in range(steps):
            report = updater.step()
            if not report.more:
                return report
        raise AssertionError(f"still busy after {steps} steps: {report}")
