"""What `bench` and `compare` found, as tables and as JSON."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from engines import show

if TYPE_CHECKING:
    from engines.bundle import Bundle
    from engines.measuring.comparing import Compared
    from engines.measuring.speed import Speed
    from engines.runtime.choice import Choice


def speed(
    out: Console, bundle: Bundle, choice: Choice, case: str, found: Speed, bytes_per_voxel: Mapping[str, int]
) -> None:
    """Three tables: the ratio, the stages, the networks."""
    show.head(out, bundle)
    out.print(f"  {case}, median of {found.runs} rounds; {escape(choice.why)}\n")
    low, high = min(found.ratios, default=0.0), max(found.ratios, default=0.0)
    rows = (
        ("volume → answers", f"{found.total:.2f} s"),
        ("plain loop over the same tiles", f"{found.loop:.2f} s"),
        ("ratio", f"{found.ratio:.2f} ({low:.2f} to {high:.2f})"),
        ("first analysis, loads and compiles", f"{found.first:.2f} s"),
        (
            "matrix products: the peak here",
            f"{found.gemm_gflops:.0f} GFLOP/s" if found.gemm_gflops else "not measured on this runtime",
        ),
        ("answers, share of that peak", f"{_share(found.of_peak)} ({found.gflop:.0f} GFLOP)"),
        ("plain loop, share of that peak", _share(found.loop_of_peak)),
        ("memory at most, beyond the volume", f"{found.peak_mb:.0f} MiB"),
    )
    out.print(_table((), rows))
    stages = [(name, f"{s:.2f}", f"{s / found.total:.0%}") for name, s in found.stages.items() if s]
    stages += [(f"of it: {name}", f"{s:.2f}", f"{s / found.total:.0%}") for name, s in found.parts.items() if s]
    out.print(_table(("stage", "s", "share"), stages))
    networks = [
        (
            share.network,
            "×".join(map(str, share.shape)),
            f"{share.runs}",
            f"{share.seconds:.2f}",
            f"{share.gflop:.0f}",
            _share(share.gflop / share.seconds / found.gemm_gflops if found.gemm_gflops else None),
            _bytes(bundle, share.network, bytes_per_voxel),
        )
        for share in found.networks
    ]
    out.print(_table(("network", "input", "runs", "s", "GFLOP", "of peak", "bytes per voxel"), networks))


def speed_fields(
    bundle: Bundle, choice: Choice, case: str, found: Speed, bytes_per_voxel: Mapping[str, int]
) -> dict[str, Any]:
    """The same for scripts."""
    return {
        "digest": bundle.digest,
        "runtime": f"{choice.runtime.name} {choice.runtime.precision}",
        "why": choice.why,
        "case": case,
        "runs": found.runs,
        "total_s": found.total,
        "loop_s": found.loop,
        "ratio": found.ratio,
        "ratios": found.ratios,
        "first_s": found.first,
        "stages_s": found.stages,
        "parts_s": found.parts,
        "gflop": found.gflop,
        "gemm_gflops": found.gemm_gflops,
        "of_peak": found.of_peak,
        "loop_of_peak": found.loop_of_peak,
        "peak_mb": found.peak_mb,
        "networks": [
            {
                "network": share.network,
                "shape": share.shape,
                "runs": share.runs,
                "seconds": share.seconds,
                "gflop": share.gflop,
                "bytes_per_voxel": bytes_per_voxel.get(share.network),
            }
            for share in found.networks
        ],
    }


def compared(out: Console, bundles: tuple[Bundle, Bundle], choices: tuple[Choice, Choice], found: Compared) -> None:
    """Agreement of each cancer, what differs case by case, organs, times."""
    for name, bundle, choice, seconds in zip("AB", bundles, choices, found.seconds, strict=True):
        manifest = bundle.manifest
        out.print(f"{name}: {manifest.name} {manifest.version} ({bundle.digest[:12]}), {seconds:.2f} s a volume")
        out.print(f"   {escape(choice.why)}")
    rows = []
    for cancer in dict.fromkeys(pair.cancer for pair in found.pairs):
        pairs = [pair for pair in found.pairs if pair.cancer is cancer]
        same = sum(pair.agrees for pair in pairs)
        scores = [abs(p.score_difference) for p in pairs if p.score_difference is not None]
        dices = [p.dice for p in pairs if p.dice is not None]
        rows.append(
            (
                cancer.value,
                f"{'[green]' if same == len(pairs) else '[red]'}{same} of {len(pairs)}[/]",
                f"{max(scores):.4f}" if scores else "–",
                f"{statistics.median(dices):.4f} ({min(dices):.4f})" if dices else "–",
            )
        )
    out.print(_table(("cancer", "same verdict", "scores differ by up to", "Dice of masks, median (least)"), rows))
    changes = Counter((pair.cancer.value, pair.a, pair.b) for pair in found.pairs)
    out.print(_table(("cancer", "A says", "B says", "cases"), [(*key, str(n)) for key, n in changes.items()]))
    for pair in found.pairs:
        if not pair.agrees:
            out.print(f"  [red]✗[/] {escape(pair.case)}, {pair.cancer.value}: {pair.a} → {pair.b}")
    organs = [
        (escape(case), organ, f"{a:.0f}", f"{b:.0f}", f"{(b - a) / a:+.1%}" if a else "–")
        for case, organ, a, b in found.organs
    ]
    out.print(_table(("case", "organ", "A mL", "B mL", "change"), organs))


def compared_fields(found: Compared) -> dict[str, Any]:
    """The same for scripts."""
    return {
        "cases": [
            {
                "case": pair.case,
                "cancer": pair.cancer.value,
                "a": pair.a,
                "b": pair.b,
                "score_a": pair.score_a,
                "score_b": pair.score_b,
                "dice": pair.dice,
            }
            for pair in found.pairs
        ],
        "organs_ml": [{"case": c, "organ": organ, "a": a, "b": b} for c, organ, a, b in found.organs],
        "seconds": {"a": found.seconds[0], "b": found.seconds[1]},
    }


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _bytes(bundle: Bundle, network: str, measured: Mapping[str, int]) -> str:
    said = bundle.manifest.network(network).bytes_per_voxel
    if network not in measured:
        return f"not measured (manifest {said})"
    return f"{measured[network]} (manifest {said})"


def _table(columns: tuple[str, ...], rows: Any) -> Table:
    table = Table(*columns, show_header=bool(columns), title_justify="left")
    for row in rows:
        table.add_row(*row)
    return table
