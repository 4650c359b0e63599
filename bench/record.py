"""What every benchmark leaves behind: a table on the screen and one JSON file."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from core import durable

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Goal:
    """A limit that a figure should stay under (or reach, with at_least). enough: False where too little was measured
    for the goal to count as met, whatever the figure."""

    limit: float
    at_least: bool = False
    enough: bool = True

    def met(self, value: float) -> bool:
        """Whether `value` keeps the goal."""
        return self.enough and (value >= self.limit if self.at_least else value <= self.limit)


@dataclass
class Record:
    """Figures of one benchmark: medians of n runs, with their spread, beside the peer's."""

    name: str
    title: str
    goals: dict[str, Goal] = field(default_factory=dict)
    rows: list[tuple[str, str, float, str]] = field(default_factory=list)
    unshown: dict[str, float] = field(default_factory=dict)

    def add(self, key: str, what: str, values: Sequence[float], unit: str) -> float:
        """Add the median of `values`; returns it."""
        median = statistics.median(values)
        spread = f"{min(values):.3g} … {max(values):.3g}, n = {len(values)}" if len(values) > 1 else ""
        self.rows.append((key, f"{what} [dim]({unit})[/]", median, spread))
        return median

    def keep(self, key: str, value: float) -> None:
        """A figure for the file alone, such as the end of an interval that stands in another figure's row."""
        self.unshown[key] = value

    def finish(self) -> None:
        """Print the table and write the file."""
        console = Console()
        table = Table("figure", "median", "range", "goal", title=f"{self.title}\n[dim]{machine()}[/]")
        figures = {key: value for key, _, value, _ in self.rows} | self.unshown
        for key, what, value, spread in self.rows:
            table.add_row(what, f"{value:.4g}", spread, self._verdict(key, value))
        console.print(table)
        record = {
            "machine": machine(),
            "date": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
            "commit": commit(),
            "figures": figures,
            "goals": {k: {"limit": g.limit, "met": g.met(figures[k])} for k, g in self.goals.items() if k in figures},
        }
        durable.make_folder(RESULTS)
        path = RESULTS / f"{self.name}.json"
        durable.write_text(path, json.dumps(record, indent=2) + "\n", 0o644)
        console.print(f"Written to {path}")

    def _verdict(self, key: str, value: float) -> str:
        goal = self.goals.get(key)
        if goal is None:
            return ""
        sign = "≥" if goal.at_least else "≤"
        word = "[green]met[/]" if goal.met(value) else "[bold red]missed[/]" if goal.enough else "too few yet"
        return f"{word} ({sign} {goal.limit:g})"


def machine() -> str:
    """Processor, cores, memory, system."""
    cpu = platform.processor() or "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{len(os.sched_getaffinity(0))} cores of {cpu}, {memory:.0f} GiB, {platform.system()} {platform.release()}"


def commit() -> str:
    """The commit that was measured; with + where the tree had changes."""
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout.strip()
    return head + ("+" if dirty else "")


def fsync_latency_ms(folder: Path, times: int = 50) -> float:
    """Median of write + fdatasync of 4 KiB, ms: what durability costs on this disk."""
    import time

    taken = []
    path = folder / "fsync-probe"
    with path.open("wb") as file:
        for _ in range(times):
            file.write(b"x" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - began) * 1e3)
    path.unlink()
    return statistics.median(taken)
