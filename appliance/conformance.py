"""The DICOM conformance statement (PS3.2) of a box: prose from a template, every table from the code that runs.

python -m appliance.conformance > docs/dicom-conformance.md     the one of the defaults
onescan-appliance conformance                                   the one of a box
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel
from pydicom.sr.coding import Code
from pydicom.uid import UID, Comprehensive3DSRStorage, SecondaryCaptureImageStorage, SegmentationStorage
from pynetdicom import AE
from pynetdicom.presentation import build_context

from appliance import tls
from appliance.config import ApplianceConfig, RegistryConfig
from appliance.intake import commitment, door, receiver, refusal, spool
from appliance.intake.control import Status
from appliance.intake.procedure_step import PROCEDURE_STEP, TABLE, Operation, StepState
from appliance.intake.uids import UNCOMPRESSED
from appliance.intake.wire.acceptor import Rejection
from appliance.reconciliation import source
from appliance.reporting import codes, origin

DEFAULTS: Final = ApplianceConfig(
    site="site",
    device="device",
    state=Path("/var/lib/onescan"),
    registry=RegistryConfig(mqtt_host="registry", tuf_url="https://registry"),
)
"""A box of which only that is told which has no default. None of it is in the statement."""
STORE_STATUSES: Final[Mapping[int, str]] = {
    refusal.SUCCESS: "the instance is durable: its bytes are on the disk, its row is in the ledger",
    refusal.OUT_OF_RESOURCES: "no room on the disk, the disk failed, or the receiver is stopping",
    refusal.DATA_SET_MISMATCH: "SOP Class or Instance UID are not those of the request",
    refusal.STUDY_MISMATCH: "it is not of the study in the path (STOW-RS)",
    refusal.CANNOT_UNDERSTAND: "a value or an encoding that can't be understood",
    refusal.TRUNCATED: "the data set is cut off",
    refusal.MISSING_ATTRIBUTE: "an attribute is missing without which the instance can't be kept",
    refusal.PIXEL_DATA_LENGTH: "Pixel Data is shorter than Rows, Columns and Bits Allocated say",
    refusal.PROCESSING_FAILURE: "unforeseen error",
    door.CLASS_NOT_SUPPORTED: "SOP class not taken (STOW-RS, imports)",
    door.SYNTAX_NOT_SUPPORTED: "transfer syntax not taken (STOW-RS, imports)",
}
RESULT_OBJECTS: Final = (Comprehensive3DSRStorage, SegmentationStorage, SecondaryCaptureImageStorage)
_SECTIONS = ("receiver", "pacs", "reconciliation")
_REQUIRED = "required"
_Row = Sequence[object]


def statement(config: ApplianceConfig, options: bool = False) -> str:
    """Markdown. options: also list the settings of what is switched off."""
    folder = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(loader=folder, undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    environment.filters["table"] = _table
    return environment.get_template("conformance.md").render(
        config=config,
        receiver=config.receiver,
        implementation=(spool.IMPLEMENTATION_CLASS_UID, spool.IMPLEMENTATION_VERSION_NAME),
        object_implementation=(origin.IMPLEMENTATION_CLASS_UID, origin.IMPLEMENTATION_VERSION),
        requestor=_requestor(),
        pdu_bytes=receiver.PDU_BYTES,
        services=_services(config),
        accepted=_accepted(config),
        syntaxes=[(name, f"`{uid}`") for uid, name in receiver.TRANSFER_SYNTAXES.items()],
        rejections=[(*why.value, receiver.REJECTIONS[why]) for why in Rejection],
        store_statuses=[(_hex(code), words) for code, words in STORE_STATUSES.items()],
        control_statuses=[(_hex(status), _words(status.name)) for status in Status],
        failures=[(_hex(failure), _words(failure.name)) for failure in commitment.Failure],
        steps=_steps(),
        results=_results(),
        sources=_sources(),
        report_context=[_context(commitment.PUSH_MODEL, UNCOMPRESSED, "SCP, by role selection")],
        private_codes=_private_codes(),
        scheme=codes.SCHEME,
        ciphers=tls.CIPHERS,
        settings=[row for name in _SECTIONS for row in _settings(name, ApplianceConfig, config, options)],
    )


def _services(config: ApplianceConfig) -> list[_Row]:
    told = config.receiver
    models, web = {one.model for one in config.reconciliation.sources}, bool(config.reconciliation.web)
    return [
        ("Verification", "", "SCP", "on"),
        *((name, "", "SCP", "on") for name in receiver.SOP_CLASSES.values()),
        (UID(commitment.PUSH_MODEL).name, "", "SCP", "on"),
        (UID(PROCEDURE_STEP).name, "", "SCP", _on(told.mpps.offered)),
        *((uid.name, "SCU", "", _on(bool(config.pacs))) for uid in RESULT_OBJECTS),
        *((UID(u).name, "SCU", "", _on(model in models)) for model, pair in source.MODELS.items() for u in pair),
        ("STOW-RS", "", "origin server", _on(told.stow is not None)),
        ("QIDO-RS, WADO-RS", "user agent", "", _on(web)),
    ]


def _accepted(config: ApplianceConfig) -> list[_Row]:
    """The very contexts that the receiver negotiates with."""
    control = [commitment.PUSH_MODEL, *([PROCEDURE_STEP] if config.receiver.mpps.offered else [])]
    return [
        _context(str(context.abstract_syntax), list(map(str, context.transfer_syntax)), "SCP")
        for context in receiver.accepted_contexts(control)
    ]


def _results() -> list[_Row]:
    return [_context(uid, [origin.new_file_meta(uid, "2.25.1").TransferSyntaxUID], "SCU") for uid in RESULT_OBJECTS]


def _sources() -> list[_Row]:
    return [_context(uid, build_context(uid).transfer_syntax, "SCU") for pair in source.MODELS.values() for uid in pair]


def _context(sop_class: str, syntaxes: Sequence[str], role: str) -> _Row:
    return UID(sop_class).name, f"`{sop_class}`", " ".join(f"`{uid}`" for uid in syntaxes), role


def _requestor() -> tuple[str, str, int]:
    """What associations of ours announce: the library's identity."""
    ae = AE()
    return str(ae.implementation_class_uid), str(ae.implementation_version_name), ae.maximum_pdu_size


