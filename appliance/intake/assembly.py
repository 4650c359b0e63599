"""When is a study complete? Sans-IO: what happened and what time it is come in, decisions go out.

    geometry   no association that touched the study is open, the last one was released (not aborted) and brought more
               than one image; every axial CT series is contiguous and evenly spaced (`stacking.py`); every count that
               is known agrees. The normal case: the study is handed over in the moment of the release.
    count      geometry can't judge (tilt, mixed series, two phases in one series), but a count is known for every axial
               CT series and agrees; or a series is multi-frame, which tells its Number of Frames and is whole as one
               instance, or in all its parts, while the others pass by geometry; or the study's instances were announced
               (`announcement.py`) and they are all here.
    quiet      nothing came for the quiet time, which is learned for each sender (`pacing.py`), and no association is at
               this moment bringing the study.

A late image reopens a study: the caller restores what was known of it and tells of the image. Times are seconds of a
monotonic clock; one that jumps backwards can't make a study complete earlier, and never keeps it from completing.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from appliance.intake.announcement import Announcement
from appliance.intake.facts import InstanceFacts
from appliance.intake.pacing import Pace, Pacing, QuietTime, Sender
from appliance.intake.stacking import counts_of, judge_series, series_of, tells_its_frames
from appliance.ports import CompleteBy


@dataclass(frozen=True)
class Complete:
    """Hand the study over. `explanation`: one sentence for the receipt, no patient identity."""

    study_uid: str
    by: CompleteBy
    explanation: str


@dataclass(frozen=True)
class Waiting:
    """Not yet, and why. Told once per change."""

    study_uid: str
    explanation: str


Decision = Complete | Waiting


@dataclass
class _Association:
    sender: Sender
    current: str | None = None  # the study that it is bringing now
    brought: dict[str, int] = field(default_factory=dict)  # study UID → images


@dataclass
class _Study:
    instances: dict[str, InstanceFacts] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)  # pruned: the files are gone
    last_activity: float = 0.0
    touching: set[Hashable] = field(default_factory=set)
    unreliable: set[Hashable] = field(default_factory=set)  # of `touching`: opened before something broke off
    broken_off: bool = False  # an association that brought it ended badly, and no later one was released since
    last_brought: int = 0  # images that the last released association brought
    announced: Announcement = field(default_factory=Announcement)
    told: str = ""
    senders: dict[Sender, None] = field(default_factory=dict)  # known ones that brought it, in order
    last_by: Hashable = None  # the association of its latest instance
    last_sign: float | None = None  # when it last came or an association of it ended; None after it was restored
    complete: Complete | None = None


class Assembly:
    """All studies that are being received, and all open associations."""

    def __init__(self, quiet_seconds: float | None, known: Mapping[Sender, Pace] | None = None) -> None:
        """quiet_seconds: None where it is to be learned, with what is `known` of the senders."""
        self.pacing = Pacing(quiet_seconds, known)
        self._studies: dict[str, _Study] = {}
        self._associations: dict[Hashable, _Association] = {}
        self._now = float("-inf")

    @property
    def studies(self) -> int:
        """How many are being assembled."""
        return len(self._studies)

    def knows(self, study_uid: str) -> bool:
        """True while the study is being assembled."""
        return study_uid in self._studies

    def restore(self, study_uid: str, facts: Iterable[InstanceFacts], now: float, absent: Iterable[str] = ()) -> None:
        """Take up a study as the ledger has it: after a restart, or because a late image reopens it.

        How its associations ended is not known any more, so that only a new one, or quiet, can complete it.
        """
        study = self._studies.setdefault(study_uid, _Study())
        study.instances.update({f.sop_instance_uid: f for f in facts})
        study.absent |= set(absent)
        study.last_activity = self._at(now)
        study.broken_off = True

    def association_opened(self, association: Hashable, sender: str, address: str = "") -> None:
        """An association was established. sender: its calling AE title."""
        self._associations[association] = _Association(Sender(sender, address))

    def association_closed(self, association: Hashable, released: bool, now: float) -> None:
        """An association ended: released by its requestor, or aborted, timed out, cut. Unknown ones are ignored."""
        ended = self._associations.pop(association, None)
        if ended is None:
            return
        for study_uid, brought in ended.brought.items():
            study = self._studies.get(study_uid)
            if study is None or association not in study.touching:
                continue
            study.touching.discard(association)
            study.last_activity = study.last_sign = self._at(now)
            if not released:
                study.broken_off = True
                study.unreliable = set(study.touching)
            elif association not in study.unreliable:
                study.broken_off = False
                study.last_brought = brought
            study.unreliable.discard(association)

    def instance_stored(self, association: Hashable, facts: InstanceFacts, now: float) -> None:
        """An instance is durable: a new one, or one that was there already (which counts as activity only)."""
        study = self._studies.setdefault(facts.study_uid, _Study())
        study.instances.setdefault(facts.sop_instance_uid, facts)
        study.absent.discard(facts.sop_instance_uid)
        at = self._at(now)
        bringing = self._associations.get(association)
        if bringing is not None:
            self._learn(facts.study_uid, study, association, bringing.sender, at)
            bringing.current = facts.study_uid
            bringing.brought[facts.study_uid] = bringing.brought.get(facts.study_uid, 0) + 1
            study.touching.add(association)
        study.last_activity = study.last_sign = at

    def _learn(self, study_uid: str, study: _Study, association: Hashable, sender: Sender, at: float) -> None:
        if study.last_sign is None:
            self.pacing.reopened(study_uid, sender, at)
        elif sender in study.senders:
            self.pacing.gap(sender, at - study.last_sign, study.last_by == association)
        study.senders[sender] = None
        study.last_by = association

    def announced(self, study_uid: str, announcement: Announcement) -> None:
        """What MPPS and Storage Commitment requests say of a study by now."""
        if study_uid in self._studies:
            self._studies[study_uid].announced = announcement

    def tick(self, now: float) -> list[Decision]:
        """What is decided at this moment. A study is called complete in every tick until it is forgotten."""
        at = self._at(now)
        decisions: list[Decision] = []
        for study_uid, study in self._studies.items():
            decision = _remarked(self._judge(study_uid, study, at), study)
            if isinstance(decision, Waiting) and decision.explanation == study.told:
                continue
            study.told = decision.explanation
            study.complete = decision if isinstance(decision, Complete) else None
            decisions.append(decision)
        return decisions

    def forget(self, study_uid: str) -> None:
        """The study was handed over: the ledger has it."""
        study = self._studies.pop(study_uid)
        if study.complete is not None:
            self.pacing.ended(study_uid, tuple(study.senders), study.complete.by, study.last_activity)

    def next_deadline(self) -> float | None:
        """When a tick can next decide something without anything happening; None if nothing is waiting for time."""
        waiting = (s for uid, s in self._studies.items() if not s.absent and not self._bringing(uid, s))
        return min((s.last_activity + self._quiet(s).seconds for s in waiting), default=None)

    def _quiet(self, study: _Study) -> QuietTime:
        return self.pacing.quiet(tuple(study.senders), reliable=not study.broken_off)

    def _bringing(self, study_uid: str, study: _Study) -> bool:
        return any(self._associations[a].current == study_uid for a in study.touching)

    def _at(self, now: float) -> float:
        """`now`; if the clock went backwards, all that is waiting starts its quiet time again."""
        if now < self._now:
            for study in self._studies.values():
                study.last_activity = min(study.last_activity, now)
                study.last_sign = None if study.last_sign is None else min(study.last_sign, now)
        self._now = now
        return now

    def _judge(self, study_uid: str, study: _Study, now: float) -> Decision:
        if study.absent:
            why = f"{len(study.absent)} earlier images were removed after reporting: push the whole study again"
            return Waiting(study_uid, f"waiting: {why}")
        patience = self._quiet(study)
        quiet = now >= study.last_activity + patience.seconds  # as next_deadline adds it
        if study.touching and (not quiet or self._bringing(study_uid, study)):
            senders = ", ".join(sorted({self._associations[a].sender.ae_title for a in study.touching}))
            return Waiting(study_uid, f"waiting: an association of {senders} is open")
        verdict = "an association that brought it is still open" if study.touching else _by_content(study_uid, study)
        if isinstance(verdict, Complete):
            return verdict
        if quiet:
            after = f"after {len(study.instances)} instances"
            why = f"nothing came for {patience.seconds:g} s ({patience.source}) {after}; {verdict}"
            return Complete(study_uid, "quiet", why)
        return Waiting(study_uid, f"waiting for {patience.seconds:g} s of quiet ({patience.source}): {verdict}")


def _remarked(decision: Decision, study: _Study) -> Decision:
    remark = study.announced.remark()
    return replace(decision, explanation=f"{decision.explanation}; {remark}") if remark else decision


def _unfinished(study: _Study) -> str:
    """Why the way in which the images came does not allow to trust geometry; "" if it does."""
    if study.broken_off:
        return "an association broke off, or the receiver was restarted"
    if study.last_brought < 2 and len(study.instances) > 1:
        return "the last association brought a single image"
    return ""


def _by_content(study_uid: str, study: _Study) -> Complete | str:
    """Complete by geometry or count, or what stands against it."""
    announced, here = study.announced, study.instances.keys()
    vouched = announced.vouches_for(here)
    if why := announced.obstacle(here) or ("" if vouched else _unfinished(study)):
        return why
    series = series_of(study.instances.values())
    short = next((line for s in series.values() if (line := counts_of(s).missing)), "")
    if short:
        return short
    obstacle = next((line for s in series.values() if (line := judge_series(s))), "")
    if series and not obstacle:
        slices = sum(facts.frames for one in series.values() for facts in one)
        what = f"{len(series)} axial CT series with {slices} slices"
        if multi := sum(map(tells_its_frames, series.values())):
            return Complete(study_uid, "count", f"{what}, {multi} of them multi-frame and whole; association released")
        why = f"{what}, contiguous and evenly spaced; association released"
        return Complete(study_uid, "geometry", why)
    if vouched:
        return Complete(study_uid, "count", f"all {len(announced.named())} announced instances are here")
    if series and all(counts_of(s).known for s in series.values()):
        return Complete(study_uid, "count", f"Images in Acquisition agrees for all {len(series)} axial CT series")
    return obstacle or "the study has no axial CT series"
