"""The pages: an evaluation, and a comparison, as one HTML file each."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from core.finding import Cancer
from engines.evaluation.figures import CancerFigures, Comparison, Evaluation, Goal, HardCase, Proportion
from engines.evaluation.hardest import SHOWN
from engines.evaluation.report import plots
from engines.evaluation.results import picture_of

_WORDS = {"shown": "met, and shown", "met": "met", "missed": "missed", "no cases": "no cases"}


def page(found: Evaluation, folders: Sequence[Path]) -> str:
    """The report. folders: where the pictures of the hardest cases lie."""
    goals = {goal.key: goal for goal in found.goals}
    return (
        _environment()
        .get_template("report.html")
        .render(
            e=found,
            goals=goals,
            summary=_summary(found.goals),
            lows={what: _low(found.goals, what) for what in ("sensitivity", "specificity", "healthy")},
            word="synthetic " if found.synthetic else "",
            compared=any(part.baseline for part in found.cancers),
            plots={part.cancer: _plots(part) for part in found.cancers},
            pictures=lambda cancer, cases: _pictures(folders, cancer, cases),
        )
    )


def comparison_page(found: Comparison) -> str:
    """Two bundles side by side."""
    template = _environment().get_template("comparison.html")
    return template.render(c=found, word="synthetic " if found.synthetic else "")


def percent(value: float | None) -> str:
    """Two decimals where one would hide what matters."""
    if value is None:
        return "–"
    if 0.99995 <= value < 1:
        return "> 99.99%"
    near_the_ends = 0 < value < 0.01 or 0.99 <= value < 1
    return f"{value:.2%}" if near_the_ends else f"{value:.1%}"


def share(value: Proportion) -> str:
    """A share with its interval and counts, in words."""
    if value.value is None:
        return "–"
    low, high = value.ci95
    return f"{percent(value.value)} ({percent(low)} to {percent(high)}; {value.hits} of {value.n})"


def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters.update(percent=percent, share=share, p=_p_value)
    made.globals.update(interval=_interval, words=_WORDS)
    return made


def _interval(value: Proportion, goal: float | None = None, low: float = 0.0, width: int = 150) -> Markup:
    return Markup(plots.interval(value, goal, low, width))


def _summary(goals: Sequence[Goal]) -> dict[str, int]:
    counted = {"met": 0, "missed": 0, "no cases": 0}
    for goal in goals:
        counted["met" if goal.outcome == "shown" else goal.outcome] += 1
    return counted


def _low(goals: Sequence[Goal], what: str) -> float:
    """Where the axis of a kind of goal begins: low enough for all, close enough to tell them apart."""
    lows = [min(g.reached.ci95[0], g.at_least) for g in goals if g.what == what and g.reached.value is not None]
    lowest = min(lows, default=0.0)
    return max((start for start in (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99) if start <= lowest), default=0.0)


def _plots(part: CancerFigures) -> list[Markup]:
    name = part.cancer.value
    drawn = []
    if part.roc:
        sens, spec = part.sensitivity_analysed.value, part.specificity_analysed.value
        at = None if sens is None or spec is None else (1 - spec, sens)
        drawn.append(plots.roc(part.roc, at, f"ROC curve, {name}"))
    if part.lesions is not None and part.lesions.froc:
        drawn.append(plots.froc(part.lesions.froc, f"FROC curve, {name}"))
    if part.calibration is not None:
        drawn.append(plots.reliability(part.calibration, f"Reliability, {name}"))
    return [Markup(svg) for svg in drawn]  # made of numbers and our own words alone


def _pictures(folders: Sequence[Path], cancer: Cancer, cases: Sequence[HardCase]) -> list[tuple[HardCase, str | None]]:
    """The first few, each with its picture as a data URI where one was kept."""
    shown = []
    for case in cases[:SHOWN]:
        found = next((p for folder in folders if (p := picture_of(folder, case.case, cancer))), None)
        data = None if found is None else base64.b64encode(found.read_bytes()).decode()
        shown.append((case, None if data is None else f"data:image/jpeg;base64,{data}"))
    return shown


def _p_value(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
