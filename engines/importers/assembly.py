"""Networks and what is said of them → a bundle, with golden cases answered here where nobody knows the answers yet.

The reference for a golden case is ONNX Runtime in fp32: what every device must then reproduce within tolerances.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from onnx import ModelProto
from pydantic import ValidationError

from core.errors import BundleRefused
from core.finding import Reason
from engines import volumefile
from engines.bundle import Bundle, Content, write_bundle
from engines.cascade import Analysis, Cascade, PatientContext
from engines.importers import ImportRefused
from engines.importers.fitting import Fitted, fitted, noise
from engines.importers.forms import FP32, Forms, check_fp16, with_int8
from engines.importers.graph import shape_of, to_bytes
from engines.importers.precision import checked_fp16
from engines.manifest import GoldenAnswer, GoldenCase, GoldenOrgan, ManifestDraft
from engines.measuring.memory import with_memory
from engines.runtime.choice import choose

Say = Callable[[str], None]
SCORE_TOLERANCE = 0.05
ORGAN_TOLERANCE, ORGAN_TOLERANCE_ML = 0.05, 20.0


def draft_of(fields: Mapping[str, Any]) -> tuple[ManifestDraft, tuple[Mapping[str, Any], ...]]:
    """A draft without the golden cases that expect nothing yet, and those cases. ImportRefused names a field."""
    golden = fields.get("golden") or ()
    if not isinstance(golden, Sequence) or not all(isinstance(case, Mapping) for case in golden):
        raise ImportRefused("golden: a list of cases is wanted, each with name and input")
    unanswered = tuple(case for case in golden if not case.get("answers") and not case.get("organs"))
    kept = [case for case in golden if case not in unanswered]
    try:
        return ManifestDraft.model_validate({**fields, "golden": kept}), unanswered
    except ValidationError as error:
        raise ImportRefused(
            in_words(error), remedy="Correct the manifest: `onescan-engines schema` is its form."
        ) from (error)


class Assembled(NamedTuple):
    """A new bundle. files: what was found of each network file, as stored; notes: what became of each in int8."""

    bundle: Bundle
    files: Mapping[str, Fitted]
    notes: tuple[str, ...] = ()


def assemble(
    into: Path,
    fields: Mapping[str, Any],
    models: Mapping[str, ModelProto],
    others: Sequence[Content] = (),
    say: Say = lambda line: None,
    forms: Forms = FP32,
) -> Assembled:
    """A bundle in `into`.

    fields: of a `ManifestDraft`, as JSON has them; golden cases without answers and organs get those that the cascade
    gives here in fp32, a network without `bytes_per_voxel` gets what it takes here. models: network files by name;
    others: the other files. forms: precisions to store. After ImportRefused nothing is there.
    """
    if into.exists():
        raise BundleRefused(6, f"{into} exists already", remedy="Choose a new folder or remove the old one first.")
    draft, unanswered = draft_of(fields)
    precise = _fitted_files(draft, models, say)
    stored = {name: _halved(found, name, say) for name, found in precise.items()} if forms.fp16 else precise
    with tempfile.TemporaryDirectory(prefix="onescan-") as folder:
        scratch = Path(folder)
        draft = _measured(draft, [*_networks(stored), *others], scratch / "unmeasured", say)
        golden = _answered(draft, unanswered, [*_networks(precise), *others], scratch / "fp32", say)
        whole = draft.model_copy(update={"golden": (*draft.golden, *golden)})
        if not forms.int8 and not forms.fp16:
            return Assembled(write_bundle(into, whole, [*_networks(precise), *others]), precise)
        made = write_bundle(scratch / "stored", whole, [*_networks(stored), *others])
        if forms.fp16:
            say("golden cases in fp16")
            check_fp16(made)
        if forms.int8:
            bundle, notes = with_int8(made, forms.volumes, into, say)
            return Assembled(bundle, stored, notes)
        return Assembled(write_bundle(into, whole, made.contents()), stored)


def _networks(files: Mapping[str, Fitted]) -> list[Content]:
    return [Content(name, "network", to_bytes(found.model)) for name, found in files.items()]


def _fitted_files(draft: ManifestDraft, models: Mapping[str, ModelProto], say: Say) -> dict[str, Fitted]:
    networks = {spec.id: spec for spec in draft.networks}
    files: dict[str, Fitted] = {}
    for spec in draft.networks:
        for name in spec.all_files:
            if name not in models:
                raise ImportRefused(f"network {spec.id}: there is no file {name}")
            say(f"checking {name}")
            found = fitted(models[name], spec, name, networks)
            files[name] = found
            say(f"{name}: {found.weights:,} weights, opset {found.opset}, {found.seconds:.1f} s on {found.size}")
    return files


def _measured(draft: ManifestDraft, contents: Sequence[Content], folder: Path, say: Say) -> ManifestDraft:
    """The draft with the memory that networks take here, where it says none."""
    wanting = [spec.id for spec in draft.networks if "bytes_per_voxel" not in spec.model_fields_set]
    if not wanting:
        return draft
    bundle = write_bundle(folder, draft.model_copy(update={"golden": ()}), contents)
    return draft.model_copy(update={"networks": with_memory(bundle, wanting, say)})


def _halved(found: Fitted, name: str, say: Say) -> Fitted:
    say(f"{name}: fp16, with fp32 around its norms")
    channels = shape_of(found.model.graph.input[0])[1]
    assert isinstance(channels, int)
    return replace(found, model=checked_fp16(found.model, name, noise(channels, found.size)))


def _answered(
    draft: ManifestDraft, unanswered: Sequence[Mapping[str, Any]], contents: Sequence[Content], folder: Path, say: Say
) -> list[GoldenCase]:
    if not unanswered:
        return []
    bundle = write_bundle(folder, draft.model_copy(update={"golden": ()}), contents)
    cascade = Cascade(bundle, choose("onnx", precision="fp32").runtime)
    return [_golden_case(case, cascade, bundle, say) for case in unanswered]


def _golden_case(case: Mapping[str, Any], cascade: Cascade, bundle: Bundle, say: Say) -> GoldenCase:
    name, source = str(case.get("name")), str(case.get("input"))
    try:
        volume = volumefile.read(bundle.path(source))
    except KeyError as error:
        raise ImportRefused(f"golden case {name}: there is no file {source}") from error
    say(f"answering golden case {name} in fp32")
    analysis = cascade.analyse(volume, PatientContext(age_years=case.get("age_years")))
    try:
        return GoldenCase.model_validate({**case, **expectations(analysis)})
    except ValidationError as error:
        raise ImportRefused(f"golden case {name}: {in_words(error)}") from error


def expectations(analysis: Analysis) -> dict[str, Any]:
    """What one analysis says, as the answers and organs that a golden case expects. ImportRefused after a failure."""
    for answer in analysis.answers:
        if answer.reason in (Reason.FAILED, Reason.MEMORY, Reason.DEADLINE):
            raise ImportRefused(f"a golden case could not be analysed: {answer.detail}")
    answers = [
        GoldenAnswer(
            cancer=answer.cancer,
            verdict=answer.verdict,
            reason=answer.reason,
            score=None if answer.score is None else round(answer.score, 4),
            score_tolerance=SCORE_TOLERANCE,
        )
        for answer in analysis.answers
        if answer.reason is not Reason.NO_MODEL
    ]
    organs = [
        GoldenOrgan(
            organ=organ,
            volume_ml=round(ml, 1),
            tolerance_ml=round(max(ORGAN_TOLERANCE * ml, ORGAN_TOLERANCE_ML), 1),
        )
        for organ, ml in analysis.organs_ml.items()
    ]
    return {"answers": answers, "organs": organs}


def in_words(error: ValidationError) -> str:
    """The first complaint of pydantic, with the place it is about."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "manifest"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {first['msg']}{more}"
