"""A bundle with other calibrations, thresholds and evidence → a new bundle, its golden cases answered anew."""

from __future__ import annotations

import tempfile
from pathlib import Path

from core.errors import BundleRefused, ConfigError
from core.finding import Answer, Cancer
from engines import volumefile
from engines.bundle import Bundle, write_bundle
from engines.cascade import Cascade, PatientContext
from engines.evaluation.judging import Judged
from engines.manifest import GoldenCase, ManifestDraft
from engines.parity import differences
from engines.runtime import Runtime
from engines.runtime.choice import choose


def recalibrated(bundle: Bundle, judged: Judged, version: str, to: Path, threads: int = 0) -> Bundle:
    """The new bundle, in the folder `to`. Authorisations stay behind: they are those of the old one.

    Networks run in fp32. BundleRefused(10) where this machine does not reproduce the old golden cases: then the new
    ones would be worth nothing. ConfigError for a version that is the old one's.
    """
    if version == bundle.manifest.version:
        raise ConfigError(
            f"version {version} is the old bundle's", remedy="A version is never changed: name a new one."
        )
    changed = {model.cancer: model for model in judged.models}
    models = tuple(changed.get(model.cancer, model) for model in bundle.manifest.cancers)
    fields = bundle.manifest.model_dump(exclude={"files"})
    fields.update(version=version, cancers=models, case_level=judged.case_level, authorisations=(), golden=())
    runtime = choose("auto", threads, "fp32", networks=bundle.networks).runtime
    with tempfile.TemporaryDirectory(prefix="onescan-") as scratch:
        plain = write_bundle(Path(scratch) / "bundle", ManifestDraft.model_validate(fields), bundle.contents())
        golden = _golden(bundle, plain, frozenset(changed), runtime)
    return write_bundle(to, ManifestDraft.model_validate({**fields, "golden": golden}), bundle.contents())


def _golden(old: Bundle, new: Bundle, changed: frozenset[Cancer], runtime: Runtime) -> tuple[GoldenCase, ...]:
    before, after = Cascade(old, runtime), Cascade(new, runtime)
    cases = []
    for case in old.manifest.golden:
        volume, patient = volumefile.read(old.path(case.input)), PatientContext(case.age_years, case.sex)
        if found := differences(case, before.analyse(volume, patient)):
            raise BundleRefused(
                10,
                f"golden case {case.name} differs here: {'; '.join(found)}",
                remedy="Calibrate on a machine where `onescan-engines verify` passes the bundle as it is.",
            )
        answers = {answer.cancer: answer for answer in after.analyse(volume, patient).answers}
        cases.append(_answered(case, answers, changed))
    return tuple(cases)


def _answered(case: GoldenCase, answers: dict[Cancer, Answer], changed: frozenset[Cancer]) -> GoldenCase:
    """The case with the new answers of the cancers that changed; tolerances stay."""
    expected = []
    for old in case.answers:
        new = answers[old.cancer]
        if old.cancer in changed:
            score = None if old.score is None or new.score is None else round(new.score, 4)
            old = old.model_copy(update={"verdict": new.verdict, "reason": new.reason, "score": score})
        expected.append(old)
    return case.model_copy(update={"answers": tuple(expected)})
