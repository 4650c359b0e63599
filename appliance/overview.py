"""What the box's pages show, read from both journals (implements `console.overview.Overview`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from appliance.config import ApplianceConfig
from appliance.console.overview import (
    AnswerView,
    AskView,
    BoxView,
    MissedView,
    ObjectView,
    StepView,
    StudyView,
)
from appliance.days import Days
from appliance.health import vitals
from appliance.identity.pseudonyms import Pseudonyms
from appliance.storage.database import from_iso
from appliance.storage.intake_reader import IntakeReader, StudyOverview
from appliance.storage.journal import Journal, StudyRow
from appliance.study import State
from core.finding import Cancer, Mode, Verdict
from core.wire import DayBody

WORDS: dict[State, str] = {
    State.RECEIVING: "receiving",
    State.COMPLETE: "complete, on its way to the analyser",
    State.QUEUED: "waiting for the analyser",
    State.ANALYSING: "being analysed",
    State.ANSWERED: "answered, being delivered",
    State.DELIVERED: "delivered",
    State.SUPERSEDED: "replaced by a newer version of the study",
}


MISSED_WORDS = {
    "wanted": "to be fetched",
    "fetched": "fetched",
    "pushed": "pushed by its sender in the meantime",
}


class JournalOverview:
    """Reads on every request; keeps nothing."""

    def __init__(
        self,
        config: ApplianceConfig,
        journal: Journal,
        days: Days,
        intake: IntakeReader,
        pseudonyms: Pseudonyms,
        software: str,
        port: int,
        synthetic: Callable[[str], bool],
    ) -> None:
        """`synthetic` says of a bundle digest whether that bundle was made from synthetic patients only."""
        self._config = config
        self._journal = journal
        self._days = days
        self._intake = intake
        self._pseudonyms = pseudonyms
        self._software = software
        self._port = port
        self._synthetic = synthetic

    def box(self) -> BoxView:
        """The box now."""
        config, shelf = self._config, self._journal.shelf
        vital = vitals.look(config.state)
        active = shelf.active()
        latest = next(iter(self._intake.studies(limit=1)), None)
        return BoxView(
            site=config.site,
            device=config.device,
            software=self._software,
            ae_title=config.receiver.ae_title,
            port=self._port,
            bundle=f"{active.name} {active.version}" if active else "",
            synthetic=self._synthetic(active.digest) if active else False,
            bundle_trouble=self._bundle_trouble(),
            objects_waiting=self._journal.pacs.waiting(),
            messages_waiting=self._journal.messages.waiting(),
            disk_free_gb=vital.disk_free_bytes / 1e9,
            disk_low=vital.disk_free_bytes < 2 * config.receiver.min_free_bytes,
            cpu_load=vital.cpu_load,
            memory_used=vital.memory_used,
            temperature_c=vital.temperature_c,
            last_instance_at=latest.last_at if latest else None,
        )

    def _bundle_trouble(self) -> str:
        refused = next((row for row in self._journal.shelf.bundles() if row.state == "refused"), None)
        wish = self._journal.shelf.desired()
        if refused and wish == (refused.name, refused.version):
            return f"{refused.name} {refused.version} was refused ({refused.code}); the model before it stays active"
        return ""

    def studies(self, limit: int) -> Sequence[StudyView]:
        """Newest first; a study that is (again) being received stands by itself."""
        handed = [self._view(row) for row in self._journal.recent(limit)]
        known = self._journal.cursor()
        waiting = {handover.study_uid for _, handover in self._intake.handovers_after(known)}
        arriving = [
            self._arriving(study)
            for study in self._intake.studies(limit)
            if study.state is State.RECEIVING or study.study_uid in waiting
        ]
        return sorted([*arriving, *handed], key=lambda view: view.came_at, reverse=True)[:limit]

    def days(self, limit: int) -> Sequence[DayBody]:
        """The last days, newest first."""
        return self._days.counts(limit)

    def asks(self) -> Sequence[AskView]:
        """The last ask of each configured source."""
        return [
            AskView(
                source=row["source"],
                at=from_iso(row["at"]),
                answered=row["performed"] is not None,
                performed=row["performed"] or 0,
                missed=row["missed"] or 0,
                reason=row["reason"],
            )
            for row in self._days.asks()
        ]

    def missed(self, days: int) -> Sequence[MissedView]:
        """Studies that were missed in the last days, or are still to be fetched."""
        return [
            MissedView(
                pseudonym=self._pseudonyms.study(row["study_uid"]),
                day=row["day"],
                source=row["source"],
                state=MISSED_WORDS[row["state"]],
                attempts=row["attempts"],
                reason=row["reason"],
            )
            for row in self._days.missed(days)
        ]

    def study(self, identifier: str) -> StudyView | None:
        """By hand-over id, or by pseudonym while it is being received."""
        try:
            return self._view(self._journal.study(identifier))
        except KeyError:
            arriving = (self._arriving(study) for study in self._intake.studies())
            return next((view for view in arriving if view.id == identifier), None)

    def steps(self, identifier: str) -> Sequence[StepView]:
        """What happened to it."""
        return [StepView(from_iso(row["at"]), row["event"], row["state"]) for row in self._journal.steps(identifier)]

    def objects(self, identifier: str) -> Sequence[ObjectView]:
        """Its result objects and where they stand with each PACS."""
        try:
            row = self._journal.study(identifier)
        except KeyError:
            return []
        if row.result_id is None:
            return []
        stand: dict[str, list[str]] = {}
        for item in self._journal.deliveries(row.result_id):
            where = f"{item['destination']}: " + (
                "delivered" if item["delivered_at"] else f"waiting {item['last_error']}".strip()
            )
            stand.setdefault(item["sop_instance_uid"], []).append(where)
        return [
            ObjectView(
                item["kind"],
                item["sop_instance_uid"],
                ", ".join(stand.get(item["sop_instance_uid"], ["on this box only"])),
            )
            for item in self._journal.objects(row.result_id)
        ]

    def _arriving(self, study: StudyOverview) -> StudyView:
        pseudonym = self._pseudonyms.study(study.study_uid)
        return StudyView(
            id=pseudonym,
            pseudonym=pseudonym,
            came_at=study.first_at,
            instances=study.instances,
            state=WORDS[study.state],
            explanation=study.explanation,
            revision=None,
            answers=(),
            objects_waiting=0,
            acknowledged=False,
        )

    def _view(self, row: StudyRow) -> StudyView:
        deliveries = self._journal.deliveries(row.result_id) if row.result_id else []
        return StudyView(
            id=row.handover_id,
            pseudonym=row.pseudonym,
            came_at=row.received_at,
            instances=row.instances,
            state=WORDS[row.state],
            explanation=row.explanation,
            revision=row.revision,
            answers=self._answers(row.result_id) if row.result_id else (),
            objects_waiting=sum(item["delivered_at"] is None for item in deliveries),
            acknowledged=row.result_seq is not None
            and row.result_seq <= self._journal.messages.acknowledged_up_to("result"),
        )

    def _answers(self, result_id: str) -> Sequence[AnswerView]:
        rows = {row["cancer"]: row for row in self._journal.answers(result_id)}
        return [_answer_view(dict(rows[cancer.value])) for cancer in Cancer if cancer.value in rows]


def _answer_view(row: dict[str, object]) -> AnswerView:
    """Silent answers are withheld; "not analysed" is always shown."""
    silent = row["mode"] == Mode.SILENT.value and row["verdict"] != Verdict.NOT_ANALYSED.value
    score, series = row["score"], row["series_number"]
    return AnswerView(
        cancer=str(row["cancer"]),
        verdict="withheld" if silent else str(row["verdict"]),
        mode=str(row["mode"]),
        score=score if isinstance(score, float) and not silent else None,
        reason=str(row["reason"] or ""),
        lesions=0 if silent else len(json.loads(str(row["lesions"]))),
        detail=str(row["detail"]) if not silent and row["verdict"] == Verdict.INDETERMINATE.value else "",
        series=series if isinstance(series, int) else None,
    )
