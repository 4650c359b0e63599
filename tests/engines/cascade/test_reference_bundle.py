"""The bundle that comes with OneScan, as it is packed, through the whole cascade on this machine."""

from __future__ import annotations

import numpy as np
import pytest

from core.finding import Cancer, Reason, Verdict
from engines.bundle import Bundle, open_bundle
from engines.cascade import Cascade, PatientContext
from engines.commands.options import REFERENCE
from engines.parity import run_golden
from engines.phantom import PARTS_OF_LIVER, PARTS_OF_LUNG, Scan, organ_mask, render, sample_patient
from engines.runtime.choice import choose

pytestmark = pytest.mark.skipif(not REFERENCE.exists(), reason="engines/bundles/reference has not been packed yet")


@pytest.fixture(scope="module")
def reference() -> Bundle:
    return open_bundle(REFERENCE)


def test_it_is_synthetic_and_models_lung_and_liver(reference: Bundle) -> None:
    assert reference.manifest.synthetic
    assert reference.manifest.authorisations == ()
    assert {Cancer.LUNG, Cancer.LIVER} <= {model.cancer for model in reference.manifest.cancers}


def test_its_golden_cases_pass_on_the_runtime_that_this_machine_would_use(reference: Bundle) -> None:
    for outcome in run_golden(reference, choose("auto").runtime):
        assert outcome.passed, f"{outcome.case}: {outcome.detail}"


@pytest.mark.slow
def test_its_golden_cases_pass_on_onnx_runtime_too(reference: Bundle) -> None:
    for outcome in run_golden(reference, choose("onnx").runtime):
        assert outcome.passed, f"{outcome.case}: {outcome.detail}"


def test_a_phantom_it_never_saw_gets_seven_answers_and_its_organs_have_the_right_size(reference: Bundle) -> None:
    patient = sample_patient(987_654)
    volume, tissues = render(patient, Scan(spacing_mm=(4.0, 2.5, 2.5), matrix=None))
    cascade = Cascade(reference, choose("auto").runtime)
    analysis = cascade.analyse(volume, PatientContext(patient.age_years, patient.sex))
    for organ, parts in (("lung", PARTS_OF_LUNG), ("liver", PARTS_OF_LIVER)):
        real_ml = np.count_nonzero(organ_mask(tissues, *parts)) * volume.geometry.voxel_mm3 / 1000
        assert analysis.organs_ml[organ] == pytest.approx(real_ml, rel=0.25)
    for answer in analysis.answers:
        if answer.cancer in (Cancer.LUNG, Cancer.LIVER):
            assert answer.verdict is not Verdict.NOT_ANALYSED, answer.detail
            assert bool(answer.lesions) == (answer.cancer in analysis.masks)
        else:
            assert answer.reason is Reason.NO_MODEL
