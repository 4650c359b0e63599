"""Messages as a device would send them."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from core import wire
from core.finding import Cancer, Mode, Reason, Verdict

SITE, DEVICE, EPOCH = "north-clinic", "ct-1", "ab" * 16
BOOT = uuid.UUID(int=7)
WHEN = dt.datetime(2026, 11, 20, 9, 30, tzinfo=dt.timezone.utc)
BUNDLE = wire.BundleRef(name="reference", version="1.2.0", digest="cd" * 32, synthetic=True)


def envelope(
    body: wire.Body, seq: int, *, stream: wire.Stream | None = None, device: str = DEVICE, epoch: str = EPOCH
) -> wire.Envelope:
    """`body` as number `seq` of its stream."""
    kind = next(name for name, model in wire.BODY_OF.items() if isinstance(body, model))
    chosen: Any = stream or kind
    return wire.Envelope(
        id=wire.message_id(device, epoch, chosen, seq), device=device, epoch=epoch, stream=chosen, seq=seq,
        boot_id=BOOT, ts=WHEN, mono_ns=seq, clock_synced=True, type=kind, body=body,
    )  # fmt: skip


def answers(**verdicts: Verdict) -> tuple[wire.AnswerBody, ...]:
    """Seven answers: those named, with lesions where positive; lung and liver negative; the others not analysed."""
    verdicts = {"lung": Verdict.NEGATIVE, "liver": Verdict.NEGATIVE} | verdicts
    scores = {Verdict.POSITIVE: 0.934, Verdict.INDETERMINATE: 0.512, Verdict.NEGATIVE: 0.021}
    lesion = wire.LesionBody(score=0.934, diameter_mm=14.2, volume_mm3=1480.0)
    return tuple(
        wire.AnswerBody(
            cancer=c, verdict=verdicts[c.value], mode=Mode.RESEARCH, score=scores[verdicts[c.value]],
            lesions=(lesion, lesion) if verdicts[c.value] is Verdict.POSITIVE else (),
        )
        if c.value in verdicts
        else wire.AnswerBody(
            cancer=c, verdict=Verdict.NOT_ANALYSED, mode=Mode.SILENT,
            reason=Reason.NOT_COVERED if c is Cancer.BREAST else Reason.NO_MODEL,
        )
        for c in Cancer
    )  # fmt: skip


def result(study: str, revision: int = 1, **changes: Any) -> wire.ResultBody:
    """A result of one study."""
    series, before = f"{study}00", None
    if revision > 1:
        before = wire.result_id(study, series, BUNDLE.digest, revision - 1)
    values: dict[str, Any] = {
        "result_id": wire.result_id(study, series, BUNDLE.digest, revision), "revision": revision,
        "supersedes": before, "study": study, "patient": "f" * 32, "age_years": 58, "sex": "M",
        "study_date": WHEN.date(), "bundle": BUNDLE, "complete_by": "geometry", "slices": 64, "answers": answers(),
        "scanner": wire.Scanner(manufacturer="Philips", model="Brilliance 16", kernel="B"),
        "received_at": WHEN, "complete_at": WHEN + dt.timedelta(seconds=9),
        "answered_at": WHEN + dt.timedelta(seconds=31),
    }  # fmt: skip
    return wire.ResultBody(**(values | changes))


def study(number: int) -> str:
    """A pseudonym."""
    return f"{number:032x}"


def results(numbers: range, **identity: Any) -> list[wire.Envelope]:
    """One result per number, of different studies."""
    return [envelope(result(study(n)), n, **identity) for n in numbers]


def telemetry(**changes: Any) -> wire.TelemetryBody:
    """How a healthy device is."""
    values: dict[str, Any] = {
        "uptime_s": 3600, "cpu_load": 0.21, "memory_used": 0.34, "disk_free_bytes": 412 * 10**9, "temperature_c": 47.5,
        "studies_today": 12, "outbox_pacs": 0, "outbox_registry": 1, "last_instance_at": WHEN,
    }  # fmt: skip
    return wire.TelemetryBody(**(values | changes))


def status(session: int, *, online: bool = True, epoch: str = EPOCH, boot: uuid.UUID = BOOT) -> wire.StatusBody:
    """What a device says on connecting, or its will says for it."""
    return wire.StatusBody(online=online, device=DEVICE, epoch=epoch, boot_id=boot, session=session, ts=WHEN)


def birth(session: int, *, epoch: str = EPOCH) -> wire.BirthBody:
    """What a device is."""
    return wire.BirthBody(
        device=DEVICE, epoch=epoch, boot_id=BOOT, session=session, ts=WHEN, software="0.1.0",
        hardware="Jetson Orin NX 16GB", runtime="openvino bf16", bundle=BUNDLE,
    )  # fmt: skip