def _steps() -> list[_Row]:
    """Procedure steps: what is answered, by state, operation and the status that comes."""
    rows: list[_Row] = []
    for state in (None, *StepState):
        for operation in Operation:
            answers = [TABLE[state, operation, told] for told in (*StepState, None)]
            told = [_hex(a) if isinstance(a, Status) else f"0000H, {a.value}" for a in answers]
            rows.append((state.value if state else "not known", operation.value, *told))
    return rows


def _private_codes() -> list[_Row]:
    """Our own codes, from all that the reports use."""
    named = [value for value in vars(codes).values() if isinstance(value, Code)]
    listed = [*codes.QUESTION.values(), *codes.VERDICTS.values(), *codes.MODES.values()]
    reasons = [codes.reason_code(reason) for reason in codes.REASON_VALUES]
    ours = {c.value: c.meaning for c in (*listed, *named, *reasons) if c.scheme_designator == codes.SCHEME}
    return [(f"`{value}`", meaning) for value, meaning in ours.items()]


def _settings(
    name: str, model: type[BaseModel], values: BaseModel | None, options: bool, at: str = ""
) -> Iterator[_Row]:
    """One setting, and those below it: its path, its value, what it means."""
    field, path = model.model_fields[name], f"{at}{name}"
    if values is not None:
        value = getattr(values, name)
    else:
        value = _REQUIRED if field.is_required() else field.get_default(call_default_factory=True)
    section, several = _section(field.annotation), isinstance(value, tuple)
    if section is None or field.description:
        shown = (
            value if section is None else (len(value) or None) if several else None if value is None else "see below"
        )
        yield f"`{path}`", _shown(shown), field.description or ""
    if section is None:
        return
    below = [(f"{path}[{n}].", one) for n, one in enumerate(value)] if several else [(f"{path}.", value)]
    for prefix, one in below or [(f"{path}[].", None)]:
        if one is not None or options:
            for inner in section.model_fields:
                yield from _settings(inner, section, one, options, prefix)


def _section(annotation: Any) -> type[BaseModel] | None:
    if arguments := get_args(annotation):
        return next((found for one in arguments if (found := _section(one)) is not None), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _shown(value: object) -> str:
    if value is None or value == () or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return re.sub(r"//[^/@]*@", "//", str(value))  # a login has no place in a document


def _table(rows: Sequence[_Row], *head: str) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _hex(code: int) -> str:
    return f"{code:04X}H"


def _words(name: str) -> str:
    return name.lower().replace("_", " ")


def _on(on: bool) -> str:
    return "on" if on else "off"


if __name__ == "__main__":
    sys.stdout.write(statement(DEFAULTS, options=True))
