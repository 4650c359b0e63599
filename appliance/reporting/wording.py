"""How an answer is said to people: one sentence, the same in report and key image. ASCII but for an answer's detail."""

from __future__ import annotations

from collections.abc import Sequence

from core.finding import Answer, Cancer, Lesion, Verdict

NAMES: dict[Cancer, str] = {
    Cancer.PANCREAS: "Pancreatic cancer",
    Cancer.OESOPHAGUS: "Oesophageal cancer",
    Cancer.LUNG: "Lung cancer",
    Cancer.BREAST: "Breast cancer",
    Cancer.LIVER: "Liver cancer",
    Cancer.STOMACH: "Gastric cancer",
    Cancer.COLORECTUM: "Colorectal cancer",
}
VERDICTS: dict[Verdict, str] = {
    Verdict.NEGATIVE: "negative",
    Verdict.POSITIVE: "POSITIVE",
    Verdict.INDETERMINATE: "INDETERMINATE",
    Verdict.NOT_ANALYSED: "NOT ANALYSED",
}


def sentence(answer: Answer) -> str:
    """One answer in one sentence."""
    head = f"{NAMES[answer.cancer]}: {VERDICTS[answer.verdict]}"
    if answer.reason is not None:
        detail = f" ({answer.detail})" if answer.detail else ""
        return f"{head} - {answer.reason.value}{detail}. This is not a negative answer."
    if answer.verdict is Verdict.NEGATIVE or not answer.lesions:
        return f"{head}, score {answer.score:.2f}."
    count = len(answer.lesions)
    largest = max(answer.lesions, key=lambda lesion: lesion.diameter_mm)
    return (
        f"{head}, score {answer.score:.2f}, {count} lesion{'s' if count > 1 else ''}, "
        f"largest {largest.diameter_mm:.0f} mm{likely(largest)}."
    )


def withheld_sentence(withheld: Sequence[Answer]) -> tuple[str, ...]:
    """Which cancers this report says nothing about, so that nobody takes its silence for a negative."""
    if not withheld:
        return ()
    names = ", ".join(NAMES[answer.cancer].lower() for answer in withheld)
    return (f"This report says nothing about: {names} (not in use at this site).",)


def read_in(series_number: int | None) -> str:
    """Where an answer comes from, as a sentence behind it; empty where that goes without saying."""
    return "" if series_number is None else f" Read in series {series_number}."


def size(lesion: Lesion) -> str:
    """A lesion's diameter and volume."""
    return f"{lesion.diameter_mm:.0f} mm, {lesion.volume_mm3 / 1000:.1f} mL"


def likely(lesion: Lesion) -> str:
    """What the model calls a lesion and how sure it is, as a part of a sentence; empty where it tells no subtypes."""
    if lesion.subtype is None or lesion.subtype_score is None:
        return ""
    return f", likely {lesion.subtype.replace('_', ' ')} ({lesion.subtype_score:.0%})"
