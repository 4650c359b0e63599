"""What became of a request's instances: the Store Instances Response Module (PS3.18 I.2). Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from appliance.intake.part10 import FileMeta
from appliance.intake.refusal import OUT_OF_RESOURCES
from appliance.intake.uids import is_uid

_CLASS, _INSTANCE, _RETRIEVE_URL = "00081150", "00081155", "00081190"
_FAILURE_REASON, _FAILED, _STORED, _OTHER_FAILURES = "00081197", "00081198", "00081199", "0008119A"
_RESOURCES: Final = 0xFF00
"""What A7xx have in common (PS3.18 table I.2-2)."""


@dataclass
class Outcome:
    """Failure Reasons are those of C-STORE. unnamed: of parts that do not say which instance they are.

    There is no Warning Reason: what is stored is stored as it came.
    """

    stored: list[FileMeta] = field(default_factory=list)
    failed: list[tuple[FileMeta, int]] = field(default_factory=list)
    unnamed: list[int] = field(default_factory=list)

    def fails(self, meta: FileMeta | None, reason: int) -> None:
        """An instance was not stored."""
        if meta is not None and is_uid(meta.sop_class_uid) and is_uid(meta.sop_instance_uid):
            self.failed.append((meta, reason))
        else:
            self.unnamed.append(reason)

    @property
    def reasons(self) -> list[int]:
        """Of all failures."""
        return [*(reason for _, reason in self.failed), *self.unnamed]

    def status(self) -> HTTPStatus:
        """All, some or none; 503 where only room is wanting (PS3.18 table 10.5.3-1)."""
        if not self.reasons:
            return HTTPStatus.OK
        if self.stored:
            return HTTPStatus.ACCEPTED
        if all(reason & _RESOURCES == OUT_OF_RESOURCES & _RESOURCES for reason in self.reasons):
            return HTTPStatus.SERVICE_UNAVAILABLE
        return HTTPStatus.CONFLICT

    def as_json(self) -> bytes:
        """The module in DICOM JSON. Retrieve URLs are empty: nothing can be retrieved from here."""
        module: dict[str, Any] = {_RETRIEVE_URL: {"vr": "UR"}}
        if self.stored:
            items = [{**_reference(meta), _RETRIEVE_URL: {"vr": "UR"}} for meta in self.stored]
            module[_STORED] = {"vr": "SQ", "Value": items}
        if self.failed:
            items = [{**_reference(meta), **_reason(reason)} for meta, reason in self.failed]
            module[_FAILED] = {"vr": "SQ", "Value": items}
        if self.unnamed:
            module[_OTHER_FAILURES] = {"vr": "SQ", "Value": [_reason(reason) for reason in self.unnamed]}
        return json.dumps(module).encode()


def _reference(meta: FileMeta) -> dict[str, Any]:
    return {
        _CLASS: {"vr": "UI", "Value": [meta.sop_class_uid]},
        _INSTANCE: {"vr": "UI", "Value": [meta.sop_instance_uid]},
    }


def _reason(reason: int) -> dict[str, Any]:
    return {_FAILURE_REASON: {"vr": "US", "Value": [reason]}}
