"""Messages are the same bytes every time, and what is not in the contract does not pass."""

from __future__ import annotations

import datetime as dt
import json
import uuid

import pytest
from pydantic import ValidationError

from core import wire
from core.finding import Answer, Cancer, Reason, Verdict, complete

AT = dt.datetime(2026, 3, 4, 5, 6, 7, tzinfo=dt.timezone.utc)


def result_body(**changes: object) -> wire.ResultBody:
    answers = tuple(
        wire.AnswerBody(cancer=a.cancer, verdict=a.verdict, mode=a.mode, reason=a.reason)
        for a in complete({}, Reason.NO_MODEL)
    )
    fields: dict[str, object] = {
        "result_id": uuid.UUID(int=1),
        "revision": 1,
        "study": "ab" * 16,
        "scanner": wire.Scanner(manufacturer="Philips"),
        "complete_by": "geometry",
        "slices": 64,
        "answers": answers,
        "received_at": AT,
        "complete_at": AT,
        "answered_at": AT,
    }
    return wire.ResultBody.model_validate({**fields, **changes})


def envelope(body: wire.ResultBody | wire.EventBody | wire.SkipBody, kind: str) -> wire.Envelope:
    return wire.Envelope.model_validate(
        {
            "id": wire.message_id("box-1", "0" * 32, "result", 7),
            "device": "box-1",
            "epoch": "0" * 32,
            "stream": "result",
            "seq": 7,
            "boot_id": uuid.UUID(int=2),
            "ts": AT,
            "mono_ns": 5,
            "clock_synced": True,
            "type": kind,
            "body": body,
        }
    )


def test_an_envelope_survives_the_wire_and_has_the_same_bytes_again() -> None:
    sent = envelope(result_body(), "result")
    received = wire.open_envelope(sent.payload())
    assert received == sent
    assert received.payload() == sent.payload()


def test_an_answer_names_its_series_only_where_there_are_several() -> None:
    plain = envelope(result_body(), "result").payload()
    assert b'"series"' not in plain  # as registries know it that were made before the field
    answers = [a.model_copy(update={"series": "cd" * 16}) for a in result_body().answers]
    received = wire.open_envelope(envelope(result_body(answers=answers), "result").payload())
    assert isinstance(received.body, wire.ResultBody)
    assert {a.series for a in received.body.answers} == {"cd" * 16}


@pytest.mark.parametrize(
    "body",
    [wire.EventBody(kind="started"), wire.SkipBody(first=1, last=3), result_body()],
    ids=lambda b: type(b).__name__,
)
def test_each_body_keeps_its_type(body: wire.ResultBody | wire.EventBody | wire.SkipBody) -> None:
    kind = {wire.EventBody: "event", wire.SkipBody: "skip", wire.ResultBody: "result"}[type(body)]
    assert type(wire.open_envelope(envelope(body, kind).payload()).body) is type(body)


def test_a_body_of_another_type_than_claimed_is_refused() -> None:
    with pytest.raises(ValueError, match="EventBody"):
        wire.open_envelope(envelope(wire.EventBody(kind="started"), "result").payload())


@pytest.mark.parametrize(
    "change",
    [{"patient_name": "Smith^John"}, {"patient": "Smith^John"}, {"scanner": {"model": "x" * 65}}, {"revision": 0}],
)
def test_what_is_not_in_the_contract_does_not_pass(change: dict[str, object]) -> None:
    payload = json.loads(envelope(result_body(), "result").payload())
    payload["body"].update(change)
    with pytest.raises(ValidationError):
        wire.open_envelope(json.dumps(payload).encode())


def test_a_result_id_depends_on_everything_that_makes_the_result() -> None:
    base = ("study", "series", "bundle", 1)
    ids = {wire.result_id(*base), wire.result_id("study", "series", "bundle", 2)}
    ids |= {wire.result_id("x", "series", "bundle", 1), wire.result_id("study", "x", "bundle", 1)}
    assert len(ids | {wire.result_id("study", "series", "x", 1)}) == 5
    assert wire.result_id(*base) == wire.result_id(*base)


def test_topics_are_parsed_back_and_foreign_ones_refused() -> None:
    assert wire.parse_topic(wire.topic("site", "box", "cmd/reboot")) == ("site", "box", "cmd/reboot")
    for foreign in ("onescan/v2/site/box/result", "other", "onescan/v1/site"):
        with pytest.raises(ValueError, match="not a OneScan topic"):
            wire.parse_topic(foreign)


def test_a_reason_stands_with_not_analysed_and_only_there() -> None:
    with pytest.raises(ValueError, match="reason"):
        Answer(Cancer.LUNG, Verdict.NOT_ANALYSED)
    with pytest.raises(ValueError, match="reason"):
        Answer(Cancer.LUNG, Verdict.NEGATIVE, score=0.0, reason=Reason.AGE)
    with pytest.raises(ValueError, match="score"):
        Answer(Cancer.LUNG, Verdict.NEGATIVE)
