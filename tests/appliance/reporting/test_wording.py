"""What reports say of an answer, in words."""

from __future__ import annotations

import pytest

from appliance.reporting.wording import sentence, withheld_sentence
from core.finding import Answer, Cancer, Lesion, Reason, Verdict


def lesion(diameter_mm: float, subtype: str | None = None, subtype_score: float | None = None) -> Lesion:
    box = ((0, 0, 0), (1, 1, 1))
    return Lesion(1, 0.9, (0.0, 0.0, 0.0), box, diameter_mm, 1000.0, subtype, subtype_score)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            Answer(Cancer.PANCREAS, Verdict.POSITIVE, score=0.97, lesions=(lesion(9), lesion(21, "ductal_ac", 0.83))),
            "Pancreatic cancer: POSITIVE, score 0.97, 2 lesions, largest 21 mm, likely ductal ac (83%).",
        ),
        (
            Answer(Cancer.LUNG, Verdict.INDETERMINATE, score=0.5, lesions=(lesion(9),)),
            "Lung cancer: INDETERMINATE, score 0.50, 1 lesion, largest 9 mm.",
        ),
        (Answer(Cancer.LIVER, Verdict.NEGATIVE, score=0.01), "Liver cancer: negative, score 0.01."),
        (
            Answer.not_analysed(Cancer.BREAST, Reason.SEX, "evidence is of sex F"),
            "Breast cancer: NOT ANALYSED - no evidence for this sex (evidence is of sex F). "
            "This is not a negative answer.",
        ),
    ],
)
def test_an_answer_is_one_sentence(answer: Answer, said: str) -> None:
    assert sentence(answer) == said


def test_what_is_withheld_is_named_so_that_silence_is_no_negative() -> None:
    answer = Answer(Cancer.LUNG, Verdict.NEGATIVE, score=0.1)
    assert withheld_sentence((answer,)) == ("This report says nothing about: lung cancer (not in use at this site).",)
    assert withheld_sentence(()) == ()
