"""The bundle that comes with OneScan, as it is packed, through the whole cascade on this machine."""

from __future__ import annotations

import numpy as np
import pytest

from core.finding import Cancer, Reason, Verdict
from engines.bundle import Bundle, open_bundle
from engines.cascade import Cascade, PatientContext
from engines.commands.options import REFERENCE
from engines.parity import run_golden
from engines.phantom import Scan, build, organ_mask, render, sample_person
from engines.runtime.choice import choose


@pytest.fixture(scope="module")
def reference() -> Bundle:
    return open_bundle(REFERENCE)


def test_it_is_synthetic_and_models_all_seven(reference: Bundle) -> None:
    assert reference.manifest.synthetic
    assert reference.manifest.authorisations == ()
    assert {model.cancer for model in reference.manifest.cancers} == set(Cancer)


def test_its_golden_cases_pass_on_the_runtime_that_this_machine_would_use(reference: Bundle) -> None:
    for outcome in run_golden(reference, choose("auto").runtime):
        assert outcome.passed, f"{outcome.case}: {outcome.detail}"


@pytest.mark.slow
def test_its_golden_cases_pass_on_onnx_runtime_too(reference: Bundle) -> None:
    for outcome in run_golden(reference, choose("onnx").runtime):
        assert outcome.passed, f"{outcome.case}: {outcome.detail}"


@pytest.mark.parametrize("sex", ["F", "M"])
def test_a_torso_it_never_saw_gets_seven_answers_and_its_organs_have_the_right_size(
    reference: Bundle, sex: str
) -> None:
    person = next(p for p in map(sample_person, range(8_987_654, 8_987_700)) if p.sex == sex)
    rendered = render(build(person), Scan((4.0, 2.5, 2.5), None))
    cascade = Cascade(reference, choose("auto").runtime)
    analysis = cascade.analyse(rendered.volume, PatientContext(person.age_years, person.sex))
    for organ, within in (("lung", 0.25), ("liver", 0.25), ("stomach", 0.5)):
        real_ml = np.count_nonzero(organ_mask(rendered.organs, organ)) * rendered.volume.geometry.voxel_mm3 / 1000
        assert analysis.organs_ml[organ] == pytest.approx(real_ml, rel=within)
    for answer in analysis.answers:
        if answer.cancer is Cancer.BREAST and sex == "M":
            assert answer.reason is Reason.SEX
            continue
        assert answer.verdict is not Verdict.NOT_ANALYSED, f"{answer.cancer.value}: {answer.detail}"
        assert bool(answer.lesions) == (answer.cancer in analysis.masks)
