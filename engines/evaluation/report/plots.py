"""Plots as SVG text. Colours are the page's (CSS classes), so that they follow light, dark and paper. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engines.evaluation.figures import CalibrationFigures, CurvePoint, Proportion

WIDTH, HEIGHT = 300, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 12, 38
_FEWEST, _MOST = 0.01, 10.0


def roc(points: Sequence[CurvePoint], at: tuple[float, float] | None, title: str) -> str:
    """Sensitivity against the false positive rate; at: where the bundle's threshold lies."""
    steps = [(p.x, p.y) for p in points]
    body = [_line([(0, 0), (1, 1)], "chance"), _line(steps, "curve")]
    if at is not None:
        body.append(_dot(at, "point"))
    return _frame(body, "1 − specificity", "sensitivity", [(v / 4, f"{v / 4:g}") for v in range(5)], title)


def froc(points: Sequence[CurvePoint], title: str) -> str:
    """Share of lesions found against false marks a scan, on a logarithmic axis."""
    steps: list[tuple[float, float]] = []
    height = 0.0
    for p in points:
        x = _log(p.x)
        steps += [(x, height), (x, p.y)]
        height = p.y
    steps.append((1.0, height))
    ticks = [(_log(v), f"{v:g}") for v in (0.01, 0.1, 1.0, 10.0)]
    return _frame([_line(steps, "curve")], "false marks a scan (logarithmic)", "lesions found", ticks, title)


def reliability(found: CalibrationFigures, title: str) -> str:
    """Observed against predicted share, with each bin's interval."""
    body = [_line([(0, 0), (1, 1)], "chance")]
    for item in found.bins:
        low, high = item.observed.ci95
        body.append(_line([(item.predicted, low), (item.predicted, high)], "range"))
        body.append(_dot((item.predicted, item.observed.value or 0.0), "point"))
    return _frame(body, "predicted", "observed", [(v / 4, f"{v / 4:g}") for v in range(5)], title)


_DOT = 4


def interval(share: Proportion, goal: float | None, low: float, width: int = 150) -> str:
    """A share with its interval on an axis from `low` to 1, and a goal as a tick: one line of a table."""
    if share.value is None:
        return ""
    span = max(1 - low, 1e-9)

    def x(value: float) -> float:
        return _DOT + (width - 2 * _DOT) * (min(max(value, low), 1.0) - low) / span

    a, b = share.ci95
    kind = "plain" if goal is None else "good" if share.value >= goal else "bad"
    parts = [f'<line class="track" x1="{_DOT}" x2="{width - _DOT}" y1="9" y2="9"/>']
    parts.append(f'<line class="range" x1="{x(a):.1f}" x2="{x(b):.1f}" y1="9" y2="9"/>')
    if goal is not None:
        parts.append(f'<line class="goal" x1="{x(goal):.1f}" x2="{x(goal):.1f}" y1="2" y2="16"/>')
    parts.append(f'<circle class="{kind}" cx="{x(share.value):.1f}" cy="9" r="{_DOT}"/>')
    told = f"{share.value:.2%}, 95 % interval {a:.2%} to {b:.2%}" + ("" if goal is None else f", goal {goal:.1%}")
    return (
        f'<svg class="interval" role="img" aria-label="{told}" viewBox="0 0 {width} 18" width="{width}" height="18">'
        f"<title>{told}</title>{''.join(parts)}</svg>"
    )


def _log(value: float) -> float:
    span = math.log10(_MOST / _FEWEST)
    return min(1.0, math.log10(max(value, _FEWEST) / _FEWEST) / span)


def _place(x: float, y: float) -> tuple[float, float]:
    return _LEFT + x * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - y * (HEIGHT - _TOP - _BOTTOM)


def _line(points: Sequence[tuple[float, float]], css: str) -> str:
    placed = " ".join("{:.1f},{:.1f}".format(*_place(x, y)) for x, y in points)
    return f'<polyline class="{css}" points="{placed}"/>'


def _dot(at: tuple[float, float], css: str) -> str:
    x, y = _place(*at)
    return f'<circle class="{css}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'


def _frame(body: Sequence[str], x_title: str, y_title: str, ticks: Sequence[tuple[float, str]], title: str) -> str:
    (x0, y0), (x1, y1) = _place(0, 0), _place(1, 1)
    parts = [f"<title>{title}</title>"]
    for value in (0, 0.25, 0.5, 0.75, 1):
        _, y = _place(0, value)
        parts.append(f'<line class="grid" x1="{x0}" x2="{x1}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{x0 - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for place, name in ticks:
        x, _ = _place(place, 0)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{y0}" y2="{y1}"/>')
        parts.append(f'<text x="{x:.1f}" y="{y0 + 15}" text-anchor="middle">{name}</text>')
    middle = (y0 + y1) / 2
    parts.append(f'<text x="{(x0 + x1) / 2}" y="{HEIGHT - 5}" text-anchor="middle">{x_title}</text>')
    parts.append(f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">{y_title}</text>')
    return (
        f'<svg class="plot" role="img" aria-label="{title}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f"{''.join([*parts, *body])}</svg>"
    )
