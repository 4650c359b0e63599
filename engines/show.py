"""Bundles and answers as tables for people; `engines.cli` decides what is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core.finding import Answer, Verdict
from engines.bundle import Bundle
from engines.manifest import Evidence, Manifest, Network

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
        names = ", ".join(cancer.value for cancer in item.cancers)
        out.print(f"  authorised in {item.jurisdiction} for {names}: {escape(item.authority)} {escape(item.reference)}")


def contents(out: Console, manifest: Manifest) -> None:
    """Intended use, networks, cancers with their evidence, golden cases."""
    out.print(f"\n{escape(manifest.intended_use)}\n")
    out.print(_networks(manifest))
    out.print(_cancers(manifest))
    for model in manifest.cancers:
        for point in model.operating_points:
            name = f"{model.cancer.value}, {escape(point.name)} at {point.threshold:.2f}"
            out.print(f"  {name}: {_evidence(point.evidence)}")
    out.print(f"Golden cases: {', '.join(case.name for case in manifest.golden) or 'none'}")


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


def _networks(manifest: Manifest) -> Table:
    table = Table(title="Networks", title_justify="left")
    for column in ("id", "stage", "spacing z y x mm", "input", "HU range", "labels"):
        table.add_column(column)
    for network in manifest.networks:
        spacing = " ".join(f"{s:g}" for s in network.spacing_mm)
        limits = _intensity_of(network)
        table.add_row(network.id, network.stage, spacing, _input_of(network), limits, ", ".join(network.labels))
    return table


def _input_of(network: Network) -> str:
    tiling = network.tiling
    if tiling.kind == "whole":
        return f"whole, multiple of {tiling.pad_multiple}"
    size = "×".join(str(n) for n in tiling.size)
    if tiling.kind == "patch":
        return f"tiles {size}, overlap {tiling.overlap:.0%}"
    return f"stretched to {size}" if tiling.kind == "fixed" else f"{size} around a lesion"


def _intensity_of(network: Network) -> str:
    intensity = network.intensity
    if intensity.kind == "clip":
        return f"{intensity.clip_low_hu:g} to {intensity.clip_high_hu:g}"
    return {"zscore": "z-score of the scan", "rescale": "range of the scan", "none": "as it is"}[intensity.kind]


def _cancers(manifest: Manifest) -> Table:
    table = Table(title="Cancers", title_justify="left")
    for column in ("cancer", "organ", "negative below", "positive from", "from age", "slices up to"):
        table.add_column(column)
    for model in manifest.cancers:
        limits = model.contraindications
        thresholds = (f"{model.negative_below:.2f}", f"{model.positive_above:.2f}")
        fit_for = (f"{limits.min_age_years} years", f"{limits.max_slice_spacing_mm:g} mm")
        table.add_row(model.cancer.value, model.organ, *thresholds, *fit_for)
    return table


def _evidence(evidence: Evidence) -> str:
    where = f"{evidence.kind}, {escape(evidence.cohort)}"
    if not evidence.n_positive or not evidence.n_negative:
        return f"[yellow]not measured[/] ({where})"
    (se_low, se_high), (sp_low, sp_high) = evidence.sensitivity_ci95, evidence.specificity_ci95
    return (
        f"sensitivity {evidence.sensitivity:.1%} ({se_low:.1%} to {se_high:.1%}, n {evidence.n_positive}), "
        f"specificity {evidence.specificity:.1%} ({sp_low:.1%} to {sp_high:.1%}, n {evidence.n_negative}); {where}"
    )
