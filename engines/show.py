"""Bundles and answers for people; `engines.commands` decides what is shown, `engines.show_parts` says each part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core.finding import Answer, Verdict
from engines.bundle import Bundle
from engines.manifest import CancerModel, CaseLevel, Manifest
from engines.show_parts import authorisation, cancer, case_level, golden_case, network, organ

_JUDGED = ("calibration", "negative")
_COLOURS = {
    Verdict.NEGATIVE: "green",
    Verdict.POSITIVE: "bold red",
    Verdict.INDETERMINATE: "yellow",
    Verdict.NOT_ANALYSED: "dim",
}


def head(out: Console, bundle: Bundle) -> None:
    """What it is, and the warning that belongs to it."""
    manifest = bundle.manifest
    out.print(
        f"[bold]{escape(manifest.label)}[/] ({manifest.name} {manifest.version}), {escape(manifest.manufacturer)}"
    )
    out.print(f"  digest   {bundle.digest}")
    size = sum(entry.size for entry in manifest.files) / 1e6
    out.print(f"  files    {len(manifest.files)}, {size:.1f} MB; licence {escape(manifest.licence)}")
    if manifest.synthetic:
        out.print("  [yellow]Trained on synthetic patients: can never be used clinically.[/]")
    elif not manifest.authorisations:
        out.print("  [yellow]Not authorised anywhere: not for clinical use.[/]")
    for item in manifest.authorisations:
        out.print(f"  {authorisation(item)}")


def contents(out: Console, manifest: Manifest) -> None:
    """Everything that the manifest says: intended use, networks, organs, cancers with their evidence, golden cases."""
    out.print(f"\n{escape(manifest.intended_use)}")
    if manifest.udi_di:
        out.print(f"UDI-DI {manifest.udi_di}")
    _section(out, "Networks", [network(n) for n in manifest.networks])
    _section(out, "Organs", [organ(o) for o in manifest.organs])
    _section(out, "Cancers", [cancer(c) for c in manifest.cancers])
    _section(out, "All cancers together", [case_level(manifest.case_level)] if manifest.cancers else [])
    _section(out, "Golden cases", [golden_case(case) for case in manifest.golden])


def judgement(out: Console, models: Sequence[CancerModel], together: CaseLevel | None) -> None:
    """What a calibration found: thresholds and evidence of each cancer, and of all of them."""
    for model in models:
        rows = [
            row for row in cancer(model)[1] if row[0] in _JUDGED or row[0] in {p.name for p in model.operating_points}
        ]
        _section(out, model.cancer.value, [("", rows)])
    if together is not None:
        _section(out, "All cancers together", [case_level(together)])


def _section(out: Console, title: str, parts: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> None:
    out.print(f"\n[bold]{title}[/]" + ("" if parts else ": none"))
    for heading, rows in parts:
        if heading:
            out.print(f"  [cyan]{escape(heading)}[/]")
        for name, said in rows:
            out.print(f"    {name:<14} {said}")


def answers(out: Console, bundle: Bundle, given: Sequence[Answer], truth: list[dict[str, Any]] | None) -> None:
    """One line a cancer; beside it what the synthetic patient really has, where that is known."""
    title = f"{bundle.manifest.label} {bundle.manifest.version}" + (
        ", synthetic: not for clinical use" if bundle.manifest.synthetic else ""
    )
    table = Table(title=escape(title), title_justify="left")
    for column in ("cancer", "answer", "score", "lesions", "remark", *(["truth"] if truth is not None else [])):
        table.add_column(column)
    for answer in given:
        row = [
            answer.cancer.value,
            f"[{_COLOURS[answer.verdict]}]{answer.verdict.value.replace('_', ' ')}[/]",
            "" if answer.score is None else f"{answer.score:.2f}",
            ", ".join(f"{lesion.diameter_mm:.0f} mm" for lesion in answer.lesions[:5])
            + (" ..." if len(answer.lesions) > 5 else ""),
            escape(": ".join(part for part in (answer.reason.value if answer.reason else "", answer.detail) if part)),
        ]
        if truth is not None:
            row.append(_truth_of(answer, truth))
        table.add_row(*row)
    out.print(table)


def _truth_of(answer: Answer, truth: list[dict[str, Any]]) -> str:
    found = [f"{x['diameter_mm']:.0f} mm" for x in truth if x["cancer"] and x["organ"] == answer.cancer.value]
    return ", ".join(found) or "none"
