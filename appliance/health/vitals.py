"""One look at the machine, through psutil."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Vitals:
    """cpu_load: 1-minute load average per core. memory_used: share 0..1. temperature_c: the hottest sensor."""

    uptime_s: float
    cpu_load: float
    memory_used: float
    disk_free_bytes: int
    temperature_c: float | None


def look(state: Path) -> Vitals:
    """The machine now; `state` is the folder whose disk matters."""
    return Vitals(
        uptime_s=time.time() - psutil.boot_time(),
        cpu_load=os.getloadavg()[0] / (os.cpu_count() or 1),
        memory_used=psutil.virtual_memory().percent / 100,
        disk_free_bytes=psutil.disk_usage(str(state)).free,
        temperature_c=_hottest(),
    )


def _hottest() -> float | None:
    sensors: dict[str, list[Any]] = getattr(psutil, "sensors_temperatures", dict)()
    readings = [reading.current for group in sensors.values() for reading in group if reading.current]
    return max(readings, default=None)
