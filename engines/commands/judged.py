"""What `evaluate report` and `evaluate compare` found, as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from engines.evaluation.figures import Comparison, Evaluation, Proportion

COLOURS = {"shown": "green", "met": "green", "missed": "red"}


def figures(out: Console, found: Evaluation) -> None:
    """A line a cancer with its goals' outcomes, and the healthy."""
    word = "synthetic patients: no evidence about people" if found.synthetic else "patients"
    table = Table("", "sensitivity", "specificity", "AUC", title=f"{found.cases} cases, {word}")
    outcomes = {goal.key: goal.outcome for goal in found.goals}
    for part in found.cancers:
        name = part.cancer.value
        cells = (
            _told(part.sensitivity, outcomes[f"{name}_sensitivity"]),
            _told(part.specificity, outcomes[f"{name}_specificity"]),
        )
        table.add_row(name, *cells, "–" if part.auc.value is None else f"{part.auc.value:.3f}")
    out.print(table)
    out.print(f"Healthy people without a flag: {_told(found.healthy.unflagged, outcomes['healthy'])}")


def comparison(out: Console, found: Comparison) -> None:
    """A line a cancer: who alone was right, and how much the areas differ."""
    table = Table("", "only a right, only b right: ill", "p", "well", "p", "ΔAUC (b - a)", "p")
    for part in found.cancers:
        area = part.auc
        cells = [f"{part.on_ill.only_a}, {part.on_ill.only_b}", f"{part.on_ill.p:.3g}"]
        cells += [f"{part.on_well.only_a}, {part.on_well.only_b}", f"{part.on_well.p:.3g}"]
        cells += ["–", "–"] if area is None else [f"{area.difference:+.4f}", "–" if area.p is None else f"{area.p:.3g}"]
        table.add_row(part.cancer.value, *cells)
    out.print(table)


def _told(share: Proportion, outcome: str) -> str:
    if share.value is None:
        return "[dim]no cases[/]"
    low, high = share.ci95
    told = f"({low:.1%} to {high:.1%}; {share.hits}/{share.n}; {outcome})"
    return f"[{COLOURS.get(outcome, 'dim')}]{share.value:.1%}[/] [dim]{told}[/]"
